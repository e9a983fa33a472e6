"""The last check: the known replies in the study's own shapes, and nothing else."""

from typing import Any

import numpy as np
import pytest

from client.egress import release
from common import messages
from common.arrays import Arrays
from common.errors import EgressError, LedgerError
from common.messages import HISTOGRAM_BINS, EvaluateReply, HelloReply, Refusal, TrainReply

SPEC = {"conv.weight": (2, 3), "bias": (2,), "scale": ()}
HISTOGRAM = ((0.5,) * HISTOGRAM_BINS, (-1.5,) * HISTOGRAM_BINS)
HEADER: dict[str, Any] = {
    "study": "1" * 64,
    "round": 2,
    "request": "2" * 64,
    "ledger_head": "3" * 64,
    "previous_head": "4" * 64,
    "histogram": HISTOGRAM,
    "histogram_noise": 1.5,
}
TRAINED: dict[str, Any] = HEADER | {"noise_multiplier": 0.8}
NOT_JUDGED: dict[str, Any] = TRAINED | {"histogram": None, "histogram_noise": None}


def update() -> Arrays:
    return {name: np.full(shape, 0.5, np.float32) for name, shape in SPEC.items()}


@pytest.mark.parametrize(
    "reply",
    [
        TrainReply(**TRAINED, arrays=update()),
        TrainReply(**NOT_JUDGED, arrays=update()),
        EvaluateReply(**HEADER),
        HelloReply(hospital="north"),
        Refusal.of(LedgerError("detail")),
    ],
    ids=lambda reply: reply.kind,
)
def test_a_known_reply_leaves_as_it_is(reply: messages.Reply) -> None:
    frame = release(reply, SPEC)
    assert frame == messages.encode(reply)
    assert messages.header_of(messages.decode(frame)) == messages.header_of(reply)
    assert b"detail" not in frame


def changed(name: str, value: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    arrays: dict[str, Any] = dict(update())
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    return arrays


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (changed("patients", np.zeros(1, np.float32)), "unexpected"),
        (changed("bias", None), "missing"),
        ({}, "missing"),
        (dict(reversed(update().items())), "order"),
        (changed("bias", np.zeros(3, np.float32)), "shape"),
        (changed("bias", np.zeros((2, 1), np.float32)), "shape"),
        (changed("scale", np.zeros(1, np.float32)), "shape"),
        (changed("bias", np.zeros(2, np.float64)), "dtype"),
        (changed("bias", np.zeros(2, np.int32)), "dtype"),
        (changed("bias", np.array(["id-1", "id-2"], object)), "dtype"),
        (changed("bias", np.array([0, np.nan], np.float32)), "not finite"),
        (changed("bias", np.array([0, np.inf], np.float32)), "not finite"),
    ],
)
def test_another_update_stays(arrays: Arrays, says: str) -> None:
    for header in (TRAINED, NOT_JUDGED):
        reply = TrainReply.model_construct(**header, arrays=arrays)
        with pytest.raises(EgressError, match=says):
            release(reply, SPEC)


def test_what_is_not_trained_does_not_leave() -> None:
    """A study that trains the head: the very update that leaves elsewhere stays here."""
    head = {"bias": SPEC["bias"]}
    whole = TrainReply(**TRAINED, arrays=update())
    assert release(whole, SPEC)
    with pytest.raises(EgressError, match=r"unexpected \['conv.weight', 'scale'\]"):
        release(whole, head)
    assert release(whole.model_copy(update={"arrays": {"bias": update()["bias"]}}), head)


@pytest.mark.parametrize(
    "reply",
    [
        EvaluateReply(**HEADER, arrays=update()),
        HelloReply(hospital="north", arrays={"image": np.zeros((16, 16), np.float32)}),
        Refusal(code="E-DATA", text="no", arrays={"image": np.zeros((16, 16), np.float32)}),
    ],
    ids=lambda reply: reply.kind,
)
def test_only_an_update_holds_arrays(reply: messages.Reply) -> None:
    with pytest.raises(EgressError, match="unexpected"):
        release(reply, SPEC)


@pytest.mark.parametrize(
    "other",
    [
        messages.TrainRequest(protocol="", round=1, arrays=update()),
        messages.EvaluateRequest(protocol="", round=1, arrays=update()),
        messages.HelloRequest(),
        update(),
        b"bytes",
        None,
    ],
    ids=lambda other: type(other).__name__,
)
def test_what_is_no_reply_stays(other: Any) -> None:
    with pytest.raises(EgressError, match="is not a reply"):
        release(other, SPEC)


@pytest.mark.parametrize("kind", [TrainReply, EvaluateReply])
@pytest.mark.parametrize(
    "histogram",
    [
        ((0.0,) * HISTOGRAM_BINS, (0.0,) * (HISTOGRAM_BINS - 1)),
        ((0.0,) * (HISTOGRAM_BINS + 1),) * 2,
        ((), ()),
        ((0.0,) * HISTOGRAM_BINS,),
        ((float("nan"),) * HISTOGRAM_BINS,) * 2,
        ((float("inf"),) * HISTOGRAM_BINS,) * 2,
    ],
)
def test_another_histogram_stays(
    kind: type[TrainReply] | type[EvaluateReply], histogram: Any
) -> None:
    arrays = update() if kind is TrainReply else {}
    header = TRAINED if kind is TrainReply else HEADER
    reply = kind.model_construct(**header | {"histogram": histogram}, arrays=arrays)
    with pytest.raises(EgressError, match="histogram"):
        release(reply, SPEC)
