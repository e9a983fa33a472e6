"""One round at the coordinator: ask every hospital, ask again what was lost, admit, sum up.

A hospital is asked as soon as it is connected. It is asked again when its node was started anew (what
that had received died with it), when Flower reports an error in its place, and after the protocol's
`retry_seconds`; it answers with the bytes that it has sealed, so asking twice costs nothing. The round
closes when all have answered, at the deadline, or, once there are enough, when nobody who is
connected still owes an answer.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Literal, Protocol

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from common import messages, records
from common.arrays import Arrays, Spec
from common.errors import ChannelError, MessageError
from common.messages import EvaluateRequest, TrainReply, TrainRequest
from common.protocol import Participation, StudyProtocol
from server.admission import ROLLBACK, NotAdmitted, Past, Question, Reply, admit
from server.checkpoint import RoundRecord

NODE_ERROR = "E-NODE"  # Flower's own error reply: the node died, or its app did
PASSING = (NODE_ERROR, ChannelError.code)  # what may be over when the hospital is asked again
ERROR_PAUSE_SECONDS = 5.0
# So long after its round a reply is still heard, to be named. Afterwards Flower drops the question, so
# that a hospital that comes back does not train, and pay, for a round that is closed.
LATE_SECONDS = 60.0
MOST_POLL_SECONDS = 1.0  # between two looks for replies, when nothing has come for half a minute

Missed = Literal["quorum-missed", "mandatory-missing"]


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


@dataclass
class Answers:
    """What came back: admitted replies, and the code for each hospital whose reply was not."""

    replies: dict[str, Reply] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)  # hospital -> the earlier round it answered

    def updates(self) -> tuple[dict[str, Arrays], dict[str, float]]:
        """The update and the noise multiplier of each hospital that sent one."""
        trained = {h: r for h, r in self.replies.items() if isinstance(r, TrainReply)}
        noise = {hospital: reply.noise_multiplier for hospital, reply in trained.items()}
        return {hospital: reply.arrays for hospital, reply in trained.items()}, noise

    def lack(self, participation: Participation) -> Missed | None:
        """Why these replies do not close a round; None when they do."""
        if len(self.replies) < participation.quorum:
            return "quorum-missed"
        here = all(hospital in self.replies for hospital in participation.mandatory)
        return None if here else "mandatory-missing"

    def settled(self, hospital: str) -> bool:
        """Whether nothing more is to be expected of `hospital` in this round."""
        return hospital in self.replies or self.refused.get(hospital, NODE_ERROR) not in PASSING


@dataclass(frozen=True)
class Asked:
    """The last time that a hospital was asked in this round: when, and at which start of its node."""

    at: float
    since: str


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
        self._under_way: dict[str, tuple[str, int]] = {}  # message id -> hospital, round
        self._connected: list[str] | None = None

    def close_round(
        self, request: TrainRequest | EvaluateRequest, earlier: Sequence[RoundRecord]
    ) -> tuple[Answers, RoundRecord]:
        """Ask, and return when the round closes: see above, or at `stop`."""
        started = heard = time.monotonic()
        participation = self.protocol.participation
        deadline = started + participation.deadline_seconds
        question = self._question(request)
        answers, asked = Answers(), dict[str, Asked]()
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
        return answers, self._record(question, answers, time.monotonic() - started)

    def _question(self, request: TrainRequest | EvaluateRequest) -> Question:
        return Question(
            request=request,
            key=messages.fingerprint(request),
            study=self.protocol.digest,
            update_spec=self._update_spec,
            evaluates=self.protocol.evaluates(request.round),
        )

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
        patience = ERROR_PAUSE_SECONDS if code else self.protocol.participation.retry_seconds
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
                self._under_way[pushed] = (hospital, request.round)

    def _hear(self, question: Question, answers: Answers, earlier: Sequence[RoundRecord]) -> bool:
        """Take in what has arrived, of this round or an earlier one; whether anything had."""
        arrived = list(self._grid.pull_messages(list(self._under_way))) if self._under_way else []
        for message in arrived:
            # Flower's error replies name another sender; only the message they answer tells whose.
            hospital, asked_in = self._under_way.pop(
                message.metadata.reply_to_message_id, (None, 0)
            )
            if hospital is None:
                continue
            if asked_in != question.request.round:
                if not message.has_error():
                    answers.late[hospital] = asked_in
                continue
            if hospital in answers.replies:
                continue  # a second reply to the same question: the first one counts
            try:
                reply = admit(opened(message), question, past_of(hospital, earlier))
                answers.replies[hospital] = reply
                answers.refused.pop(hospital, None)
                self._observer.answered(hospital, None)
            except NotAdmitted as reason:
                answers.refused[hospital] = reason.code
                self._observer.answered(hospital, reason.code)
        return bool(arrived)

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

    def _record(self, question: Question, answers: Answers, seconds: float) -> RoundRecord:
        heard = answers.replies.keys() | answers.refused.keys()
        _, noise = answers.updates()
        return RoundRecord(
            round=question.request.round,
            seconds=round(seconds, 3),
            answered=sorted(answers.replies),
            refused=dict(sorted(answers.refused.items())),
            missing=sorted(set(self.protocol.hospital_names) - heard),
            late=dict(sorted(answers.late.items())),
            noise=dict(sorted(noise.items())),
            heads={name: reply.ledger_head for name, reply in sorted(answers.replies.items())},
            histogram=pooled_histogram(answers) if question.evaluates else None,
            histogram_noise=pooled_noise(answers) if question.evaluates else None,
        )


def past_of(hospital: str, earlier: Sequence[RoundRecord]) -> Past:
    """What the closed rounds of this run say about `hospital`."""
    return Past(
        heads=tuple(record.heads[hospital] for record in earlier if hospital in record.heads),
        set_back=any(record.refused.get(hospital) == ROLLBACK for record in earlier),
    )


def opened(message: Message) -> messages.Message:
    """The typed message in a Flower reply; NotAdmitted when it is an error or not one of ours."""
    if message.has_error():
        raise NotAdmitted(NODE_ERROR)
    try:
        return records.from_records(message.content)
    except MessageError as error:
        raise NotAdmitted(error.code) from error


def pooled_histogram(answers: Answers) -> list[list[float]]:
    """The sum of the hospitals' released histograms (2, bins), in the order of their names."""
    total = np.zeros((2, messages.HISTOGRAM_BINS))
    for _, reply in sorted(answers.replies.items()):
        total += np.asarray(reply.histogram)
    histogram: list[list[float]] = total.tolist()
    return histogram


def pooled_noise(answers: Answers) -> float:
    """Standard deviation of the noise in a cell of that sum: hospitals' noises are independent."""
    stated = [answers.replies[h].histogram_noise or 0.0 for h in sorted(answers.replies)]
    return math.hypot(*stated)
