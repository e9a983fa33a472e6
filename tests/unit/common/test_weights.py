"""What may be read as weights: held against files of every wrong kind, and against the library's own."""

import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, load_file, save, save_file
from safetensors.torch import save_file as save_tensors

from common import weights
from common.arrays import Arrays
from common.errors import ModelError
from common.weights import load_weights, parse_weights, read_weights

SOURCE = Path("model.safetensors")
GOOD: Arrays = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.array(0.5, dtype=np.float32),
    "__metadata": np.ones(2, np.float32),
}


def raw(header: object, body: bytes = b"") -> bytes:
    """A safetensors file by hand; `header` is JSON text or what is to become it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(start: int, end: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def twice(shape: list[int]) -> bytes:
    """One name for two arrays; the library takes the last."""
    first, second = json.dumps(entry(0, 8, [2])), json.dumps(entry(0, 8, shape))
    return raw(f'{{"a": {first}, "a": {second}}}'.encode(), b"\0" * 8)


def test_weights_come_back_as_the_library_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(GOOD, path, metadata={"format": "np"})
    found, theirs = load_weights(path), load_file(path)
    assert list(found) == sorted(GOOD)
    for name, array in found.items():
        assert array.dtype == np.float32
        assert array.shape == GOOD[name].shape
        assert array.tobytes() == theirs[name].tobytes() == GOOD[name].tobytes()
        assert array.flags.writeable


def test_batch_norms_counter_is_left_out_and_no_other_whole_number_is_let_in(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.safetensors"
    layer = torch.nn.BatchNorm2d(3)
    save_tensors(layer.state_dict(), path)
    assert "num_batches_tracked" in load_file(path)
    assert sorted(load_weights(path)) == ["bias", "running_mean", "running_var", "weight"]
    for name, count in (("count", np.int64(1)), ("num_batches_tracked", np.zeros(2, np.int64))):
        save_file({name: np.asarray(count)}, path)
        with pytest.raises(ModelError, match=r"expected float32 .* found int64"):
            load_weights(path)


TAKEN_BY_THE_LIBRARY: dict[str, tuple[bytes, str]] = {
    "a name twice": (twice([2, 1]), "a name is there twice"),
    "a header of two megabytes": (raw(b"{}" + b" " * (2 << 20)), "header of at most 1048576"),
    "no element": (raw({"a": entry(0, 0, [1 << 38, 0])}), "1 to 268435456 in array 'a'"),
    "many dimensions": (raw({"a": entry(0, 4, [1] * 9)}, b"\0" * 4), "up to 8 dimensions"),
    "many arrays": (
        raw({f"{n}": entry(4 * n, 4 * n + 4, [1]) for n in range(4097)}, b"\0" * 4 * 4097),
        "at most 4096 arrays",
    ),
    "float64": (save({"a": np.zeros(2)}), "found float64"),
    "float16": (save({"a": np.zeros(2, np.float16)}), "found float16"),
    "truth values": (save({"a": np.zeros(2, bool)}), "found BOOL"),
    "complex": (raw({"a": entry(0, 8, [1], "C64")}, b"\0" * 8), "found complex64"),
}


@pytest.mark.parametrize("case", TAKEN_BY_THE_LIBRARY)
def test_what_the_library_takes_and_no_model_here_has_is_refused(case: str) -> None:
    data, words = TAKEN_BY_THE_LIBRARY[case]
    load(data)  # nothing to say
    with pytest.raises(ModelError, match=words):
        parse_weights(data, SOURCE)


REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "a pickle": b"\x80\x04\x95" + b"." * 60,
    "a zip": b"PK\x03\x04" + b"\0" * 60,
    "a header beyond the file": struct.pack("<Q", 1 << 62),
    "no JSON": raw(b"{"),
    "no UTF-8": raw(b"\xff\xfe{}"),
    "a list": raw([]),
    "deep": raw(b"[" * 100_000),
    "an endless number": raw(
        b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % (b"9" * 4300)
    ),
    "many large dimensions": raw({"a": entry(0, 4, [1 << 28] * 8)}, b"\0" * 4),
    "an array that is none": raw({"a": 3}),
    "no dtype": raw({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "a shape twice": raw(b'{"a":{"dtype":"F32","shape":[9],"shape":[1],"data_offsets":[0,4]}}'),
    "no place": raw({"a": {"dtype": "F32", "shape": [1]}}, b"\0" * 4),
    "a negative dimension": raw({"a": entry(0, 4, [-1])}, b"\0" * 4),
    "a fraction of a dimension": raw({"a": entry(0, 4, [1.0])}, b"\0" * 4),
    "a dimension of truth": raw({"a": entry(0, 4, [True])}, b"\0" * 4),
    "bfloat16": raw({"a": entry(0, 2, [1], "BF16")}, b"\0" * 2),
    "a terabyte": raw({"a": entry(0, 1 << 40, [1 << 38])}),
    "a gigabyte in pieces": raw({f"{n}": entry(0, 4, [1 << 27]) for n in range(3)}, b"\0" * 4),
    "overlap": raw({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, b"\0" * 12),
    "one place for two": raw({"a": entry(0, 8, [2]), "b": entry(0, 8, [2])}, b"\0" * 8),
    "a gap": raw({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, b"\0" * 12),
    "bytes behind": raw({"a": entry(0, 4, [1])}, b"\0" * 12),
    "cut off": save(GOOD)[:-1],
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused_in_a_short_sentence_and_little_memory(case: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=r"expected .* model\.safetensors .*; save") as caught:
            parse_weights(REFUSED[case], SOURCE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert len(str(caught.value)) < 400


def test_what_a_file_says_of_itself_cannot_fill_a_log() -> None:
    long = "\x1b[31m" + "x" * 100_000
    with pytest.raises(ModelError) as caught:
        parse_weights(raw({long: entry(0, 8, [1], "F64")}, b"\0" * 8), SOURCE)
    assert len(str(caught.value)) < 400
    assert "\x1b" not in str(caught.value)


def test_a_large_file_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(weights.MAX_BYTES + 1)  # takes no room on the disk
    tracemalloc.start()
    with pytest.raises(ModelError, match=r"at most 1073741824 bytes .* found 1073741825; give"):
        load_weights(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


NO_FILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda path: path, r"cannot read .*No such file"),
    "a folder": (folder, "no regular file"),
    "a pipe that nobody writes to": (pipe, "no regular file"),
    "an endless device": (lambda _: Path("/dev/zero"), "no regular file"),
}


@pytest.mark.parametrize("case", NO_FILE)
@pytest.mark.timeout(10)
def test_what_is_no_file_is_refused_at_once(case: str, tmp_path: Path) -> None:
    make, words = NO_FILE[case]
    with pytest.raises(ModelError, match=words):
        read_weights(make(tmp_path / "model.safetensors"))


WHOLE = save(GOOD)


@settings(max_examples=300, deadline=None, print_blob=True)
@given(
    where=st.integers(0, len(WHOLE) - 1),
    new=st.binary(min_size=1, max_size=9),
    keep=st.booleans(),
)
def test_a_damaged_file_is_refused_or_holds_float32_arrays(
    where: int, new: bytes, *, keep: bool
) -> None:
    data = WHOLE[:where] + new + WHOLE[where + (len(new) if keep else 0) :]
    try:
        found = parse_weights(data, SOURCE)
    except ModelError:
        return
    theirs = load(data)  # what we take, the library takes and reads the same
    assert {name: a.tobytes() for name, a in found.items()} == {
        name: a.tobytes() for name, a in theirs.items()
    }
    assert all(array.dtype == np.float32 for array in found.values())
