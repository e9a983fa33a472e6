"""The faults of the canary's battery at a table that is Parquet; loads pyarrow."""

import errno
import os
import struct
from collections.abc import Callable
from functools import partial

import pyarrow as pa
from pyarrow import parquet

from client.canary import sayings
from client.canary.hospital import Hospital
from client.canary.injecting import Fault, damaged, fails, meanwhile
from client.canary.names import NAME, TEXT
from client.canary.sayings import of, system
from client.canary.table_damage import edited
from client.data import parquet as reader

_VAULT = os.getpid()  # the table is also read by a child, whose strikes nobody sees


def no_table(_: bytes) -> bytes:
    return TEXT.encode() * 10


def encrypted(whole: bytes) -> bytes:
    return b"PARE" + TEXT.encode() + whole


def without_end(whole: bytes) -> bytes:
    return whole[:-60]


def no_schema(whole: bytes) -> bytes:
    """The length of the last part, which has the schema, is right; what is in it is the name."""
    end: int = struct.unpack("<I", whole[-8:-4])[0] + 8
    return whole[:-end] + (TEXT.encode() * end)[: end - 8] + whole[-8:]


def nested(hospital: Hospital) -> None:
    """A column has parts, which are named so."""
    table = parquet.read_table(hospital.table)
    parts = pa.array([{NAME: TEXT}] * len(table))
    at = table.column_names.index("patient_id")
    parquet.write_table(table.set_column(at, "patient_id", parts), hospital.table)


def other_columns(hospital: Hospital) -> None:
    parquet.write_table(pa.table({TEXT: [TEXT], "age": [NAME]}), hospital.table)


def _in_vault(*_: object, **__: object) -> bool:
    return os.getpid() == _VAULT


def _says(act: Callable[[], object]) -> Callable[[], object]:
    return lambda: act() if _in_vault() else None


_DAMAGED = [
    Fault(name, damaged(change), "parquet", ends="refused")
    for name, change in [
        ("a Parquet table that is none", edited(no_table)),
        ("a Parquet table cut off", edited(without_end)),
        ("a Parquet table that is encrypted", edited(encrypted)),
        ("a Parquet table whose schema is the name", edited(no_schema)),
        ("a Parquet table of other columns", other_columns),
        ("a Parquet column with parts named so", nested),
    ]
]
_INJECTED = [
    Fault(name, arm, "parquet")
    for name, arm in [
        ("Arrow cannot read", fails(parquet, "ParquetFile", of(pa.ArrowInvalid), _in_vault)),
        ("Arrow panics", fails(parquet, "ParquetFile", of(sayings.Panic), _in_vault)),
        ("Arrow makes no text", fails(reader, "_as_text", of(KeyError), _in_vault)),
        (
            "an Arrow that logs",
            meanwhile(_says(partial(sayings.log_of_a_library, "pyarrow")), parquet, "ParquetFile"),
        ),
        (
            "an Arrow that prints",
            meanwhile(_says(sayings.print_it), parquet, "ParquetFile"),
        ),
        ("no child can be made", fails(os, "fork", system(errno.EAGAIN))),
    ]
]
# Of the child's reading all that is heard is that it failed.
_IN_CHILD = Fault(
    "Arrow panics in the child",
    fails(parquet, "ParquetFile", of(sayings.Panic)),
    "parquet",
    ends="refused",
)

PARQUET = [*_DAMAGED, *_INJECTED, _IN_CHILD]
