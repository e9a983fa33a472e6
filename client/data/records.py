"""A hospital's `records.csv` or `records.parquet` -> its patients as encoded records, split by patient.

A row with a cell that cannot be used is set aside and named by its number and column, never by what it
says; the others are used. Patient ids serve to group and to split and are gone when the cohort is made.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from client.data.cells import patient_of, values_of
from client.data.cohort import Cohort
from client.data.quarantine import SetAside
from client.data.record_patients import RecordPatients
from client.data.split import is_validation_patient
from client.data.tables import Part, Table, has_table, open_table
from common.errors import DataError
from common.progress import Progress
from common.tabular.encoding import Floats, encode
from common.tabular.schema import Column, Records, canonical

__all__ = ["ReadRecords", "has_table", "read_records"]

MAX_VALUES = 1 << 28  # encoded numbers: 1 GB
SIDES = ("training", "validation")


@dataclass(frozen=True, eq=False, slots=True)
class ReadRecords:
    """The N usable rows of a table, in its order. It groups patients, and lives while a cohort is made."""

    values: npt.NDArray[np.float32]  # (N, D), encoded
    labels: Floats  # (N, L): of each label column the number, or the place among its categories
    patient: npt.NDArray[np.int64]  # (N,) ordinals, 0.. in the order of the patient ids
    validation: npt.NDArray[np.bool_]  # (N,), the same for all rows of a patient
    rows: npt.NDArray[np.int64]  # (N,) as a spreadsheet numbers them; Parquet's from 1
    unused: int  # columns of the table that the study does not use
    set_aside: list[SetAside]

    def cohort(self, labels: npt.NDArray[Any]) -> Cohort[RecordPatients]:
        """The patients on their two sides, with `labels` (N, ...) made from `self.labels`."""
        order = np.argsort(self.patient, kind="stable")
        later = self.validation[order]
        training, validation = (self._patients(order[side], labels) for side in (~later, later))
        return Cohort(training, validation)

    def _patients(self, rows: npt.NDArray[np.int64], labels: npt.NDArray[Any]) -> RecordPatients:
        _, each = np.unique(self.patient[rows], return_counts=True)
        return RecordPatients(
            values=self.values[rows],
            labels=labels[rows],
            offsets=np.concatenate([[0], np.cumsum(each)]).astype(np.int64),
        )


def read_records(
    folder: Path,
    records: Records,
    label_columns: Sequence[Column] = (),
    *,
    one_row_each: bool = False,
    progress: Progress | None = None,
) -> ReadRecords:
    """All usable rows of one hospital's table.

    `label_columns` are read like the others, by the same rules. With `one_row_each` a patient's
    first usable row counts and further ones are set aside. DataError for what cannot be used as a
    whole, and when no usable row is left, or none of a training patient; its text stays at the hospital.
    """
    columns = [*records.columns, *label_columns]
    if records.split is not None:
        columns.append(Column(name=records.split, kind="category", categories=SIDES))
    reading = _Reading(records, columns, one_row_each)
    names = [records.patient_id, *(column.name for column in columns)]
    with open_table(
        folder, [canonical(name) for name in names], progress or (lambda _done, _total: None)
    ) as table:
        for part in table.parts:
            reading.add(table.file, part)
    return reading.whole(table, len(label_columns))


class _Reading:
    """What has been read of a table so far."""

    def __init__(self, records: Records, columns: Sequence[Column], one_row_each: bool) -> None:
        self._records, self._columns, self._one_row_each = records, columns, one_row_each
        self._missing = {"", *map(canonical, records.missing_values)}
        self._ordinals: dict[str, int] = {}  # of patient ids, in the order of their first rows
        self._validation: list[bool] = []  # of each patient
        self._said: dict[
            str, tuple[int, bool]
        ] = {}  # by patient id: the first row that says a side
        self._read: list[tuple[npt.NDArray[np.float32], Floats, list[int], list[int]]] = []
        self._count = 0
        self._set_aside: list[SetAside] = []

    def add(self, file: str, part: Part) -> None:
        wrong: dict[int, list[str]] = {}

        def fault(at: int, what: str) -> None:
            wrong.setdefault(at, []).append(what)

        cells = zip(part.columns[1:], self._columns, strict=True)
        values = np.column_stack(
            [values_of(of, column, self._missing, fault) for of, column in cells]
        )
        used: list[int] = []
        patients: list[int] = []
        for at, patient_id in enumerate(map(patient_of, part.columns[0])):
            if patient_id is None:
                fault(at, f"column '{self._records.patient_id}' names no patient")
                continue
            validation = self._side(file, patient_id, part.rows[at], values[at, -1])
            if at not in wrong:
                patient = self._patient(patient_id, validation)
                if patient is None:
                    fault(at, "its patient has an earlier row, and the study takes one of each")
                else:
                    used.append(at)
                    patients.append(patient)
        said = {part.rows[at]: "; ".join(what) for at, what in wrong.items()}
        said |= dict.fromkeys(part.uneven, "it has more cells than the first row, or fewer")
        self._set_aside += [SetAside(f"{file} row {row}", said[row]) for row in sorted(said)]
        features = len(self._records.columns)
        encoded = encode(values[used, :features], self._records.columns)
        rows = [part.rows[at] for at in used]
        self._read.append((encoded, values[used, features:], patients, rows))
        self._count += encoded.size
        if self._count > MAX_VALUES:
            raise DataError(
                f"{file}: expected at most {MAX_VALUES} numbers in all rows together, found more; split the "
                f"table, or ask the coordinator for fewer columns"
            )

    def _patient(self, patient_id: str, validation: bool) -> int | None:
        """The patient's ordinal; None when it has had its one row."""
        patient = self._ordinals.setdefault(patient_id, len(self._validation))
        if patient == len(self._validation):
            self._validation.append(validation)
            return patient
        return None if self._one_row_each else patient

    def _side(self, file: str, patient_id: str, row: int, last: float) -> bool:
        """Whether the row's patient is for validation. `last` is what the row says, NaN for nothing.

        A row that is not used counts as well: in a study of other columns it may be the one that is,
        and its patient would change sides.
        """
        if self._records.split is None:
            return is_validation_patient(patient_id, self._records.validation_fraction)
        validation = last == SIDES.index("validation")
        if math.isnan(last):
            return validation
        first, side = self._said.setdefault(patient_id, (row, validation))
        if side != validation:
            raise DataError(
                f"{file} row {row}: expected all rows of a patient on one side, found this patient on the "
                f"other side in row {first}; correct column '{self._records.split}'"
            )
        return validation

    def whole(self, table: Table, labels: int) -> ReadRecords:
        if not self._validation:
            apart = self._set_aside
            if not apart:
                raise DataError(f"{table.file}: expected rows of patients, found none; add them")
            raise DataError(
                f"{table.file}: expected a row that can be used, found none ({len(apart)} are set aside, "
                f"the first because {apart[0].reason}); correct them, or ask the coordinator what the "
                f"columns mean"
            )
        if all(self._validation):
            raise DataError(
                f"{table.file}: expected at least one training patient, found all "
                f"{len(self._validation)} on the validation side; add patients"
            )
        # By id, so that the order of the rows in the file decides nothing about the order of patients.
        rank = np.empty(len(self._validation), np.int64)
        rank[[self._ordinals[one] for one in sorted(self._ordinals)]] = np.arange(len(rank))
        values, named, patients, rows = zip(*self._read, strict=True)
        patient = np.concatenate([np.array(some, np.int64) for some in patients])
        return ReadRecords(
            values=np.concatenate(values),
            labels=np.concatenate(named)[:, :labels],
            patient=rank[patient],
            validation=np.array(self._validation)[patient],
            rows=np.concatenate([np.array(some, np.int64) for some in rows]),
            unused=table.unused,
            set_aside=self._set_aside,
        )
