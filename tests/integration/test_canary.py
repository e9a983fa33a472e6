"""The planted patient's name: found in nothing that leaves, under any fault, and found when it does leave."""

import base64
import csv
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet
from pydicom import config, dcmread
from typer.testing import CliRunner

from client import readers
from client.__main__ import app
from client.canary import battery, ct
from client.canary.battery import CONTROL, PLACES, Row, problems, run_battery, tables
from client.canary.hospital import Hospital, requests
from client.canary.names import NAME, found_in
from client.canary.planted import planted_of
from client.data import PATCHES, SetAside
from common.tasks import USUAL
from simulation.hospitals import settle
from tests.tasks import TASKS

OTHERS = [task for task in TASKS if task != USUAL]
PLANTED = [(task, layout) for task in TASKS for layout in planted_of(task).LAYOUTS]
TABLES = [(task, layout) for task, layout in PLANTED if layout in ("csv", "parquet")]
MEMORY = Path("/dev/shm")  # noqa: S108  where syncing a file takes no time


def assert_nothing_leaves(task: str, rows: list[Row]) -> None:
    assert list(problems(rows)) == []
    faults = {row.fault for row in rows if row.group != CONTROL and row.struck and not row.found}
    assert len(faults) == len(rows) - 1
    # And then the study goes on.
    rounds = len(requests(planted_of(task).STUDY))
    assert [row.fault for row in rows if row.answered != rounds] == []
    assert all(
        row.files > 5 for row in rows
    )  # ledger, log, policy and more; a summary has no scores


@pytest.mark.slow
def test_no_fault_lets_a_patients_name_out(tmp_path: Path) -> None:
    rows = run_battery(tmp_path, [USUAL])
    assert_nothing_leaves(USUAL, rows)
    assert len(rows) > 140
    assert sum(row.group == "CT series" for row in rows) >= 50
    assert all(row.sent > 400_000 for row in rows)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def further() -> list[Row]:
    """The batteries of all tasks but the first, which ran on a disk."""
    return run_battery(MEMORY if MEMORY.is_dir() else None, OTHERS)


@pytest.mark.slow
@pytest.mark.parametrize("task", OTHERS)
def test_no_fault_lets_a_patients_name_out_of_a_table(task: str, further: list[Row]) -> None:
    rows = [row for row in further if row.task == task]
    assert_nothing_leaves(task, rows)
    groups = Counter(row.group for row in rows)
    assert groups["rows"] >= 10
    assert groups["tables"] >= 14
    assert groups["libraries of tables"] >= 10
    assert groups["Parquet"] >= 16
    assert sum(groups[name] for name in ("files", "libraries", "errors", "words")) >= 55
    assert all(row.sent > 1_000 for row in rows)


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
never = faults.Fault("never", faults.fails(redaction, "nobody", KeyError))
redaction.nobody = None

def some(planted):
    whole = faults.battery_of(planted).items()
    struck = {group: [one for one in of_it if one.name in wanted] for group, of_it in whole}
    return struck | {"never": [never]}

canary.battery_of = some
canary.main(Path(sys.argv[1]), sys.argv[2:])
"""


@pytest.mark.slow
def test_a_careless_hospital_is_found_out_in_reply_log_and_file(tmp_path: Path) -> None:
    rows = run_battery(tmp_path, [USUAL], ("-c", CARELESS))
    found = {row.fault: {place.partition(":")[0] for place in row.found} for row in rows}
    assert found["an image cut off"] >= {"reply", "log"}  # a DataError's sentence
    assert found["a cause of a cause"] >= {"log"}
    assert found["a library's log"] >= {"log"}
    assert all("scores/patients.csv" in places for name, places in found.items() if name != "never")
    said = list(problems(rows))
    assert any("'never' never struck" in problem for problem in said)
    assert any("a leak on purpose was found in [] and not" in problem for problem in said)
    assert sum("a patient's name was found" in problem for problem in said) >= 4


# Ways in which a reader of CT series could be written.
CARELESS_READER = """
import json, logging, sys
from pathlib import Path
from pydicom import dcmread
from client.canary import __main__ as canary, faults
from client.data import cache, scan

read, store = scan.read_slice, cache.PatchCache.store
names = []

def read_slice(path):
    found = read(path)
    names.append(str(dcmread(path, stop_before_pixels=True).PatientName))
    logging.getLogger("intramural.vault").debug("%s: read", names[-1])
    return found

def store_with_names(self, stored):
    store(self, stored)
    with (self._folder / f"{self._name}.names").open("w") as file:
        json.dump(names, file)

scan.read_slice, cache.PatchCache.store = read_slice, store_with_names
wanted = {"too few pixels", "pydicom panics", "write patches"}

def some(planted):
    whole = faults.battery_of(planted)
    of_it = [fault for fault in whole["CT series"] if fault.name in wanted]
    of_it += [
        # The round goes on without what is damaged, and the round is refused: not as either says.
        faults.Fault("refused", of_it[0].arm, "series", ends="refused"),
        faults.Fault("answered", faults.fails(scan, "read_slice", KeyError), "series", ends="answered"),
    ]
    return {"CT series": of_it, "control": whole["control"]}

canary.battery_of = some
canary.main(Path(sys.argv[1]), sys.argv[2:])
"""


@pytest.mark.slow
def test_a_careless_reader_of_ct_is_found_out_in_log_and_cache(tmp_path: Path) -> None:
    rows = run_battery(tmp_path, [USUAL], ("-c", CARELESS_READER))
    found = {row.fault: {place.partition(":")[0] for place in row.found} for row in rows}
    assert "log" in found["too few pixels"] & found["pydicom panics"] & found["write patches"]
    in_cache = {place for place in found["too few pixels"] if place.startswith(f"{PATCHES}/")}
    assert len(in_cache) == 1
    assert in_cache.pop().endswith(".names")
    struck = {row.fault: row.struck for row in rows}
    assert struck["refused"] == struck["answered"] == 0 < struck["too few pixels"]


# Ways in which a reader of tables could be written.
CARELESS_TABLES = """
import logging, sys, tempfile
from pathlib import Path
from client.canary import __main__ as canary, faults
from client.data import parquet, records

patient_of, opened = records.patient_of, parquet.open_parquet

def careless_patient(cell):
    logging.getLogger("intramural.vault").debug("%s: read", cell)
    return patient_of(cell)

def open_parquet(name, data, wanted, progress):
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(data)
    return opened(name, data, wanted, progress)

records.patient_of, parquet.open_parquet = careless_patient, open_parquet
wanted = {"a category named so", "a side named so, in Parquet", "Arrow panics in the child"}

def some(planted):
    whole = faults.battery_of(planted).items()
    return {group: [one for one in of_it if one.name in wanted] for group, of_it in whole}

canary.battery_of = some
canary.main(Path(sys.argv[1]), sys.argv[2:])
"""


@pytest.mark.slow
def test_a_careless_reader_of_tables_is_found_out_in_log_and_temporary_file(tmp_path: Path) -> None:
    rows = run_battery(tmp_path, ["risk"], ("-c", CARELESS_TABLES))
    found = {row.fault: {place.partition(":")[0] for place in row.found} for row in rows}
    assert set(found["a category named so"]) == {"log"}
    in_parquet = found["a side named so, in Parquet"]
    assert "log" in in_parquet
    assert len(in_parquet) > 1
    # The child said nothing, and the vault had kept the file before it asked.
    assert len(found["Arrow panics in the child"]) > 0


PLACES_IN_A_HEADER = (
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "ReferringPhysicianName",
    "StudyDescription",
    "SeriesDescription",
    "ImageComments",
)


def test_the_name_stands_in_the_planted_series_as_pydicom_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some texts are too long for the standard, on purpose.
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    files, findings = ct.plant(tmp_path, ("non-nodule", "nodule"), patients=4)
    assert len(files) == 2 * 4 + 2
    for path in files:
        assert len(found_in(path.relative_to(tmp_path).as_posix().encode())) == 3
        ds = dcmread(path)
        assert found_in(ds.preamble or b"")
        for place in PLACES_IN_A_HEADER:
            assert found_in(str(ds[place].value).encode()), place
        assert all(found_in(bytes(str(one.value), "latin-1")) for one in ds if one.tag.is_private)
        assert sum(one.tag.is_private for one in ds) == 3
        assert found_in(str(ds.RequestAttributesSequence[0]).encode())
    # Stored by a hand of our own; what is in them, by pydicom's: both compressions hold the same noise.
    for series, path in ((ct.IN_SLICES, files[0]), (ct.COMPRESSED, files[3])):
        stored = np.frombuffer(ct.elements(series)[ct.PIXELS][1], "<i2").reshape(ct.SIDE, ct.SIDE)
        np.testing.assert_array_equal(dcmread(path).pixel_array, stored)
    assert dcmread(files[3]).file_meta.TransferSyntaxUID == ct.RLE
    for row in csv.DictReader(findings.read_text().splitlines()):
        assert found_in(row["patient_id"].encode())
        assert found_in(row["referrer"].encode())


@pytest.mark.parametrize(("task", "layout"), PLANTED)
def test_nothing_of_what_is_planted_is_set_aside(tmp_path: Path, task: str, layout: str) -> None:
    planted = Hospital(tmp_path / "north", planted_of(task), layout)
    apart: list[SetAside] = []
    cohort = readers.open_cohort(planted.study, planted.policy, state=None, set_aside=apart)
    assert apart == []
    if layout != "classes":  # where a hash of the patient's id says which side
        assert (len(cohort.training), len(cohort.validation)) == (6, 2)


@pytest.mark.parametrize(("task", "layout"), TABLES)
def test_the_name_stands_in_the_planted_tables_as_pandas_reads_them(
    tmp_path: Path, task: str, layout: str
) -> None:
    planted = Hospital(tmp_path / "north", planted_of(task), layout)
    for path in planted.files:
        assert found_in(str(planted.data).encode())
        # What Parquet keeps for pandas is the name here, and nothing that pandas can use.
        in_parquet = layout == "parquet" and parquet.read_table(path).to_pydict()
        whole = pd.DataFrame(in_parquet) if in_parquet else pd.read_csv(path)
        assert found_in(" ".join(whole.columns).encode())
        assert all(found_in(each.encode()) for each in whole["patient_id"])
        assert whole["patient_id"].nunique() == 8
        if layout == "parquet":
            schema = parquet.read_schema(path)
            assert all(found_in(repr(field.metadata).encode()) for field in schema)
            assert all(found_in(value) for value in schema.metadata.values())


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
    fields = {
        "task": USUAL,
        "group": "files",
        "fault": "a",
        "struck": 1,
        "answered": 3,
        "sent": 5,
        "said": 5,
    }
    fields |= {"files": 5, "found": []} | changes
    control = fields | {"group": CONTROL, "struck": 1, "found": [f"{p}: {NAME}" for p in PLACES]}
    return [Row(**fields), Row(**control)]  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS)
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
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    said: str | None,
    task: str,
) -> None:
    study = planted_of(task).STUDY
    sites = settle(study, tmp_path, {"north": tmp_path}, device="cpu", noise_seed=None)
    asked: list[tuple[Path | None, list[str]]] = []

    def instead(beside: Path | None, tasks: list[str]) -> list[Row]:
        asked.append((beside, tasks))
        return rows(**changes)

    monkeypatch.setattr(battery, "run_battery", instead)
    words = ["check", "--canary", "--site", str(sites["north"]), "--connection", "none.toml"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2  # the connection is missing
    assert asked == [(tmp_path / "north", [task])]
    assert "bytes left" in result.stdout
    assert (said or "left at none") in result.stdout
    assert ("bad  canary" in result.stdout) == (said is not None)


def test_each_task_has_a_table_with_a_line_for_each_group() -> None:
    shown = list(tables([*rows(), *rows(task="risk")]))
    assert [(one.title, one.row_count) for one in shown] == [
        (f"in a study of {USUAL}", 2),
        ("in a study of risk", 2),
    ]


def test_a_blind_search_of_one_task_fails_beside_one_that_sees() -> None:
    seeing, blind = rows(), rows(task="risk")[:1]
    assert list(problems(seeing)) == []
    assert ["risk" in problem for problem in problems([*seeing, *blind])] == [True]
