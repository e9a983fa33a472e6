"""The round loop against hospitals that answer, refuse, lie, come late or never come."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from common import messages, records
from common.arrays import Arrays, Spec
from common.errors import BudgetError, CheckpointError
from common.messages import EvaluateReply, EvaluateRequest, Refusal, TrainReply, TrainRequest
from common.model_spec import model_spec, update_spec
from common.protocol import StudyProtocol
from server import rounds
from server.checkpoint import Checkpoints, RoundRecord, State
from server.rounds import Outcome, run_rounds

pytestmark = pytest.mark.usefixtures("flower_task", "small_model")

MakeStudy = Callable[..., StudyProtocol]
Request = TrainRequest | EvaluateRequest
# What a hospital does with a request: an answer as typed message, raw records or Flower's error, or
# nothing at all.
Answer = messages.Message | RecordDict | Error | None
Hospital = Callable[[Request], Answer]

NAMES = ("east", "north", "south", "west")
NODES = {"north": 11, "east": 12, "south": 13, "west": 14}
COHORTS = {"north": 60, "east": 40, "south": 24, "west": 8}
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


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "update_spec", trained_spec)


class FakeGrid(Grid):
    """Asks the hospital functions at once; every message goes through Flower's bytes, both ways."""

    def __init__(self, hospitals: dict[str, Hospital], *, repeat: int = 1) -> None:
        self.hospitals = {NODES[name]: hospital for name, hospital in hospitals.items()}
        self.repeat = repeat  # how often each reply is delivered
        self.asked: list[tuple[int, int, str]] = []  # round, node, message type
        self._replies: dict[str, bytes] = {}

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
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

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        pushed = []
        for message in messages:
            message_id = f"message-{len(self.asked):04d}"
            message.metadata.__dict__["_message_id"] = message_id
            arrived = wired(message)
            node, kind = arrived.metadata.dst_node_id, arrived.metadata.message_type
            request = records.from_records(arrived.content)
            assert isinstance(request, TrainRequest | EvaluateRequest)
            assert arrived.metadata.group_id == str(request.round)
            self.asked.append((request.round, node, kind))
            reply = reply_to(arrived, self.hospitals[node](request))
            if reply is not None:
                self._replies[message_id] = message_to_proto(reply).SerializeToString()
            pushed.append(message_id)
        return pushed

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

    def answered(self, hospital: str, code: str | None) -> None:
        self.calls.append(("answered", hospital, code))

    def round_closed(self, record: RoundRecord) -> None:
        self.calls.append(("closed", record.round))


# --- honest hospitals, and all the others ------------------------------------------------------


def histogram(name: str, server_round: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    rng = np.random.default_rng([NODES[name], server_round, 1])
    low, high = rng.normal(3, 2, size=(2, messages.HISTOGRAM_BINS)).tolist()
    return tuple(low), tuple(high)


def update(protocol: StudyProtocol, name: str, server_round: int, received: Arrays) -> Arrays:
    """Depends on hospital, round and the received model, so that any mix-up shows in the end."""
    rng = np.random.default_rng([NODES[name], server_round])
    return {
        array: (0.01 * rng.normal(size=shape) - 0.1 * received[array]).astype(np.float32)
        for array, shape in trained_spec(protocol).items()
    }


def honest(protocol: StudyProtocol, name: str) -> Hospital:
    def answer(request: Request) -> Answer:
        about: dict[str, Any] = {
            "study": protocol.digest,
            "round": request.round,
            "request": messages.fingerprint(request),
            "histogram": histogram(name, request.round),
        }
        if isinstance(request, EvaluateRequest):
            return EvaluateReply.model_validate(about)
        about["arrays"] = update(protocol, name, request.round, request.arrays)
        return TrainReply.model_validate(about)

    return answer


def all_honest(protocol: StudyProtocol) -> dict[str, Hospital]:
    return {name: honest(protocol, name) for name in NAMES}


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
) -> Outcome:
    return run_rounds(
        protocol,
        start(protocol) if state is None else state,
        FakeGrid(hospitals, repeat=repeat),
        {name: NODES[name] for name in hospitals},
        Checkpoints(folder, protocol),
        watcher or Watcher(),
        stop or Event(),
    )


def weights(protocol: StudyProtocol, hospitals: Iterable[str], rounds: int) -> Arrays:
    """The model after `rounds`, by a float64 loop of the test's own: mean by cohort squared."""
    model = {name: a.astype(np.float64) for name, a in start(protocol).arrays.items()}
    for server_round in range(1, rounds + 1):
        total = sum(COHORTS[h] ** 2 for h in hospitals)
        received = {name: a.astype(np.float32) for name, a in model.items()}
        for h in hospitals:
            sent = update(protocol, h, server_round, received)
            for name, array in sent.items():
                model[name] = model[name] + COHORTS[h] ** 2 / total * array.astype(np.float64)
    return {name: a.astype(np.float32) for name, a in model.items()}


def bits(arrays: Arrays) -> list[tuple[str, bytes]]:
    return [(name, array.tobytes()) for name, array in arrays.items()]


def agree(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)


# --- the tests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("study", ["small", "real"])
def test_a_study_runs_to_its_end(study: str, make_study: MakeStudy, tmp_path: Path) -> None:
    protocol = make_study(study=study)
    outcome = run(protocol, all_honest(protocol), tmp_path)
    assert outcome.stopped == "finished"
    assert outcome.state.round == 3
    agree(outcome.state.arrays, weights(protocol, NAMES, 3))
    assert [record.round for record in outcome.state.records] == [1, 2, 3]
    for record in outcome.state.records:
        assert (record.answered, record.refused, record.missing) == (list(NAMES), {}, [])
        cells = sum(np.asarray(histogram(h, record.round)) for h in NAMES)
        np.testing.assert_allclose(record.histogram, cells, rtol=1e-12)
    assert outcome.last is not None
    assert (outcome.last.round, outcome.last.answered) == (4, list(NAMES))
    if study == "small":
        assert bits(outcome.state.arrays)[1] == bits(start(protocol).arrays)[1]  # the frozen layer
    loaded = Checkpoints(tmp_path, protocol).load()
    assert loaded is not None
    assert loaded.records == outcome.state.records
    assert bits(loaded.arrays) == bits(outcome.state.arrays)


def test_every_hospital_is_asked_once_a_round_and_once_at_the_end(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=2)
    grid = FakeGrid(all_honest(protocol))
    checkpoints = Checkpoints(tmp_path, protocol)
    run_rounds(protocol, start(protocol), grid, NODES, checkpoints, Watcher(), Event())
    kinds = {1: "train", 2: "train", 3: "evaluate"}
    expected = [(r, node, kind) for r, kind in kinds.items() for node in NODES.values()]
    assert sorted(grid.asked) == sorted(expected)


def test_the_observer_hears_of_everything_in_order(make_study: MakeStudy, tmp_path: Path) -> None:
    protocol = make_study(rounds=2)
    watcher = Watcher()
    hospitals = {**all_honest(protocol), "south": refusing}
    run(protocol, hospitals, tmp_path, watcher=watcher)
    expected: list[tuple[Any, ...]] = []
    for server_round in (1, 2, 3):
        expected.append(("started", server_round, *NAMES))
        expected.append(("answered", "west", None))
        expected.append(("answered", "south", "E-POLICY-BUDGET"))
        expected.append(("answered", "north", None))
        expected.append(("answered", "east", None))
        expected.append(("closed", server_round))
    assert watcher.calls == expected


def test_a_round_is_durable_before_the_observer_hears_that_it_closed(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=2)
    on_disk: list[int] = []

    class Reader(Watcher):
        def round_closed(self, record: RoundRecord) -> None:
            super().round_closed(record)
            state = Checkpoints(tmp_path, protocol).load()
            assert state is not None
            on_disk.append(state.round)

    run(protocol, all_honest(protocol), tmp_path, watcher=Reader())
    assert on_disk == [1, 2, 2]


def from_round(first: int, then: Hospital, before: Hospital) -> Hospital:
    return lambda request: (then if request.round >= first else before)(request)


def test_a_missed_quorum_stops_the_run_with_the_last_closed_round(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(participation={"quorum": 3})
    hospitals = all_honest(protocol)
    for name in ("north", "west"):
        hospitals[name] = from_round(3, refusing, hospitals[name])
    watcher = Watcher()
    outcome = run(protocol, hospitals, tmp_path, watcher=watcher)
    assert outcome.stopped == "quorum-missed"
    assert outcome.state.round == 2
    agree(outcome.state.arrays, weights(protocol, NAMES, 2))
    assert outcome.last is not None
    assert outcome.last.round == 3
    assert outcome.last.answered == ["east", "south"]
    assert outcome.last.refused == dict.fromkeys(("north", "west"), "E-POLICY-BUDGET")
    assert ("closed", 3) not in watcher.calls
    loaded = Checkpoints(tmp_path, protocol).load()
    assert loaded is not None
    assert bits(loaded.arrays) == bits(outcome.state.arrays)
    assert len((tmp_path / "rounds.jsonl").read_text().splitlines()) == 2


def test_a_stopped_run_keeps_its_last_closed_round_and_does_not_wait_for_the_deadline(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=3, participation={"deadline-seconds": 600.0})
    stop = Event()

    def stops_in_round_two(request: Request) -> Answer:
        if isinstance(request, TrainRequest) and request.round == 2:
            stop.set()
            return silent(request)
        return honest(protocol, NAMES[0])(request)

    hospitals = all_honest(protocol) | {NAMES[0]: stops_in_round_two}
    outcome = run(protocol, hospitals, tmp_path, stop=stop)
    assert outcome.stopped == "interrupted"
    assert outcome.state.round == 1
    kept = Checkpoints(tmp_path, protocol).load()
    assert kept is not None
    assert bits(kept.arrays) == bits(outcome.state.arrays)


def test_a_quorum_that_is_just_met_is_enough(make_study: MakeStudy, tmp_path: Path) -> None:
    protocol = make_study(participation={"quorum": 2})
    hospitals = {**all_honest(protocol), "north": refusing, "west": refusing}
    outcome = run(protocol, hospitals, tmp_path)
    assert outcome.stopped == "finished"
    agree(outcome.state.arrays, weights(protocol, ("east", "south"), 3))


def test_a_run_that_missed_its_quorum_goes_on_when_the_hospitals_are_back(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(participation={"quorum": 4})
    whole = run(protocol, all_honest(protocol), tmp_path / "whole")
    hospitals = all_honest(protocol)
    hospitals["west"] = from_round(2, refusing, hospitals["west"])
    first = run(protocol, hospitals, tmp_path / "stopped")
    assert (first.stopped, first.state.round) == ("quorum-missed", 1)
    state = Checkpoints(tmp_path / "stopped", protocol).load()
    second = run(protocol, all_honest(protocol), tmp_path / "stopped", state=state)
    assert second.stopped == "finished"
    assert bits(second.state.arrays) == bits(whole.state.arrays)


def test_a_hospital_that_never_answers_is_missing_after_the_deadline(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=1, participation={"deadline-seconds": 0.3})
    started = time.monotonic()
    outcome = run(protocol, {**all_honest(protocol), "south": silent}, tmp_path)
    assert time.monotonic() - started >= 2 * 0.3  # both rounds waited for it
    assert outcome.stopped == "finished"
    agree(outcome.state.arrays, weights(protocol, ("east", "north", "west"), 1))
    for record in (*outcome.state.records, outcome.last):
        assert record is not None
        assert (record.answered, record.missing) == (["east", "north", "west"], ["south"])


def test_a_hospital_of_the_roster_without_a_node_is_missing(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=1)
    there = {name: h for name, h in all_honest(protocol).items() if name != "south"}
    outcome = run(protocol, there, tmp_path)
    assert outcome.state.records[0].missing == ["south"]
    agree(outcome.state.arrays, weights(protocol, ("east", "north", "west"), 1))


def test_when_nobody_answers_the_run_ends_and_says_so(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(participation={"deadline-seconds": 0.1})
    outcome = run(protocol, dict.fromkeys(NAMES, silent), tmp_path)
    assert (outcome.stopped, outcome.state.round) == ("quorum-missed", 0)
    assert outcome.last is not None
    assert outcome.last.missing == list(NAMES)
    assert bits(outcome.state.arrays) == bits(start(protocol).arrays)


def test_flowers_error_replies_are_counted_by_the_hospitals_name(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    """They say that node 1 sent them; only the message that they answer tells whose they are."""
    protocol = make_study(rounds=1)
    hospitals = all_honest(protocol)
    for name in ("north", "south"):
        hospitals[name] = lambda _: Error(code=0, reason="/data/patient-4711 not found")
    watcher = Watcher()
    outcome = run(protocol, hospitals, tmp_path, watcher=watcher)
    record = outcome.state.records[0]
    assert record.refused == {"north": "E-NODE", "south": "E-NODE"}
    assert "4711" not in repr((watcher.calls, record))
    agree(outcome.state.arrays, weights(protocol, ("east", "west"), 1))


def changed(good: Hospital, change: Callable[[TrainReply], Answer]) -> Hospital:
    def answer(request: Request) -> Answer:
        reply = good(request)
        return change(reply) if isinstance(reply, TrainReply) else reply

    return answer


def with_arrays(change: Callable[[Arrays], Any]) -> Callable[[TrainReply], Answer]:
    return lambda reply: reply.model_copy(update={"arrays": change(reply.arrays)})


def set_all(value: float) -> Callable[[TrainReply], Answer]:
    return with_arrays(lambda a: {n: np.full_like(x, value) for n, x in a.items()})


def edited(change: Callable[[RecordDict], object]) -> Callable[[TrainReply], Answer]:
    def apply(reply: TrainReply) -> Answer:
        content = records.to_records(reply)
        change(content)
        return content

    return apply


def huge_cell(reply: TrainReply) -> Answer:
    low, high = reply.histogram
    return reply.model_copy(update={"histogram": ((1.7e308, *low[1:]), high)})


def rotten(content: RecordDict) -> None:
    arrays = content.array_records[records.ARRAYS]
    first = next(iter(arrays))
    shape = arrays[first].shape
    arrays[first] = Array(dtype="float32", shape=shape, stype="numpy.ndarray", data=b"\x80\x04.")


RUBBISH: dict[str, tuple[Callable[[TrainReply], Answer], str]] = {
    "NaN": (set_all(np.nan), "E-REPLY-ARRAYS"),
    "infinity": (set_all(np.inf), "E-REPLY-ARRAYS"),
    "the largest float": (set_all(float(np.finfo(np.float32).max)), "E-REPLY-SIZE"),
    "broadcastable": (
        with_arrays(lambda a: {n: x.reshape(-1)[:1] for n, x in a.items()}),
        "E-REPLY-ARRAYS",
    ),
    "float64": (
        with_arrays(lambda a: {n: x.astype(np.float64) for n, x in a.items()}),
        "E-REPLY-ARRAYS",
    ),
    "no arrays": (with_arrays(lambda _: {}), "E-REPLY-ARRAYS"),
    "half the arrays": (with_arrays(lambda a: dict(list(a.items())[::2])), "E-REPLY-ARRAYS"),
    "other names": (with_arrays(lambda a: {"x" + n: x for n, x in a.items()}), "E-REPLY-ARRAYS"),
    "a huge cell": (huge_cell, "E-REPLY-HISTOGRAM"),
    "another study": (lambda r: r.model_copy(update={"study": "f" * 64}), "E-REPLY-STUDY"),
    "another request": (lambda r: r.model_copy(update={"request": "f" * 64}), "E-REPLY-REQUEST"),
    "a hello": (lambda _: messages.HelloReply(hospital="north"), "E-REPLY-KIND"),
    "a train request": (
        lambda r: TrainRequest(protocol="x", round=1, arrays=r.arrays),
        "E-REPLY-KIND",
    ),
    "no records": (lambda _: RecordDict(), "E-MESSAGE"),
    "an extra record": (edited(lambda c: c.update({"x": ConfigRecord({"a": 1})})), "E-MESSAGE"),
    "no header": (edited(lambda c: c.pop(records.HEADER)), "E-MESSAGE"),
    "a header of rubbish": (
        edited(lambda c: c.update({records.HEADER: ConfigRecord({"header": "["})})),
        "E-MESSAGE",
    ),
    "arrays without a header's names": (
        edited(lambda c: c.update({records.ARRAYS: ArrayRecord()})),
        "E-MESSAGE",
    ),
    "a pickle": (edited(rotten), "E-MESSAGE"),
    "an error": (lambda _: Error(code=2, reason="crashed"), "E-NODE"),
    "a refusal": (lambda _: Refusal.of(BudgetError()), "E-POLICY-BUDGET"),
}


@pytest.mark.parametrize("case", RUBBISH)
def test_rubbish_from_one_hospital_never_ends_the_run_and_never_reaches_the_model(
    case: str, make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=2)
    change, code = RUBBISH[case]
    hospitals = all_honest(protocol)
    hospitals["north"] = changed(hospitals["north"], change)  # the largest weight of all
    outcome = run(protocol, hospitals, tmp_path)
    assert outcome.stopped == "finished"
    good = ("east", "south", "west")
    agree(outcome.state.arrays, weights(protocol, good, 2))
    for record in outcome.state.records:
        assert (record.answered, record.refused, record.missing) == (
            list(good),
            {"north": code},
            [],
        )
        cells = sum(np.asarray(histogram(h, record.round)) for h in good)
        np.testing.assert_allclose(record.histogram, cells, rtol=1e-12)


@pytest.mark.parametrize(
    "strategy",
    ["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedmedian", "fedtrimmedavg", "krum"],
)
def test_the_largest_admitted_values_leave_the_model_finite(
    strategy: str, make_study: MakeStudy, tmp_path: Path
) -> None:
    """Whatever passes admission can ruin a model, but not the run: nothing overflows."""
    protocol = make_study(aggregation={"strategy": strategy})
    hospitals = all_honest(protocol)
    for name, sign in (("north", 1), ("west", -1)):
        hospitals[name] = changed(hospitals[name], set_all(sign * messages.LARGEST_VALUE))
    outcome = run(protocol, hospitals, tmp_path)
    assert outcome.stopped == "finished"
    assert outcome.state.records[-1].answered == list(NAMES)
    assert all(np.isfinite(array).all() for array in outcome.state.arrays.values())


def test_a_late_reply_is_not_used(make_study: MakeStudy, tmp_path: Path) -> None:
    """A hospital that answers round 2 with its reply of round 1, sealed and well formed."""
    protocol = make_study(rounds=2)
    hospitals, kept = all_honest(protocol), []
    good = hospitals["north"]

    def late(request: Request) -> Answer:
        if isinstance(request, TrainRequest):
            kept.append(good(request))
            return kept[0]
        return good(request)

    outcome = run(protocol, {**hospitals, "north": late}, tmp_path)
    assert [record.refused for record in outcome.state.records] == [{}, {"north": "E-REPLY-LATE"}]
    first = run(make_study(rounds=2), hospitals, tmp_path / "all").state
    without = run(
        protocol, {**hospitals, "north": from_round(2, refusing, good)}, tmp_path / "without"
    ).state
    assert bits(outcome.state.arrays) == bits(without.arrays) != bits(first.arrays)


def test_a_reply_after_the_deadline_is_not_used_in_the_next_round(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=2, participation={"deadline-seconds": 0.3})
    hospitals = all_honest(protocol)
    good = hospitals["north"]

    class Slow(FakeGrid):
        """Holds north's first reply back and hands it out with the next round's."""

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            asked = set(message_ids)
            first = next(i for i, a in enumerate(self.asked) if a[:2] == (1, NODES["north"]))
            stale = f"message-{first:04d}"
            wanted = asked - {stale}
            if self.asked[-1][0] > 1 and stale in self._replies:
                wanted |= {stale}  # nobody asks for it any more
            return super().pull_messages(sorted(wanted))

    state = run_rounds(
        protocol,
        start(protocol),
        Slow(hospitals),
        NODES,
        Checkpoints(tmp_path, protocol),
        Watcher(),
        Event(),
    ).state
    assert [record.missing for record in state.records] == [["north"], []]
    assert state.records[1].answered == list(NAMES)
    hospitals["north"] = from_round(2, good, refusing)
    without = run(protocol, hospitals, tmp_path / "without").state
    assert bits(state.arrays) == bits(without.arrays)


def test_a_reply_that_arrives_three_times_counts_once(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=2)
    once = run(protocol, all_honest(protocol), tmp_path / "once")
    watcher = Watcher()
    thrice = run(protocol, all_honest(protocol), tmp_path / "thrice", watcher=watcher, repeat=3)
    assert bits(thrice.state.arrays) == bits(once.state.arrays)
    assert thrice.state.records[0].histogram == once.state.records[0].histogram
    assert watcher.calls.count(("answered", "north", None)) == 3  # two rounds and the evaluation


class Killed(BaseException):
    """The coordinator's process is gone."""


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "fedyogi", "krum"])
def test_a_resumed_run_ends_with_the_same_bits(
    strategy: str, make_study: MakeStudy, tmp_path: Path
) -> None:
    settings = {"server-momentum": 0.9} if strategy == "fedavgm" else {}
    protocol = make_study(rounds=4, aggregation={"strategy": strategy, **settings})
    hospitals = all_honest(protocol)
    whole = run(protocol, hospitals, tmp_path / "whole").state

    class Kill(Watcher):
        def round_started(self, server_round: int, asked: list[str]) -> None:
            super().round_started(server_round, asked)
            if server_round == 3:
                raise Killed

    with pytest.raises(Killed):
        run(protocol, hospitals, tmp_path / "killed", watcher=Kill())
    state = Checkpoints(tmp_path / "killed", protocol).load()
    assert state is not None
    assert state.round == 2
    watcher = Watcher()
    resumed = run(protocol, hospitals, tmp_path / "killed", state=state, watcher=watcher).state
    assert watcher.calls[0] == ("started", 3, *NAMES)
    assert bits(resumed.arrays) == bits(whole.arrays)
    assert dict(bits(resumed.strategy)) == dict(bits(whole.strategy))
    assert [r.round for r in resumed.records] == [1, 2, 3, 4]
    assert [r.histogram for r in resumed.records] == [r.histogram for r in whole.records]


def test_a_run_resumed_after_its_last_round_is_only_evaluated(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=2)
    first = run(protocol, all_honest(protocol), tmp_path)
    state = Checkpoints(tmp_path, protocol).load()
    watcher = Watcher()
    again = run(protocol, all_honest(protocol), tmp_path, state=state, watcher=watcher)
    assert watcher.calls[0] == ("started", 3, *NAMES)
    assert bits(again.state.arrays) == bits(first.state.arrays)
    assert again.last is not None
    assert first.last is not None
    assert again.last.histogram == first.last.histogram


def test_a_checkpoint_that_cannot_be_written_ends_the_run_at_the_round_before(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = make_study()
    save = Checkpoints.save

    def full(self: Checkpoints, state: State) -> None:
        if state.round == 3:
            raise OSError("No space left on device")
        save(self, state)

    monkeypatch.setattr(Checkpoints, "save", full)
    watcher = Watcher()
    with pytest.raises(OSError, match="No space"):
        run(protocol, all_honest(protocol), tmp_path, watcher=watcher)
    assert ("closed", 3) not in watcher.calls
    state = Checkpoints(tmp_path, protocol).load()
    assert state is not None
    assert state.round == 2
    with pytest.raises(CheckpointError):
        Checkpoints(tmp_path, make_study(rounds=9)).load()
