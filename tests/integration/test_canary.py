"""The planted patient's name: found in nothing that leaves, under any fault, and found when it does leave."""

import base64
import csv
import random
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from pydicom import config, dcmread
from typer.testing import CliRunner

from client.__main__ import app
from client.canary import battery, ct
from client.canary.battery import CONTROL, PLACES, Row, problems, run_battery, table
from client.canary.hospital import STUDY, Hospital
from client.canary.names import NAME, found_in
from client.data import PATCHES, SetAside
from client.data.image_folder import open_cohort
from common.protocol import StudyProtocol
from simulation.hospitals import from_phantoms, settle

SmallStudy = Callable[..., StudyProtocol]


@pytest.mark.slow
def test_no_fault_lets_a_patients_name_out(tmp_path: Path) -> None:
    rows = run_battery(tmp_path)
    assert list(problems(rows)) == []
    faults = {row.fault for row in rows if row.group != CONTROL and row.struck and not row.found}
    assert len(faults) == len(rows) - 1 >= 140
    assert sum(row.group == "CT series" for row in rows) >= 50
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
of_it = faults.BATTERY["CT series"]
of_it[:] = [fault for fault in of_it if fault.name in wanted]
of_it += [
    # The round goes on without what is damaged, and the round is refused: not as either says.
    faults.Fault("refused", of_it[0].arm, "series", ends="refused"),
    faults.Fault("answered", faults.fails(scan, "read_slice", KeyError), "series", ends="answered"),
]
faults.BATTERY = {key: faults.BATTERY[key] for key in ("CT series", "control")}
canary.BATTERY = faults.BATTERY
canary.main(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_careless_reader_of_ct_is_found_out_in_log_and_cache(tmp_path: Path) -> None:
    rows = run_battery(tmp_path, ("-c", CARELESS_READER))
    found = {row.fault: {place.partition(":")[0] for place in row.found} for row in rows}
    assert "log" in found["too few pixels"] & found["pydicom panics"] & found["write patches"]
    in_cache = {place for place in found["too few pixels"] if place.startswith(f"{PATCHES}/")}
    assert len(in_cache) == 1
    assert in_cache.pop().endswith(".names")
    struck = {row.fault: row.struck for row in rows}
    assert struck["refused"] == struck["answered"] == 0 < struck["too few pixels"]


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
    files, findings = ct.plant(tmp_path, STUDY.images.classes, patients=4)
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


def test_nothing_of_the_planted_series_is_set_aside(tmp_path: Path) -> None:
    planted = Hospital(tmp_path / "north", "series")
    apart: list[SetAside] = []
    cohort = open_cohort(planted.data, STUDY.images, set_aside=apart)
    assert apart == []
    assert (len(cohort.training), len(cohort.validation)) == (6, 2)


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
