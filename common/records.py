"""Typed messages <-> Flower's RecordDict. The only owner of record keys; used by relay and ServerApp.

A message travels as its frame (common/messages.py), as one array of bytes. Flower cuts an array into
chunks of 5 MiB with a time limit each, which a configuration value is not, and makes objects of its
own of every array, each a signed request in each direction: array by array, a round of the compact
CNN took twice as long (docs/benchmarks.md).
"""

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from common import messages
from common.arrays import Arrays
from common.errors import MessageError

FRAME = "intramural"

# Flower's message type for each request; a reply has that of its request.
MESSAGE_TYPES = {"train-request": "train", "evaluate-request": "evaluate", "hello-request": "query"}


def to_records(message: messages.Message) -> RecordDict:
    """The record dict that carries `message`."""
    frame = np.frombuffer(messages.encode(message), np.uint8)
    return RecordDict({FRAME: ArrayRecord({FRAME: Array(frame)})})


def from_records(records: RecordDict) -> messages.Message:
    """The typed message in `records`; MessageError when it holds anything else or anything more."""
    if set(records) != {FRAME}:
        raise MessageError(f"expected the record '{FRAME}' and no other, found others")
    record = records[FRAME]
    if not isinstance(record, ArrayRecord) or set(record) != {FRAME}:
        raise MessageError(f"expected one array '{FRAME}' in the record, found something else")
    frame = plain_arrays(record)[FRAME]
    if frame.dtype != np.uint8 or frame.ndim != 1:
        raise MessageError(
            f"expected a row of bytes, found {frame.dtype} in {frame.ndim} dimensions"
        )
    return messages.decode(frame.tobytes())


def array_record(arrays: Arrays) -> ArrayRecord:
    """`arrays` as Flower's ArrayRecord, same names and order: what its strategies work on."""
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
