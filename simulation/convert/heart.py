"""The UCI heart-disease files -> four hospitals with records.csv: coronary disease before the angiogram.

processed.cleveland.data and its three siblings (Janosi, Steinbrunn, Pfisterer and Detrano 1988,
doi 10.24432/C52P4X, CC BY 4.0) have a row of 14 numbers without names for each patient; "?" is unknown.
As in FLamby (Ogier du Terrail et al. 2022, NeurIPS Datasets and Benchmarks) slope, vessels and thallium
scan are left out, which three hospitals hardly have, and then the rows in which anything is unknown.
The outcome is a vessel that is narrowed by more than half: 1 to 4 is "present". The files name no
patient, so a row stands for one.

Cells stay as published, codes become words. So a cholesterol or pressure at rest of 0 is in the
tables, which means that it was not measured: a study's public range has to say so.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.errors import DataError
from common.files import write_atomic
from simulation.convert.writing import check_own

HOSPITALS = {
    "cleveland": "cleveland",
    "hungary": "hungarian",
    "switzerland": "switzerland",
    "long-beach": "va",
}
"""A hospital's name here, and in the name of its published file."""

PAIN = ("typical angina", "atypical angina", "non-anginal pain", "asymptomatic")  # 1 to 4
ECG = ("normal", "ST-T abnormality", "left ventricular hypertrophy")  # 0 to 2
SUGAR = ("at most 120 mg/dl", "above 120 mg/dl")  # 0 and 1
OUTCOMES = ("absent", "present")
UNKNOWN = "?"

_CODES: dict[str, dict[float, str]] = {
    "chest_pain": dict(enumerate(PAIN, 1)),
    "fasting_sugar": dict(enumerate(SUGAR)),
    "resting_ecg": dict(enumerate(ECG)),
}
_PUBLISHED = (
    "age",
    "male",
    "chest_pain",
    "resting_pressure",
    "cholesterol",
    "fasting_sugar",
    "resting_ecg",
    "max_heart_rate",
    "exercise_angina",
    "st_depression",
)  # columns 0 to 9
_LEFT_OUT = 3  # columns 10 to 12
_TRAIN, _TEST, _SEED, _LEAST_TO_STRATIFY = 0.66, 0.34, 43, 3  # the benchmark's own

Row = dict[str, str]


def convert_heart(source: Path, out: Path, *, published_split: bool) -> dict[str, Counter[str]]:
    """Write `out`/<hospital>/records.csv; patients, and how many of them are ill, of each hospital.

    With `published_split` the published sides are apart, as `out`/train/<hospital> and
    `out`/test/<hospital>, and so they are counted. DataError when a file is not the published one, or
    other hospitals are there.
    """
    for parent in (out / "train", out / "test") if published_split else (out,):
        check_own(parent, HOSPITALS)
    counts: dict[str, Counter[str]] = {}
    for hospital, published in HOSPITALS.items():
        rows = _rows(source / f"processed.{published}.data", hospital)
        outcomes = [row["disease"] for row in rows]
        ill = outcomes.count(OUTCOMES[1])
        if published_split:
            train, test = _sides(outcomes)
            _write(out / "train" / hospital, [rows[at] for at in train])
            _write(out / "test" / hospital, [rows[at] for at in test])
            found = {"train patients": len(train), "test patients": len(test)}
        else:
            _write(out / hospital, rows)
            found = {"patients": len(rows)}
        counts[hospital] = Counter({**found, "ill": ill})
    return counts


def _rows(path: Path, hospital: str) -> list[Row]:
    """The rows in which all is known, in the order of the file."""
    try:
        with path.open(encoding="ascii", newline="") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"expected the published table {path}, found none that can be read ({error}); give the folder "
            f"with all four"
        ) from error
    rows = [_record(line, f"{path} row {number}") for number, line in enumerate(lines, 1)]
    known = [
        {"patient_id": f"{hospital}-{number:03d}", **row}
        for number, row in enumerate(rows, 1)
        if UNKNOWN not in row.values()
    ]
    if not known:
        raise DataError(
            f"{path}: expected rows in which all is known, found none; give the file as published"
        )
    return known


def _record(line: Sequence[str], where: str) -> Row:
    """A patient's row of the hospital's table, from age to the outcome; what is unknown stays "?"."""
    cells = [cell.strip() for cell in line]
    try:
        *measured, outcome = cells[: len(_PUBLISHED)] + cells[len(_PUBLISHED) + _LEFT_OUT :]
        row = {
            column: cell if cell == UNKNOWN else _cell(column, float(cell))
            for column, cell in zip(_PUBLISHED, measured, strict=True)
        }
        return {**row, "disease": OUTCOMES[float(outcome) > 0]}
    except (ValueError, LookupError) as error:
        raise DataError(
            f"{where}: expected 14 numbers or '{UNKNOWN}' with the published codes, found another row; give "
            f"the file as published"
        ) from error


def _cell(column: str, number: float) -> str:
    if not math.isfinite(number):
        raise ValueError(f"{column} is {number}")
    return _CODES[column][number] if column in _CODES else f"{number:g}"


def _sides(outcomes: Sequence[str]) -> tuple[list[int], list[int]]:
    """The benchmark's training and test rows; a class of one or two patients is not spread evenly."""
    from sklearn.model_selection import train_test_split

    classes = Counter(outcomes)
    evenly = len(classes) > 1 and min(classes.values()) >= _LEAST_TO_STRATIFY
    train, test = train_test_split(
        range(len(outcomes)),
        test_size=_TEST,
        train_size=_TRAIN,
        random_state=_SEED,
        shuffle=True,
        stratify=outcomes if evenly else None,
    )
    return train, test


def _write(folder: Path, rows: list[Row]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "records.csv", text.getvalue().encode())
