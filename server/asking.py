"""One round at the coordinator: ask every hospital, wait until the deadline, admit, sum up."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Protocol

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from common import messages, records
from common.arrays import Arrays
from common.errors import MessageError
from common.messages import EvaluateRequest, TrainReply, TrainRequest
from common.model_spec import update_spec
from common.protocol import StudyProtocol
from server.admission import ROLLBACK, NotAdmitted, Past, Question, Reply, admit
from server.checkpoint import RoundRecord

POLL_SECONDS = 0.02

Roster = Mapping[str, int]  # hospital -> Flower node id


class Observer(Protocol):
    """Who watches a run: a live table, a status page."""

    def round_started(self, server_round: int, asked: list[str]) -> None: ...
    def answered(self, hospital: str, code: str | None) -> None: ...
    def round_closed(self, record: RoundRecord) -> None: ...


@dataclass
class Answers:
    """What came back: admitted replies, and the code for each hospital whose reply was not."""

    replies: dict[str, Reply]
    refused: dict[str, str]

    def updates(self) -> tuple[dict[str, Arrays], dict[str, float]]:
        """The update and the noise multiplier of each hospital that sent one."""
        trained = {h: r for h, r in self.replies.items() if isinstance(r, TrainReply)}
        noise = {hospital: reply.noise_multiplier for hospital, reply in trained.items()}
        return {hospital: reply.arrays for hospital, reply in trained.items()}, noise


def close_round(
    protocol: StudyProtocol,
    grid: Grid,
    roster: Roster,
    request: TrainRequest | EvaluateRequest,
    earlier: Sequence[RoundRecord],
    observer: Observer,
    stop: Event,
) -> tuple[Answers, RoundRecord]:
    """Ask every hospital on the roster; return when all have answered, at the deadline or at `stop`."""
    started = time.monotonic()
    observer.round_started(request.round, sorted(roster))
    kind = records.MESSAGE_TYPES[request.kind]
    asked: dict[str, str] = {}  # message id -> hospital
    content = records.to_records(request)
    question = Question(
        request=request,
        key=messages.fingerprint(request),
        study=protocol.digest,
        update_spec=update_spec(protocol),
        evaluates=protocol.evaluates(request.round),
    )
    for hospital, node in sorted(roster.items()):
        message = Message(content, dst_node_id=node, message_type=kind, group_id=str(request.round))
        asked |= dict.fromkeys(grid.push_messages([message]), hospital)
    answers = Answers({}, {})
    deadline = started + protocol.participation.deadline_seconds
    while asked and time.monotonic() < deadline and not stop.is_set():
        arrived = list(grid.pull_messages(list(asked)))
        for message in arrived:
            answered = message.metadata.reply_to_message_id
            if answered not in asked:
                continue  # a second reply to the same message: the first one counts
            hospital = asked.pop(answered)
            try:
                reply = admit(opened(message), question, past_of(hospital, earlier))
                answers.replies[hospital] = reply
                observer.answered(hospital, None)
            except NotAdmitted as reason:
                answers.refused[hospital] = reason.code
                observer.answered(hospital, reason.code)
        if not arrived:
            time.sleep(POLL_SECONDS)
    heard = answers.replies.keys() | answers.refused.keys()
    record = RoundRecord(
        round=request.round,
        seconds=round(time.monotonic() - started, 3),
        answered=sorted(answers.replies),
        refused=dict(sorted(answers.refused.items())),
        missing=sorted(set(protocol.hospital_names) - heard),
        heads={name: reply.ledger_head for name, reply in sorted(answers.replies.items())},
        histogram=pooled_histogram(answers) if question.evaluates else None,
        histogram_noise=pooled_noise(answers) if question.evaluates else None,
    )
    return answers, record


def past_of(hospital: str, earlier: Sequence[RoundRecord]) -> Past:
    """What the closed rounds of this run say about `hospital`."""
    return Past(
        heads=tuple(record.heads[hospital] for record in earlier if hospital in record.heads),
        set_back=any(record.refused.get(hospital) == ROLLBACK for record in earlier),
    )


def opened(message: Message) -> messages.Message:
    """The typed message in a Flower reply; NotAdmitted when it is an error or not one of ours."""
    if message.has_error():
        raise NotAdmitted("E-NODE")  # Flower's own error reply: the node died or its app did
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
