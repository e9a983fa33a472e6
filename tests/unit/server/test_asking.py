"""Who is asked, when again, and when a round closes: with hospitals that come, go, die and come back."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from flwr.app import Error, Message

from common.errors import ChannelError, HoursError
from common.messages import Refusal
from common.protocol import StudyProtocol
from server import asking
from server.asking import Present
from tests.answering import (
    NAMES,
    NODES,
    Answer,
    FakeGrid,
    MakeStudy,
    Request,
    Watcher,
    all_honest,
    bits,
    honest,
    refusing,
    run,
    run_with,
    silent,
)

pytestmark = [pytest.mark.usefixtures("flower_task"), pytest.mark.slow]  # seconds together


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ERROR_PAUSE_SECONDS", 0.05)


def patient(make_study: MakeStudy, **participation: Any) -> StudyProtocol:
    """One round, a quorum of two, and a deadline that only a hang would reach."""
    quorum = {"quorum": 2, "deadline-seconds": 30.0, "grace-seconds": 0.3, "retry-seconds": 20.0}
    return make_study(rounds=1, participation=quorum | participation)


def at_first(first: Answer, protocol: StudyProtocol, name: str, times: int = 1) -> Any:
    """A hospital that gives `first` the first `times` that it is asked a thing, and then answers."""
    good, seen = honest(protocol, name), dict[int, int]()

    def answer(request: Request) -> Answer:
        seen[request.round] = seen.get(request.round, 0) + 1
        return first if seen[request.round] <= times else good(request)

    return answer


@pytest.mark.parametrize(
    "passing",
    [
        Error(code=3, reason="Node Unavailable"),
        Error(code=8, reason=""),
        Refusal.of(ChannelError()),
    ],
    ids=["node", "app", "vault"],
)
def test_what_may_be_over_is_asked_again_and_the_answer_counts(
    passing: Answer, make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = patient(make_study, quorum=4)
    whole = run(protocol, all_honest(protocol), tmp_path / "whole")
    hospitals = {**all_honest(protocol), "north": at_first(passing, protocol, "north", times=3)}
    outcome = run(protocol, hospitals, tmp_path / "again")
    assert outcome.stopped == "finished"
    record = outcome.state.records[0]
    assert (record.answered, record.refused, record.missing) == (list(NAMES), {}, [])
    assert bits(outcome.state.arrays) == bits(whole.state.arrays)


def test_a_refusal_is_final_in_its_round(make_study: MakeStudy, tmp_path: Path) -> None:
    protocol = patient(make_study)
    grid = FakeGrid({**all_honest(protocol), "north": refusing})
    run_with(protocol, grid, tmp_path)
    assert [a for a in grid.asked if a[:2] == (1, NODES["north"])] == [(1, 11, "train")]


def test_outside_of_its_hours_a_hospital_is_asked_again_at_leisure(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = patient(make_study, **{"quorum": 4, "retry-seconds": 1.0})
    closed = Refusal.of(HoursError())
    grid = FakeGrid({**all_honest(protocol), "north": at_first(closed, protocol, "north")})
    started = time.monotonic()
    outcome = run_with(protocol, grid, tmp_path)
    assert time.monotonic() - started > 1.0
    assert outcome.state.records[0].answered == list(NAMES)
    assert len([a for a in grid.asked if a[:2] == (1, NODES["north"])]) == 2


def test_a_question_that_was_lost_is_asked_again_after_the_protocols_patience(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = patient(make_study, **{"quorum": 4, "retry-seconds": 1.0})
    hospitals = {**all_honest(protocol), "north": at_first(None, protocol, "north")}
    started = time.monotonic()
    outcome = run(protocol, hospitals, tmp_path)
    assert outcome.stopped == "finished"
    assert outcome.state.records[0].answered == list(NAMES)
    assert time.monotonic() - started >= 2 * 1.0  # the round and the evaluation each lost one


def test_a_node_that_was_started_anew_is_asked_at_once(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    """Its first question died with the process before; nobody waits for the retry."""
    protocol = patient(make_study, **{"quorum": 4, "retry-seconds": 1000.0})
    grid = FakeGrid({**all_honest(protocol), "north": at_first(None, protocol, "north")})
    looks = 0

    def attendance() -> Mapping[str, Present]:
        nonlocal looks
        looks += 1
        since = dict.fromkeys(NAMES, "a") | {"north": "a" if looks % 50 < 25 else "b"}
        return {name: Present(NODES[name], since[name]) for name in NAMES}

    outcome = run_with(protocol, grid, tmp_path, attendance=attendance)
    assert outcome.stopped == "finished"
    assert outcome.state.records[0].answered == list(NAMES)
    assert [a[:2] for a in grid.asked].count((1, NODES["north"])) >= 2


def test_who_comes_late_is_asked_while_the_round_is_open(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = patient(make_study, quorum=4)
    grid = FakeGrid(all_honest(protocol))
    there = dict.fromkeys(("east", "south", "west"))
    Timer(0.4, lambda: there.update(north=None)).start()
    outcome = run_with(
        protocol, grid, tmp_path, attendance=lambda: {n: Present(NODES[n]) for n in list(there)}
    )
    assert outcome.stopped == "finished"
    assert outcome.state.records[0].answered == list(NAMES)


def test_who_is_gone_is_waited_for_only_until_the_grace_is_over(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = patient(make_study)
    grid = FakeGrid(all_honest(protocol))
    present = {n: Present(NODES[n]) for n in ("east", "south", "west")}
    started = time.monotonic()
    outcome = run_with(protocol, grid, tmp_path, attendance=lambda: present)
    assert 2 * 0.3 <= time.monotonic() - started < 10
    assert [r.missing for r in (*outcome.state.records, outcome.last)] == [["north"]] * 2


def test_a_hospital_at_work_is_waited_for_until_the_deadline_though_there_are_enough(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = patient(make_study, **{"deadline-seconds": 1.0, "grace-seconds": 0.0})
    started = time.monotonic()
    outcome = run(protocol, {**all_honest(protocol), "south": silent}, tmp_path)
    assert time.monotonic() - started >= 2 * 1.0
    assert outcome.state.records[0].missing == ["south"]


def test_a_node_that_stays_in_error_is_named_and_the_round_closes(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = patient(make_study)
    hospitals = {**all_honest(protocol), "west": lambda _: Error(code=3, reason="patient 4711")}
    outcome = run(protocol, hospitals, tmp_path)
    assert outcome.stopped == "finished"
    assert outcome.state.records[0].refused == {"west": "E-NODE"}


@pytest.mark.parametrize(
    ("absent", "stopped"), [("north", "mandatory-missing"), ("south", "finished")]
)
def test_without_a_mandatory_hospital_a_round_does_not_close(
    absent: str, stopped: str, make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = patient(make_study, mandatory=["north", "west"], **{"deadline-seconds": 1.0})
    outcome = run(protocol, {**all_honest(protocol), absent: refusing}, tmp_path)
    assert outcome.stopped == stopped
    assert outcome.state.round == (0 if stopped == "mandatory-missing" else 1)


def test_a_reply_to_an_earlier_round_is_named_and_not_used(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = make_study(
        rounds=2,
        participation={"quorum": 2, "deadline-seconds": 0.5, "grace-seconds": 0.0},
    )

    class Slow(FakeGrid):
        """Keeps north's reply to round 1 until round 2 is asked."""

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            wanted = list(message_ids)
            if self.asked[-1][0] == 1:
                first = next(i for i, a in enumerate(self.asked) if a[1] == NODES["north"])
                wanted = [m for m in wanted if m != f"message-{first:04d}"]
            return super().pull_messages(wanted)

    outcome = run_with(protocol, Slow(all_honest(protocol)), tmp_path / "slow")
    first, second = outcome.state.records
    assert (first.missing, first.late) == (["north"], {})
    assert (second.missing, second.late) == ([], {"north": 1})
    good = honest(protocol, "north")
    hospitals = {**all_honest(protocol), "north": lambda r: None if r.round == 1 else good(r)}
    without = run(protocol, hospitals, tmp_path / "without")
    assert bits(outcome.state.arrays) == bits(without.state.arrays)


class Impostor(FakeGrid):
    """Whoever sends the reply for the question to north, the first `times`, it is west's node."""

    def __init__(self, protocol: StudyProtocol, times: int) -> None:
        super().__init__(all_honest(protocol))
        self.times = times

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        pulled = list(super().pull_messages(message_ids))
        for message in pulled:
            if message.metadata.src_node_id == NODES["north"] and self.times > 0:
                self.times -= 1
                message.metadata.__dict__["_src_node_id"] = NODES["west"]
        return pulled


def test_a_reply_from_another_node_than_the_one_asked_is_not_used(
    make_study: MakeStudy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = patient(make_study)
    outcome = run_with(protocol, Impostor(protocol, 10**6), tmp_path / "impostor")
    record = outcome.state.records[0]
    assert record.refused == {"north": "E-REPLY-ROSTER"}
    assert record.answered == ["east", "south", "west"]
    assert f"node {NODES['west']} answered for north at node {NODES['north']}" in caplog.text
    without = run(protocol, {**all_honest(protocol), "north": refusing}, tmp_path / "without")
    assert bits(outcome.state.arrays) == bits(without.state.arrays)


def test_an_impostor_does_not_shut_the_hospital_out(make_study: MakeStudy, tmp_path: Path) -> None:
    """North is asked again, and its own answer counts."""
    protocol = patient(make_study, quorum=4)
    outcome = run_with(protocol, Impostor(protocol, 1), tmp_path)
    assert outcome.stopped == "finished"
    record = outcome.state.records[0]
    assert (record.answered, record.refused, record.duplicates) == (list(NAMES), {}, {})


def test_second_replies_are_counted_by_hospital_and_not_used(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    """The same message three times, and an answer to each of two askings."""
    protocol = patient(make_study, quorum=4)
    once = run(protocol, all_honest(protocol), tmp_path / "once").state
    assert once.records[0].duplicates == {}
    thrice = run(protocol, all_honest(protocol), tmp_path / "thrice", repeat=3).state
    assert thrice.records[0].duplicates == dict.fromkeys(NAMES, 2)
    assert bits(thrice.arrays) == bits(once.arrays)

    class Twice(FakeGrid):
        """West's node is asked by two messages before the first answer is handed out."""

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            asked = [a for a in self.asked if a[:2] == (1, NODES["west"])]
            return [] if len(asked) == 1 else super().pull_messages(message_ids)

    twice = patient(make_study, **{"quorum": 4, "retry-seconds": 1.0})
    outcome = run_with(twice, Twice(all_honest(twice)), tmp_path / "twice")
    assert outcome.state.records[0].duplicates == dict.fromkeys(NAMES, 1)
    assert bits(outcome.state.arrays) == bits(
        run(twice, all_honest(twice), tmp_path / "x").state.arrays
    )


def test_a_second_reply_to_what_was_refused_does_not_help(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = patient(make_study)
    hospitals = {**all_honest(protocol), "north": refusing}
    record = run(protocol, hospitals, tmp_path, repeat=2).state.records[0]
    assert record.refused == {"north": "E-POLICY-BUDGET"}
    assert record.duplicates == dict.fromkeys(NAMES, 1)


def test_a_superlink_that_does_not_take_the_question_is_asked_again(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    protocol = patient(make_study, **{"quorum": 4, "retry-seconds": 1.0})

    class Full(FakeGrid):
        """Returns None in place of an id the first time, as Flower's grids do."""

        dropped = False

        def push_messages(self, outgoing: Iterable[Message]) -> Iterable[str]:
            if not self.dropped:
                self.dropped = True
                return [None]  # type: ignore[list-item]
            return super().push_messages(outgoing)

    outcome = run_with(protocol, Full(all_honest(protocol)), tmp_path)
    assert outcome.state.records[0].answered == list(NAMES)


def test_the_observer_hears_who_comes_and_goes(make_study: MakeStudy, tmp_path: Path) -> None:
    protocol = patient(make_study, quorum=3)
    heard: list[list[str]] = []

    class Door(Watcher):
        def connected(self, hospitals: list[str]) -> None:
            heard.append(hospitals)

    looks = iter(range(10_000))

    def attendance() -> Mapping[str, Present]:
        return {n: Present(NODES[n]) for n in NAMES if n != "west" or next(looks) < 1}

    run_with(
        protocol, FakeGrid(all_honest(protocol)), tmp_path, attendance=attendance, watcher=Door()
    )
    assert heard == [list(NAMES), ["east", "north", "south"]]
