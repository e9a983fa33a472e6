"""A Parquet table as text, by Apache Arrow: the one module that loads pyarrow, for the extra `records`.

A Parquet file is small and can mean much: pages that say how large they become, and one cell that all
rows repeat. So it is read twice, first in a child process whose memory and time are bounded, where a crash
of the decoder ends nothing else (THREATS.md T18); what passed there is read here in the same way.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from client.data.child import in_child
from client.data.tables import MAX_ROWS, ROWS_AT_ONCE, Part, check_columns, check_rows
from common.errors import DataError
from common.progress import Progress
from common.tabular.schema import canonical

MAX_CELL = 1024  # characters that are kept of a text: more than any rule lets pass
_READ = b"read"


def open_parquet(
    name: str, data: bytes, wanted: Sequence[str], progress: Progress
) -> tuple[int, Iterator[Part]]:
    """(unused columns, parts) of the Parquet file `name`, in memory; see `tables.open_table`."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"expected pyarrow for {name}, found that it is not installed; install intramural[records], "
            f"or save the table as CSV"
        ) from error
    if data[:4] == b"PARE":
        raise DataError(
            f"{name}: expected a table that is not encrypted, found one that is; decrypt it"
        )
    # Whatever becomes of the child: no answer is a no.
    if in_child(lambda: _trial(data, wanted), len(_READ)) != _READ:
        raise DataError(
            f"{name}: expected a Parquet table that can be read with little memory, found one that is "
            f"damaged, encrypted or too large when unpacked; write it anew, or save it as CSV"
        )
    file = _opened(data)
    header = _names(file)
    check_columns(name, header, wanted, "name its columns so")
    check_rows(name, file.metadata.num_rows)
    for column in wanted:
        if not _is_plain(kind := file.schema_arrow.field(header.index(column)).type):
            raise DataError(
                f"{name}: expected text, numbers or true and false in column '{column}', found the type "
                f"{str(kind)[:40]}; write it as one of them"
            )
    return len(header) - len(wanted), _parts(data, wanted, progress)


def _trial(data: bytes, wanted: Sequence[str]) -> bytes:
    """In the child, where any exception is as good as a crash."""
    import pyarrow as pa

    # The usual pool reserves more address space than the child may have.
    pa.set_memory_pool(pa.system_memory_pool())
    header = _names(_opened(data))
    usable = [name for name in wanted if header.count(name) == 1]
    rows = 0
    for part in _parts(data, usable, lambda _done, _total: None):
        rows += len(part.rows)
        if rows > MAX_ROWS:
            break
    return _READ


def _opened(data: bytes, texts: Sequence[str] = ()) -> Any:
    """The file; columns `texts` with each different text once, so that no cell is multiplied."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    return ParquetFile(
        pa.BufferReader(data), read_dictionary=list(texts), pre_buffer=False, buffer_size=1 << 20
    )


def _names(file: Any) -> list[str]:
    return [canonical(name) for name in file.schema_arrow.names]


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    numbers = (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    return _is_text(kind) or any(is_such(kind) for is_such in numbers)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return any(
        is_such(kind) for is_such in (types.is_string, types.is_large_string, types.is_string_view)
    )


def _parts(data: bytes, wanted: Sequence[str], progress: Progress) -> Iterator[Part]:
    file = _opened(data)
    header, schema = _names(file), file.schema_arrow
    fields = [schema.field(header.index(name)) for name in wanted]
    # What is nested has parts with names of their own, and is refused anyway.
    own = [field.name for field in fields if _is_plain(field.type)]
    texts = [field.name for field in fields if _is_text(field.type)]
    file, done = _opened(data, texts), 0
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=own, use_threads=False):
        batch.validate(full=True)
        rows = list(range(done + 1, done + batch.num_rows + 1))
        yield Part(rows, [_as_text(batch.column(name)) for name in own], [])
        done += batch.num_rows
        progress(done, file.metadata.num_rows)


def _as_text(cells: Any) -> list[str]:
    """Each cell of an Arrow array as a CSV would have it, "" for none."""
    import pyarrow as pa
    from pyarrow import compute, types

    if types.is_dictionary(cells.type):
        known = compute.utf8_slice_codeunits(cells.dictionary, 0, MAX_CELL).to_pylist()
        return ["" if at is None else known[at] or "" for at in cells.indices.to_pylist()]
    if types.is_float16(cells.type):  # Arrow has no text of it
        cells = cells.cast(pa.float32())
    texts: list[str] = cells.cast(pa.string()).fill_null("").to_pylist()
    if types.is_floating(cells.type):
        # A patient 123456789012.0 is the one whom a CSV, or a folder of images, calls 123456789012.
        return [f"{float(text):.0f}" if "e+" in text else text for text in texts]
    return texts
