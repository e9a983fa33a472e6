"""Tables that are damaged for real, with the name in what is damaged."""

import os
from collections.abc import Callable

from client.canary import tables
from client.canary.hospital import Hospital
from client.canary.names import TEXT
from client.data.tables import MAX_CSV_BYTES, MAX_ROW

Change = Callable[[Hospital], None]


def cells(changes: tables.Row, table: int = 0) -> Change:
    """One more row in a table, the last one with other cells."""

    def change(hospital: Hospital) -> None:
        rows = tables.rows_of(hospital.files[table])
        tables.write(hospital.files[table], [*rows, rows[-1] | changes])

    return change


def cell(column: str, text: str, table: int = 0) -> Change:
    return cells({column: text}, table)


def alone(column: str, text: str) -> Change:
    """The last row with another cell, and no further one."""

    def change(hospital: Hospital) -> None:
        tables.write(hospital.table, [tables.rows_of(hospital.table)[-1] | {column: text}])

    return change


def edited(edit: Callable[[bytes], bytes]) -> Change:
    """The bytes of a table are other ones."""

    def change(hospital: Hospital) -> None:
        hospital.table.write_bytes(edit(hospital.table.read_bytes()))

    return change


def cell_more(whole: bytes) -> bytes:
    return whole + f"{TEXT},{TEXT}\r\n".encode()


def open_quote(whole: bytes) -> bytes:
    return whole + f'"{TEXT}'.encode()


def open_quote_of_a_column(whole: bytes) -> bytes:
    return f'"{TEXT}'.encode() + whole


def no_utf8(whole: bytes) -> bytes:
    return whole + f"{TEXT}\xe9".encode("latin-1")


def endless(whole: bytes) -> bytes:
    return whole + TEXT.encode() * (MAX_ROW // len(TEXT) + 1)


def a_column_twice(whole: bytes) -> bytes:
    header, rest = whole.split(b"\r\n", 1)
    return header + b"," + header + b"\r\n" + rest


def too_large(hospital: Hospital) -> None:
    os.truncate(hospital.table, MAX_CSV_BYTES + 1)  # a hole: it takes no room


def as_both(hospital: Hospital) -> None:
    other = {".csv": ".parquet", ".parquet": ".csv"}[hospital.table.suffix]
    hospital.table.with_suffix(other).write_text(TEXT)
