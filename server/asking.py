"""One round at the coordinator: ask every hospital, ask again what was lost, admit, sum up.

A hospital is asked as soon as it is connected. It is asked again when its node was started anew (what
that had received died with it), when Flower reports an error in its place, and after the protocol's
`retry_seconds`; it answers with the bytes that it has sealed, so asking twice costs nothing. The round
closes when all have answered, at the deadline, or, once there are enough, when nobody who is
connected still owes an answer.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Protocol

from flwr.app import Message
from flwr.serverapp import Grid

from common import messages, records
from common.arrays import Spec
from common.errors import HoursError, MessageError
from common.messages import EvaluateRequest, TrainRequest
from common.protocol import StudyProtocol
from common.tasks import bins_of
from server.admission import BYTES, ROSTER, NotAdmitted, Question, admit, most_bytes
from server.answers import NODE_ERROR, Answers, past_of, record_of
from server.checkpoint import RoundRecord

log = logging.getLogger("intramural.asking")

ERROR_PAUSE_SECONDS = 5.0
# So long after its round a reply is still heard, to be named. Afterwards Flower drops the question, so
# that a hospital that comes back does not train, and pay, for a round that is closed.
LATE_SECONDS = 60.0
MOST_POLL_SECONDS = 1.0  # between two looks for replies, when nothing has come for half a minute


@dataclass(frozen=True)
class Present:
    """A connected hospital: its Flower node, and when that was last started ("" if not known)."""

    node: int
    since: str = ""


Attendance = Callable[[], Mapping[str, Present]]  # the rostered hospitals that are connected now


class Observer(Protocol):
    """Who watches a run: a live table, a status file."""

    def round_started(self, server_round: int, asked: list[str]) -> None: ...
    def connected(self, hospitals: list[str]) -> None: ...
    def answered(self, hospital: str, code: str | None) -> None: ...
    def round_closed(self, record: RoundRecord) -> None: ...


@dataclass(frozen=True)
class Asked:
    """The last time that a hospital was asked in this round: when, and at which start of its node."""

    at: float
    since: str


@dataclass(frozen=True)
class UnderWay:
    """A question to which no reply has come yet: whose it is, at which Flower node, in which round."""

    hospital: str
    node: int
    round: int


class Asker:
    """Asks the hospitals of one study, round after round.

    `update_spec` is what an update must be, `poll_seconds` the least pause between two looks for
    replies: each costs a request where the grid is a network's.
    """

    def __init__(
        self,
        protocol: StudyProtocol,
        grid: Grid,
        attendance: Attendance,
        update_spec: Spec,
        observer: Observer,
        stop: Event,
        poll_seconds: float,
    ) -> None:
        self.protocol = protocol
        self.stop = stop
        self._grid = grid
        self._attendance = attendance
        self._update_spec = update_spec
        self._observer = observer
        self._poll_seconds = poll_seconds
        self._most_bytes = most_bytes(update_spec, bins_of(protocol))
        self._under_way: dict[str, UnderWay] = {}  # by the id of the message that asked
        self._heard: dict[str, str] = {}  # the same of this round, once replied to -> hospital
        self._connected: list[str] | None = None

    def close_round(
        self, request: TrainRequest | EvaluateRequest, earlier: Sequence[RoundRecord]
    ) -> tuple[Answers, RoundRecord]:
        """Ask, and return when the round closes: see above, or at `stop`."""
        started = heard = time.monotonic()
        participation = self.protocol.participation
        deadline = started + participation.deadline_seconds
        question = Question.of(self.protocol, request, self._update_spec)
        answers, asked = Answers(), dict[str, Asked]()
        self._heard.clear()
        idle_since: float | None = None
        self._observer.round_started(request.round, sorted(self._present()))
        while (now := time.monotonic()) < deadline and not self.stop.is_set():
            present = self._present()
            for hospital in sorted(present):
                code = answers.refused.get(hospital)
                if not answers.settled(hospital) and self._due(
                    asked.get(hospital), present[hospital], code, now
                ):
                    self._ask(hospital, present[hospital], question, deadline - now)
                    asked[hospital] = Asked(now, present[hospital].since)
            if self._hear(question, answers, earlier):
                heard = now
                continue
            idle_since = (idle_since or now) if self._nobody_owes(answers, present) else None
            if idle_since is not None and (
                self._all_settled(answers) or now - idle_since >= participation.grace_seconds
            ):
                break
            time.sleep(min(MOST_POLL_SECONDS, max(self._poll_seconds, (now - heard) / 30)))
        return answers, record_of(question, answers, time.monotonic() - started)

    def _present(self) -> Mapping[str, Present]:
        present = self._attendance()
        if (names := sorted(present)) != self._connected:
            self._connected = names
            self._observer.connected(names)
        return present

    def _due(self, asked: Asked | None, present: Present, code: str | None, now: float) -> bool:
        """Whether an unsettled hospital is to be asked, or asked again."""
        if asked is None or asked.since != present.since:
            return True
        soon = code is not None and code != HoursError.code  # hours pass more slowly than errors
        patience = ERROR_PAUSE_SECONDS if soon else self.protocol.participation.retry_seconds
        return now - asked.at >= patience

    def _ask(self, hospital: str, present: Present, question: Question, seconds: float) -> None:
        """Send the question; `seconds` and a little later Flower forgets it, with any reply to it."""
        request = question.request
        message = Message(
            records.to_records(request),
            dst_node_id=present.node,
            message_type=records.MESSAGE_TYPES[request.kind],
            ttl=max(seconds, 1.0) + LATE_SECONDS,
            group_id=str(request.round),
        )
        for pushed in self._grid.push_messages([message]):
            if pushed:  # None when the SuperLink did not take it; then it is asked again later
                self._under_way[pushed] = UnderWay(hospital, present.node, request.round)

    def _hear(self, question: Question, answers: Answers, earlier: Sequence[RoundRecord]) -> bool:
        """Take in what has arrived, of this round or an earlier one; whether anything had."""
        arrived = list(self._grid.pull_messages(list(self._under_way))) if self._under_way else []
        for message in arrived:
            # Flower's error replies name another sender; only the message they answer tells whose.
            replied_to = message.metadata.reply_to_message_id
            if replied_to in self._heard:
                self._again(self._heard[replied_to], message, answers)
                continue
            asked = self._under_way.pop(replied_to, None)
            if asked is None:
                continue
            hospital = asked.hospital
            if asked.round != question.request.round:
                if not message.has_error():
                    answers.late[hospital] = asked.round
                continue
            if answers.settled(hospital):  # it was asked twice, and the first reply counts
                self._again(hospital, message, answers)
                continue
            try:
                reply = self._opened(message, asked)
                answers.replies[hospital] = admit(
                    reply, hospital, question, past_of(hospital, earlier)
                )
                answers.refused.pop(hospital, None)
                self._observer.answered(hospital, None)
            except NotAdmitted as reason:
                answers.refused[hospital] = reason.code
                self._observer.answered(hospital, reason.code)
            if answers.settled(hospital):
                self._heard[replied_to] = hospital
        return bool(arrived)

    def _again(self, hospital: str, message: Message, answers: Answers) -> None:
        """Count a second reply; an error that Flower made up is none."""
        if not message.has_error():
            answers.again(hospital)

    def _opened(self, message: Message, asked: UnderWay) -> messages.Message:
        """What `message` holds; NotAdmitted, and nothing parsed, when it is forged or far too large."""
        if not message.has_error():
            if (node := message.metadata.src_node_id) != asked.node:
                log.warning("node %s answered for %s at node %s", node, asked.hospital, asked.node)
                raise NotAdmitted(ROSTER)
            if bytes_in(message) > self._most_bytes:
                raise NotAdmitted(BYTES)
        return opened(message)

    def _all_settled(self, answers: Answers) -> bool:
        return all(answers.settled(name) for name in self.protocol.hospital_names)

    def _nobody_owes(self, answers: Answers, present: Mapping[str, Present]) -> bool:
        """Whether there are enough, and no hospital at work whose answer is worth waiting for."""
        if self._all_settled(answers):
            return True
        return answers.lack(self.protocol.participation) is None and not any(
            name in present and name not in answers.refused and not answers.settled(name)
            for name in self.protocol.hospital_names
        )


def opened(message: Message) -> messages.Message:
    """The typed message in a Flower reply; NotAdmitted when it is an error or not one of ours."""
    if message.has_error():
        raise NotAdmitted(NODE_ERROR)
    try:
        return records.from_records(message.content)
    except MessageError as error:
        raise NotAdmitted(error.code) from error


def bytes_in(message: Message) -> int:
    """Bytes of all arrays in a Flower message, as they came."""
    found = message.content.array_records.values()
    return sum(len(array.data) for record in found for array in record.values())
