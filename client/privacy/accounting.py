"""From noise to epsilon and back, over all rounds of a study, with Opacus' accountants.

PRV (Gopi, Lee, Wutschitz 2021) is the accountant; where it raises, the Renyi accountant stands in,
which never reports less. GDP is not offered: it is below the tight value (PRIVACY.md section 3).
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from opacus.accountants import IAccountant, PRVAccountant, RDPAccountant

from client.ledger import Spend
from common.protocol import StudyProtocol

History = tuple[tuple[float, float, int], ...]  # (sigma, q, steps), as Opacus keeps it


@dataclass(frozen=True)
class Epsilon:
    """Epsilon at `delta`, add/remove-one patient, and the accountant that computed it."""

    value: float
    delta: float
    accountant: str


def epsilon_of(spends: Iterable[Spend], delta: float) -> Epsilon:
    """What all `spends` together cost at `delta`: composed, never summed and never started anew.

    Infinite when any of them added no noise; 0 for no spend at all.
    """
    return _epsilon(_history(spends), delta)


def _history(spends: Iterable[Spend]) -> History:
    steps: Counter[tuple[float, float]] = Counter()
    for spend in spends:
        steps[spend.noise_multiplier, spend.sampling_rate] += spend.steps
    # PRV slows with every different entry (3.5 s for 50), so equal mechanisms are one entry.
    return tuple((sigma, q, n) for (sigma, q), n in sorted(steps.items()))


def within(spends: Iterable[Spend], delta: float, cap: float) -> bool:
    """Whether all `spends` together cost at most `cap` at `delta`.

    The Renyi accountant's upper bound is asked first, since it takes a millisecond and is enough
    for most of a study; PRV decides where that bound is above the cap.
    """
    history = _history(spends)
    if not history:
        return True
    if any(sigma == 0.0 for sigma, _, _ in history):
        return math.isinf(cap)
    return _ask(RDPAccountant(), history, delta) <= cap or _epsilon(history, delta).value <= cap


@lru_cache(maxsize=4096)
def _epsilon(history: History, delta: float) -> Epsilon:
    if not history:
        return Epsilon(0.0, delta, "none")
    if any(sigma == 0.0 for sigma, _, _ in history):
        return Epsilon(math.inf, delta, "none")
    try:
        return Epsilon(_ask(PRVAccountant(), history, delta), delta, "PRV")
    except (ValueError, RuntimeError, OverflowError, MemoryError):
        return Epsilon(_ask(RDPAccountant(), history, delta), delta, "RDP")


def _ask(accountant: IAccountant, history: History, delta: float) -> float:
    accountant.history = list(history)
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        # At q = 1 the PRV code takes log(0) in a branch that it then discards; and Opacus warns that
        # a wider range of Renyi orders might give a *smaller* epsilon. Both are harmless here.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        epsilon = float(accountant.get_epsilon(delta=delta))
    if not math.isfinite(epsilon) or epsilon < 0:
        raise ValueError(f"the accountant returned epsilon {epsilon}")
    return epsilon


@lru_cache(maxsize=256)
def calibrate(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The least noise multiplier (to 0.1 %) whose cost over `steps` steps stays at most `epsilon`.

    Regula falsi on log sigma against log epsilon, which is nearly straight: five or so calls of the
    accountant where a bisection takes fifteen; start-up time is what a newcomer waits for.
    """

    def cost(sigma: float) -> float:
        return epsilon_of([Spend(sigma, sampling_rate, steps)], delta).value

    low = high = max(0.3, sampling_rate * math.sqrt(steps * math.log(1 / delta)) / epsilon)
    low_cost = high_cost = cost(low)
    while high_cost > epsilon:
        low, low_cost, high = high, high_cost, high * 1.5
        high_cost = cost(high)
    while low_cost <= epsilon:
        high, high_cost, low = low, low_cost, low / 1.5
        low_cost = cost(low)
    while high / low > 1.001:
        share = math.log(low_cost / epsilon) / math.log(low_cost / high_cost)
        # Aim a little to the safe side, and never closer to an end than a tenth: both ends then move.
        share = min(0.9, max(0.1, share + 0.02))
        sigma = low * (high / low) ** share
        at_sigma = cost(sigma)
        if at_sigma > epsilon:
            low, low_cost = sigma, at_sigma
        else:
            high, high_cost = sigma, at_sigma
            if at_sigma > 0.999 * epsilon:
                break
    return high


def training_spend(protocol: StudyProtocol) -> Spend:
    """One server round's spend on the training patients, noise calibrated for the whole study."""
    training, privacy = protocol.training, protocol.privacy
    sigma = 0.0
    if privacy.mechanism == "dp-sgd":
        q = training.sampling_rate
        sigma = calibrate(privacy.epsilon, privacy.delta, q, protocol.total_steps)
    return Spend(sigma, training.sampling_rate, training.steps_per_round)


def validation_spend(protocol: StudyProtocol) -> Spend:
    """One score histogram's spend on the validation patients; one a round and one for the last model."""
    privacy = protocol.privacy
    sigma = 0.0
    if privacy.mechanism == "dp-sgd":
        sigma = calibrate(privacy.validation_epsilon, privacy.delta, 1.0, protocol.rounds + 1)
    return Spend(sigma, 1.0, 1)
