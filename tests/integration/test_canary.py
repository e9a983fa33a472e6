"""The planted patient's name: found in nothing that leaves, under any fault, and found when it does leave."""

import base64
import random
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from client.__main__ import app
from client.canary import battery
from client.canary.battery import CONTROL, PLACES, Row, problems, run_battery, table
from client.canary.names import NAME, found_in
from common.protocol import StudyProtocol
from simulation.hospitals import from_phantoms, settle

SmallStudy = Callable[..., StudyProtocol]


@pytest.mark.slow
def test_no_fault_lets_a_patients_name_out(tmp_path: Path) -> None:
    rows = run_battery(tmp_path)
    assert list(problems(rows)) == []
    faults = {row.fault for row in rows if row.group != CONTROL and row.struck and not row.found}
    assert len(faults) == len(rows) - 1 >= 80
    assert [row.fault for row in rows if row.answered != 3] == []  # and then the study goes on
    assert all(row.sent > 400_000 and row.files > 8 for row in rows)
    assert list(tmp_path.iterdir()) == []


# Each of these is a way in which a vault or a relay could be written, and at some place would leak.
CARELESS = """
import sys, traceback
from pathlib import Path
from client import redaction, vault
from client.canary import __main__ as canary, faults
from common import messages

vault.in_words = lambda error: "".join(traceback.format_exception(error))
redaction.RedactingFilter.filter = lambda self, record: True
redaction.RedactingFilter.redact = lambda self, record: None
messages.Refusal.of = classmethod(lambda cls, error: cls(code=error.code, text=str(error)[:200]))
vault.release = lambda frame, *_: frame  # it would hold such a refusal back
kept = vault.keep_scores

def keep_scores(state, study, after_round, scores):
    kept(state, study, after_round, scores)
    (state / "scores" / "patients.csv").write_text(str(vault_data[0]))

class Careless(vault.Vault):
    def __init__(self, policy):
        super().__init__(policy)
        vault_data[:] = [policy.data]

vault_data = []
vault.keep_scores, canary.Vault = keep_scores, Careless
wanted = {"an image cut off", "a cause of a cause", "a library's log", "sync a file"}
for group, of_it in faults.BATTERY.items():
    of_it[:] = [fault for fault in of_it if fault.name in wanted]
faults.BATTERY["never"] = [faults.Fault("never", faults.fails(redaction, "nobody", KeyError))]
redaction.nobody = None
canary.main(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_careless_hospital_is_found_out_in_reply_log_and_file(tmp_path: Path) -> None:
    rows = run_battery(tmp_path, ("-c", CARELESS))
    found = {row.fault: {place.partition(":")[0] for place in row.found} for row in rows}
    assert found["an image cut off"] >= {"reply", "log"}  # a DataError's sentence
    assert found["a cause of a cause"] >= {"log"}
    assert found["a library's log"] >= {"log"}
    assert all("scores/patients.csv" in places for name, places in found.items() if name != "never")
    said = list(problems(rows))
    assert any("'never' never struck" in problem for problem in said)
    assert any("a leak on purpose was found in [] and not" in problem for problem in said)
    assert sum("a patient's name was found" in problem for problem in said) >= 4


FORMS = [
    NAME,
    NAME.lower(),
    NAME.title(),
    NAME[::-1],
    NAME.replace("^", " "),
    NAME.replace("^", ", "),
    NAME.replace("^", ""),
    NAME.replace("^", "\\u005e"),
    quote(NAME),
    NAME.encode().hex(),
    NAME.encode().hex().upper(),
    NAME.lower().encode().hex(),
]


@pytest.mark.parametrize("form", FORMS)
def test_the_name_is_found_in_every_form(form: str) -> None:
    for code in ("utf-8", "utf-16-le", "utf-16-be", "utf-32"):
        assert len(found_in(b"\0/data/" + form.encode(code) + b".png\xff")) == 1


@pytest.mark.parametrize("before", range(6))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_the_name_is_found_in_base64_wherever_it_stands(
    before: int, encode: Callable[[bytes], bytes]
) -> None:
    for name in (NAME, NAME.lower()):
        assert found_in(encode(bytes(range(before)) + name.encode() + b"-0001.png"))


def test_nothing_is_found_where_nothing_is() -> None:
    for text in (
        b"",
        b"a patient's secret",
        b"superexec.secret of the patients",
        random.Random(3).randbytes(100_000),
    ):
        assert found_in(text) == []


def rows(**changes: object) -> list[Row]:
    fields = {"group": "files", "fault": "a", "struck": 1, "answered": 3, "sent": 5, "said": 5}
    fields |= {"files": 5, "found": []} | changes
    control = fields | {"group": CONTROL, "struck": 1, "found": [f"{p}: {NAME}" for p in PLACES]}
    return [Row(**fields), Row(**control)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"found": [f"log: {NAME}"]}, "was found after the fault 'a'"),
        ({"struck": 0}, "'a' never struck"),
        ({}, None),
    ],
)
def test_check_says_what_the_canary_found_and_its_exit_code_too(
    tmp_path: Path,
    small_study: SmallStudy,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    said: str | None,
) -> None:
    study = small_study(north=3)
    sites = settle(
        study,
        tmp_path,
        {"north": from_phantoms(study, tmp_path, seed=1)["north"]},
        device="cpu",
        noise_seed=None,
    )
    where: list[Path | None] = []

    def instead(beside: Path | None) -> list[Row]:
        where.append(beside)
        return rows(**changes)

    monkeypatch.setattr(battery, "run_battery", instead)
    words = ["check", "--canary", "--site", str(sites["north"]), "--connection", "none.toml"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2  # the connection is missing
    assert where == [tmp_path / "north"]
    assert "bytes left" in result.stdout
    assert (said or "left at none") in result.stdout
    assert ("bad  canary" in result.stdout) == (said is not None)


def test_the_table_has_a_line_for_each_group() -> None:
    assert table(rows()).row_count == 2
