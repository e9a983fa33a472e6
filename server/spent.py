"""Epsilon as the noise that a hospital states makes it: what a coordinator can know of a budget.

A hospital's own ledger is the truth (crashed rounds, other studies, a second accountant); this is what
the admitted replies of one study add up to.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, reduce

from common.protocol import StudyProtocol
from server.checkpoint import RoundRecord


def epsilon_stated(
    protocol: StudyProtocol, records: Sequence[RoundRecord], hospital: str
) -> float | None:
    """Epsilon at the protocol's delta of the training patients of `hospital` in the closed rounds.

    0 when it never answered, None without differential privacy. Google's PLD accountant
    (dp-accounting), the pessimistic estimate, add or remove one patient.
    """
    if protocol.privacy.mechanism == "none":
        return None
    stated = Counter(record.noise[hospital] for record in records if hospital in record.noise)
    if not stated:
        return 0.0
    if min(stated) <= 0:
        return float("inf")
    training, delta = protocol.training, protocol.privacy.delta
    steps = tuple((noise, n * training.steps_per_round) for noise, n in sorted(stated.items()))
    return epsilon_of_steps(steps, training.sampling_rate, delta)


@lru_cache(maxsize=256)  # hospitals that state the same, and a status that is looked at again
def epsilon_of_steps(
    steps: tuple[tuple[float, int], ...], sampling_rate: float, delta: float
) -> float:
    """Epsilon at `delta` of so many steps at each noise multiplier (multiplier, number), above 0."""
    from dp_accounting.pld import privacy_loss_distribution as pld  # takes seconds to load

    parts = [
        pld.from_gaussian_mechanism(noise, sampling_prob=sampling_rate).self_compose(number)
        for noise, number in steps
    ]
    return float(reduce(lambda one, other: one.compose(other), parts).get_epsilon_for_delta(delta))
