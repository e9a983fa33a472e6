"""Typed messages through Flower's own serialisation: the same message arrives, or a refusal."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

from common import messages
from common.arrays import Arrays
from common.errors import BudgetError, MessageError
from common.judging.binary import HISTOGRAM_BINS
from common.messages import (
    EvaluateReply,
    EvaluateRequest,
    HelloReply,
    HelloRequest,
    Refusal,
    TrainReply,
    TrainRequest,
    fingerprint,
)
from common.records import (
    FRAME,
    MESSAGE_TYPES,
    array_record,
    from_records,
    plain_arrays,
    to_records,
)

ROW = (0.25,) * HISTOGRAM_BINS


@pytest.fixture(autouse=True)
def _flower_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Message takes its sender from this; Flower's runtime sets it in a process of its own."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def some_arrays() -> Arrays:
    rng = np.random.default_rng(11)
    shapes: dict[str, tuple[int, ...]] = {"z": (3, 2), "a": (5,), "one": (), "none": (0, 2)}
    return {name: np.asarray(rng.normal(size=s), np.float32) for name, s in shapes.items()}


def reply_fields() -> dict[str, Any]:
    return {
        "study": "a" * 64,
        "round": 2,
        "request": "b" * 64,
        "ledger_head": "c" * 64,
        "previous_head": None,
        "policy": "d" * 64,
        "suppressed": False,
        "histogram": (ROW, ROW),
        "histogram_noise": 2.0,
        "noise_multiplier": 1.5,
    }


def examples() -> list[messages.Message]:
    train = reply_fields()
    score = {name: value for name, value in train.items() if name != "noise_multiplier"}
    return [
        HelloRequest(),
        HelloReply(hospital="north"),
        TrainRequest(protocol="study = 'é'", round=1, arrays=some_arrays()),
        EvaluateRequest(protocol="", round=3, arrays=some_arrays()),
        TrainReply.model_validate({**train, "arrays": some_arrays()}),
        EvaluateReply.model_validate(score),
        Refusal.of(BudgetError()),
    ]


def over_the_wire(records: RecordDict) -> RecordDict:
    """`records` after the bytes that Flower sends."""
    message = Message(records, dst_node_id=7, message_type="train")
    data = message_to_proto(message).SerializeToString()
    return message_from_proto(ProtoMessage.FromString(data)).content


@pytest.mark.parametrize("message", examples(), ids=lambda message: str(message.kind))
def test_a_message_arrives_as_it_was_sent(message: messages.Message) -> None:
    back = from_records(over_the_wire(to_records(message)))
    assert type(back) is type(message)
    assert messages.header_of(back) == messages.header_of(message)
    assert list(back.arrays) == list(message.arrays)
    for name, array in message.arrays.items():
        found = back.arrays[name]
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()
    assert fingerprint(back) == fingerprint(message)


def test_a_message_that_was_passed_on_keeps_its_fingerprint() -> None:
    """Relay and coordinator both name a request by its fingerprint, one from each form."""
    message = TrainRequest(protocol="", round=1, arrays=some_arrays())
    frame = messages.encode(from_records(over_the_wire(to_records(message))))
    again = from_records(over_the_wire(to_records(messages.decode(frame))))
    assert fingerprint(again) == fingerprint(message)


def test_each_request_has_one_of_flowers_message_types() -> None:
    for message in examples():
        assert (message.kind in MESSAGE_TYPES) is message.kind.endswith("request")
    for kind in MESSAGE_TYPES.values():
        Message(RecordDict(), dst_node_id=7, message_type=kind)


def good() -> RecordDict:
    return to_records(TrainReply.model_validate({**reply_fields(), "arrays": some_arrays()}))


def npy(array: np.ndarray[Any, Any], *, allow_pickle: bool = False) -> bytes:
    data = io.BytesIO()
    np.save(data, array, allow_pickle=allow_pickle)
    return data.getvalue()


def npz() -> bytes:
    data = io.BytesIO()
    np.savez(data, a=np.zeros(2, np.float32))
    return data.getvalue()


def carrying(data: bytes, *, stype: str = "numpy.ndarray", name: str = FRAME) -> RecordDict:
    """Records like those of a good message, with these bytes as the array that carries the frame."""
    array = Array(dtype="uint8", shape=(len(data),), stype=stype, data=data)
    return RecordDict({FRAME: ArrayRecord({name: array})})


def frame(data: bytes) -> RecordDict:
    """Records that carry `data` as a frame, as a message is carried."""
    return carrying(npy(np.frombuffer(data, np.uint8)))


GOOD = messages.encode(TrainReply.model_validate({**reply_fields(), "arrays": some_arrays()}))
BYTES = npy(np.frombuffer(GOOD, np.uint8))

WRONG = {
    "nothing": RecordDict(),
    "another name": RecordDict({"config": good()[FRAME]}),
    "a second record": RecordDict(
        {**good(), "extra": ConfigRecord({"path": "/data/patient-4711"})}
    ),
    "a metric record too": RecordDict({**good(), "metrics": MetricRecord({"num-examples": 60})}),
    "a record of another type": RecordDict({FRAME: ConfigRecord({FRAME: GOOD})}),
    "no array": RecordDict({FRAME: ArrayRecord({})}),
    "an array of another name": carrying(BYTES, name="patient-4711"),
    "a second array": RecordDict(
        {FRAME: ArrayRecord({**good().array_records[FRAME], "y": Array(np.zeros(1, np.uint8))})}
    ),
    "unknown stype": carrying(BYTES, stype="pickle"),
    "no bytes": carrying(b""),
    "rubbish": carrying(b"\x93NUMPY" + b"\xff" * 40),
    "cut short": carrying(BYTES[:-1]),
    "an archive": carrying(npz()),
    "text": carrying(npy(np.array(["4711"]))),
    "a structure": carrying(npy(np.zeros(2, "u1,u1"))),
    "signed": carrying(npy(np.frombuffer(GOOD, np.int8))),
    "numbers": carrying(npy(np.zeros(3, np.float32))),
    "two dimensions": carrying(npy(np.frombuffer(GOOD, np.uint8).reshape(1, -1))),
    "an empty frame": frame(b""),
    "a frame of another version": frame(b"INTRAM99" + GOOD[8:]),
    "a frame that is cut off": frame(GOOD[:-1]),
    "a frame with more behind it": frame(GOOD + b"\0"),
    "a header of rubbish": frame(GOOD[:8] + b"\xff" * 4 + GOOD[12:]),
}


@pytest.mark.parametrize("case", WRONG)
def test_anything_else_and_anything_more_is_refused(case: str) -> None:
    from_records(over_the_wire(good()))  # the base of the table is sound
    with pytest.raises(MessageError) as caught:
        from_records(over_the_wire(WRONG[case]))
    assert "4711" not in str(caught.value)


class Marker:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.write_text, (self.path, "executed")


def test_a_pickled_array_is_refused_and_never_executed(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    objects = npy(np.array([Marker(marker)], dtype=object), allow_pickle=True)
    np.load(io.BytesIO(objects), allow_pickle=True)  # the bomb works
    marker.unlink()
    for data in (objects, pickle.dumps(Marker(marker))):
        with pytest.raises(MessageError):
            from_records(over_the_wire(carrying(data)))
    assert not marker.exists()


def test_an_array_that_claims_a_petabyte_is_refused() -> None:
    said, claimed = b"(0,), }", b"(1000000000000000,), }"
    padding = b" " * (len(claimed) - len(said))  # the header keeps its length
    head = npy(np.zeros(0, np.uint8)).replace(said + padding, claimed)
    assert claimed in head
    with pytest.raises(MessageError):
        from_records(over_the_wire(carrying(head + b"\0" * 24)))


def test_arrays_go_through_a_record_unchanged_and_in_order() -> None:
    arrays = some_arrays()
    back = plain_arrays(array_record(arrays))
    assert list(back) == list(arrays)
    assert all(back[name].tobytes() == arrays[name].tobytes() for name in arrays)


def test_a_message_is_few_objects_however_many_arrays_it_has() -> None:
    """Each of Flower's objects is a signed request; an array by itself is two or more of them."""
    many = {f"layer.{n}": np.zeros(3, np.float32) for n in range(60)}
    for arrays in (some_arrays(), many):
        content = to_records(TrainRequest(protocol="", round=1, arrays=arrays))
        message = Message(content, dst_node_id=7, message_type="train")
        assert len(get_all_nested_objects(message)) == 5
