"""Studies of a figure for each column, and hospitals with records for them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.protocol import parse_protocol
from common.tasks.summary.study import SummaryStudy
from tests.unit.client.data.making_records import write_csv

SIZES = {"north": 120, "west": 80, "east": 40}
AGE = 'name = "age", kind = "number", unit = "years", range = [20, 100]'
SEX = 'name = "sex", kind = "category", categories = ["f", "m", "x"]'
BMI = 'name = "bmi", kind = "number", unit = "kg/m²", range = [10, 60], missing = "indicator"'

Columns = Mapping[str, list[str]]


def summary_study(
    *columns: str,
    rounds: int = 1,
    privacy: str = 'mechanism = "none"',
    more: str = "",
    sizes: Mapping[str, int] = SIZES,
) -> SummaryStudy:
    """Nobody is a validation patient in it."""
    hospitals = ", ".join(
        f'{{ name = "{name}", nominal-patients = {size} }}' for name, size in sizes.items()
    )
    tables = ", ".join(f"{{ {column} }}" for column in columns)
    found = parse_protocol(
        f"""
study = "figures"
task = "summary"
rounds = {rounds}
privacy = {{ {privacy} }}
participation = {{ quorum = {len(sizes)}, deadline-seconds = 120 }}
hospitals = [{hospitals}]
records = {{ validation-fraction = 0.0, columns = [{tables}] }}
{more}
"""
    )
    assert isinstance(found, SummaryStudy)
    return found


def write_hospitals(
    root: Path, seed: int, sizes: Mapping[str, int] = SIZES
) -> dict[str, dict[str, list[str]]]:
    """A table for each hospital, which differ in age; a tenth has no BMI. What was written, by hospital."""
    rng = np.random.default_rng(seed)
    written = {}
    for number, (name, size) in enumerate(sizes.items()):
        bmi = rng.normal(27, 5, size).clip(11, 59).round(1)
        columns = {
            "patient_id": [f"{name}-{n}" for n in range(size)],
            "age": [str(x) for x in rng.normal(50 + 8 * number, 9, size).clip(21, 99).round(4)],
            "sex": [str(x) for x in rng.choice(["f", "m", "x"], size, p=[0.5, 0.4, 0.1])],
            "bmi": ["" if rng.random() < 0.1 else str(x) for x in bmi],
        }
        folder = root / name
        folder.mkdir(parents=True)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        write_csv(folder, list(columns), rows)
        written[name] = columns
    return written


def together(written: Mapping[str, Columns], column: str) -> list[str]:
    """All hospitals' cells of one column."""
    return [cell for columns in written.values() for cell in columns[column]]
