"""The relay passes one typed message each way, raises nothing, and loads nothing that sees patients."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity
from safetensors.numpy import save

from client.app import Channel, make_app
from common import messages, records
from common.errors import InternalError, LedgerError, MessageError
from common.judging.binary import HISTOGRAM_BINS
from common.messages import (
    EvaluateRequest,
    HelloReply,
    HelloRequest,
    Refusal,
    TrainReply,
    TrainRequest,
)

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(1.5, np.float32)}
REQUESTS = [
    TrainRequest(protocol="text", round=3, arrays=ARRAYS),
    EvaluateRequest(protocol="text", round=4, arrays=ARRAYS),
    HelloRequest(),
]
REPLY = TrainReply(
    study="1" * 64,
    round=3,
    request="2" * 64,
    ledger_head="3" * 64,
    previous_head=None,
    policy="0" * 64,
    suppressed=False,
    histogram=((0.25,) * HISTOGRAM_BINS,) * 2,
    histogram_noise=1.5,
    noise_multiplier=0.8,
    arrays=ARRAYS,
)


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Message takes its sender from this; Flower's runtime sets it in a process of its own."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def context() -> Context:
    return Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})


def relayed(app: ClientApp, content: RecordDict, kind: str = "train") -> Message:
    answer = app(Message(content, dst_node_id=2, message_type=kind), context())
    assert isinstance(answer, Message)
    return answer


def app_with(channel: Channel) -> ClientApp:
    return make_app(lambda _: channel)


def refused(message: Message) -> Refusal:
    reply = records.from_records(message.content)
    assert isinstance(reply, Refusal)
    return reply


def never(_: bytes) -> NoReturn:
    raise AssertionError("the vault was asked")


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.kind)
def test_the_vault_gets_the_frame_of_the_request(request_: messages.Request) -> None:
    frames: list[bytes] = []

    def channel(frame: bytes) -> bytes:
        frames.append(frame)
        return messages.encode(HelloReply(hospital="north"))

    kind = records.MESSAGE_TYPES[request_.kind]
    answer = relayed(app_with(channel), records.to_records(request_), kind)
    assert frames == [messages.encode(request_)]
    assert records.from_records(answer.content) == HelloReply(hospital="north")


@pytest.mark.parametrize(
    "reply", [REPLY, Refusal.of(LedgerError("detail"))], ids=lambda reply: reply.kind
)
def test_the_coordinator_gets_the_reply_of_the_vault(reply: messages.Reply) -> None:
    frame = messages.encode(reply)
    answer = relayed(app_with(lambda _: frame), records.to_records(HelloRequest()))
    assert messages.encode(records.from_records(answer.content)) == frame


def test_the_vault_is_found_by_the_context() -> None:
    asked: list[int] = []

    def connect(found: Context) -> Channel:
        asked.append(found.node_id)
        return lambda _: messages.encode(HelloReply(hospital="north"))

    relayed(make_app(connect), records.to_records(HelloRequest()), "query")
    assert asked == [2]


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyError, MemoryError, AssertionError])
@pytest.mark.parametrize("where", ["connect", "channel"])
def test_an_error_of_the_channel_leaves_as_a_code(where: str, error: type[Exception]) -> None:
    def fails(_: Any) -> NoReturn:
        raise error("SECRET")

    app = make_app(fails) if where == "connect" else app_with(fails)
    answer = relayed(app, records.to_records(HelloRequest()))
    assert refused(answer) == Refusal.of(InternalError())
    assert "SECRET" not in str(answer.content)


@pytest.mark.parametrize("frame", [b"", b"SECRET", messages.encode(REPLY)[:-3]])
def test_a_frame_that_is_none_is_not_relayed(frame: bytes) -> None:
    answer = relayed(app_with(lambda _: frame), records.to_records(HelloRequest()))
    assert refused(answer) == Refusal.of(MessageError())
    assert "SECRET" not in str(answer.content)


def framed(frame: bytes) -> RecordDict:
    array = np.frombuffer(frame, np.uint8)
    return RecordDict({records.FRAME: ArrayRecord({records.FRAME: Array(array)})})


def with_header(**changes: Any) -> RecordDict:
    header: dict[str, Any] = json.loads(messages.header_of(HelloRequest())) | changes
    text = json.dumps(header).encode()
    return framed(messages.MAGIC + struct.pack("<I", len(text)) + text + save({}))


MALFORMED: list[Callable[[], RecordDict]] = [
    RecordDict,
    lambda: RecordDict({records.FRAME: ConfigRecord({"frame": b"SECRET"})}),
    lambda: RecordDict({records.FRAME: ArrayRecord({})}),
    lambda: RecordDict({records.FRAME: records.array_record(ARRAYS)}),
    lambda: RecordDict({**with_header(), "more": ConfigRecord()}),
    lambda: framed(b"SECRET"),
    lambda: framed(messages.encode(REPLY)[:-1]),
    lambda: with_header(kind="shell-request"),
    lambda: with_header(command="SECRET"),
    lambda: with_header(names=["x"]),
]


@pytest.mark.parametrize("make", MALFORMED)
def test_a_malformed_message_does_not_reach_the_vault(make: Callable[[], RecordDict]) -> None:
    answer = relayed(app_with(never), make())
    assert refused(answer) == Refusal.of(MessageError())
    assert "SECRET" not in str(answer.content)


def test_a_message_without_content_does_not_reach_the_vault() -> None:
    request = Message(with_header(), dst_node_id=2, message_type="train")
    empty = Message(Error(code=1, reason="SECRET"), reply_to=request)
    answer = app_with(never)(empty, context())
    assert refused(answer).code == "E-INTERNAL"


def test_the_relay_loads_nothing_that_sees_patients() -> None:
    script = "import sys, json, client.app; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    loaded = json.loads(done.stdout.splitlines()[-1])
    forbidden = {"torch", "torchvision", "opacus", "PIL", "sklearn", "pydicom", "sqlite3"}
    forbidden |= {f"client.{name}" for name in ("data", "ledger", "policy", "vault", "training")}
    forbidden |= {"client.privacy", "client.egress", "client.evidence"}
    assert "client.app" in loaded
    assert not [name for name in loaded if any((name + ".").startswith(f + ".") for f in forbidden)]
