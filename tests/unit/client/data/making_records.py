"""A small study of records, and tables for it as a hospital would write them."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from client.data.records import ReadRecords, read_records
from common.tabular.schema import Column, RiskRecords

AGE = Column(name="age", kind="number", unit="years", range=(0, 120))
SEX = Column(name="sex", kind="category", categories=("f", "m"))
BMI = Column(name="bmi", kind="number", range=(10, 60), missing="indicator")
STUDY = RiskRecords(columns=(AGE, SEX, BMI), classes=("no", "yes"))
HEADER = ("patient_id", "age", "sex", "bmi", "outcome")

Row = Mapping[str, str]
Writer = Callable[[Path, Sequence[str], Sequence[Row]], None]


def rows(count: int) -> list[dict[str, str]]:
    """Good rows of as many patients."""
    return [
        {
            "patient_id": f"P{n:04d}",
            "age": str(20 + n % 60),
            "sex": "fm"[n % 2],
            "bmi": f"{20 + n % 30}.5",
            "outcome": ("no", "yes")[n % 3 == 0],
        }
        for n in range(count)
    ]


def write_csv(
    folder: Path, header: Sequence[str], table: Sequence[Row], delimiter: str = ","
) -> None:
    with (folder / "records.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(table)


def write_semicolons(folder: Path, header: Sequence[str], table: Sequence[Row]) -> None:
    write_csv(folder, header, table, ";")


def write_texts(folder: Path, header: Sequence[str], table: Sequence[Row]) -> None:
    """As Parquet, with every column as text."""
    write_parquet(folder, {name: pa.array([row[name] for row in table]) for name in header})


def write_parquet(folder: Path, columns: Mapping[str, Any], **options: Any) -> None:
    pq.write_table(pa.table(dict(columns)), folder / "records.parquet", **options)


def read(folder: Path, study: RiskRecords = STUDY, **options: Any) -> ReadRecords:
    return read_records(folder, study, study.label_columns, **options)


def first_row(name: str) -> int:
    """Number of the first row of patients, by the kind of file."""
    return 1 if name == "records.parquet" else 2


def encoded(table: Sequence[Row]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Good rows of STUDY as they should be encoded: slowly, and in other words."""
    return np.array(
        [
            [
                float(row["age"]) / 60 - 1,
                row["sex"] == "m",
                (float(row["bmi"]) - 35) / 25 if row["bmi"] else 0,
                not row["bmi"],
            ]
            for row in table
        ],
        np.float64,
    ).reshape(-1, 4)
