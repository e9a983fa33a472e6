"""The round loop against hospitals that answer, refuse, lie, come late or never come."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from safetensors.numpy import load_file

from common import messages, records
from common.arrays import Arrays
from common.errors import BudgetError, CheckpointError
from common.messages import EvaluateReply, Refusal, TrainReply, TrainRequest
from common.protocol import StudyProtocol
from server.app import FINAL_MODEL, Run
from server.beginning import begin
from server.checkpoint import Checkpoints, RoundRecord, State
from server.rounds import Outcome
from tests.answering import (
    FROZEN,
    HISTOGRAM_NOISE,
    NAMES,
    NODES,
    NOISE,
    Answer,
    FakeGrid,
    Hospital,
    MakeStudy,
    Request,
    Watcher,
    agree,
    all_honest,
    bits,
    head,
    histogram,
    honest,
    policy,
    refusing,
    run,
    run_with,
    silent,
    start,
    trained_spec,
    weights,
)

pytestmark = [pytest.mark.usefixtures("flower_task"), pytest.mark.slow]  # seconds together

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
        assert record.histogram is not None
        np.testing.assert_allclose(record.histogram, cells, rtol=1e-12)
        squares = sum(HISTOGRAM_NOISE[h] * HISTOGRAM_NOISE[h] for h in NAMES)
        assert record.histogram_noise == pytest.approx(squares**0.5, rel=1e-12)
        assert record.heads == {h: head(h, record.round) for h in NAMES}
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
    run_with(protocol, grid, tmp_path)
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
    assert reply.histogram is not None
    low, high = reply.histogram
    return reply.model_copy(update={"histogram": ((1e38, *low[1:]), high)})


def with_fields(**changes: Any) -> Callable[[TrainReply], Answer]:
    return lambda reply: reply.model_copy(update=changes)


def carrying(data: bytes) -> RecordDict:
    """A reply whose array of bytes, which Flower parses as numpy's format, is `data`."""
    array = Array(dtype="uint8", shape=(len(data),), stype="numpy.ndarray", data=data)
    return RecordDict({records.FRAME: ArrayRecord({records.FRAME: array})})


def framed(data: bytes) -> RecordDict:
    frame = Array(np.frombuffer(data, np.uint8))
    return RecordDict({records.FRAME: ArrayRecord({records.FRAME: frame})})


RUBBISH: dict[str, tuple[Callable[[TrainReply], Answer], str]] = {
    "NaN": (set_all(np.nan), "E-REPLY-FINITE"),
    "infinity": (set_all(np.inf), "E-REPLY-FINITE"),
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
    "no histogram": (with_fields(histogram=None, histogram_noise=None), "E-REPLY-HISTOGRAM"),
    "unsaid noise": (with_fields(histogram_noise=None), "E-REPLY-HISTOGRAM"),
    # The square root of the sum of two such squares is infinite, and could not be saved.
    "noise without bound": (with_fields(histogram_noise=1.7e308), "E-MESSAGE"),
    "a weight without bound": (with_fields(noise_multiplier=1.7e308), "E-MESSAGE"),
    "a ledger head that is none": (with_fields(ledger_head="x"), "E-MESSAGE"),
    "another study": (with_fields(study="f" * 64), "E-REPLY-STUDY"),
    "another request": (with_fields(request="f" * 64), "E-REPLY-REQUEST"),
    "a hello": (lambda _: messages.HelloReply(hospital="north"), "E-REPLY-KIND"),
    "a train request": (
        lambda r: TrainRequest(protocol="x", round=1, arrays=r.arrays),
        "E-REPLY-KIND",
    ),
    "no records": (lambda _: RecordDict(), "E-MESSAGE"),
    "an extra record": (edited(lambda c: c.update({"x": ConfigRecord({"a": 1})})), "E-MESSAGE"),
    "no frame": (edited(lambda c: c.pop(records.FRAME)), "E-MESSAGE"),
    "a frame of rubbish": (lambda _: framed(b"rubbish"), "E-MESSAGE"),
    "a frame that is cut off": (lambda r: framed(messages.encode(r)[:-1]), "E-MESSAGE"),
    "a pickle": (lambda _: carrying(b"\x80\x04."), "E-MESSAGE"),
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
        assert record.histogram is not None
        np.testing.assert_allclose(record.histogram, cells, rtol=1e-12)
        squares = sum(HISTOGRAM_NOISE[h] ** 2 for h in good)
        assert record.histogram_noise == pytest.approx(squares**0.5)
        assert record.heads == {h: head(h, record.round) for h in good}


@pytest.mark.parametrize(
    "strategy",
    ["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedmedian", "fedtrimmedavg", "krum"],
)
def test_the_largest_admitted_values_leave_the_model_finite(
    strategy: str, make_study: MakeStudy, tmp_path: Path
) -> None:
    """Whatever passes admission can ruin a model, but not the run: nothing overflows.

    Without privacy nothing is clipped and no norm is known; the bound on values is all there is.
    """
    protocol = make_study(
        aggregation={"strategy": strategy, "ema": 0.9}, privacy={"mechanism": "none"}
    )
    most = messages.LARGEST_VALUE
    hospitals = all_honest(protocol, dict.fromkeys(NAMES, 0.0))
    for name, sign in (("north", 1), ("west", -1)):
        hospitals[name] = changed(hospitals[name], set_all(sign * most))
    outcome = run(protocol, hospitals, tmp_path)
    assert outcome.stopped == "finished"
    assert outcome.state.records[-1].answered == list(NAMES)
    assert all(np.isfinite(array).all() for array in outcome.state.result.values())
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

    state = run_with(protocol, Slow(hospitals), tmp_path).state
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


class Kill(Watcher):
    """Gone when round 3 starts."""

    def round_started(self, server_round: int, asked: list[str]) -> None:
        super().round_started(server_round, asked)
        if server_round == 3:
            raise Killed


@pytest.mark.parametrize("ema", [None, 0.7])
@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "fedyogi", "krum"])
def test_a_resumed_run_ends_with_the_same_bits(
    strategy: str, ema: float | None, make_study: MakeStudy, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"server-momentum": 0.9} if strategy == "fedavgm" else {}
    if ema is not None:
        settings["ema"] = ema
    protocol = make_study(
        rounds=4, aggregation={"strategy": strategy, **settings}, evaluation={"every": 2}
    )
    hospitals = all_honest(protocol)
    whole = run(protocol, hospitals, tmp_path / "whole").state

    with pytest.raises(Killed):
        run(protocol, hospitals, tmp_path / "killed", watcher=Kill())
    state = Checkpoints(tmp_path / "killed", protocol).load()
    assert state is not None
    assert state.round == 2
    watcher = Watcher()
    resumed = run(protocol, hospitals, tmp_path / "killed", state=state, watcher=watcher).state
    assert watcher.calls[0] == ("started", 3, *NAMES)
    assert bits(resumed.arrays) == bits(whole.arrays)
    assert bits(resumed.average) == bits(whole.average)
    assert bits(resumed.result) == bits(whole.result)
    assert (ema is None) == (whole.average == {})
    assert dict(bits(resumed.strategy)) == dict(bits(whole.strategy))
    assert [r.round for r in resumed.records] == [1, 2, 3, 4]
    assert [r.histogram for r in resumed.records] == [r.histogram for r in whole.records]
    assert [r.histogram_noise for r in resumed.records] == [
        r.histogram_noise for r in whole.records
    ]
    assert [r.heads for r in resumed.records] == [r.heads for r in whole.records]


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


# --- when the model is judged ------------------------------------------------------------------


def test_rounds_that_do_not_evaluate_have_no_histogram_and_the_final_model_has_one(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=6, evaluation={"every": 4})
    outcome = run(protocol, all_honest(protocol), tmp_path)
    every = (*outcome.state.records, outcome.last)
    judged = [r.round for r in every if r.histogram is not None]
    assert judged == [1, 5, 7]  # the initial model, the one after four rounds, the final one
    assert [r.round for r in every if r.histogram_noise is not None] == judged
    assert len(judged) == protocol.evaluations
    for record in every:
        assert (record.answered, record.refused) == (list(NAMES), {})
        if record.histogram is not None:
            cells = sum(np.asarray(histogram(h, record.round)) for h in NAMES)
            np.testing.assert_allclose(record.histogram, cells, rtol=1e-12)
    agree(outcome.state.arrays, weights(protocol, NAMES, 6))
    loaded = Checkpoints(tmp_path, protocol).load()
    assert loaded is not None
    assert loaded.records == outcome.state.records


def test_a_hospital_that_judges_when_it_should_not_or_not_when_it_should_is_refused(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=4, evaluation={"every": 2})
    hospitals = all_honest(protocol)
    always = {"histogram": histogram("north", 1), "histogram_noise": 4.0}
    never = dict.fromkeys(("histogram", "histogram_noise"))
    hospitals["north"] = changed(hospitals["north"], with_fields(**always))
    hospitals["west"] = changed(hospitals["west"], with_fields(**never))
    refused = [r.refused for r in run(protocol, hospitals, tmp_path).state.records]
    code = "E-REPLY-HISTOGRAM"
    assert refused == [{"west": code}, {"north": code}, {"west": code}, {"north": code}]


def test_the_noise_of_a_round_is_that_of_the_hospitals_in_it(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=1)
    noisier = changed(honest(protocol, "south"), with_fields(histogram_noise=7.5))
    hospitals = {**all_honest(protocol), "north": refusing, "south": noisier}
    record = run(protocol, hospitals, tmp_path).state.records[0]
    assert record.histogram_noise == pytest.approx((4.0**2 + 7.5**2 + 3.5**2) ** 0.5, rel=1e-12)


# --- histograms that are held back, policies, warnings -------------------------------------------


def with_every_answer(good: Hospital, **changes: Any) -> Hospital:
    def answer(request: Request) -> Answer:
        reply = good(request)
        assert isinstance(reply, TrainReply | EvaluateReply)
        return reply.model_copy(update=changes)

    return answer


HELD_BACK: dict[str, Any] = {"histogram": None, "histogram_noise": None, "suppressed": True}


def test_a_histogram_that_is_held_back_is_not_in_the_sum_and_the_record_says_whose(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=1)
    hospitals = all_honest(protocol)
    hospitals["west"] = with_every_answer(hospitals["west"], **HELD_BACK)
    outcome = run(protocol, hospitals, tmp_path)
    for record in (*outcome.state.records, outcome.last):
        assert (record.answered, record.suppressed) == (list(NAMES), ["west"])
        assert record.released == ["east", "north", "south"]
        cells = sum(np.asarray(histogram(h, record.round)) for h in record.released)
        assert record.histogram is not None
        np.testing.assert_allclose(record.histogram, cells, rtol=1e-12)
        assert record.histogram_noise == pytest.approx((4.0**2 + 4.0**2 + 6.0**2) ** 0.5)
    agree(outcome.state.arrays, weights(protocol, NAMES, 1))  # its update counts all the same


def test_when_all_hold_back_there_is_no_histogram(make_study: MakeStudy, tmp_path: Path) -> None:
    protocol = make_study(rounds=2)
    hospitals = {h: with_every_answer(honest(protocol, h), **HELD_BACK) for h in NAMES}
    outcome = run(protocol, hospitals, tmp_path)
    assert outcome.stopped == "finished"
    for record in (*outcome.state.records, outcome.last):
        assert (record.histogram, record.histogram_noise) == (None, None)
        assert (record.suppressed, record.released) == (list(NAMES), [])
    loaded = Checkpoints(tmp_path, protocol).load()
    assert loaded is not None
    assert loaded.records == outcome.state.records


def test_where_nothing_is_asked_for_nothing_can_be_held_back(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=2, evaluation={"every": 2})
    hospitals = all_honest(protocol)
    hospitals["west"] = with_every_answer(hospitals["west"], **HELD_BACK)
    first, second = run(protocol, hospitals, tmp_path).state.records
    assert (first.suppressed, first.refused) == (["west"], {})
    assert (second.suppressed, second.refused) == ([], {"west": "E-REPLY-HISTOGRAM"})


def test_the_record_has_each_hospitals_policy(make_study: MakeStudy, tmp_path: Path) -> None:
    protocol = make_study(rounds=2)
    hospitals = {**all_honest(protocol), "south": refusing}
    hospitals["west"] = from_round(
        2, with_every_answer(hospitals["west"], policy="f" * 64), hospitals["west"]
    )
    policies = [r.policies for r in run(protocol, hospitals, tmp_path).state.records]
    same = {name: policy(name) for name in ("east", "north", "west")}
    assert policies == [same, same | {"west": "f" * 64}]


def test_warnings_change_no_model_and_survive_a_resume(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    """West pulls the other way; the killed run has the same flags, from sums in its checkpoint."""
    protocol = make_study(study="real", rounds=4, privacy={"mechanism": "none"})
    hospitals = all_honest(protocol, dict.fromkeys(NAMES, 0.0))
    hospitals["west"] = changed(
        hospitals["west"], with_arrays(lambda a: {n: -5 * x for n, x in a.items()})
    )
    whole = run(protocol, hospitals, tmp_path / "whole").state
    flags = [r.flags for r in whole.records]
    assert flags == [{"west": ["FLAG-COSINE"]}] * 4
    assert list(whole.sums) == list(NAMES)
    with pytest.raises(Killed):
        run(protocol, hospitals, tmp_path / "killed", watcher=Kill())
    state = Checkpoints(tmp_path / "killed", protocol).load()
    assert state is not None
    assert [r.flags for r in state.records] == flags[:2]
    resumed = run(protocol, hospitals, tmp_path / "killed", state=state).state
    assert [r.flags for r in resumed.records] == flags
    assert bits(resumed.sums) == bits(whole.sums)
    # Without the sums it would not be the same: they are what is compared.
    forgotten = replace(state, sums={})
    again = run(protocol, hospitals, tmp_path / "forgotten", state=forgotten).state
    assert bits(again.sums) != bits(whole.sums)
    assert bits(again.arrays) == bits(whole.arrays)


def test_a_stricter_hospital_counts_less_in_the_model(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=2)
    noise = {**NOISE, "north": 2 * NOISE["north"]}
    outcome = run(protocol, all_honest(protocol, noise), tmp_path / "stricter")
    agree(outcome.state.arrays, weights(protocol, NAMES, 2, noise))
    plain = run(protocol, all_honest(protocol), tmp_path / "plain")
    assert bits(plain.state.arrays) != bits(outcome.state.arrays)
    # A liar among four moves nothing: less than the median is the median.
    liar = run(protocol, all_honest(protocol, {**NOISE, "north": 1.0}), tmp_path / "liar")
    assert bits(liar.state.arrays) == bits(plain.state.arrays)


# --- the moving average of the models ----------------------------------------------------------


class Asked:
    """Notes the model in every request that it passes on."""

    def __init__(self, hospital: Hospital) -> None:
        self.hospital = hospital
        self.models: dict[int, Arrays] = {}

    def __call__(self, request: Request) -> Answer:
        self.models[request.round] = request.arrays
        return self.hospital(request)


@pytest.mark.parametrize("ema", [0.01, 0.5, 0.9, 0.9999])
def test_the_result_is_the_weighted_mean_of_the_models_and_training_goes_on_from_the_last(
    ema: float, make_study: MakeStudy, tmp_path: Path
) -> None:
    """Weights ema^age, the newest of age 0, in float64; the initial model has none."""
    protocol = make_study(rounds=6, aggregation={"ema": ema})
    asked = Asked(honest(protocol, "north"))
    outcome = run(protocol, {**all_honest(protocol), "north": asked}, tmp_path / "with")
    plain = make_study(rounds=6)
    without = Asked(honest(plain, "north"))
    last = run(plain, {**all_honest(plain), "north": without}, tmp_path / "without").state
    for server_round in range(1, 7):  # the same models are trained, bit for bit
        assert bits(asked.models[server_round]) == bits(without.models[server_round])
    assert bits(outcome.state.arrays) == bits(last.arrays) == bits(without.models[7])

    after = [without.models[r] for r in range(2, 7)] + [last.arrays]  # after rounds 1..6
    total = sum(ema**age for age in range(6))
    for name in last.arrays:
        mean = sum(
            ema ** (5 - i) / total * model[name].astype(np.float64) for i, model in enumerate(after)
        )
        np.testing.assert_allclose(outcome.state.average[name], mean, rtol=1e-5, atol=1e-6)
    assert outcome.state.result is outcome.state.average
    assert list(outcome.state.average) == list(last.arrays)
    assert all(a.dtype == np.float32 for a in outcome.state.average.values())
    assert bits(asked.models[7]) == bits(outcome.state.average)  # what hospitals judge last
    assert bits(outcome.state.average) != bits(last.arrays)


def test_the_average_of_one_model_is_that_model(make_study: MakeStudy, tmp_path: Path) -> None:
    protocol = make_study(rounds=1, aggregation={"ema": 0.9})
    state = run(protocol, all_honest(protocol), tmp_path).state
    assert bits(state.average) == bits(state.arrays)


def test_without_an_average_the_result_is_the_last_model(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=2)
    asked = Asked(honest(protocol, "north"))
    state = run(protocol, {**all_honest(protocol), "north": asked}, tmp_path).state
    assert state.average == {}
    assert state.result is state.arrays
    assert bits(asked.models[3]) == bits(state.arrays)


def test_frozen_layers_do_not_drift_in_the_average(make_study: MakeStudy, tmp_path: Path) -> None:
    protocol = make_study(rounds=30, aggregation={"ema": 0.93})
    state = run(protocol, all_honest(protocol), tmp_path).state
    np.testing.assert_allclose(state.average[FROZEN], start(protocol).arrays[FROZEN], rtol=1e-6)


def run_app(protocol: StudyProtocol, folder: Path, watcher: Watcher, *, resume: bool) -> Run:
    """A whole run through the ServerApp, from the test's own initial model."""
    folder.mkdir(exist_ok=True)
    begin(protocol, folder, resume=resume, initial=start(protocol).arrays)
    grid = FakeGrid(all_honest(protocol))
    whole = Run(protocol, folder, watcher, trained_spec(protocol), lambda *_: grid.attendance, 0.02)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    whole.app()(grid, context)
    return whole


@pytest.mark.parametrize("ema", [None, 0.8])
def test_the_final_model_on_disk_is_the_result_also_of_a_resumed_run(
    ema: float | None, make_study: MakeStudy, tmp_path: Path
) -> None:
    aggregation = {} if ema is None else {"ema": ema}
    protocol = make_study(rounds=4, aggregation=aggregation)
    whole = run_app(protocol, tmp_path / "whole", Watcher(), resume=False)
    assert whole.outcome is not None
    state = whole.outcome.state
    on_disk = load_file(tmp_path / "whole" / FINAL_MODEL)
    assert dict(bits(on_disk)) == dict(bits(state.result))
    assert (dict(bits(on_disk)) == dict(bits(state.arrays))) is (ema is None)

    with pytest.raises(Killed):
        run_app(protocol, tmp_path / "killed", Kill(), resume=False)
    assert not (tmp_path / "killed" / FINAL_MODEL).exists()
    watcher = Watcher()
    run_app(protocol, tmp_path / "killed", watcher, resume=True)
    assert watcher.calls[0] == ("started", 3, *NAMES)
    again = (tmp_path / "killed" / FINAL_MODEL).read_bytes()
    assert again == (tmp_path / "whole" / FINAL_MODEL).read_bytes()


# --- the chain of ledger heads -----------------------------------------------------------------


def following(good: Hospital, previous: Mapping[int, str | None]) -> Hospital:
    """`good`, whose ledger in some rounds follows on another head than the round's before."""

    def answer(request: Request) -> Answer:
        reply = good(request)
        assert isinstance(reply, TrainReply | EvaluateReply)
        if request.round not in previous:
            return reply
        return reply.model_copy(update={"previous_head": previous[request.round]})

    return answer


def refusals(outcome: Outcome) -> list[str | None]:
    """Why north's answer was not used, in each round and at the end."""
    return [r.refused.get("north") for r in (*outcome.state.records, outcome.last)]


ROLLED = "E-REPLY-ROLLBACK"


@pytest.mark.parametrize(
    ("previous", "expected"),
    [
        ({}, [None] * 5),
        ({1: head("north", 99)}, [None] * 5),  # it has a past that this run does not know
        ({3: head("north", 77)}, [None] * 5),  # an answer was lost on the way
        # Restored from a backup of round 1; from then on it follows on what was refused.
        ({3: head("north", 1)}, [None, None, ROLLED, ROLLED, ROLLED]),
        ({3: None}, [None, None, ROLLED, ROLLED, ROLLED]),  # made anew
        ({5: head("north", 3)}, [None] * 4 + [ROLLED]),  # noticed at the evaluation too
        # Set back, and then the right ledger is found again.
        ({3: None, 4: head("north", 2)}, [None, None, ROLLED, None, None]),
    ],
)
def test_a_hospital_whose_ledger_was_set_back_is_not_used(
    previous: dict[int, str | None],
    expected: list[str | None],
    make_study: MakeStudy,
    tmp_path: Path,
) -> None:
    protocol = make_study(rounds=4)
    hospitals = all_honest(protocol)
    hospitals["north"] = following(hospitals["north"], previous)
    outcome = run(protocol, hospitals, tmp_path / "set back")
    assert outcome.stopped == "finished"
    assert refusals(outcome) == expected
    for record in outcome.state.records:
        assert ("north" in record.heads) == ("north" not in record.refused)
    # Its refused updates reach no model: the same as if it had refused.
    out = {r for r, code in enumerate(expected, 1) if code is not None}
    good = honest(protocol, "north")
    hospitals["north"] = lambda request: (refusing if request.round in out else good)(request)
    without = run(protocol, hospitals, tmp_path / "without")
    assert bits(outcome.state.arrays) == bits(without.state.arrays)


def test_an_answer_that_never_arrived_breaks_no_chain(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(rounds=4, participation={"deadline-seconds": 0.2})
    hospitals = all_honest(protocol)
    good = hospitals["north"]
    hospitals["north"] = lambda request: (silent if request.round == 2 else good)(request)
    outcome = run(protocol, hospitals, tmp_path)
    assert [r.missing for r in outcome.state.records] == [[], ["north"], [], []]
    assert refusals(outcome) == [None] * 5


@pytest.mark.parametrize("fresh", [True, False])
def test_a_ledger_that_was_set_back_while_the_run_stood_still_is_noticed(
    fresh: bool, make_study: MakeStudy, tmp_path: Path
) -> None:
    """The heads are in the checkpoint: a coordinator that was killed still knows them."""
    protocol = make_study(rounds=4)

    with pytest.raises(Killed):
        run(protocol, all_honest(protocol), tmp_path, watcher=Kill())
    state = Checkpoints(tmp_path, protocol).load()
    assert state is not None
    assert [r.heads["north"] for r in state.records] == [head("north", 1), head("north", 2)]
    hospitals = all_honest(protocol)
    backup = {3: None if fresh else head("north", 1)}
    hospitals["north"] = following(hospitals["north"], backup)
    outcome = run(protocol, hospitals, tmp_path, state=state)
    assert refusals(outcome) == [None, None, ROLLED, ROLLED, ROLLED]
    # That it was set back is known after another stop too.
    again = Checkpoints(tmp_path, protocol).load()
    assert again is not None
    assert refusals(run(protocol, all_honest(protocol), tmp_path, state=again))[-1] == ROLLED


# --- what is frozen does not travel ------------------------------------------------------------


def test_a_study_that_trains_the_head_changes_nothing_else_and_refuses_a_trunk(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(study="real", rounds=2, model={"trainable": "head"})
    hospitals = all_honest(protocol)
    outcome = run(protocol, hospitals, tmp_path / "honest")
    agree(outcome.state.arrays, weights(protocol, NAMES, 2))
    before = start(protocol).arrays
    moved = {n for n, a in outcome.state.arrays.items() if a.tobytes() != before[n].tobytes()}
    assert moved == {"classifier.weight", "classifier.bias"}

    trunk = "features.0.weight"
    hospitals["north"] = changed(
        hospitals["north"],
        with_arrays(lambda a: {trunk: np.ones(before[trunk].shape, np.float32), **a}),
    )
    outcome = run(protocol, hospitals, tmp_path / "trunk")
    assert [r.refused for r in outcome.state.records] == [{"north": "E-REPLY-ARRAYS"}] * 2
    agree(outcome.state.arrays, weights(protocol, ("east", "south", "west"), 2))
    assert bits(outcome.state.arrays)[0] == (trunk, before[trunk].tobytes())
