"""The round loop: ask every hospital, wait for a quorum, aggregate, make durable, go on.

Flower's own `Strategy.start` waits for ever for missing nodes, goes on with whoever answered,
reports success when every hospital failed and cannot resume (FLOWER.md section 2). This loop ends
every round at its deadline, ends the run when a round misses its quorum, and continues a killed run
behind its last closed round.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Event
from typing import Literal, Protocol

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from common import messages, records
from common.arrays import Arrays, apply_update
from common.errors import MessageError
from common.messages import EvaluateRequest, TrainReply, TrainRequest
from common.model_spec import update_spec
from common.protocol import StudyProtocol
from server.admission import NotAdmitted, Reply, admit
from server.checkpoint import Checkpoints, RoundRecord, State
from server.strategy import Aggregator

POLL_SECONDS = 0.02

Roster = Mapping[str, int]  # hospital -> Flower node id


class Observer(Protocol):
    """Who watches a run: a live table, a status page."""

    def round_started(self, server_round: int, asked: list[str]) -> None: ...
    def answered(self, hospital: str, code: str | None) -> None: ...
    def round_closed(self, record: RoundRecord) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended, with the state of the last closed round."""

    stopped: Literal["finished", "quorum-missed", "interrupted"]
    state: State
    last: RoundRecord  # evaluation of the final model, or the round that could not be closed


@dataclass
class Answers:
    replies: dict[str, Reply]
    refused: dict[str, str]


def run_rounds(
    protocol: StudyProtocol,
    state: State,
    grid: Grid,
    roster: Roster,
    checkpoints: Checkpoints,
    observer: Observer,
    stop: Event,
) -> Outcome:
    """Run the study from `state` to its end, until a round misses its quorum, or until `stop`."""
    aggregator = Aggregator(protocol)
    aggregator.restore(state.strategy)
    text = protocol.to_toml()
    while state.round < protocol.rounds:
        request = TrainRequest(protocol=text, round=state.round + 1, arrays=state.arrays)
        answers, record = close_round(protocol, grid, roster, request, observer, stop)
        if stop.is_set():
            return Outcome("interrupted", state, record)
        if len(answers.replies) < protocol.participation.quorum:
            return Outcome("quorum-missed", state, record)
        update = aggregator.aggregate(request.round, updates_in(answers))
        state = State(
            round=request.round,
            arrays=apply_update(state.arrays, update),
            strategy=aggregator.state(),
            records=(*state.records, record),
        )
        checkpoints.save(state)
        observer.round_closed(record)
    final = EvaluateRequest(protocol=text, round=protocol.rounds + 1, arrays=state.arrays)
    _, record = close_round(protocol, grid, roster, final, observer, stop)
    observer.round_closed(record)
    return Outcome("finished", state, record)


def updates_in(answers: Answers) -> dict[str, Arrays]:
    """The update of each hospital that sent one."""
    return {
        h: reply.arrays for h, reply in answers.replies.items() if isinstance(reply, TrainReply)
    }


def close_round(
    protocol: StudyProtocol,
    grid: Grid,
    roster: Roster,
    request: TrainRequest | EvaluateRequest,
    observer: Observer,
    stop: Event,
) -> tuple[Answers, RoundRecord]:
    """Ask every hospital on the roster; return when all have answered, at the deadline or at `stop`."""
    started = time.monotonic()
    observer.round_started(request.round, sorted(roster))
    kind = records.MESSAGE_TYPES[request.kind]
    asked: dict[str, str] = {}  # message id -> hospital
    content, key = records.to_records(request), messages.fingerprint(request)
    for hospital, node in sorted(roster.items()):
        message = Message(content, dst_node_id=node, message_type=kind, group_id=str(request.round))
        asked |= dict.fromkeys(grid.push_messages([message]), hospital)
    answers = Answers({}, {})
    spec = update_spec(protocol)
    deadline = started + protocol.participation.deadline_seconds
    while asked and time.monotonic() < deadline and not stop.is_set():
        arrived = list(grid.pull_messages(list(asked)))
        for message in arrived:
            answered = message.metadata.reply_to_message_id
            if answered not in asked:
                continue  # a second reply to the same message: the first one counts
            hospital = asked.pop(answered)
            try:
                answers.replies[hospital] = admit(
                    opened(message), request, key, protocol.digest, spec
                )
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
        histogram=pooled_histogram(answers),
    )
    return answers, record


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
    for hospital in sorted(answers.replies):
        total += np.asarray(answers.replies[hospital].histogram)
    histogram: list[list[float]] = total.tolist()
    return histogram
