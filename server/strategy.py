"""Flower's strategies by the protocol's name, fed with admitted updates and public weights.

The strategies see *updates* (their "current arrays" are zero): every one of them is equivariant
under that shift, distances between updates keep their precision, and what has to be saved for a
resume is the server optimizer's own state and nothing else.
"""

from collections.abc import Mapping

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
)
from flwr.serverapp.strategy.fedopt import FedOpt

from common.arrays import Arrays
from common.protocol import STRATEGY_SETTINGS, StudyProtocol
from common.records import array_record, plain_arrays

STRATEGIES: dict[str, type[FedAvg]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
    "krum": Krum,
}

# Flower's names for the protocol's settings, where they differ.
FLOWER_NAMES = {
    ("fedadam", "server_learning_rate"): "eta",
    ("fedyogi", "server_learning_rate"): "eta",
    ("fedtrimmedavg", "trimmed_fraction"): "beta",
    ("krum", "malicious_hospitals"): "num_malicious_nodes",
}

WEIGHT = "num-examples"  # the metric by which Flower weighs a reply


def public_weights(protocol: StudyProtocol) -> dict[str, float]:
    """The aggregation weight of each hospital, from the roster alone; Flower normalises them.

    "inverse-variance" is optimal for independent unbiased updates. The noise in hospital i's update
    has standard deviation sigma C / (q n_i), so its weight is n_i squared; without noise what varies
    is the sample, and the weight is n_i. "cohort" is n_i, "uniform" is 1.
    """
    power = {"inverse-variance": 2, "cohort": 1, "uniform": 0}[protocol.aggregation.weights]
    if protocol.privacy.mechanism == "none":
        power = min(power, 1)
    return {h.name: float(h.nominal_patients**power) for h in protocol.hospitals}


class Aggregator:
    """One Flower strategy over a study: updates in, the global update out, state that can be saved."""

    def __init__(self, protocol: StudyProtocol) -> None:
        name, settings = protocol.aggregation.strategy, protocol.aggregation
        arguments = {
            FLOWER_NAMES.get((name, setting), setting): getattr(settings, setting)
            for setting in STRATEGY_SETTINGS[name]
            if getattr(settings, setting) is not None
        }
        self._strategy = STRATEGIES[name](**arguments)
        self._weights = public_weights(protocol)

    def aggregate(self, server_round: int, updates: Mapping[str, Arrays]) -> Arrays:
        """The global update from the admitted `updates` by hospital (at least one).

        Hospitals are taken in the order of their names: floating-point sums depend on the order,
        and the order of arrival differs from run to run.
        """
        hospitals = sorted(updates)
        zero = {name: np.zeros_like(array) for name, array in updates[hospitals[0]].items()}
        if isinstance(self._strategy, FedAvgM):
            self._strategy.current_arrays = array_record(zero)
        elif isinstance(self._strategy, FedOpt):
            self._strategy.current_arrays = zero
        replies = [self._reply(hospital, updates[hospital]) for hospital in hospitals]
        aggregated, _ = self._strategy.aggregate_train(server_round, replies)
        if aggregated is None:
            raise ValueError("Flower's strategy aggregated nothing from admitted updates")
        combined = plain_arrays(aggregated)
        return {name: combined[name].astype(np.float32) for name in zero}

    def _reply(self, hospital: str, update: Arrays) -> Message:
        weight = MetricRecord({WEIGHT: self._weights[hospital]})
        content = RecordDict({"arrays": array_record(update), "metrics": weight})
        return Message(content, dst_node_id=0, message_type="train")

    def state(self) -> Arrays:
        """The server optimizer's memory, as named arrays; empty for strategies without one."""
        strategy = self._strategy
        if isinstance(strategy, FedAvgM):
            return {f"momentum.{i:05d}": a for i, a in enumerate(strategy.momentum_vector or [])}
        if isinstance(strategy, FedOpt):
            moments = {"m": strategy.m_t or {}, "v": strategy.v_t or {}}
            return {f"{m}.{name}": a for m, kept in moments.items() for name, a in kept.items()}
        return {}

    def restore(self, state: Arrays) -> None:
        """Continue from what `state` returned in an earlier process."""
        strategy = self._strategy
        if isinstance(strategy, FedAvgM):
            strategy.momentum_vector = [state[key] for key in sorted(state)] or None
        elif isinstance(strategy, FedOpt):
            for moment, attribute in (("m.", "m_t"), ("v.", "v_t")):
                kept = {k.removeprefix(moment): a for k, a in state.items() if k.startswith(moment)}
                setattr(strategy, attribute, kept or None)
