"""Weights from a safetensors file, and the caps that such a file is held to before much is read.

A safetensors file is: the header's length (8 bytes, little-endian), the header as JSON (name -> dtype,
shape, place), the bytes of the arrays one after the other. It can hold no code (THREATS.md T17). Its
library refuses what overlaps, leaves a gap or ends too early or too late, but reads a header of up to
100 MB, takes the last of two arrays of one name, and arrays of other types than ours.
"""

import json
import stat
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from common.arrays import Arrays
from common.errors import ModelError

MAX_BYTES = 1 << 30  # ResNet18 with an average and two moments of it is 180 MB
MAX_HEADER_BYTES = 1 << 20
MAX_ARRAYS = 4096
MAX_ELEMENTS = MAX_BYTES // 4  # of all arrays together
MAX_DIMENSIONS = 8

# BatchNorm counts its batches in it; no model here does, and torchvision's file of a ResNet18 has it.
COUNTER = "num_batches_tracked"

_LENGTH = 8  # bytes before the header
_SHOWN = 100  # characters of what a file says, in a sentence about it


def read_weights(path: Path) -> bytes:
    """The bytes of a weights file, of which nothing is believed yet.

    ModelError when there is no regular file of at most `MAX_BYTES`, found out before it is read.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for
            raise ModelError(
                f"expected a safetensors file at {path} and found no regular file; name another"
            )
        if about.st_size > MAX_BYTES:
            raise ModelError(
                f"expected at most {MAX_BYTES} bytes of weights in {path} and found "
                f"{about.st_size}; give a file with one model's weights only"
            )
        with path.open("rb") as file:
            return file.read(about.st_size)  # not what is written behind it meanwhile
    except OSError as error:
        raise ModelError(
            f"cannot read the weights {path} ({error.strerror}); name a safetensors file"
        ) from error


def parse_weights(data: bytes, source: Path) -> Arrays:
    """The float32 arrays in `data`, in alphabetical order; `source` is for the sentence of an error.

    BatchNorm's counters (`COUNTER`, single int64) may be there and are left out. ModelError for a
    pickle or anything else that is no safetensors file, for one beyond a cap, for another dtype, for
    a name that is there twice and for an array without elements.
    """
    header = _header(data, source)
    if len(header) > MAX_ARRAYS:
        raise _refused(source, f"at most {MAX_ARRAYS} arrays", str(len(header)))
    elements = sum(_elements(name, entry, source) for name, entry in header.items())
    if elements > MAX_ELEMENTS:
        raise _refused(source, f"at most {MAX_ELEMENTS} elements", str(elements))
    try:
        arrays = load(data)
    except (SafetensorError, ValueError) as error:
        raise _refused(source, "whole arrays one after the other", str(error)) from error
    return {name: arrays[name] for name in sorted(arrays) if arrays[name].dtype == np.float32}


def load_weights(path: Path) -> Arrays:
    """The float32 arrays of a weights file: `read_weights`, then `parse_weights`."""
    return parse_weights(read_weights(path), path)


def _refused(source: Path, expected: str, found: str) -> ModelError:
    return ModelError(
        f"expected {expected} in the weights {source} and found {found[:_SHOWN]}; save the model's float32 "
        f"weights as safetensors"
    )


def _header(data: bytes, source: Path) -> dict[str, Any]:
    """The header of a safetensors file without its free text."""
    length = int.from_bytes(data[:_LENGTH], "little")
    if length > MAX_HEADER_BYTES or len(data) < _LENGTH + length:
        room = min(MAX_HEADER_BYTES, max(0, len(data) - _LENGTH))
        raise _refused(source, f"a header of at most {room} bytes", f"one of {length}")
    try:
        header = json.loads(data[_LENGTH : _LENGTH + length], object_pairs_hook=named_once)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError included
        raise _refused(source, "a safetensors header", f"none ({error})") from error
    if not isinstance(header, dict):
        raise _refused(source, "a safetensors header", "JSON of another kind")
    header.pop("__metadata__", None)
    return header


def named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; ValueError for two values under one name, of which readers take either."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _elements(name: str, entry: object, source: Path) -> int:
    """How many elements the header's `entry` claims; ModelError when no model here has such an array."""
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape = fields.get("dtype"), fields.get("shape")
    array = f"array {name[:_SHOWN]!r}"
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(n) is int and 0 < n <= MAX_ELEMENTS for n in shape)
    ):
        wanted = f"up to {MAX_DIMENSIONS} dimensions of 1 to {MAX_ELEMENTS} in {array}"
        raise _refused(source, wanted, repr(shape))
    is_counter = dtype == "I64" and shape == [] and name.rpartition(".")[2] == COUNTER
    if dtype != "F32" and not is_counter:
        raise _refused(source, f"float32 in {array}", _word(dtype))
    return prod(shape)


def _word(dtype: object) -> str:
    """A safetensors dtype in numpy's words where they are others: F64 is float64."""
    kinds = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "C": "complex"}
    letters = str(dtype).rstrip("0123456789")
    return kinds[letters] + str(dtype)[len(letters) :] if letters in kinds else str(dtype)
