"""The heart-disease records of four real hospitals, with what is known of them from elsewhere."""

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder

from client.data.records import ReadRecords, read_records
from common.tabular.schema import Column, RiskRecords

SHARED = Path(__file__).resolve().parents[4].parent / "shared" / "data"
HEART = SHARED / "fed-heart-disease"
pytestmark = pytest.mark.skipif(not HEART.is_dir(), reason="the heart-disease records are not here")

NUMBERS = {
    "age": (18, 100),
    "trestbps": (0, 250),
    "chol": (0, 700),
    "thalach": (40, 220),
    "oldpeak": (-5, 10),
}
CATEGORIES = {
    "sex": ("0", "1"),
    "cp": ("1", "2", "3", "4"),
    "fbs": ("0", "1"),
    "restecg": ("0", "1", "2"),
    "exang": ("0", "1"),
}
# In the order of the files; those with "-" are left out by the published preprocessing.
ORDER = [
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak"),
    *("-slope", "-ca", "-thal", "num"),
]
STUDY = RiskRecords(
    patient_id="row",
    missing_values=("?",),
    columns=(
        *(Column(name=name, kind="number", range=ends) for name, ends in NUMBERS.items()),
        *(Column(name=name, kind="category", categories=all_) for name, all_ in CATEGORIES.items()),
    ),
    classes=("absent", "present"),
)


def as_hospital(folder: Path, name: str) -> list[list[str]]:
    """The published file with a header, an id for each row and the outcome in two classes."""
    with (HEART / f"processed.{name}.data").open() as file:
        table = [row for row in csv.reader(file) if row]
    with (folder / "records.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", *ORDER, "outcome"])
        for number, row in enumerate(table):
            writer.writerow([number, *row, ("absent", "present")[int(row[-1]) > 0]])
    return table


def read(folder: Path, study: RiskRecords = STUDY) -> ReadRecords:
    return read_records(folder, study, study.label_columns)


@pytest.mark.parametrize(
    ("name", "usable"),
    # Training and test rows of the published split (FLamby, Ogier du Terrail et al. 2022).
    [
        ("cleveland", 199 + 104),
        ("hungarian", 172 + 89),
        ("switzerland", 30 + 16),
        ("va", 85 + 45),
    ],
)
def test_the_rows_of_the_published_split_are_those_that_are_read(
    tmp_path: Path, name: str, usable: int
) -> None:
    table = as_hospital(tmp_path, name)
    found = read(tmp_path)
    assert len(found.rows) == usable
    assert len(found.rows) + len(found.set_aside) == len(table)
    assert found.unused == 4
    whole = [row for row in table if "?" not in row[:10]]
    assert found.labels[:, 0].tolist() == [int(row[-1]) > 0 for row in whole]
    values = np.array([row[:10] for row in whole], np.float64)
    by_name = {column: values[:, [at]] for at, column in enumerate(ORDER[:10])}
    theirs = [
        MinMaxScaler((-1, 1)).fit(np.array(ends)[:, None]).transform(by_name[column])
        for column, ends in NUMBERS.items()
    ] + [
        OneHotEncoder(
            categories=[np.array(all_, np.float64)], drop="first", sparse_output=False
        ).fit_transform(by_name[column])
        for column, all_ in CATEGORIES.items()
    ]
    np.testing.assert_allclose(found.values, np.hstack(theirs), rtol=0, atol=1e-6)


def test_each_row_with_a_gap_is_named_with_its_columns(tmp_path: Path) -> None:
    table = as_hospital(tmp_path, "va")
    gaps = {
        f"records.csv row {number + 2}": "; ".join(
            f"column '{name}' is missing"
            for name in (*NUMBERS, *CATEGORIES)
            if row[ORDER.index(name)] == "?"
        )
        for number, row in enumerate(table)
        if "?" in row[:10]
    }
    assert {one.what: one.reason for one in read(tmp_path).set_aside} == gaps


def test_with_an_indicator_every_patient_is_used(tmp_path: Path) -> None:
    table = as_hospital(tmp_path, "switzerland")
    lenient = [column.model_copy(update={"missing": "indicator"}) for column in STUDY.columns]
    study = STUDY.model_copy(update={"columns": tuple(lenient)})
    found = read(tmp_path, study)
    assert (len(found.rows), found.set_aside) == (len(table), [])
    for name in (*NUMBERS, *CATEGORIES):
        indicator = found.values[:, study.features.index(f"{name} missing")]
        assert indicator.tolist() == [row[ORDER.index(name)] == "?" for row in table]
