"""Tables with the planted name: in ids, in a column that no study uses, in what Parquet keeps beside them."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from client.canary.names import TEXT, patient_id
from client.data.tables import RECORDS, files_of

try:
    import pyarrow  # noqa: F401
except ImportError:  # without the extra `records` a hospital reads no Parquet
    LAYOUTS: tuple[str, ...] = ("csv",)
else:
    LAYOUTS = ("csv", "parquet")

PATIENTS, FOR_VALIDATION = 8, 2
Row = dict[str, str]

# The columns of `record`, as a protocol describes them.
COLUMNS = """
    split = "split"
    columns = [
        { name = "age", kind = "number", unit = "years", range = [20, 90] },
        { name = "pressure", kind = "number", unit = "mmHg", range = [80, 200], missing = "indicator" },
        { name = "pain", kind = "category", categories = ["none", "typical", "other"] },
    ]
"""


def record(patient: int, visit: int = 0) -> Row:
    """A row of the table of records; every third has no pressure."""
    number = 2 * patient + visit
    return {
        "patient_id": patient_id(patient),
        "split": "validation" if patient < FOR_VALIDATION else "training",
        "age": f"{30 + 3 * number}",
        "pressure": "" if number % 3 == 0 else f"{90 + 5 * number}.5",
        "pain": ("none", "typical", "other")[number % 3],
    }


def plant_records(
    folder: Path, layout: str, more: Callable[[int], Row], visits: int = 1
) -> tuple[list[Path], Path]:
    """The table of records, with `more` columns of a patient: the table twice, as `Planted` has it."""
    rows = [
        record(patient, visit) | more(patient)
        for patient in range(PATIENTS)
        for visit in range(visits)
    ]
    table = plant_table(folder, RECORDS, layout, rows)
    return [table], table


def plant_table(folder: Path, stem: str, layout: str, rows: Sequence[Row]) -> Path:
    """The table `stem` with one more column than `rows` have, whose name and cells are the planted one.

    A CSV is a link, as where an archive is mounted elsewhere.
    """
    path = folder / files_of(stem)[LAYOUTS.index(layout)]
    if layout == "csv":
        kept = path.with_name(f"{stem} {TEXT}.kept")
        path.symlink_to(kept.name)
    write(path, [{TEXT: TEXT, **row} for row in rows])
    return path


def rows_of(path: Path) -> list[Row]:
    """The rows of a table that is whole."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return [dict(row) for row in parquet.read_table(path).to_pylist()]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the table anew with `rows`, one or more."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        fields = [pa.field(name, pa.string(), metadata={TEXT: TEXT}) for name in rows[0]]
        schema = pa.schema(fields, metadata={"pandas": TEXT, TEXT: TEXT})
        parquet.write_table(pa.Table.from_pylist(list(rows), schema), path)
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def measurements(patient: int, stay: str) -> Iterator[Row]:
    """Some values of one stay in long format, and one of a variable that no study has."""
    for hour in range(3):
        for variable, value in (("pulse", f"{60 + 4 * patient + hour}"), (TEXT, TEXT)):
            yield {
                "patient_id": patient_id(patient),
                "stay": stay,
                "time": f"{hour}.5",
                "variable": variable,
                "value": value,
            }
