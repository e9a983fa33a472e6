"""Typed messages <-> Flower's RecordDict. The only owner of record keys; used by relay and ServerApp.

Arrays travel as an ArrayRecord and not as one block of bytes, because Flower sends an ArrayRecord
in chunks with a time limit each, and a configuration value in one piece (FLOWER.md section 8).
"""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common import messages
from common.arrays import Arrays
from common.errors import MessageError

HEADER = "intramural"
ARRAYS = "arrays"

# Flower's message type for each request; a reply has that of its request.
MESSAGE_TYPES = {"train-request": "train", "evaluate-request": "evaluate", "hello-request": "query"}


def to_records(message: messages.Message) -> RecordDict:
    """The record dict that carries `message`."""
    records = RecordDict({HEADER: ConfigRecord({"header": messages.header_of(message)})})
    if message.carries_arrays:
        records[ARRAYS] = array_record(message.arrays)
    return records


def from_records(records: RecordDict) -> messages.Message:
    """The typed message in `records`; MessageError when it holds anything else or anything more."""
    if not {HEADER} <= set(records) <= {HEADER, ARRAYS}:
        raise MessageError(f"expected the records '{HEADER}' and '{ARRAYS}', found others")
    header, arrays = records[HEADER], records.get(ARRAYS, ArrayRecord())
    if not (isinstance(header, ConfigRecord) and isinstance(arrays, ArrayRecord)):
        raise MessageError("a record is not of the expected type")
    text = header.get("header")
    if set(header) != {"header"} or not isinstance(text, str):
        raise MessageError("the header record holds other keys than 'header'")
    return messages.build(text, plain_arrays(arrays))


def array_record(arrays: Arrays) -> ArrayRecord:
    """`arrays` as Flower's ArrayRecord, same names and order."""
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def plain_arrays(record: ArrayRecord) -> Arrays:
    """Flower's ArrayRecord as `Arrays`; MessageError when an array cannot be read (never unpickled)."""
    # Flower parses the bytes with numpy; whatever that raises is the same news.
    try:
        arrays = {name: array.numpy() for name, array in record.items()}
    except Exception as error:
        raise MessageError("an array of the message cannot be read") from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise MessageError("an array of the message is an archive")  # np.load opens .npz as well
    return arrays
