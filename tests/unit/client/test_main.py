"""`intramural-client`: what an officer is shown, in words and as JSON, and with which exit code."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from client.__main__ import app
from client.ledger import Ledger, Spend
from client.privacy.accounting import epsilon_of
from client.statement_text import rounded_up
from common.protocol import StudyProtocol

BOOKS = ("ledger.sqlite", "ledger.head", "egress.jsonl", "egress.head")

MakeStudy = Callable[..., StudyProtocol]


def run(office: Any, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--site", str(office.site)], env={"COLUMNS": "250"})


def test_show_lists_every_entry(office: Any, small_study: MakeStudy) -> None:
    study = small_study()
    office.answer(study, rounds=2)
    shown = run(office, "ledger", "show")
    assert shown.exit_code == 0, shown.output
    for word in ("created", "reserved", "sealed", "sigma 1.5, q 0.25, T 8", study.digest[:12]):
        assert word in shown.output
    entries = json.loads(run(office, "ledger", "show", "--json").output)
    assert [entry["number"] for entry in entries] == [1, 2, 3, 4, 5]
    with Ledger.read(office.state) as ledger:
        assert entries[-1]["hash"] == ledger.head
    assert entries[1]["body"]["terms"]["noise"] == "operating system"


@pytest.mark.parametrize("command", [["ledger", "show"], ["verify"], ["ledger", "epsilon"]])
def test_no_policy_no_answer(tmp_path: Path, command: list[str]) -> None:
    words = [*command, "--site", str(tmp_path / "no[site].toml")]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert refused.output.startswith("E-POLICY: cannot read the site policy")
    assert "no[site].toml" in refused.output


@pytest.mark.slow
def test_epsilon_by_account_for_life_and_by_study(office: Any, small_study: MakeStudy) -> None:
    first, second = small_study(), small_study(north=11, west=4)
    office.answer(first, rounds=2)
    office.answer(second, rounds=1, max_epsilon=12.5)
    rows = json.loads(run(office, "ledger", "epsilon", "--json").output)
    found = {(row["account"], row["study"]): row for row in rows}
    assert len(found) == len(rows) == 6
    for (account, study), row in found.items():
        sigma, q, steps = (1.5, 0.25, 8) if account == "training" else (5.0, 1.0, 1)
        rounds = {None: 3, first.digest: 2, second.digest: 1}[study]
        expected = epsilon_of([Spend(sigma, q, steps * rounds)], 1e-5)
        assert row["epsilon"] == expected.value
        assert (row["accountant"], row["delta"]) == (expected.accountant, 1e-5)
        assert row["second_epsilon"] == expected.second.value
        assert ("cap" in row) == (study is None)
    life = found["training", None]
    assert (life["cap"], life["left"]) == (12.5, 12.5 - life["epsilon"])
    table = run(office, "ledger", "epsilon")
    assert table.exit_code == 0
    for word in (
        "its life",
        f"small {first.digest[:12]}",
        rounded_up(life["epsilon"]),
        "PLD",
        "PRV",
    ):
        assert word in table.output


def test_epsilon_at_another_delta_is_another(office: Any, small_study: MakeStudy) -> None:
    office.answer(small_study(), rounds=2)
    rows = json.loads(run(office, "ledger", "epsilon", "--json", "--delta", "1e-7").output)
    assert rows[0]["delta"] == 1e-7
    assert rows[0]["epsilon"] == epsilon_of([Spend(1.5, 0.25, 16)], 1e-7).value


def test_epsilon_without_noise_is_infinite(
    office: Any, small_study: MakeStudy, without_noise: Any
) -> None:
    office.answer(small_study(mechanism="none"), spends=without_noise, rehearsal=True)
    assert "infinite" in run(office, "ledger", "epsilon").output
    rows = json.loads(run(office, "ledger", "epsilon", "--json").output)
    assert rows[0]["epsilon"] is None
    assert rows[0]["left"] == 0.0


def test_nothing_spent_is_said(office: Any) -> None:
    assert "nothing is spent" in run(office, "ledger", "epsilon").output
    assert json.loads(run(office, "ledger", "epsilon", "--json").output) == []


def test_report_writes_the_statement(office: Any, small_study: MakeStudy, tmp_path: Path) -> None:
    office.answer(small_study(), rounds=2)
    out = tmp_path / "out"
    refused = run(office, "report", "--out", str(out))
    assert refused.exit_code == 2
    assert refused.output.startswith("E-RUN: expected the folder")
    out.mkdir()
    for choice in ([], ["--study", "small"], ["--study", small_study().digest]):
        assert run(office, "report", "--out", str(out), *choice).exit_code == 0
        assert "## Study 'small'" in (out / "privacy-statement.md").read_text()
    other = run(office, "report", "--out", str(out), "--study", "large")
    assert other.exit_code == 2
    assert (
        f"'large', which fits 0; the ledger holds: small ({small_study().digest})" in other.output
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", [["ledger", "show"], ["ledger", "show", "--json"], ["verify"]])
def test_show_and_verify_load_no_torch_and_no_network(
    office: Any, small_study: MakeStudy, command: list[str]
) -> None:
    office.answer(small_study(), rounds=1)
    program = (
        "import sys\n"
        "from client.__main__ import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch', 'opacus', 'flwr', 'dp_accounting', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command, "--site", str(office.site)],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr


def test_looking_changes_nothing(office: Any, small_study: MakeStudy) -> None:
    office.answer(small_study(), rounds=1)
    before = {name: (office.state / name).read_bytes() for name in BOOKS}
    for command in (["ledger", "show"], ["verify"], ["ledger", "epsilon"]):
        assert run(office, *command).exit_code == 0
    for name, content in before.items():
        assert (office.state / name).read_bytes() == content
