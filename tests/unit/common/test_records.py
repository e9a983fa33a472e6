"""Typed messages through Flower's own serialisation: the same message arrives, or a refusal."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.task_identity import TaskIdentity

from common import messages
from common.arrays import Arrays
from common.errors import BudgetError, MessageError
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
    ARRAYS,
    HEADER,
    MESSAGE_TYPES,
    array_record,
    from_records,
    plain_arrays,
    to_records,
)

ROW = (0.25,) * messages.HISTOGRAM_BINS


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


def test_the_order_of_the_arrays_survives_even_when_flower_sorts() -> None:
    message = TrainRequest(protocol="", round=1, arrays=some_arrays())
    records = to_records(message)
    arrived = records.array_records[ARRAYS]
    records[ARRAYS] = ArrayRecord({name: arrived[name] for name in sorted(arrived)})
    assert list(from_records(over_the_wire(records)).arrays) == ["z", "a", "one", "none"]


def test_each_request_has_one_of_flowers_message_types() -> None:
    for message in examples():
        assert (message.kind in MESSAGE_TYPES) is message.kind.endswith("request")
    for kind in MESSAGE_TYPES.values():
        Message(RecordDict(), dst_node_id=7, message_type=kind)


def good() -> RecordDict:
    return to_records(TrainReply.model_validate({**reply_fields(), "arrays": some_arrays()}))


def replaced(**records: ArrayRecord | ConfigRecord | MetricRecord | None) -> RecordDict:
    """A good reply with other records; None takes one away."""
    kept = {**good(), **records}
    return RecordDict({name: record for name, record in kept.items() if record is not None})


def header_record(**values: Any) -> ConfigRecord:
    header = good().config_records[HEADER]["header"]
    return ConfigRecord({"header": header, **values})


def npy(array: np.ndarray[Any, Any], *, allow_pickle: bool = False) -> bytes:
    data = io.BytesIO()
    np.save(data, array, allow_pickle=allow_pickle)
    return data.getvalue()


def npz() -> bytes:
    data = io.BytesIO()
    np.savez(data, a=np.zeros(2, np.float32))
    return data.getvalue()


def raw(data: bytes, *, stype: str = "numpy.ndarray") -> ArrayRecord:
    """The record of a good reply with the bytes of one array replaced."""
    arrays = dict(good().array_records[ARRAYS])
    arrays["z"] = Array(dtype="float32", shape=(3, 2), stype=stype, data=data)
    return ArrayRecord(arrays)


WRONG = {
    "nothing": RecordDict(),
    "no header": replaced(**{HEADER: None}),
    "no arrays": replaced(**{ARRAYS: None}),
    "a third record": replaced(extra=ConfigRecord({"path": "/data/patient"})),
    "a metric record too": replaced(metrics=MetricRecord({"num-examples": 60})),
    "another name": RecordDict({"config": header_record(), ARRAYS: raw(npy(np.zeros(1)))}),
    "header of another type": replaced(**{HEADER: MetricRecord({"header": 1})}),
    "arrays of another type": replaced(**{ARRAYS: ConfigRecord({"a": b""})}),
    "another key in the header": replaced(**{HEADER: header_record(note="patient 4711")}),
    "header of bytes": replaced(**{HEADER: header_record(header=b"{}")}),
    "header of numbers": replaced(**{HEADER: header_record(header=[1, 2])}),
    "header without its key": replaced(**{HEADER: ConfigRecord({})}),
    "header that is no message": replaced(**{HEADER: header_record(header="{}")}),
    "unknown stype": replaced(**{ARRAYS: raw(npy(np.zeros((3, 2), np.float32)), stype="pickle")}),
    "no bytes": replaced(**{ARRAYS: raw(b"")}),
    "rubbish": replaced(**{ARRAYS: raw(b"\x93NUMPY" + b"\xff" * 40)}),
    "cut short": replaced(**{ARRAYS: raw(npy(np.zeros((3, 2), np.float32))[:-1])}),
    "an archive": replaced(**{ARRAYS: raw(npz())}),
    "text": replaced(**{ARRAYS: raw(npy(np.array(["4711"])))}),
    "a structure": replaced(**{ARRAYS: raw(npy(np.zeros(2, "f4,f4")))}),
    "dates": replaced(**{ARRAYS: raw(npy(np.zeros(2, "M8[s]")))}),
}


@pytest.mark.parametrize("case", WRONG)
def test_anything_else_and_anything_more_is_refused(case: str) -> None:
    from_records(over_the_wire(good()))  # the base of the table is sound
    with pytest.raises(MessageError) as caught:
        from_records(over_the_wire(WRONG[case]))
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize("more", [True, False])
def test_another_number_of_arrays_than_the_header_names_is_refused(more: bool) -> None:
    records = good()
    if more:
        records.array_records[ARRAYS]["y"] = Array(np.zeros(1, np.float32))
    else:
        del records.array_records[ARRAYS]["z"]
    with pytest.raises(MessageError, match="other arrays"):
        from_records(over_the_wire(records))


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
            from_records(over_the_wire(replaced(**{ARRAYS: raw(data)})))
    assert not marker.exists()


def test_an_array_that_claims_a_petabyte_is_refused() -> None:
    said, claimed = b"(0,), }", b"(1000000000000000,), }"
    padding = b" " * (len(claimed) - len(said))  # the header keeps its length
    head = npy(np.zeros(0, np.float32)).replace(said + padding, claimed)
    assert claimed in head
    with pytest.raises(MessageError):
        from_records(over_the_wire(replaced(**{ARRAYS: raw(head + b"\0" * 24)})))


def test_arrays_go_through_a_record_unchanged_and_in_order() -> None:
    arrays = some_arrays()
    back = plain_arrays(array_record(arrays))
    assert list(back) == list(arrays)
    assert all(back[name].tobytes() == arrays[name].tobytes() for name in arrays)


def test_the_header_is_text_and_the_arrays_are_not_in_it() -> None:
    header = json.loads(str(good().config_records[HEADER]["header"]))
    assert header["names"] == ["z", "a", "one", "none"]
    assert "arrays" not in header
