"""The round loop: ask every hospital, wait for a quorum, aggregate, make durable, go on.

Flower's own `Strategy.start` waits for ever for missing nodes, goes on with whoever answered,
reports success when every hospital failed and cannot resume (FLOWER.md section 2). This loop ends
every round at its deadline, ends the run when a round misses its quorum or a mandatory hospital, and
continues a killed run behind its last closed round.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from common.arrays import Arrays, apply_update
from common.messages import EvaluateRequest, TrainRequest
from server.asking import Asker, Observer
from server.checkpoint import Checkpoints, RoundRecord, State
from server.flags import look
from server.strategy import Aggregator

Stopped = Literal["finished", "quorum-missed", "mandatory-missing", "interrupted"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended, with the state of the last closed round."""

    stopped: Stopped
    state: State
    # Evaluation of the final model (where nothing is judged, the last closed round), or the round that
    # could not be closed.
    last: RoundRecord


def run_rounds(asker: Asker, state: State, checkpoints: Checkpoints, observer: Observer) -> Outcome:
    """Run the study from `state` to its end, until a round cannot be closed, or until it is stopped."""
    protocol = asker.protocol
    aggregator = Aggregator(protocol)
    aggregator.restore(state.strategy)
    text = protocol.to_toml()
    while state.round < protocol.rounds:
        request = TrainRequest(protocol=text, round=state.round + 1, arrays=state.arrays)
        answers, record = asker.close_round(request, state.records)
        if asker.stop.is_set():
            return Outcome("interrupted", state, record)
        if missed := answers.lack(protocol.participation):
            return Outcome(missed, state, record)
        flags, sums = look(protocol, *answers.updates(), state.records, state.sums)
        record = replace(record, flags=flags)  # warnings, on which no model depends
        update = aggregator.aggregate(request.round, *answers.updates())
        model = apply_update(state.arrays, update)
        state = State(
            round=request.round,
            arrays=model,
            average=moved_average(state, model, protocol.aggregation.ema),
            strategy=aggregator.state(),
            sums=sums,
            records=(*state.records, record),
        )
        checkpoints.save(state)
        observer.round_closed(record)
    if not protocol.evaluates(protocol.rounds + 1):
        return Outcome("finished", state, state.records[-1])
    final = EvaluateRequest(protocol=text, round=protocol.rounds + 1, arrays=state.result)
    _, record = asker.close_round(final, state.records)
    observer.round_closed(record)
    return Outcome("finished", state, record)


def moved_average(state: State, model: Arrays, ema: float | None) -> Arrays:
    """The average of the models after each round, `model` the newest, with weights ema^age."""
    if ema is None:
        return {}
    share = (1 - ema) / (1 - ema ** (state.round + 1))  # 1 for the first: nothing to average yet
    before = state.average or model
    return {n: ((1 - share) * before[n] + share * a).astype(np.float32) for n, a in model.items()}
