"""LUNA16's candidates and annotations, CSV files with a place in mm for each row -> findings by series.

Coordinates are the patient's (LPS), as in the volumes and in the DICOM series that they come from
(https://luna16.grand-challenge.org/Data/; Setio et al. 2017, doi 10.1016/j.media.2017.06.015).
"""

import csv
import hashlib
import heapq
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.data.findings import FINDINGS
from common.errors import DataError
from common.files import write_atomic

_PLACE = ("coordX", "coordY", "coordZ")
_SERIES = "seriesuid"
_FARTHEST_MM = 1e5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place in a series: a nodule (`label` 1) or what a detector took for one (0)."""

    series: str  # SeriesInstanceUID
    mm: tuple[str, str, str]  # x, y, z as in the file, so that no digit is lost or made up
    label: int
    diameter_mm: str = ""  # of the radiologists' nodules alone


def read_candidates(
    candidates: Path, annotations: Path | None, most_negatives: int, seed: int
) -> dict[str, list[Candidate]]:
    """The candidates of each series, in the order of the file `candidates`.

    With `annotations` the nodules are the radiologists', each once, in place of the detector's marks on
    them. Of the others a series keeps at most `most_negatives`, drawn by a hash of `seed` and the
    place: the same draw whatever else is in the file. DataError names a row that cannot be read.
    """
    nodules: dict[str, list[Candidate]] = defaultdict(list)
    # Of each series a heap of the lowest draws: no more is in memory than is kept.
    others: dict[str, list[tuple[int, int, Candidate]]] = defaultdict(list)
    for number, (row, where) in enumerate(_rows(candidates, (_SERIES, *_PLACE, "class"))):
        one = Candidate(row[_SERIES], _place(row, where), _label(row["class"], where))
        if one.label == 1 and annotations is None:
            nodules[one.series].append(one)
        elif one.label == 0:
            drawn = (-_draw(one, seed), number, one)
            heapq.heappush(others[one.series], drawn)
            if len(others[one.series]) > most_negatives:
                heapq.heappop(others[one.series])
    if annotations is not None:
        for row, where in _rows(annotations, (_SERIES, *_PLACE, "diameter_mm")):
            series, diameter = row[_SERIES], row["diameter_mm"]
            _number(diameter, where)
            nodules[series].append(Candidate(series, _place(row, where), 1, diameter))
    found = dict(nodules)
    for series, heap in others.items():
        rest = [one for _, _, one in sorted(heap, key=lambda drawn: drawn[1])]
        found[series] = [*found.get(series, []), *rest]
    return {series: found[series] for series in sorted(found) if found[series]}


def _draw(one: Candidate, seed: int) -> int:
    text = "\x00".join(("intramural/convert/negatives/v1", str(seed), one.series, *one.mm))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[dict[str, str], str]]:
    """Each row of `path` with these columns, and its name in an error."""
    for row, where in table_rows(path):
        if any(row.get(column) is None for column in columns):
            raise DataError(
                f"{where}: expected the columns {', '.join(columns)}, found "
                f"{', '.join(str(name) for name in row)}; give the file as published"
            )
        yield row, where


def table_rows(path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Each row of the CSV file `path` by column, and how an error names it. DataError when it is none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                values = {k: (v or "").strip() for k, v in row.items() if isinstance(k, str)}
                yield values, f"{path} row {reader.line_num}"
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"expected a table with commas at {path}, found none that can be read ({error}); give the "
            f"file as published"
        ) from error


def _place(row: Mapping[str, str], where: str) -> tuple[str, str, str]:
    x, y, z = (row[name] for name in _PLACE)
    for text in (x, y, z):
        _number(text, where)
    return x, y, z


def _number(text: str, where: str) -> None:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < _FARTHEST_MM:
        raise DataError(
            f"{where}: expected millimetres, found {text!r}; give the file as published"
        )


def _label(text: str, where: str) -> int:
    if text not in ("0", "1"):
        raise DataError(
            f"{where}: expected 0 or 1 as class, found {text!r}; give the file as published"
        )
    return int(text)


def write_findings(
    folder: Path,
    of: str,
    rows: Iterable[tuple[str, str, Candidate]],
    classes: tuple[str, str],
) -> None:
    """Write `folder`/findings.csv; `rows` are (series or file, patient id or "", candidate).

    `of` is the column that names the series or file. Without any patient id there is no such column:
    the reader then takes it from the DICOM files.
    """
    listed = list(rows)
    named = any(patient for _, patient, _ in listed)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = [of, "x", "y", "z", "label", "diameter_mm"]
    table.writerow([*columns, "patient_id"] if named else columns)
    for what, patient, one in listed:
        values = [what, *one.mm, classes[one.label], one.diameter_mm]
        table.writerow([*values, patient] if named else values)
    write_atomic(folder / FINDINGS, text.getvalue().encode())
