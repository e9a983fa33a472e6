"""From noise to epsilon and back, over all rounds of a study, with Opacus' accountants.

PRV (Gopi, Lee, Wutschitz 2021) is the accountant; where it raises, the Renyi accountant stands in,
which never reports less. GDP is not offered: it is below the tight value (PRIVACY.md section 3).
"""

import math
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis import rdp
from scipy.stats import norm

from client.ledger import Account, Ledger, Spend
from common.errors import BudgetError
from common.protocol import StudyProtocol

_ORDERS = RDPAccountant.DEFAULT_ALPHAS

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
    return _renyi_epsilon(history, delta) <= cap or _epsilon(history, delta).value <= cap


@lru_cache(maxsize=4096)
def _epsilon(history: History, delta: float) -> Epsilon:
    if not history:
        return Epsilon(0.0, delta, "none")
    if any(sigma == 0.0 for sigma, _, _ in history):
        return Epsilon(math.inf, delta, "none")
    try:
        return Epsilon(_prv_epsilon(history, delta), delta, "PRV")
    except (ValueError, RuntimeError, OverflowError, MemoryError):
        return Epsilon(_renyi_epsilon(history, delta), delta, "RDP")


def _prv_epsilon(history: History, delta: float) -> float:
    accountant = PRVAccountant()
    accountant.history = list(history)
    # At q = 1 Opacus takes log(0) in a branch that it then discards.
    with np.errstate(divide="ignore"), _without_order_hint():
        epsilon = float(accountant.get_epsilon(delta=delta))
    if not math.isfinite(epsilon) or epsilon < 0:
        raise ValueError(f"the PRV accountant returned epsilon {epsilon}")
    return epsilon


def _renyi_epsilon(history: History, delta: float) -> float:
    total = sum(steps * _renyi_of_one_step(sigma, q) for sigma, q, steps in history)
    with _without_order_hint():
        epsilon, _ = rdp.get_privacy_spent(orders=_ORDERS, rdp=total, delta=delta)
    return float(epsilon)


@lru_cache(maxsize=256)
def _renyi_of_one_step(sigma: float, q: float) -> NDArray[np.float64]:
    """Renyi divergence at each order; it adds up over steps, and takes 0.2 s to compute."""
    one: NDArray[np.float64] = rdp.compute_rdp(q=q, noise_multiplier=sigma, steps=1, orders=_ORDERS)
    return one


@contextmanager
def _without_order_hint() -> Iterator[None]:
    """Opacus warns that a wider range of Renyi orders might give a *smaller* epsilon: harmless."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        yield


_one_calibration = threading.Lock()  # hospitals of a rehearsal ask for the same one at once


def calibrate(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The least noise multiplier whose cost over `steps` steps is within 0.1 % below `epsilon`.

    The accountant decides; a closed formula that is known to be a little too small only says where
    to look, so that two or three calls of the accountant do what a bisection does in fifteen.
    Start-up time is what a newcomer waits for.
    """
    with _one_calibration:
        return _calibrate(epsilon, delta, sampling_rate, steps)


@lru_cache(maxsize=256)
def _calibrate(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    def cost(sigma: float) -> float:
        return epsilon_of([Spend(sigma, sampling_rate, steps)], delta).value

    low, high = 0.0, math.inf  # too little noise; enough noise
    aim = epsilon
    for attempt in range(60):
        sigma = _first_guess(aim, delta, sampling_rate, steps)
        # At a small rate over few steps the corrections swing from side to side and hardly shrink.
        if attempt > 5 or not low < sigma < high:  # fall back to halving the bracket
            sigma = 2 * low if math.isinf(high) else (low + high) / 2
        at_sigma = cost(sigma)
        if at_sigma > epsilon:
            low = sigma
        else:
            high = sigma
            if at_sigma >= 0.999 * epsilon or high - low < 1e-6 * high:
                return high
        aim = min(500.0, max(1e-4, aim * 0.9995 * epsilon / max(at_sigma, 1e-6)))
    raise ValueError(f"no noise multiplier found for epsilon {epsilon} at delta {delta}")


def _first_guess(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Sigma by the central-limit formula (Bu, Dong, Long, Su 2019), which claims too little noise."""

    def too_small(log_sigma: float) -> bool:
        sigma = math.exp(log_sigma)
        mu = sampling_rate * math.sqrt(steps * math.expm1(min(600.0, sigma**-2)))
        exceeds = norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * norm.cdf(
            -epsilon / mu - mu / 2
        )
        return bool(exceeds > delta)

    low, high = math.log(0.05), math.log(1e6)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if too_small(middle) else (low, middle)
    return math.exp(high)


def spends_of(protocol: StudyProtocol, *, training: bool) -> dict[Account, Spend]:
    """What one request costs, with the noise that the whole study's (epsilon, delta) allows.

    Every request evaluates, rounds + 1 times in a study: a Gaussian release of sensitivity 1 on
    the validation patients. A train request also takes the round's steps on the training patients.
    Without differential privacy the noise is 0 and the cost infinite.
    """
    privacy, q = protocol.privacy, protocol.training.sampling_rate
    for_training = for_validation = 0.0
    if privacy.mechanism == "dp-sgd":
        for_training = calibrate(privacy.epsilon, privacy.delta, q, protocol.total_steps)
        for_validation = calibrate(
            privacy.validation_epsilon, privacy.delta, 1.0, protocol.rounds + 1
        )
    spends: dict[Account, Spend] = {"validation": Spend(for_validation, 1.0, 1)}
    if training:
        spends["training"] = Spend(for_training, q, protocol.training.steps_per_round)
    return spends


def check_affordable(
    ledger: Ledger, spends: Mapping[Account, Spend], protocol: StudyProtocol, cap: float
) -> None:
    """BudgetError when `spends` would bring an account of `ledger` above the lifetime `cap`.

    A study without differential privacy has passed the policy, which allows it in a rehearsal only;
    there is no budget that it could keep.
    """
    if protocol.privacy.mechanism == "none":
        return
    delta = protocol.privacy.delta
    for account, spend in spends.items():
        if not within([*ledger.spends(account), spend], delta, cap):
            raise BudgetError(
                f"this request would bring the {account} patients above the hospital's lifetime "
                f"cap of epsilon {cap:g} at delta {delta:g}"
            )
