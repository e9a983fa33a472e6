"""A hospital's table, such as `records.csv` or `records.parquet`, in parts of some thousand rows: as text.

Whatever a table holds, it comes as text here, so that both kinds are read by the same rules. What no
rule can say of a single row ends in DataError, which names the file and the row and never a cell.
"""

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from client.data.paths import existing_folder, inside, open_regular
from common.errors import DataError
from common.progress import Progress
from common.tabular.schema import canonical

RECORDS = "records"
MAX_CSV_BYTES = 2 << 30
MAX_PARQUET_BYTES = 512 << 20  # it is in memory while it is read
MAX_ROWS = 5_000_000
MAX_ROW = 1 << 20  # characters
ROWS_AT_ONCE = 4096
CHARACTERS_AT_ONCE = 16 << 20  # of rows with long cells fewer are in memory at once
_DELIMITERS = ",;"


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a table. It holds what patients' records say, so it lives only while they are read."""

    rows: list[int]  # their numbers: of a CSV as a spreadsheet counts, of Parquet from 1
    columns: list[Sequence[str]]  # of each wanted column, in that order: a cell for each of `rows`
    uneven: list[int]  # numbers of rows with more cells than the first row, or fewer


@dataclass(frozen=True, slots=True)
class Table:
    """An opened table: `file` is its name, `unused` the number of columns that nobody wants."""

    file: str
    unused: int
    parts: Iterator[Part]


def files_of(stem: str) -> tuple[str, str]:
    """How a table may be named: as CSV, as Parquet."""
    return f"{stem}.csv", f"{stem}.parquet"


def has_table(folder: Path, stem: str = RECORDS) -> bool:
    """Whether `folder` has the table `stem`."""
    return any(os.path.lexists(folder / name) for name in files_of(stem))


@contextmanager
def open_table(
    folder: Path, wanted: Sequence[str], progress: Progress, stem: str = RECORDS
) -> Iterator[Table]:
    """The table `stem` of `folder` with the columns `wanted`, each of which it must have once.

    In a CSV they are separated by commas, or else by semicolons. `progress` is told (done, total) bytes
    or rows. DataError when there is no such table, or two.
    """
    root = existing_folder(folder)
    known = files_of(stem)
    found = [name for name in known if os.path.lexists(root / name)]
    if len(found) != 1:
        which, do = (
            ("both", "keep one") if found else ("neither", "put the table there as one of them")
        )
        raise DataError(f"{root}: expected {' or '.join(known)}, found {which}; {do}")
    name = found[0]
    path = inside(root, name, str(root))
    most = MAX_CSV_BYTES if name == known[0] else MAX_PARQUET_BYTES
    with open_regular(path, str(root)) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise DataError(
                f"{path}: expected at most {most >> 20} MB, found {size >> 20}; leave out columns that the "
                f"study does not use"
            )
        if name == known[0]:
            lines = _Lines(file, name)
            delimiter, header = _header(lines, wanted)
            places = [header.index(column) for column in wanted]
            parts = _csv_parts(
                lines, delimiter, places, len(header), lambda: progress(file.tell(), size)
            )
            yield Table(name, len(header) - len(places), parts)
        else:
            from client.data.parquet import open_parquet  # loads pyarrow

            unused, parts = open_parquet(name, file.read(most + 1), wanted, progress)
            yield Table(name, unused, parts)


def check_columns(file: str, header: Sequence[str], wanted: Sequence[str], rest: str) -> None:
    """DataError unless `header` has each of `wanted` once, as `canonical` writes it; `rest` says more.

    It names no other column: where the first row is no header, that would be some patient's.
    """
    if absent := [name for name in wanted if name not in header]:
        raise DataError(
            f"{file}: expected the columns {', '.join(wanted)}, found {len(header)} "
            f"column{'' if len(header) == 1 else 's'} without {', '.join(absent)}; {rest}"
        )
    named = [name for name in header if name]
    if len(named) > len(set(named)):
        twice = next((repr(name) for name in wanted if header.count(name) > 1), "another one")
        raise DataError(f"{file}: expected every column once, found {twice} twice; take one out")


class _Lines:
    """The lines of a text file for `csv.reader`; DataError for a row that is endless, or no text."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        # "-sig": spreadsheets put a byte-order mark before the first column's name.
        self._text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        self.row = 1  # that is read
        self.length = 0  # of this row, so far

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = self._text.readline(MAX_ROW + 1)
        except UnicodeDecodeError:
            raise self.not_csv("a character that is no UTF-8") from None
        self.length += len(line)
        if self.length > MAX_ROW:
            raise self.not_csv("a row that is endless")
        if not line:
            raise StopIteration
        return line

    def next_row(self) -> None:
        self.row, self.length = self.row + 1, 0

    def not_csv(self, found: str) -> DataError:
        return DataError(
            f"{self.name} in or after row {self.row}: expected comma-separated text in UTF-8, found {found}; "
            f"save the table as CSV in UTF-8"
        )


def _header(lines: _Lines, wanted: Sequence[str]) -> tuple[str, list[str]]:
    """(delimiter, names): whichever of the delimiters finds more of the wanted names."""
    line = next(lines, "")
    headers = {}
    for delimiter in _DELIMITERS:
        try:
            cells = next(csv.reader([line], delimiter=delimiter, strict=True), [])
        except csv.Error:
            raise lines.not_csv("quotes that do not end") from None
        headers[delimiter] = [canonical(cell) for cell in cells]
    best = max(headers, key=lambda one: sum(name in headers[one] for name in wanted))
    check_columns(
        lines.name,
        headers[best],
        wanted,
        "name them so in the first row, separated by commas or by semicolons",
    )
    lines.next_row()
    return best, headers[best]


def _csv_parts(
    lines: _Lines, delimiter: str, places: list[int], width: int, told: Callable[[], None]
) -> Iterator[Part]:
    # strict: a quote that is never closed would otherwise swallow all rows after it.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    chosen = itemgetter(*places)  # two or more: a patient and what is known of one
    while True:
        rows: list[int] = []
        uneven: list[int] = []
        cells: list[tuple[str, ...]] = []
        characters = 0
        try:
            for row in reader:
                if len(row) == width:
                    rows.append(lines.row)
                    cells.append(chosen(row))
                elif row:  # an empty line is no row
                    uneven.append(lines.row)
                check_rows(lines.name, lines.row)
                characters += lines.length
                lines.next_row()
                if len(rows) + len(uneven) == ROWS_AT_ONCE or characters > CHARACTERS_AT_ONCE:
                    break
        except csv.Error:
            raise lines.not_csv("quotes or cells that do not end") from None
        told()
        if not rows and not uneven:
            return
        yield Part(rows, list(zip(*cells, strict=True)) or [()] * len(places), uneven)


def check_rows(file: str, rows: int) -> None:
    if rows > MAX_ROWS:
        raise DataError(f"{file}: expected at most {MAX_ROWS} rows, found more; split the table")
