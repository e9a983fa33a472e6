"""Synthetic records by the protocol's own columns, and what is to be learnt from them."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.tables import RECORDS, files_of
from common.tabular.encoding import encode
from common.tabular.schema import Column, Records

Floats = NDArray[np.float64]

_PUBLIC = 20_061  # the seed of the weights, which are the same at all hospitals
STRENGTH = 2.0  # standard deviation of the log odds, or log hazard ratio, over patients
MISSING = 0.05  # of the cells of a column that may have missing ones


def drawn(records: Records, patients: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """(values (N, C), log odds or log hazard ratio (N,)) of `patients` synthetic patients.

    Numbers are drawn about the middle of their public range, within it, and categories evenly.
    The score has mean 0 and the standard deviation STRENGTH, about, whatever the columns are.
    """
    values = np.column_stack([_values(column, patients, rng) for column in records.columns])
    features = encode(values, records.columns).astype(np.float64)
    public = np.random.default_rng(_PUBLIC)
    weights = public.normal(size=features.shape[1])
    many = np.column_stack([_values(column, 4_000, public) for column in records.columns])
    typical = encode(many, records.columns) @ weights
    score: Floats = STRENGTH * (features @ weights - typical.mean()) / typical.std()
    return values, score


def _values(column: Column, count: int, rng: np.random.Generator) -> Floats:
    if column.categories is not None:
        values = rng.integers(0, len(column.categories), count).astype(np.float64)
    else:
        low, high = column.range or (-1.0, 1.0)
        values = low + (high - low) * rng.beta(3, 3, count)
    if column.missing != "refuse":
        values[rng.random(count) < MISSING] = np.nan
    return values


def write_table(
    folder: Path, records: Records, patients: list[str], values: Floats, more: dict[str, list[str]]
) -> None:
    """`records.csv` with a row for each of `patients`; `more` are further columns by name."""
    columns = {records.patient_id: patients}
    for at, column in enumerate(records.columns):
        columns[column.name] = [_cell(column, value) for value in values[:, at].tolist()]
    columns |= more
    with (folder / files_of(RECORDS)[0]).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))


def _cell(column: Column, value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.6g}" if column.categories is None else column.categories[int(value)]
