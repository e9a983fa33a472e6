"""Epsilon as the noise that a hospital states makes it: what a coordinator can know of a budget.

A hospital's own ledger is the truth (crashed rounds, other studies, a second accountant); this is what
the admitted replies of one study add up to.
"""

from collections import Counter
from collections.abc import Sequence

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
    from dp_accounting.pld import privacy_loss_distribution as pld  # takes seconds to load

    training, whole = protocol.training, None
    for noise, rounds in sorted(stated.items()):
        step = pld.from_gaussian_mechanism(noise, sampling_prob=training.sampling_rate)
        part = step.self_compose(rounds * training.steps_per_round)
        whole = part if whole is None else whole.compose(part)
    assert whole is not None  # noqa: S101  (`stated` is not empty)
    return float(whole.get_epsilon_for_delta(protocol.privacy.delta))
