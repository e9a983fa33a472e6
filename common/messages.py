"""The typed messages between coordinator and hospital, and their bounded bytes. Knows nothing of Flower.

A frame is: magic, length of the header, the header as canonical JSON, the arrays as safetensors.
Equal messages have equal bytes, so a frame's SHA-256 identifies the message; a hospital seals the
frame of its reply and answers a re-asked request with the same bytes.

    coordinator ── TrainRequest ────> hospital    the model before round r; asks for evaluation + training
                <── TrainReply ──────             update, noised score histogram, or a Refusal
    coordinator ── EvaluateRequest ─> hospital    the model after the last round
                <── EvaluateReply ───             noised score histogram, or a Refusal
    coordinator ── HelloRequest ────> hospital    who are you? (rehearsal: a roster of keys rules deployment)
                <── HelloReply ──────
"""

import json
import re
import struct
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.arrays import Arrays
from common.errors import IntramuralError, MessageError
from common.files import sha256
from common.weights import named_once

MAGIC = b"INTRAM01"
MAX_HEADER_BYTES = 1 << 20
MAX_FRAME_BYTES = 1 << 30  # ResNet18 is 45 MB; nothing that a study needs comes near this

MOST_BINS = 4096  # of a histogram: what a study's judge says, and far below what a header may hold

# Largest magnitude of a histogram's cell or an update's value that a coordinator uses. Far above
# anything honest, and small enough that sums over hospitals and rounds, squares and distances
# between updates stay finite in float32: a finite 1e308 would otherwise end the run.
LARGEST_VALUE = 1e9

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Round = Annotated[int, Field(ge=1, le=10**9)]
Noise = Annotated[float, Field(ge=0, le=LARGEST_VALUE, allow_inf_nan=False)]


def _rows(value: object) -> object:
    """The two rows of a histogram, in single precision, from the wire's text or from two rows."""
    try:
        if isinstance(value, str):
            if not re.fullmatch(f"([0-9a-f]{{16}}){{0,{MOST_BINS}}}", value):
                raise ValueError("not pairs of cells in hexadecimal")
            cells = np.frombuffer(bytes.fromhex(value), "<f4").reshape(2, -1)
        else:
            cells = np.asarray(value)
            if cells.ndim != 2 or len(cells) != 2 or cells.dtype.kind not in "if":
                raise ValueError("not two rows of numbers")
        with np.errstate(over="ignore"):  # to infinity, which is refused
            return tuple(map(tuple, cells.astype(np.float32).tolist()))
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError("a histogram is two rows of numbers") from error


def _hex_of(rows: tuple[tuple[float, ...], ...]) -> str:
    return np.asarray(rows, dtype="<f4").tobytes().hex()


# Hexadecimal on the wire: decimal text is longer for some values than for others, and a frame's
# length should say nothing. Single precision, as an update's values.
Cells = tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
Histogram = Annotated[
    tuple[Cells, Cells], BeforeValidator(_rows), PlainSerializer(_hex_of, return_type=str)
]


class _Message(BaseModel):
    """Header fields are the model's fields; arrays travel beside them."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True
    )
    names: tuple[str, ...] = Field(
        default=(), strict=False
    )  # order of the arrays: safetensors sorts
    arrays: Arrays = Field(default_factory=dict, exclude=True)

    carries_arrays: ClassVar[bool] = False


def is_histogram(rows: Histogram, bins: int) -> bool:
    """Whether `rows` is a histogram of (2, bins), no cell beyond LARGEST_VALUE."""
    shaped = [len(row) for row in rows] == [bins] * 2
    return shaped and all(abs(cell) <= LARGEST_VALUE for row in rows for cell in row)


class HelloRequest(_Message):
    kind: Literal["hello-request"] = "hello-request"


class HelloReply(_Message):
    kind: Literal["hello-reply"] = "hello-reply"
    hospital: str


class TrainRequest(_Message):
    """`arrays` is the model before `round`; `protocol` is the full text, checked at the hospital."""

    kind: Literal["train-request"] = "train-request"
    protocol: str
    round: Round
    carries_arrays: ClassVar[bool] = True


class EvaluateRequest(_Message):
    """`arrays` is the model after the last round; `round` is the number of rounds plus one."""

    kind: Literal["evaluate-request"] = "evaluate-request"
    protocol: str
    round: Round
    carries_arrays: ClassVar[bool] = True


class _Answer(_Message):
    """What every answer says. `request` is the fingerprint of what was asked.

    `ledger_head` is the hash of the ledger's entry under which this answer was paid for,
    `previous_head` that of the hospital's answer before it in this study, None for the first: by
    this chain a coordinator notices a ledger that was set back. `policy` is the hash of the entry in
    the hospital's egress log with which it approved the site policy in force: it says nothing, and
    fixes everything, about that policy. `histogram` holds the released scores of the received model,
    (2, bins) as the study's judge says; None in a round in which the protocol does not evaluate, and
    where `suppressed` says that the hospital has too few patients in a class. `histogram_noise` is the
    standard deviation of the noise in a cell of it, None without a histogram.
    """

    study: Hex
    round: Round
    request: Hex
    ledger_head: Hex
    previous_head: Hex | None
    policy: Hex
    histogram: Histogram | None
    histogram_noise: Noise | None
    suppressed: bool


class TrainReply(_Answer):
    """`arrays` is the update. `noise_multiplier` is this hospital's own: a site policy that is
    stricter than the protocol makes it larger, and the public weight smaller."""

    kind: Literal["train-reply"] = "train-reply"
    noise_multiplier: Noise
    carries_arrays: ClassVar[bool] = True


class EvaluateReply(_Answer):
    kind: Literal["evaluate-reply"] = "evaluate-reply"


class Refusal(_Message):
    """A hospital's no: a code and a fixed text of the error catalogue, nothing else."""

    kind: Literal["refusal"] = "refusal"
    code: Annotated[str, Field(pattern=r"^E(-[A-Z]+)+$", max_length=40)]
    text: Annotated[str, Field(max_length=200)]

    @classmethod
    def of(cls, error: IntramuralError) -> "Refusal":
        return cls(code=error.code, text=error.public_text)


Request = TrainRequest | EvaluateRequest | HelloRequest
Reply = TrainReply | EvaluateReply | HelloReply | Refusal
Message = Request | Reply

_ANY: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def build(header: str, arrays: Arrays) -> Message:
    """The message with this JSON header and these arrays; MessageError when they do not make one."""
    if len(header) > MAX_HEADER_BYTES:
        raise MessageError(f"header of {len(header)} bytes, at most {MAX_HEADER_BYTES} allowed")
    try:
        fields: Any = json.loads(header, object_pairs_hook=named_once)
        if not isinstance(fields, dict) or "arrays" in fields:
            raise MessageError("the header is not an object of header fields")
        message = _ANY.validate_python({**fields, "arrays": arrays})
    except (ValueError, RecursionError) as error:  # JSONDecodeError and ValidationError included
        what = error.errors()[0]["type"] if isinstance(error, ValidationError) else "not JSON"
        raise MessageError(f"the header is not that of a known message: {what}") from error
    if sorted(message.names) != sorted(arrays):
        raise MessageError("the header names other arrays than the frame holds")
    if arrays and not message.carries_arrays:
        raise MessageError(f"a {message.kind} carries no arrays")
    if not all(_of_numbers(array) for array in arrays.values()):
        raise MessageError("an array is not of plain numbers")
    return message.model_copy(update={"arrays": {name: arrays[name] for name in message.names}})


def _of_numbers(array: NDArray[np.generic]) -> bool:
    """Whether safetensors has this dtype: no objects, no records, nothing that only numpy knows."""
    return array.dtype.kind in "biuf" and array.dtype.itemsize <= 8


def header_of(message: Message) -> str:
    """The header of `message` as canonical JSON."""
    fields = message.model_dump(mode="json") | {"names": list(message.arrays)}
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


def encode(message: Message) -> bytes:
    """The frame of `message`; equal messages give equal bytes."""
    header = header_of(message).encode()
    # Not np.ascontiguousarray, which makes a single number an array of one.
    contiguous = {name: np.asarray(array, order="C") for name, array in message.arrays.items()}
    return MAGIC + struct.pack("<I", len(header)) + header + save(contiguous)


def decode(frame: bytes) -> Message:
    """The message in `frame`; MessageError for anything else, before much is allocated."""
    if len(frame) > MAX_FRAME_BYTES:
        raise MessageError(f"frame of {len(frame)} bytes, at most {MAX_FRAME_BYTES} allowed")
    start = len(MAGIC) + 4
    if len(frame) < start or frame[: len(MAGIC)] != MAGIC:
        raise MessageError("not a frame of this version")
    (length,) = struct.unpack("<I", frame[len(MAGIC) : start])
    if length > min(MAX_HEADER_BYTES, len(frame) - start):
        raise MessageError(f"header of {length} bytes does not fit the frame")
    try:
        header = frame[start : start + length].decode()
        arrays = _arrays(frame[start + length :])
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:  # Unicode's included
        raise MessageError("the frame's content cannot be read") from error
    return build(header, arrays)


def _arrays(section: bytes) -> Arrays:
    """The arrays of a safetensors section, whose library takes the last of two of one name."""
    length = int.from_bytes(section[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"a safetensors header of {length} bytes")
    json.loads(section[8 : 8 + length], object_pairs_hook=named_once)
    arrays: Arrays = load(section)
    return arrays


def fingerprint(message: Message) -> str:
    """SHA-256 of the message's frame: what a reply refers to and what a ledger entry is keyed by."""
    return sha256(encode(message))
