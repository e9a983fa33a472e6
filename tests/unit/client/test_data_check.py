"""Images looked at for a study before there is a policy: the same words as at a set-up hospital."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.__main__ import app
from client.data_check import data_findings
from common.protocol import StudyProtocol, load_protocol, parse_protocol
from tests.hospital import LIMITS, policy_of
from tests.unit.client.data.making_dicom import IMAGES, hospital

MakeStudy = Callable[..., StudyProtocol]


@pytest.fixture
def study(tmp_path: Path, small_study: MakeStudy) -> Path:
    made = small_study(north=6, west=2)
    wanted = made.model_copy(update={"images": IMAGES})
    path = tmp_path / "protocol.toml"
    path.write_text(parse_protocol(wanted.to_toml()).to_toml())
    return path


def check(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["check", *map(str, arguments)])
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.slow
def test_the_images_alone_are_looked_at(tmp_path: Path, study: Path) -> None:
    folder = hospital(tmp_path / "north")
    before = sorted(path for path in folder.rglob("*"))
    page = tmp_path / "page.html"
    code, said = check("--data", folder, "--protocol", study, "--data-report", page)
    assert "good study protocol: 'small', hospital 'north'" in said
    assert "training and" in said
    assert "6 agreed as nominal" in said
    assert "data for this study:" in said
    assert page.stat().st_mode & 0o777 == 0o600
    for other in ("site policy", "connection", "ledger", "coordinator"):
        assert f"{other}:" not in said
    assert code == (2 if "unfit" in said else 0)
    assert sorted(path for path in folder.rglob("*")) == before


def test_whose_the_images_are_is_the_folder_or_said(tmp_path: Path, study: Path) -> None:
    folder = hospital(tmp_path / "images")
    code, said = check("--data", folder, "--protocol", study)
    assert code == 2
    assert "bad study protocol: hospital 'images' is not on the roster" in said
    assert (
        "hospital 'west'" in check("--data", folder, "--protocol", study, "--hospital", "west")[1]
    )


def test_what_is_wrong_is_bad(tmp_path: Path, study: Path) -> None:
    (tmp_path / "north").mkdir()
    code, said = check("--data", tmp_path / "north", "--protocol", study)
    assert code == 2
    assert "bad data:" in said
    code, said = check("--data", tmp_path / "north", "--protocol", tmp_path / "none.toml")
    assert code == 2
    assert "bad study protocol: cannot read" in said
    code, said = check("--data", tmp_path / "north")
    assert code == 2
    assert "belong together" in said


def test_a_small_hospital_is_told_what_is_set_aside_too(tmp_path: Path, study: Path) -> None:
    folder = hospital(tmp_path / "north")
    (folder / "letter of Jane.txt").write_text("no slice")
    wide = {"data": folder, "limits": {**LIMITS, "smallest-group": 50}}
    policy = policy_of(tmp_path / "state", **wide)
    (found,) = data_findings(policy, load_protocol(study), None)
    assert found.verdict == "look"
    for said in (found.said, found.in_log or ""):
        assert "a class has fewer than 50" in said
        assert "1 files and findings are set aside" in said
    assert "letter of Jane.txt: it is not a DICOM file" in found.said
    assert "Jane" not in (found.in_log or "")
