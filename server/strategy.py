"""Flower's strategies by the protocol's name, fed with admitted updates and public weights.

The strategies see *updates* (their "current arrays" are zero): every one of them is equivariant
under that shift, distances between updates keep their precision, and what has to be saved for a
resume is the server optimizer's own state and nothing else.
"""

from collections.abc import Mapping
from statistics import median_high

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


def public_weights(protocol: StudyProtocol, noise: Mapping[str, float]) -> dict[str, float]:
    """The aggregation weight of each hospital in `noise` (its noise multiplier); Flower normalises.

    All of it is public: the roster, and a noise multiplier that each reply states. "inverse-variance"
    is optimal for independent unbiased updates: the noise in hospital i's update has standard
    deviation sigma_i C / (q n_i), so its weight is (n_i / sigma_i) squared; without noise what varies
    is the sample, and the weight is n_i. "cohort" is n_i, "uniform" is 1. Nobody gains weight by
    stating less noise than the median hospital; the upper of two, so that one honest one suffices.
    Under the protocol's `max_share` nobody has more than that share of the sum.
    """
    weights = _uncapped(protocol, noise)
    share = protocol.aggregation.max_share
    return weights if share is None else capped(weights, share)


def capped(weights: Mapping[str, float], share: float) -> dict[str, float]:
    """`weights` as shares of 1, none above `share` (0..1]; equal where there are too few for that.

    What is cut off goes to those below the cap in proportion to their weights, which may bring the
    next one to the cap: at most one pass for each hospital.
    """
    if len(weights) * share <= 1:
        return dict.fromkeys(weights, 1 / len(weights))
    full: set[str] = set()
    while True:
        below = sum(weight for name, weight in weights.items() if name not in full)
        rest = (1 - share * len(full)) / below
        shares = {n: share if n in full else weight * rest for n, weight in weights.items()}
        above = {name for name, found in shares.items() if found > share}
        if not above:
            return shares
        full |= above


def _uncapped(protocol: StudyProtocol, noise: Mapping[str, float]) -> dict[str, float]:
    nominal = {name: float(protocol.hospital(name).nominal_patients) for name in noise}
    if protocol.aggregation.weights == "uniform":
        return dict.fromkeys(noise, 1.0)
    if protocol.aggregation.weights == "cohort" or protocol.privacy.mechanism == "none":
        return nominal
    least = max(median_high(noise.values()), 1e-9)
    return {name: (nominal[name] * least / max(noise[name], least)) ** 2 for name in noise}


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
        self._protocol = protocol

    def aggregate(
        self, server_round: int, updates: Mapping[str, Arrays], noise: Mapping[str, float]
    ) -> Arrays:
        """The global update from the admitted `updates` and their noise multipliers, by hospital.

        Hospitals are taken in the order of their names: floating-point sums depend on the order,
        and the order of arrival differs from run to run.
        """
        hospitals = sorted(updates)
        weights = public_weights(self._protocol, {h: noise[h] for h in hospitals})
        zero = {name: np.zeros_like(array) for name, array in updates[hospitals[0]].items()}
        if isinstance(self._strategy, FedAvgM):
            self._strategy.current_arrays = array_record(zero)
        elif isinstance(self._strategy, FedOpt):
            self._strategy.current_arrays = zero
        weighed = [_reply(updates[hospital], weights[hospital]) for hospital in hospitals]
        aggregated, _ = self._strategy.aggregate_train(server_round, weighed)
        if aggregated is None:
            raise ValueError("Flower's strategy aggregated nothing from admitted updates")
        combined = plain_arrays(aggregated)
        return {name: combined[name].astype(np.float32) for name in zero}

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


def _reply(update: Arrays, weight: float) -> Message:
    content = RecordDict(
        {"arrays": array_record(update), "metrics": MetricRecord({WEIGHT: weight})}
    )
    return Message(content, dst_node_id=0, message_type="train")
