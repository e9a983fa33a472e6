"""A hospital's own yes: what it pins, what it refuses, and whose the files are afterwards."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.__main__ import app
from client.approval import APPROVED, approve, begin
from client.egress_log import EgressLog
from client.policy import load_policy
from common.errors import LimitError, PolicyError
from common.protocol import StudyProtocol, load_protocol
from tests.hospital import LIMITS, policy_of

MakeStudy = Callable[..., StudyProtocol]


def lines(text: str) -> str:
    """A policy as people write it: comments, and the list in a shape of its own."""
    return "# ours\n" + text.replace("approved-studies = []", "approved-studies = [ ]  # none yet")


@pytest.fixture
def site(office: Any) -> Path:
    office.site.write_text(lines(office.site.read_text()))
    return Path(office.site)


def test_a_study_is_pinned_with_the_policy_that_then_names_it(
    office: Any, site: Path, small_study: MakeStudy
) -> None:
    first, second = small_study(), small_study(north=11)
    for study in (first, second, first):
        policy = approve(site, study)
    assert policy.approved_studies == (first.digest, second.digest)
    assert load_policy(site) == policy
    assert "# ours\n" in site.read_text()
    assert "# none yet" in site.read_text()
    last = EgressLog.read(office.state)[-1]
    assert last.body == {"policy": policy.digest, "study": first.digest}
    for study in (first, second):
        kept = load_protocol(office.state / APPROVED / f"{study.digest}.toml")
        assert kept.digest == study.digest


def test_the_policy_alone_is_approved_after_a_change(office: Any, site: Path) -> None:
    site.write_text(site.read_text().replace("30.0", "12.0"))
    policy = approve(site, None)
    assert policy.max_epsilon == 12.0
    assert EgressLog(office.state).approval_of(policy.digest)


def test_a_study_beyond_the_limits_is_not_approved(
    office: Any, site: Path, small_study: MakeStudy
) -> None:
    office.write_policy(limits={**LIMITS, "max-rounds": 2, "models": ["resnet18"]})
    before, entries = site.read_bytes(), EgressLog.read(office.state)
    with pytest.raises(LimitError) as refused:
        approve(site, small_study())
    assert "rounds: asked 3, allowed 2; model: asked compact-cnn, allowed resnet18" in str(
        refused.value
    )
    assert site.read_bytes() == before
    assert EgressLog.read(office.state) == entries


def test_a_list_that_cannot_be_added_to_is_said_and_nothing_changes(
    site: Path, small_study: MakeStudy
) -> None:
    strange = site.read_text().replace("approved-studies", '"approved-studies"')
    site.write_text(strange)
    with pytest.raises(PolicyError, match=r"add .* to it by hand"):
        approve(site, small_study())
    assert site.read_text() == strange


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a moment")
def test_root_approves_and_the_files_stay_the_vaults(
    tmp_path: Path, small_study: MakeStudy
) -> None:
    nobody = pwd.getpwnam("nobody")
    for folder in (tmp_path, *tmp_path.parents):  # pytest's own are closed to others
        if folder.stat().st_mode & 0o077 == 0:
            folder.chmod(0o711)
    state, site = tmp_path / "state", tmp_path / "site.toml"
    state.mkdir(mode=0o700)
    site.write_text(policy_of(state).to_toml())
    site.chmod(0o640)
    os.chown(site, 0, nobody.pw_gid)
    os.chown(state, nobody.pw_uid, nobody.pw_gid)
    begin(state)
    approve(site, small_study())
    files = list(state.rglob("*"))
    assert len(files) >= 7
    for file in files:
        assert file.stat().st_uid == nobody.pw_uid, file
        assert file.stat().st_mode & 0o077 == 0, file
    held = site.stat()
    assert (held.st_uid, held.st_gid, held.st_mode & 0o777) == (0, nobody.pw_gid, 0o640)
    assert (os.geteuid(), os.getegid()) == (0, 0)


@pytest.mark.slow
def test_the_command_shows_the_study_in_plain_words_and_asks(
    office: Any, site: Path, small_study: MakeStudy, tmp_path: Path
) -> None:
    study = small_study()
    protocol = tmp_path / "protocol.toml"
    protocol.write_text(study.to_toml())

    def run(answer: str) -> Any:
        words = ["approve", str(protocol), "--site", str(site)]
        return CliRunner().invoke(app, words, input=answer, env={"COLUMNS": "250"})

    refused = run("n\n")
    assert refused.exit_code == 1
    assert load_policy(site).approved_studies == ()
    done = run("y\n")
    assert done.exit_code == 0, done.output
    assert load_policy(site).approved_studies == (study.digest,)
    for words in (
        "What is computed here",
        "in 3 rounds of 2 steps: every weight",
        "What leaves this hospital",
        "3 times the noised change of",
        "What it costs, at most",
        f"Training patients: epsilon {study.privacy.epsilon:g} at delta 1e-05",
        "What epsilon does not cover",
        f"approved: study {study.digest}",
    ):
        assert words in done.output, words
    office.write_policy(max_epsilon=0.001)
    poor = run("y\n")
    assert poor.exit_code == 2
    assert poor.output.splitlines()[-1].startswith("E-POLICY-BUDGET")
