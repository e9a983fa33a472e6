"""A frame is a message or it is refused: nothing else happens, whatever the bytes are."""

import json
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from common import messages
from common.arrays import Arrays
from common.errors import BudgetError, MessageError
from common.judging.binary import HISTOGRAM_BINS
from common.messages import (
    LARGEST_VALUE,
    MAGIC,
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    EvaluateReply,
    EvaluateRequest,
    HelloReply,
    HelloRequest,
    Message,
    Refusal,
    TrainReply,
    TrainRequest,
    build,
    decode,
    encode,
    fingerprint,
    header_of,
    is_histogram,
)

STUDY, REQUEST, HEAD, PREVIOUS, POLICY = (pair * 32 for pair in ("a1", "b2", "c3", "d4", "e5"))
CELLS = tuple(float(n) - 0.5 for n in range(HISTOGRAM_BINS))


def some_arrays() -> Arrays:
    """Names in an order that is neither alphabetical nor by size; one number, and one empty array."""
    rng = np.random.default_rng(3)
    shapes: dict[str, tuple[int, ...]] = {"z.weight": (3, 2), "a.bias": (5,), "m": (), "b": (0, 4)}
    return {name: np.asarray(rng.normal(size=s), np.float32) for name, s in shapes.items()}


def examples() -> dict[str, Message]:
    answer = {
        "study": STUDY,
        "round": 2,
        "request": REQUEST,
        "ledger_head": HEAD,
        "previous_head": PREVIOUS,
        "policy": POLICY,
        "suppressed": False,
        "histogram": (CELLS, CELLS[::-1]),
        "histogram_noise": 1.25,
    }
    every: list[Message] = [
        HelloRequest(),
        HelloReply(hospital="north"),
        TrainRequest(protocol="study = 'x'\n# é", round=1, arrays=some_arrays()),
        EvaluateRequest(protocol="", round=11, arrays=some_arrays()),
        TrainReply.model_validate({**answer, "noise_multiplier": 0.7, "arrays": some_arrays()}),
        EvaluateReply.model_validate(answer),
        Refusal.of(BudgetError("the detail stays here")),
    ]
    return {message.kind: message for message in every}


KINDS = sorted(examples())


def frame(header: str | bytes, body: bytes = b"", *, length: int | None = None) -> bytes:
    data = header.encode() if isinstance(header, str) else header
    return MAGIC + struct.pack("<I", len(data) if length is None else length) + data + body


def fields_of(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(header_of(message))
    return fields


def assert_same(one: Message, other: Message) -> None:
    assert type(one) is type(other)
    assert header_of(one) == header_of(other)
    assert list(one.arrays) == list(other.arrays)
    for name, array in one.arrays.items():
        assert array.dtype == other.arrays[name].dtype
        assert array.shape == other.arrays[name].shape
        assert array.tobytes() == other.arrays[name].tobytes()


def assert_refused(data: bytes) -> None:
    with pytest.raises(MessageError) as caught:
        decode(data)
    assert len(str(caught.value)) < 200  # the sender's bytes are not repeated in a log


def test_the_examples_are_all_the_kinds_that_there_are() -> None:
    named = {"train-request", "evaluate-request", "hello-request"}
    assert set(KINDS) == named | {"train-reply", "evaluate-reply", "hello-reply", "refusal"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_encoded_is_decoded(kind: str) -> None:
    message = examples()[kind]
    back = decode(encode(message))
    assert_same(message, back)
    assert encode(back) == encode(message)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_messages_have_equal_bytes_and_other_messages_others(kind: str) -> None:
    assert encode(examples()[kind]) == encode(examples()[kind])
    others = [fingerprint(message) for message in examples().values()]
    assert len(set(others)) == len(KINDS)
    assert fingerprint(examples()[kind]) == fingerprint(decode(encode(examples()[kind])))


def test_the_order_of_the_arrays_is_kept_and_is_part_of_the_message() -> None:
    forward = TrainRequest(protocol="", round=1, arrays=some_arrays())
    backward = forward.model_copy(update={"arrays": dict(reversed(some_arrays().items()))})
    assert list(decode(encode(forward)).arrays) == ["z.weight", "a.bias", "m", "b"]
    assert list(decode(encode(backward)).arrays) == ["b", "m", "a.bias", "z.weight"]
    assert fingerprint(forward) != fingerprint(backward)


def test_the_layout_in_memory_is_not_part_of_the_message() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    columns = np.asfortranarray(rows)
    other_end = rows.astype(">f4")
    strided = np.repeat(rows, 2, axis=1)[:, ::2]
    prints = {
        fingerprint(TrainRequest(protocol="", round=1, arrays={"a": array}))
        for array in (rows, columns, strided, other_end)
    }
    assert len(prints) == 1


def test_a_refusal_says_its_code_and_fixed_text_and_no_detail() -> None:
    data = encode(Refusal.of(BudgetError("patient 4711")))
    assert b"4711" not in data
    assert b"E-POLICY-BUDGET" in data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["arrays", "extra", "names "])
def test_a_header_with_another_key_is_refused(kind: str, key: str) -> None:
    message = examples()[kind]
    body = encode(message)[len(MAGIC) + 4 + len(header_of(message)) :]
    assert_same(decode(frame(header_of(message), body)), message)  # the frame itself is sound
    assert_refused(frame(json.dumps({**fields_of(message), key: {}}), body))


HEX = "0000803f" * 2 * HISTOGRAM_BINS  # IEEE 754 single precision, little-endian: 1.0 in every cell


def change(**values: Any) -> str:
    """The header of an evaluate-reply with other values; a value of `...` takes the key away."""
    fields = fields_of(examples()["evaluate-reply"]) | values
    return json.dumps({key: value for key, value in fields.items() if value is not ...})


WRONG_HEADERS = {
    "not an object": "[]",
    "null": "null",
    "empty": "",
    "not JSON": "{'kind': 'hello-request'}",
    "two documents": '{"kind": "hello-request"}{}',
    "unknown kind": change(kind="exec"),
    "kind is a list": change(kind=["evaluate-reply"]),
    "no kind": change(kind=...),
    "no histogram": change(histogram=...),
    "round 0": change(round=0),
    "round is text": change(round="2"),
    "round is a float": change(round=2.0),
    "round is true": change(round=True),
    "study in capitals": change(study=STUDY.upper()),
    "study too short": change(study=STUDY[:-1]),
    "study with a line end": change(study=STUDY + "\n"),
    "names of no arrays": change(names=["a"]),
    "names is text": change(names="a"),
    "the histogram is a number": change(histogram=7),
    "the histogram is an object": change(histogram={"a": 1}),
    "one row": change(histogram=[CELLS]),
    "three rows": change(histogram=[CELLS] * 3),
    "the histogram is decimal text": change(histogram="1.5, 2.5"),
    "an odd number of digits": change(histogram=HEX[:-1]),
    "half a number": change(histogram=HEX[:-4]),
    "an odd number of numbers": change(histogram=HEX[:-8]),
    "a digit that is none": change(histogram=HEX[:-1] + "g"),
    "NaN as text": change(histogram=HEX[:-8] + "0000c07f"),
    "infinity as text": change(histogram=HEX[:-8] + "0000807f"),
    "minus infinity as text": change(histogram=HEX[:-8] + "000080ff"),
    "NaN in the histogram": change(histogram=[[float("nan")] * 16, CELLS]),
    "infinity in the histogram": change(histogram=[[float("inf")] * 16, CELLS]),
    "1e999 in the histogram": change(histogram=[[1.5], [1]]).replace("1.5", "1e999"),
    "10**400 in the histogram": change(histogram=[[10**400], [1]]),
    "beyond single precision": change(histogram=[[1e39] * 16, CELLS]),
    "uneven rows": change(histogram=[[0.0] * 17, CELLS]),
    "a ledger head in capitals": change(ledger_head=HEAD.upper()),
    "no ledger head": change(ledger_head=...),
    "a ledger head of nothing": change(ledger_head=None),
    "no previous head": change(previous_head=...),
    "a short previous head": change(previous_head=PREVIOUS[:-1]),
    "no noise of the histogram": change(histogram_noise=...),
    "negative noise": change(histogram_noise=-1.0),
    "noise that is no number": change(histogram_noise=float("nan")),
    "infinite noise": change(histogram_noise=float("inf")),
    "noise in text": change(histogram_noise="1.0"),
    "an update's noise on an evaluation": change(noise_multiplier=1.0),
    "an integer of 5000 digits": change(round=7).replace("7", "9" * 5000),
    "deep lists": "[" * 200_000,
    "deep objects": '{"kind":' * 100_000,
    "deep in a field": change(names=7).replace("7", "[" * 50_000 + "]" * 50_000),
}


@pytest.mark.parametrize("case", WRONG_HEADERS)
def test_a_header_that_is_not_of_a_known_message_is_refused(case: str) -> None:
    assert_refused(frame(WRONG_HEADERS[case], save({})))


def test_half_a_surrogate_pair_does_no_harm() -> None:
    """JSON can say it, UTF-8 cannot: it must neither crash the reader nor the next writer."""
    header = json.dumps({"kind": "hello-reply", "hospital": "\ud800"})
    message = decode(frame(header, save({})))
    assert_same(decode(encode(message)), message)


@pytest.mark.parametrize(
    "code", ["", "E", "e-data", "E-DATA\n", "E-DATA patient 4711", "E" + "-A" * 30]
)
def test_a_refusal_carries_a_code_and_no_free_text(code: str) -> None:
    with pytest.raises(MessageError):
        build(json.dumps({"kind": "refusal", "code": code, "text": "x"}), {})
    with pytest.raises(MessageError):
        build(json.dumps({"kind": "refusal", "code": "E-DATA", "text": "x" * 201}), {})


@pytest.mark.parametrize("kind", [k for k in KINDS if not examples()[k].carries_arrays])
def test_arrays_on_a_kind_that_carries_none_are_refused(kind: str) -> None:
    header = json.dumps(fields_of(examples()[kind]) | {"names": ["a"]})
    assert_refused(frame(header, save({"a": np.zeros(1, np.float32)})))


@pytest.mark.parametrize(
    "names", [[], ["a"], ["a", "b", "c"], ["a", "a"], ["a", "b", "b"], ["b", "c"]]
)
def test_names_that_are_not_those_of_the_arrays_are_refused(names: list[str]) -> None:
    two = {"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)}
    header = {"kind": "train-request", "protocol": "", "round": 1}
    assert list(decode(frame(json.dumps(header | {"names": ["b", "a"]}), save(two))).arrays) == [
        "b",
        "a",
    ]
    assert_refused(frame(json.dumps(header | {"names": names}), save(two)))


@pytest.mark.parametrize("length", [0, 1, 10, 2**31, 2**32 - 1])
def test_a_header_length_that_lies_is_refused(length: int) -> None:
    header = header_of(examples()["evaluate-reply"])
    assert_refused(frame(header, save({}), length=length))


@pytest.mark.parametrize("off", [-1, 1])
def test_a_header_length_that_is_off_by_one_is_refused(off: int) -> None:
    header = header_of(examples()["evaluate-reply"])
    assert_refused(frame(header, save({}), length=len(header) + off))


def test_a_header_has_a_limit() -> None:
    header = json.dumps({"kind": "hello-reply", "hospital": ""})
    longest = header + " " * (MAX_HEADER_BYTES - len(header))
    assert isinstance(decode(frame(longest, save({}))), HelloReply)
    assert_refused(frame(longest + " ", save({})))
    with pytest.raises(MessageError, match="at most"):
        build(longest + " ", {})


def test_a_frame_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(examples()["train-request"])
    assert MAX_FRAME_BYTES == 1 << 30
    monkeypatch.setattr(messages, "MAX_FRAME_BYTES", len(data))
    decode(data)
    monkeypatch.setattr(messages, "MAX_FRAME_BYTES", len(data) - 1)
    assert_refused(data)


class Marker:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.write_text, (self.path, "executed")


def test_a_pickle_in_place_of_the_arrays_is_refused_and_never_executed(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    bomb = pickle.dumps(Marker(marker))
    pickle.loads(bomb)  # noqa: S301  (the bomb works)
    marker.unlink()
    header = header_of(examples()["evaluate-reply"])
    for data in (frame(header, bomb), frame(bomb, save({})), MAGIC + bomb, bomb):
        assert_refused(data)
    with pytest.raises(MessageError):
        build(
            json.dumps({"kind": "train-request", "protocol": "", "round": 1, "names": ["a"]}),
            {"a": np.array([Marker(marker)], dtype=object)},
        )
    assert not marker.exists()


@pytest.mark.parametrize(
    "dtype", ["object", "U1", "S1", "M8[s]", "V4", "complex64", "longdouble", "f4,f4"]
)
def test_an_array_that_could_not_be_sent_on_is_refused(dtype: str) -> None:
    header = json.dumps({"kind": "train-request", "protocol": "", "round": 1, "names": ["a"]})
    with pytest.raises(MessageError, match="plain numbers"):
        build(header, {"a": np.zeros(2, dtype=dtype)})


def test_what_safetensors_claims_is_not_allocated() -> None:
    """The tensor's own header asks for a terabyte; the frame has a hundred bytes."""
    claims = {"a": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}
    body = json.dumps(claims).encode()
    lying = struct.pack("<Q", len(body)) + body
    empty = {"a": {"dtype": "F32", "shape": [1 << 38, 0], "data_offsets": [0, 0]}}
    body = json.dumps(empty).encode()
    endless = struct.pack("<Q", 1 << 62)
    header = json.dumps({"kind": "train-request", "protocol": "", "round": 1, "names": ["a"]})
    tracemalloc.start()
    for data in (lying, endless):
        assert_refused(frame(header, data))
    decode(frame(header, struct.pack("<Q", len(body)) + body))  # no elements: true, if odd
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def decode_or_refuse(data: bytes) -> None:
    tracemalloc.start()
    try:
        message = decode(data)
    except MessageError:
        return
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 << 20
    assert_same(decode(encode(message)), message)


FUZZ = settings(max_examples=200, deadline=None, print_blob=True)


@FUZZ
@given(data=st.binary(max_size=300), headed=st.booleans())
def test_random_bytes_are_a_message_or_refused(data: bytes, headed: bool) -> None:
    decode_or_refuse(MAGIC + data if headed else data)


@FUZZ
@given(kind=st.sampled_from(KINDS), where=st.floats(0, 1), tail=st.binary(max_size=8))
def test_a_truncated_frame_is_refused(kind: str, where: float, tail: bytes) -> None:
    whole = encode(examples()[kind])
    decode_or_refuse(whole + tail)
    cut = whole[: int(where * (len(whole) - 1))]
    assert_refused(cut)
    decode_or_refuse(cut + tail)


@FUZZ
@given(
    kind=st.sampled_from(KINDS),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_frame_with_changed_bytes_is_a_message_or_refused(
    kind: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(encode(examples()[kind]))
    for where, value in changes:
        data[int(where * (len(data) - 1))] = value
    decode_or_refuse(bytes(data))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(KINDS),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@FUZZ
@given(kind=st.sampled_from(KINDS), key=st.integers(0, 9), value=JSON)
def test_a_header_with_any_value_in_any_field_is_a_message_or_refused(
    kind: str, key: int, value: Any
) -> None:
    message = examples()[kind]
    fields = fields_of(message)
    fields[sorted(fields)[key % len(fields)]] = value
    body = encode(message)[len(MAGIC) + 4 + len(header_of(message)) :]
    decode_or_refuse(frame(json.dumps(fields), body))


# --- the histogram on the wire -----------------------------------------------------------------

SINGLES = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.tuples(*[st.tuples(*[SINGLES] * HISTOGRAM_BINS)] * 2)


def train_reply(**changes: Any) -> TrainReply:
    fields = examples()["train-reply"].model_dump() | {"arrays": some_arrays()}
    return TrainReply.model_validate(fields | changes)


def text_of(rows: tuple[tuple[float, ...], ...]) -> str:
    """The wire's text, cell by cell with the standard library."""
    return "".join(struct.pack("<f", cell).hex() for row in rows for cell in row)


@settings(FUZZ, max_examples=60)
@given(rows=ROWS, other=ROWS)
def test_a_histogram_travels_bit_for_bit_and_no_value_shows_in_the_length(
    rows: tuple[tuple[float, ...], ...], other: tuple[tuple[float, ...], ...]
) -> None:
    sent = train_reply(histogram=rows)
    assert fields_of(sent)["histogram"] == text_of(rows)
    back = decode(encode(sent))
    assert isinstance(back, TrainReply)
    assert back.histogram is not None
    assert text_of(back.histogram) == text_of(rows)  # -0.0 and subnormal numbers included
    assert encode(back) == encode(sent)
    assert len(encode(train_reply(histogram=other))) == len(encode(sent))
    score = examples()["evaluate-reply"]
    frames = [encode(score.model_copy(update={"histogram": h})) for h in (rows, other)]
    assert len(frames[0]) == len(frames[1])


def test_decimal_text_would_have_shown_a_value_in_the_length() -> None:
    """The test above can fail: this is why the cells are not written as JSON numbers."""
    assert len(json.dumps([1.0])) != len(json.dumps([0.1234567]))


def test_a_histogram_is_rounded_to_single_precision_once() -> None:
    third = train_reply(histogram=((1 / 3,) * HISTOGRAM_BINS, (1e-50,) * HISTOGRAM_BINS))
    assert third.histogram is not None
    assert third.histogram[0][0] == struct.unpack("<f", struct.pack("<f", 1 / 3))[0] != 1 / 3
    assert third.histogram[1][0] == 0.0
    assert_same(train_reply(histogram=third.histogram), third)


def test_the_text_of_a_histogram_is_the_published_format() -> None:
    """IEEE 754, by hand: 1.0 is 3f800000, -2.5 is c0200000, 0.1 rounds to 3dcccccd."""
    low = (1.0, -2.5, 0.1, 0.0) * (HISTOGRAM_BINS // 4)
    header = fields_of(train_reply(histogram=(low, low[::-1])))
    one, two, tenth, zero = "0000803f", "000020c0", "cdcccc3d", "00000000"
    times = HISTOGRAM_BINS // 4
    assert (
        header["histogram"]
        == (one + two + tenth + zero) * times + (zero + tenth + two + one) * times
    )


def test_an_answer_without_a_histogram_says_so() -> None:
    silent = train_reply(histogram=None, histogram_noise=None)
    fields = fields_of(silent)
    assert (fields["histogram"], fields["histogram_noise"]) == (None, None)
    assert_same(decode(encode(silent)), silent)
    assert decode(encode(silent)).model_dump()["histogram"] is None
    lone = EvaluateReply.model_validate(
        {**fields_of(examples()["evaluate-reply"]), "histogram": None, "suppressed": True}
    )
    assert fields_of(lone)["suppressed"] is True
    assert_same(decode(encode(lone)), lone)


def test_the_first_answer_has_no_previous_head() -> None:
    first = train_reply(previous_head=None)
    assert fields_of(first)["previous_head"] is None
    assert_same(decode(encode(first)), first)


@pytest.mark.parametrize("noise", [0, 0.0, 1e-12, 3, LARGEST_VALUE])
def test_a_noise_multiplier_is_a_number_that_is_not_negative(noise: float) -> None:
    assert train_reply(noise_multiplier=noise).noise_multiplier == noise
    body = save(some_arrays())
    good = fields_of(train_reply())
    assert isinstance(
        decode(frame(json.dumps(good | {"noise_multiplier": noise}), body)), TrainReply
    )
    for bad in (-1e-12, float("nan"), float("inf"), "1.0", True, None, [1.0]):
        assert_refused(frame(json.dumps(good | {"noise_multiplier": bad}), body))


@pytest.mark.parametrize("field", ["noise_multiplier", "histogram_noise"])
def test_a_noise_beyond_the_public_bound_is_refused(field: str) -> None:
    """Else the sum of two squares is infinite, and what is infinite cannot be saved."""
    body = save(some_arrays())
    good = fields_of(train_reply())
    decode(frame(json.dumps(good | {field: LARGEST_VALUE}), body))
    for noise in (LARGEST_VALUE * 1.000001, 1.7e308):
        assert_refused(frame(json.dumps(good | {field: noise}), body))


# Numbers that numpy would reshape to two rows or read out of text, but that nobody meant so.
OTHER_FORMS: dict[str, Any] = {
    "text in the cells": [["1"] * HISTOGRAM_BINS] * 2,
    "truth values in the cells": [[True] * HISTOGRAM_BINS] * 2,
    "one row of all": [0.0] * 2 * HISTOGRAM_BINS,
    "four rows": [[0.0] * (HISTOGRAM_BINS // 2)] * 4,
    "one row in a list": [[0.0] * 2 * HISTOGRAM_BINS],
    "deeper": [[[0.0] * 4] * (HISTOGRAM_BINS // 4)] * 2,
    "spaces in the text": " ".join(["0000803f"] * 2 * HISTOGRAM_BINS),
    "capitals": "0000803F" * 2 * HISTOGRAM_BINS,
    "a line end": HEX + "\n",
    "a prefix": "0x" + HEX[2:],
    "digits of another script": "\u0660\u0660\u0660\u0660803f" * 2 * HISTOGRAM_BINS,
}


@pytest.mark.parametrize("case", OTHER_FORMS)
def test_a_histogram_in_another_form_is_refused(case: str) -> None:
    assert_refused(frame(change(histogram=OTHER_FORMS[case]), save({})))


def test_a_histogram_has_two_rows_of_the_public_number_of_bins() -> None:
    row = (0.0,) * HISTOGRAM_BINS
    assert is_histogram((row, row), HISTOGRAM_BINS)
    assert not is_histogram((row, row[1:]), HISTOGRAM_BINS)
    assert not is_histogram((row, (*row, 0.0)), HISTOGRAM_BINS)
    assert not is_histogram(((), ()), HISTOGRAM_BINS)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_histogram_holds_no_cell_beyond_the_public_bound(sign: int) -> None:
    row = [0.0] * HISTOGRAM_BINS
    for cell, good in ((LARGEST_VALUE, True), (LARGEST_VALUE * 1.001, False), (1e308, False)):
        assert is_histogram((tuple(row), (*row[1:], sign * cell)), HISTOGRAM_BINS) is good
