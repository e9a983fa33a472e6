"""The last check: the known replies in the study's own shapes, and nothing else; all of it on record."""

import hashlib
import json
import struct
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from client.egress import Allowed, large_enough, release
from client.egress_log import EgressLog
from client.expected import allowed_answer
from client.ledger import Spend
from common import messages
from common.arrays import Arrays
from common.errors import EgressError, LedgerError
from common.judging.binary import HISTOGRAM_BINS
from common.messages import EvaluateReply, HelloReply, Refusal, TrainReply
from common.model_spec import update_spec
from common.tasks import bins_of
from tests.tasks import TASKS, small

SPEC = {"conv.weight": (2, 3), "bias": (2,), "scale": ()}
HISTOGRAM = ((0.5,) * HISTOGRAM_BINS, (-1.5,) * HISTOGRAM_BINS)
HEADER: dict[str, Any] = {
    "study": "1" * 64,
    "round": 2,
    "request": "2" * 64,
    "ledger_head": "3" * 64,
    "previous_head": "4" * 64,
    "policy": "5" * 64,
    "histogram": HISTOGRAM,
    "histogram_noise": 1.5,
    "suppressed": False,
}
TRAINED: dict[str, Any] = HEADER | {"noise_multiplier": 0.8}
NOT_JUDGED: dict[str, Any] = TRAINED | {"histogram": None, "histogram_noise": None}
ALLOWED = Allowed(
    study="1" * 64, round=2, update_spec=SPEC, bins=HISTOGRAM_BINS, largest_norm=100.0
)


def update() -> Arrays:
    return {name: np.full(shape, 0.5, np.float32) for name, shape in SPEC.items()}


@pytest.fixture
def log(tmp_path: Path) -> EgressLog:
    EgressLog.create(tmp_path)
    log = EgressLog(tmp_path)
    log.approve("a" * 64, None)
    return log


@pytest.fixture
def out(log: EgressLog, tmp_path: Path) -> Callable[..., bytes]:
    """`release`, and that a frame is on record exactly when it left."""

    def released(frame: bytes, allowed: Allowed | None = ALLOWED) -> bytes:
        before = EgressLog.read(tmp_path)
        try:
            left = release(frame, "north", allowed, log)
        except EgressError:
            assert EgressLog.read(tmp_path) == before
            raise
        *earlier, last = EgressLog.read(tmp_path)
        assert earlier == before
        assert last.body["sha256"] == hashlib.sha256(left).hexdigest()
        assert last.body["bytes"] == len(left)
        assert last.body["policy"] == "a" * 64
        return left

    return released


@pytest.mark.parametrize(
    ("reply", "head"),
    [
        (TrainReply(**TRAINED, arrays=update()), "3" * 64),
        (TrainReply(**NOT_JUDGED, arrays=update()), "3" * 64),
        (TrainReply(**NOT_JUDGED | {"suppressed": True}, arrays=update()), "3" * 64),
        (EvaluateReply(**HEADER), "3" * 64),
        (HelloReply(hospital="north"), None),
        (Refusal.of(LedgerError("detail")), None),
    ],
    ids=lambda reply: getattr(reply, "kind", ""),
)
def test_a_known_reply_leaves_as_it_is(
    reply: messages.Reply, head: str | None, out: Callable[..., bytes], tmp_path: Path
) -> None:
    frame = messages.encode(reply)
    assert out(frame) == frame
    assert b"detail" not in frame
    body = EgressLog.read(tmp_path)[-1].body
    assert (body["kind"], body["ledger"]) == (reply.kind, head)
    assert body["code"] == ("E-LEDGER" if isinstance(reply, Refusal) else None)


@pytest.mark.parametrize("reply", [TrainReply(**TRAINED, arrays=update()), EvaluateReply(**HEADER)])
@pytest.mark.parametrize(
    "allowed",
    [
        None,
        Allowed("0" * 64, 2, SPEC, HISTOGRAM_BINS, 100.0),
        Allowed("1" * 64, 3, SPEC, HISTOGRAM_BINS, 100.0),
    ],
)
def test_an_answer_to_another_question_stays(
    reply: messages.Reply, allowed: Allowed | None, out: Callable[..., bytes]
) -> None:
    with pytest.raises(EgressError):
        out(messages.encode(reply), allowed)


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
        (changed("bias", np.array([0, np.nan], np.float32)), "not finite"),
        (changed("bias", np.array([0, np.inf], np.float32)), "not finite"),
        (changed("bias", np.array([0, 101], np.float32)), "norm 101 and an honest one at most 100"),
    ],
)
def test_another_update_stays(arrays: Arrays, says: str, out: Callable[..., bytes]) -> None:
    for header in (TRAINED, NOT_JUDGED):
        reply = TrainReply.model_construct(**header, arrays=arrays)
        with pytest.raises(EgressError, match=says):
            out(messages.encode(reply))


@pytest.mark.parametrize("task", TASKS)
def test_of_any_task_its_own_shapes_leave_and_no_others(
    task: str, out: Callable[..., bytes]
) -> None:
    protocol = small(task, north=10)
    allowed = allowed_answer(protocol, "north", 2, [Spend(1.0, 0.5, 2)])
    spec, bins = update_spec(protocol), bins_of(protocol)
    row = (0.5,) * bins
    judged = {"histogram": (row, row)} if bins else {"histogram": None, "histogram_noise": None}
    header = TRAINED | {"study": protocol.digest} | judged
    own: Arrays = {name: np.full(shape, 1e-3, np.float32) for name, shape in spec.items()}
    first = next(iter(own))

    def frame(arrays: Any, **changes: Any) -> bytes:
        return messages.encode(TrainReply.model_construct(**header | changes, arrays=arrays))

    assert out(frame(own), allowed)
    for arrays, says in (
        (own | {"patients": np.zeros(1, np.float32)}, "unexpected"),
        ({name: array for name, array in own.items() if name != first}, "missing"),
        (own | {first: own[first][..., None]}, "shape"),
        (own | {first: own[first].astype(np.float64)}, "dtype"),
        (own | {first: own[first] * np.float32(np.nan)}, "not finite"),
        (own | {first: np.full_like(own[first], 1e6)}, "norm"),
    ):
        with pytest.raises(EgressError, match=says):
            out(frame(arrays), allowed)
    longer = (0.5,) * (bins + 1)
    with pytest.raises(EgressError, match="'histogram'"):
        out(frame(own, histogram=(longer, longer), histogram_noise=1.5), allowed)


def test_what_is_not_trained_does_not_leave(out: Callable[..., bytes]) -> None:
    """A study that trains the head: the very update that leaves elsewhere stays here."""
    head = Allowed("1" * 64, 2, {"bias": SPEC["bias"]}, HISTOGRAM_BINS, 100.0)
    whole = TrainReply(**TRAINED, arrays=update())
    assert out(messages.encode(whole))
    with pytest.raises(EgressError, match=r"unexpected \['conv.weight', 'scale'\]"):
        out(messages.encode(whole), head)
    own = whole.model_copy(update={"arrays": {"bias": update()["bias"]}})
    assert out(messages.encode(own), head)


@pytest.mark.parametrize(
    "reply",
    [
        EvaluateReply(**HEADER, arrays=update()),
        HelloReply(hospital="north", arrays={"image": np.zeros((16, 16), np.float32)}),
        Refusal.of(LedgerError()).model_copy(update={"arrays": update()}),
    ],
    ids=lambda reply: reply.kind,
)
def test_only_an_update_holds_arrays(reply: messages.Reply, out: Callable[..., bytes]) -> None:
    with pytest.raises(EgressError, match="unexpected"):
        out(messages.encode(reply))


@pytest.mark.parametrize(
    "other",
    [
        messages.encode(messages.TrainRequest(protocol="", round=1, arrays=update())),
        messages.encode(messages.EvaluateRequest(protocol="", round=1, arrays=update())),
        messages.encode(messages.HelloRequest()),
        messages.encode(HelloReply(hospital="secret-patient")),
        b"bytes",
        b"",
        messages.MAGIC,
        messages.MAGIC + struct.pack("<I", 2**31) + b"{}",
    ],
)
def test_what_is_no_reply_of_this_hospital_stays(other: bytes, out: Callable[..., bytes]) -> None:
    with pytest.raises(EgressError):
        out(other)


@pytest.mark.parametrize(
    "refused",
    [
        {"code": "E-DATA", "text": "/data/SECRET^PATIENT.png"},
        {"code": "E-DATA", "text": ""},
        {"code": "E-DATA", "text": LedgerError.public_text},
        {"code": "E-PATIENT-SECRET", "text": LedgerError.public_text},
        {"code": ["E-DATA"], "text": LedgerError.public_text},
        {"code": None, "text": None},
    ],
)
def test_a_refusal_is_one_of_the_catalogue_word_for_word(
    refused: dict[str, Any], out: Callable[..., bytes]
) -> None:
    with pytest.raises(EgressError, match="of a refusal"):
        out(frame_of({"kind": "refusal", "names": [], **refused}))


def frame_of(header: Any, arrays: bytes | None = None, text: str | None = None) -> bytes:
    """A frame with whatever header, whether or not a message has it."""
    if text is None:
        text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    content = text.encode()
    return messages.MAGIC + struct.pack("<I", len(content)) + content + (arrays or save({}))


def header_and_arrays(reply: messages.Reply) -> tuple[dict[str, Any], bytes]:
    frame = messages.encode(reply)
    (length,) = struct.unpack("<I", frame[8:12])
    return json.loads(frame[12 : 12 + length]), frame[12 + length :]


WRONG: dict[str, list[Any]] = {
    "study": ["SECRET^PATIENT", "1" * 63, None, 1],
    "round": [True, 1.0, 2.0, "2", 3, None],
    "request": ["SECRET", "G" * 64, "2" * 64 + "\n", None],
    "ledger_head": ["SECRET", None, 3],
    "previous_head": ["SECRET", 0, ["4" * 64]],
    "policy": ["/etc/intramural/site.toml", None],
    "histogram": ["00", "0" * 255, "0" * 257, "SECRET", [[0.5] * 16] * 2, 0, "0000c07f" * 32],
    "histogram_noise": [-1.0, 1e300, "1.5", True, [1.5]],
    "suppressed": [None, 0, 1, "false"],
    "noise_multiplier": [-1.0, 1e300, None, True, 10**300],
    "names": [["conv.weight", "bias"], [], "bias", [1, 2, 3], None],
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, some in WRONG.items() for v in some])
def test_each_key_has_one_form(key: str, value: Any, out: Callable[..., bytes]) -> None:
    header, arrays = header_and_arrays(TrainReply(**TRAINED, arrays=update()))
    assert out(frame_of(header, arrays))
    with pytest.raises(EgressError):
        out(frame_of(header | {key: value}, arrays))


def test_no_key_may_be_added_or_left_out(out: Callable[..., bytes]) -> None:
    header, arrays = header_and_arrays(TrainReply(**TRAINED, arrays=update()))
    for key in header:
        if key == "kind":
            continue
        with pytest.raises(EgressError, match="other keys"):
            out(frame_of({k: v for k, v in header.items() if k != key}, arrays))
    for key in ("loss", "patients", "count", "n", "traceback"):
        with pytest.raises(EgressError, match="other keys"):
            out(frame_of(header | {key: 1}, arrays))


@pytest.mark.parametrize(
    "hidden",
    [
        lambda text: text.replace(":", ": ", 1),
        lambda text: text + " ",
        lambda text: text.replace('"round":2', '"round":2,"round":2'),
        lambda text: text.replace('"round":2', '"round":2.0'),
        lambda text: text.replace('"suppressed":false', '"suppressed":NaN'),
        lambda _: "[" * 100_000,
        lambda _: chr(34) + "text" + chr(34),
    ],
)
def test_a_header_can_be_written_in_one_way_only(
    hidden: Callable[[str], str], out: Callable[..., bytes]
) -> None:
    """Blanks, an order and a doubled key are places to hide something."""
    header, arrays = header_and_arrays(TrainReply(**TRAINED, arrays=update()))
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    with pytest.raises(EgressError):
        out(frame_of(None, arrays, hidden(text)))


def test_nothing_hides_beside_the_arrays(out: Callable[..., bytes]) -> None:
    header, arrays = header_and_arrays(TrainReply(**TRAINED, arrays=update()))
    (length,) = struct.unpack("<Q", arrays[:8])
    listing, values = arrays[8 : 8 + length], arrays[8 + length :]
    noted = save(update(), metadata={"patient": "SECRET"})
    padded = struct.pack("<Q", length + 8) + listing + b" " * 8 + values
    for other in (noted, padded, arrays + b"SECRET"):
        with pytest.raises(EgressError):
            out(frame_of(header, other))


@pytest.mark.parametrize(
    ("patients", "least", "enough"),
    [
        ((10, 10), 10, True),
        ((9, 10), 10, False),
        ((10, 9), 10, False),  # the other class would give it away
        ((0, 90), 1, False),
        ((1, 1), 1, True),
    ],
)
def test_a_small_class_suppresses_both(patients: tuple[int, int], least: int, enough: bool) -> None:
    assert large_enough(patients, least) is enough


@pytest.mark.parametrize("cell", [nan, inf, -inf, 1e10, -1e10])
def test_a_cell_of_a_histogram_is_a_number(cell: float, out: Callable[..., bytes]) -> None:
    header, arrays = header_and_arrays(TrainReply(**TRAINED, arrays=update()))
    cells = np.array([cell] + [0.5] * 31, "<f4").tobytes().hex()
    with pytest.raises(EgressError, match="'histogram'"):
        out(frame_of(header | {"histogram": cells}, arrays))


def test_without_its_log_nothing_leaves(log: EgressLog, tmp_path: Path) -> None:
    (tmp_path / "egress.jsonl").unlink()
    with pytest.raises(EgressError, match="expected the egress log"):
        release(messages.encode(HelloReply(hospital="north")), "north", None, log)
