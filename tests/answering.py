"""Hospitals as functions, and a Flower grid that asks them at once: for tests of the round loop."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from math import prod, sqrt
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun

from common import messages, records
from common.arrays import Arrays, Spec
from common.errors import BudgetError
from common.judging.binary import HISTOGRAM_BINS
from common.messages import EvaluateReply, EvaluateRequest, Refusal, TrainReply, TrainRequest
from common.model_spec import model_spec, update_spec
from common.protocol import StudyProtocol
from common.tasks import bins_of
from server.asking import Asker, Attendance, Present
from server.checkpoint import Checkpoints, RoundRecord, State
from server.rounds import Outcome, run_rounds

MakeStudy = Callable[..., StudyProtocol]
Request = TrainRequest | EvaluateRequest
# What a hospital does with a request: an answer as typed message, raw records or Flower's error, or
# nothing at all.
Answer = messages.Message | RecordDict | Error | None
Hospital = Callable[[Request], Answer]

NAMES = ("east", "north", "south", "west")
NODES = {"north": 11, "east": 12, "south": 13, "west": 14}
COHORTS = {"north": 60, "east": 40, "south": 24, "west": 8}
# Every hospital's noise multiplier and the noise in a cell of its histograms: enough for epsilon 8 in
# 30 rounds of one step, and not ten times what one round asks for.
NOISE = dict.fromkeys(NAMES, 2.0)
HISTOGRAM_NOISE = {"north": 4.0, "east": 4.0, "south": 6.0, "west": 3.5}
SUPERLINK = 1  # Flower's own error replies say that it sent them

# A model of a few numbers, since the loop does not care: names not in the alphabet's order, and one
# frozen layer. The study "real" has the protocol's own model.
SMALL = {"z.weight": (3, 2), "m.scale": (2,), "a.bias": (4,)}
FROZEN = "m.scale"


def whole_spec(protocol: StudyProtocol) -> Spec:
    return model_spec(protocol) if protocol.study == "real" else SMALL


def trained_spec(protocol: StudyProtocol) -> Spec:
    if protocol.study == "real":
        return update_spec(protocol)
    return {name: shape for name, shape in SMALL.items() if name != FROZEN}


class FakeGrid(Grid):
    """Asks the hospital functions at once; every message goes through Flower's bytes, both ways."""

    def __init__(self, hospitals: dict[str, Hospital], *, repeat: int = 1) -> None:
        self.hospitals = {NODES[name]: hospital for name, hospital in hospitals.items()}
        self.repeat = repeat  # how often each reply is delivered
        self.asked: list[tuple[int, int, str]] = []  # round, node, message type
        self._pushed = 0
        self._replies: dict[str, bytes] = {}

    def set_run(self, run: FlowerRun) -> None:
        raise NotImplementedError

    @property
    def run(self) -> FlowerRun:
        raise NotImplementedError

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return self.hospitals

    def attendance(self) -> dict[str, Present]:
        return {name: Present(node) for name, node in NODES.items() if node in self.hospitals}

    # Flower's name for the argument is that of our module.
    def push_messages(self, outgoing: Iterable[Message]) -> Iterable[str]:
        pushed = []
        for message in outgoing:
            message_id = f"message-{self._pushed:04d}"
            self._pushed += 1
            message.metadata.__dict__["_message_id"] = message_id
            arrived = wired(message)
            node, kind = arrived.metadata.dst_node_id, arrived.metadata.message_type
            request = records.from_records(arrived.content)
            pushed.append(message_id)
            if isinstance(request, messages.HelloRequest):
                name = next(name for name, n in NODES.items() if n == node)
                self.answer(message_id, arrived, messages.HelloReply(hospital=name))
                continue
            assert isinstance(request, TrainRequest | EvaluateRequest)
            assert arrived.metadata.group_id == str(request.round)
            self.asked.append((request.round, node, kind))
            self.answer(message_id, arrived, self.hospitals[node](request))
        return pushed

    def answer(self, message_id: str, asked: Message, answer: Answer) -> None:
        reply = reply_to(asked, answer)
        if reply is not None:
            self._replies[message_id] = message_to_proto(reply).SerializeToString()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        # The last asked answers first: the order of arrival is not that of asking.
        ready = [m for m in reversed(list(message_ids)) if m in self._replies]
        data = [self._replies.pop(m) for m in ready]
        return [message_from_proto(ProtoMessage.FromString(d)) for d in data * self.repeat]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise NotImplementedError


def wired(message: Message) -> Message:
    return message_from_proto(
        ProtoMessage.FromString(message_to_proto(message).SerializeToString())
    )


def reply_to(asked: Message, answer: Answer) -> Message | None:
    if answer is None:
        return None
    if isinstance(answer, Error):
        reply = Message(answer, reply_to=asked)
        reply.metadata.__dict__["_src_node_id"] = SUPERLINK
        return reply
    content = answer if isinstance(answer, RecordDict) else records.to_records(answer)
    return Message(content, reply_to=asked)


class Watcher:
    """Notes every call of the observer."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def round_started(self, server_round: int, asked: list[str]) -> None:
        self.calls.append(("started", server_round, *asked))

    def connected(self, hospitals: list[str]) -> None:
        """Noted where it matters, by a watcher of its own."""

    def answered(self, hospital: str, code: str | None) -> None:
        self.calls.append(("answered", hospital, code))

    def round_closed(self, record: RoundRecord) -> None:
        self.calls.append(("closed", record.round))


# --- honest hospitals, and all the others ------------------------------------------------------


def histogram(
    name: str, server_round: int, bins: int = HISTOGRAM_BINS
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    rng = np.random.default_rng([NODES[name], server_round, 1])
    cells = rng.normal(3, 2, size=(2, bins)).astype(np.float32)
    low, high = cells.tolist()
    return tuple(low), tuple(high)


def head(name: str, server_round: int) -> str:
    """The ledger's head of a hospital under its answer to a round."""
    return hashlib.sha256(f"{name} {server_round}".encode()).hexdigest()


def policy(name: str) -> str:
    """The hash of a hospital's approved policy."""
    return hashlib.sha256(name.encode()).hexdigest()


def update(protocol: StudyProtocol, name: str, server_round: int, received: Arrays) -> Arrays:
    """Depends on hospital, round and the received model, so that any mix-up shows in the end.

    Its norm is about 0.3 whatever the model.
    """
    rng = np.random.default_rng([NODES[name], server_round])
    spec = trained_spec(protocol)
    scale = np.float32(sqrt(10 / sum(prod(shape) for shape in spec.values())))
    return {
        array: (scale * (0.01 * rng.normal(size=shape) - 0.1 * received[array])).astype(np.float32)
        for array, shape in spec.items()
    }


def honest(protocol: StudyProtocol, name: str, noise: Mapping[str, float] = NOISE) -> Hospital:
    def answer(request: Request) -> Answer:
        evaluates = protocol.evaluates(request.round)
        private = protocol.privacy.mechanism != "none"
        about: dict[str, Any] = {
            "study": protocol.digest,
            "round": request.round,
            "request": messages.fingerprint(request),
            "ledger_head": head(name, request.round),
            "previous_head": head(name, request.round - 1) if request.round > 1 else None,
            "policy": policy(name),
            "suppressed": False,
            "histogram": histogram(name, request.round, bins_of(protocol)) if evaluates else None,
            "histogram_noise": (HISTOGRAM_NOISE[name] if private else 0.0) if evaluates else None,
        }
        if isinstance(request, EvaluateRequest):
            return EvaluateReply.model_validate(about)
        about["arrays"] = update(protocol, name, request.round, request.arrays)
        return TrainReply.model_validate({**about, "noise_multiplier": noise[name]})

    return answer


def all_honest(protocol: StudyProtocol, noise: Mapping[str, float] = NOISE) -> dict[str, Hospital]:
    return {name: honest(protocol, name, noise) for name in NAMES}


def refusing(_: Request) -> Answer:
    return Refusal.of(BudgetError("patient 4711"))


def silent(_: Request) -> Answer:
    return None


def start(protocol: StudyProtocol) -> State:
    rng = np.random.default_rng(0)
    spec = whole_spec(protocol)
    return State(0, {n: rng.normal(size=s).astype(np.float32) for n, s in spec.items()})


def run(
    protocol: StudyProtocol,
    hospitals: dict[str, Hospital],
    folder: Path,
    *,
    state: State | None = None,
    watcher: Watcher | None = None,
    repeat: int = 1,
    stop: Event | None = None,
    attendance: Attendance | None = None,
) -> Outcome:
    return run_with(
        protocol,
        FakeGrid(hospitals, repeat=repeat),
        folder,
        state=state,
        watcher=watcher,
        stop=stop,
        attendance=attendance,
    )


def run_with(
    protocol: StudyProtocol,
    grid: FakeGrid,
    folder: Path,
    *,
    state: State | None = None,
    watcher: Watcher | None = None,
    stop: Event | None = None,
    attendance: Attendance | None = None,
) -> Outcome:
    watcher = watcher or Watcher()
    asker = Asker(
        protocol,
        grid,
        attendance or grid.attendance,
        trained_spec(protocol),
        watcher,
        stop or Event(),
        poll_seconds=0.02,
    )
    state = start(protocol) if state is None else state
    return run_rounds(asker, state, Checkpoints(folder, protocol), watcher)


def weights(
    protocol: StudyProtocol,
    hospitals: Iterable[str],
    rounds: int,
    noise: Mapping[str, float] = NOISE,
) -> Arrays:
    """The model after `rounds`, by a float64 loop of the test's own: mean by (cohort / noise)^2."""
    model = {name: a.astype(np.float64) for name, a in start(protocol).arrays.items()}
    for server_round in range(1, rounds + 1):
        total = sum((COHORTS[h] / noise[h]) ** 2 for h in hospitals)
        received = {name: a.astype(np.float32) for name, a in model.items()}
        for h in hospitals:
            sent = update(protocol, h, server_round, received)
            for name, array in sent.items():
                share = (COHORTS[h] / noise[h]) ** 2 / total
                model[name] = model[name] + share * array.astype(np.float64)
    return {name: a.astype(np.float32) for name, a in model.items()}


def bits(arrays: Arrays) -> list[tuple[str, bytes]]:
    return [(name, array.tobytes()) for name, array in arrays.items()]


def agree(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)
