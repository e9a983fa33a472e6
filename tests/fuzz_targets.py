"""What the fuzz tests throw damage at: messages, records, settings and weights (the hospital's own
things: tests/fuzz_hospital.py). Each target is made once in a worker and then asked case by case.

A case damages something whole, hands it to the code that meets it first, and says how that ended: the
code of the refusal or "accepted", and whether the damage got beyond the first look (magic, lengths,
syntax). Any exception that is not ours, and any acceptance that breaks its promise, ends the case as a
failure. Nothing here loads torch, so the memory that a worker takes is absolute.
"""

import io
import json
import os
import struct
import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import save

from client.connection import load_connection
from client.policy import SitePolicy, load_policy
from common import documents, messages, protocol
from common.arrays import Arrays
from common.errors import InternalError, IntramuralError
from common.judging.binary import HISTOGRAM_BINS
from common.messages import (
    EvaluateRequest,
    HelloReply,
    HelloRequest,
    Refusal,
    TrainReply,
    TrainRequest,
)
from common.protocol import parse_protocol
from common.weights import load_weights
from tests.fuzz_mutators import WORDS, bent_frame, bent_toml, bent_weights, flipped
from tests.hospital import LIMITS, policy_of

Outcome = tuple[str, bool]  # a code or "accepted"; whether it got beyond the first look
Case = Callable[[Random], Outcome]

EXAMPLES = sorted((Path(__file__).parent.parent / "common/examples").glob("*.toml"))
STUDY = """study = "small"
rounds = 3
images = { classes = ["non-nodule", "nodule"], size = 16, mean = 0.4 }
model = { initial-model = "random" }
participation = { quorum = 1, deadline-seconds = 120 }
hospitals = [{ name = "north", nominal-patients = 10 }]
[training]
steps-per-round = 2
learning-rate = 0.5
sampling-rate = 0.5
views-per-patient = 2
"""
DIGEST = parse_protocol(STUDY).digest
ARRAYS: Arrays = {"b": np.ones((2, 3), np.float32), "a": np.zeros(4, np.float32)}


def refused(call: Callable[[], object]) -> str:
    """The code with which `call` refuses, or "accepted"; what is not ours comes through."""
    try:
        call()
    except InternalError as error:
        raise AssertionError("an internal error is no refusal") from error
    except IntramuralError as error:
        return error.code
    return "accepted"


def _frames() -> list[bytes]:
    """One frame of almost every kind."""
    row = tuple(float(n) for n in range(HISTOGRAM_BINS))
    hashes = {"study": DIGEST, "request": "a" * 64, "ledger_head": "b" * 64, "policy": "c" * 64}
    answer = hashes | {
        "round": 1,
        "previous_head": None,
        "histogram": (row, row),
        "suppressed": False,
    }
    noises = {"histogram_noise": 1.0, "noise_multiplier": 1.5}
    made: list[messages.Message] = [
        TrainRequest(protocol=STUDY, round=1, arrays=ARRAYS),
        EvaluateRequest(protocol=STUDY, round=4, arrays=ARRAYS),
        TrainReply.model_validate(answer | noises | {"arrays": ARRAYS}),
        HelloRequest(),
        HelloReply(hospital="north"),
        Refusal.of(InternalError()),
    ]
    return [messages.encode(message) for message in made]


def opens(frame: bytes) -> bool:
    """Whether a frame's magic, length and JSON are right."""
    with suppress(ValueError, RecursionError, struct.error):
        (length,) = struct.unpack("<I", frame[8:12])
        json.loads(frame[12 : 12 + length])
        return frame.startswith(messages.MAGIC) and len(frame) >= 12 + length
    return False


def _message(_: Path) -> Case:
    frames = _frames()

    def case(chosen: Random) -> Outcome:
        frame = bent_frame(chosen.choice(frames), chosen)

        def decode() -> None:
            back = messages.encode(messages.decode(frame))
            assert messages.encode(messages.decode(back)) == back

        return refused(decode), opens(frame)

    return case


def _records(_: Path) -> Case:
    from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

    from common.records import FRAME, from_records

    frames = _frames()

    def case(chosen: Random) -> Outcome:
        frame = bent_frame(chosen.choice(frames), chosen)
        good = Array(np.frombuffer(frame, np.uint8))
        kind = chosen.randrange(8)
        array = good
        if kind == 0:
            array = Array(good.dtype, good.shape, good.stype, flipped(good.data, chosen))
        elif kind == 1:
            array = Array(
                str(chosen.choice(WORDS)), (chosen.choice((0, -1, 7, 2**40)),), "x", good.data
            )
        elif kind == 2:
            shaped = np.frombuffer(frame, np.uint8).reshape(
                chosen.choice(((1, -1), (-1, 1), (-1, 1, 1)))
            )
            array = Array(
                chosen.choice((shaped, shaped.astype("f8"), np.array(3), np.array(["a"])))
            )
        elif kind == 3:  # NumPy's own header claims what is not there
            head = (
                f"{{'descr': '{chosen.choice(('|u1', '|O', '<f8', 'x'))}', 'fortran_order': False, "
            )
            head += f"'shape': ({chosen.choice((0, -1, 1, 2**33, 2**62))},), }}"
            body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head) + 1) + head.encode() + b"\n"
            array = Array("uint8", (len(frame),), good.stype, body + frame)
        elif kind == 4:
            packed = io.BytesIO()
            np.savez_compressed(packed, a=np.zeros(chosen.choice((1, 5_000_000)), np.uint8))
            array = Array("uint8", (1,), good.stype, packed.getvalue())
        records = RecordDict({FRAME: ArrayRecord({FRAME: array})})
        if kind == 5:
            name = chosen.choice((FRAME, "x", ""))
            other = ConfigRecord({"a": chosen.choice((b"\0", "x" * 1000, [1.5]))})
            records[name] = chosen.choice((other, MetricRecord({"a": 1}), ArrayRecord({"x": good})))
        return refused(lambda: from_records(records)), kind != 1

    return case


def _syntax(text: bytes) -> bool:
    with suppress(ValueError, RecursionError):
        return bool(tomllib.loads(text.decode()))
    return False


def _protocol(_: Path) -> Case:
    texts = [STUDY, *(path.read_text() for path in EXAMPLES)]

    def case(chosen: Random) -> Outcome:
        data = bent_toml(chosen.choice(texts), chosen)

        def parse() -> None:
            found = parse_protocol(data.decode("utf-8", "surrogateescape"))
            again = parse_protocol(found.to_toml())
            assert (again, again.digest) == (found, found.digest)

        return refused(parse), _syntax(data)

    return case


def _policy(folder: Path) -> Case:
    limits = LIMITS | {"hours": "18:00-06:00"}
    policy = policy_of(
        folder, DIGEST, limits=limits, socket=folder / "s", patient_id_pattern="(?P<patient>.)"
    )
    path = folder / "site.toml"

    def case(chosen: Random) -> Outcome:
        path.write_bytes(data := bent_toml(policy.to_toml(), chosen))

        def load() -> None:
            found = load_policy(path)
            assert SitePolicy.model_validate(found.model_dump(by_alias=True)) == found

        return refused(load), _syntax(data)

    return case


def _connection(folder: Path) -> Case:
    text = 'hospital = "north"\ncoordinator = "127.0.0.1:9443"\n'
    text += "".join(
        f'{name} = "{name}.pem"\n' for name in ("ca", "certificate", "key", "socket", "home")
    )
    path = folder / "connection.toml"

    def case(chosen: Random) -> Outcome:
        path.write_bytes(data := bent_toml(text, chosen))

        def load() -> None:
            found = load_connection(path)
            assert 0 < found.port < 1 << 16
            assert found.home.is_absolute()

        return refused(load), _syntax(data)

    return case


def _weights(folder: Path) -> Case:
    good, path = save(ARRAYS), folder / "model.safetensors"

    def case(chosen: Random) -> Outcome:
        path.write_bytes(data := bent_weights(good, chosen))

        def load() -> None:
            assert all(array.dtype == np.float32 for array in load_weights(path).values())

        return refused(load), opens(messages.MAGIC + data[:4] + data[8:])

    return case


def _planted(bug: Callable[[], object]) -> Callable[[Path], Case]:
    """The protocol's target with a bug in it: what the harness has to find."""

    def prepare(folder: Path) -> Case:
        sentence = documents.first_problem

        def broken(*arguments: Any) -> str:
            bug()
            return sentence(*arguments)

        setattr(protocol, "first_problem", broken)  # noqa: B010  (it is not its own name)
        return _protocol(folder)

    return prepare


def _raise() -> None:
    raise ValueError("planted")


TARGETS: dict[str, Callable[[Path], Case]] = {
    "message": _message,
    "records": _records,
    "protocol": _protocol,
    "policy": _policy,
    "connection": _connection,
    "weights": _weights,
}
PLANTED: dict[str, Callable[[Path], Case]] = {
    "planted-error": _planted(_raise),
    "planted-sleep": _planted(lambda: time.sleep(3)),
    "planted-memory": _planted(lambda: b"x" * 600_000_000),
    "planted-death": _planted(lambda: os._exit(1)),
}
