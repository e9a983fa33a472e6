"""What noisy releases cost together, by two accountants that were written apart from each other.

PRV (Gopi, Lee, Wutschitz 2021; Opacus) and PLD (Koskela, Jaelkoe, Honkela 2020, with the connected
dots of Doroshenko et al. 2022; Google's dp-accounting) each bound the true epsilon from above. The
larger is shown and decided by. Where they differ by more than 1 % one of them is wrong, and nothing
is trained. GDP is not offered: it is below the true value (PRIVACY.md section 3).
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.special import log_ndtr, ndtr

from client.ledger import Spend
from common.errors import AccountingError

MOST_DISAGREEMENT = 0.01  # of the larger epsilon

# PRV's error as a share of epsilon. Opacus' default of 0.01 whatever epsilon is put it 6 % above PLD
# at epsilon 0.17; so it stays 0.2 % above, in 0.2 to 1.5 s. Finer than 1e-4 it takes minutes.
_PRV_ERROR = 0.002
_LEAST_PRV_ERROR = 1e-4

# PLD's grid as a share of epsilon / sqrt(steps): what it adds grows with the steps and the square of
# the grid, and is then about 1e-4 of epsilon.
_PLD_GRID = 1e-2
_PLD_GRIDS = (1e-6, 1e-3)  # the finest and the coarsest
_PLD_CELLS = 1e6  # of one step at most, or a little noise takes minutes

# What an accountant raises where it cannot compute; the message is the accountant's own.
_CANNOT = (ValueError, RuntimeError, OverflowError, MemoryError, FloatingPointError)

History = tuple[tuple[float, float, int], ...]  # (sigma, q, steps): equal mechanisms are one entry


@dataclass(frozen=True)
class Bound:
    """An upper bound of epsilon and the accountant that computed it: "PRV", "PLD" or "RDP"."""

    accountant: str
    value: float


@dataclass(frozen=True)
class Epsilon:
    """Epsilon at `delta`, add/remove-one patient: the larger of two accountants' upper bounds.

    `accountant` is the one that said so and `second` the other; both are "none" where nothing had
    to be computed, since nothing was spent (0) or something was released without noise (infinite).
    """

    value: float
    delta: float
    accountant: str
    second: Bound


def epsilon_of(spends: Iterable[Spend], delta: float) -> Epsilon:
    """What all `spends` together cost at `delta`: composed, never summed and never started anew.

    AccountingError when the two accountants disagree or cannot compute it.
    """
    return _epsilon(history_of(spends), delta)


def history_of(spends: Iterable[Spend]) -> History:
    """`spends` with equal mechanisms counted together, in an order of their own.

    PRV slows with every different entry (3.5 s for 50). The rate stays the number that it was:
    1 / (1 / q) is another one, and would be another entry.
    """
    steps: Counter[tuple[float, float]] = Counter()
    for spend in spends:
        steps[spend.noise_multiplier, spend.sampling_rate] += spend.steps
    return tuple((sigma, q, n) for (sigma, q), n in sorted(steps.items()))


@lru_cache(maxsize=4096)
def _epsilon(history: History, delta: float) -> Epsilon:
    if not history:
        return Epsilon(0.0, delta, "none", Bound("none", 0.0))
    if any(sigma == 0.0 for sigma, _, _ in history):
        return Epsilon(math.inf, delta, "none", Bound("none", math.inf))
    pld = _computed(lambda: pld_epsilon(history, delta))
    if pld is None:
        raise AccountingError(
            f"dp-accounting's PLD accountant could not compute the epsilon of {history}; nothing "
            f"is trained without a second accountant"
        )
    bounds = [Bound("PLD", pld)]
    if (prv := _computed(lambda: _prv_epsilon(history, delta, pld))) is not None:
        bounds.append(Bound("PRV", prv))
        # PRV is right to a stated absolute error, which at a tiny epsilon is more than 1 % of it.
        if abs(prv - pld) > MOST_DISAGREEMENT * max(prv, pld) + 2 * _LEAST_PRV_ERROR:
            raise AccountingError(
                f"two accountants must agree within {MOST_DISAGREEMENT:.0%} and say PRV {prv:.4f}, "
                f"PLD {pld:.4f} for {history} at delta {delta:g}; nothing is trained until it is "
                f"known which one is wrong"
            )
    else:
        # The Renyi bound holds wherever it is computed and is 5 to 15 % above: there is no agreement
        # that one could ask for, but the larger of the two is still never below the truth.
        bounds.append(Bound("RDP", _renyi_epsilon(history, delta)))
    smaller, larger = sorted(bounds, key=lambda bound: bound.value)
    return Epsilon(larger.value, delta, larger.accountant, smaller)


def _computed(accountant: Callable[[], float]) -> float | None:
    """What `accountant` says; None where it fails or says what is no epsilon."""
    try:
        epsilon = accountant()
    except _CANNOT:
        return None
    return epsilon if math.isfinite(epsilon) and epsilon >= 0 else None


def _prv_epsilon(history: History, delta: float, about: float) -> float:
    """Epsilon by privacy loss random variables, which is `about` so large."""
    accountant = PRVAccountant()
    accountant.history = list(history)
    error = max(_LEAST_PRV_ERROR, _PRV_ERROR * about)
    # At q = 1 Opacus takes log(0) in a branch that it then discards; beyond a loss of 709 it takes the
    # logarithm of an infinite exponential, of which the distribution function is rightly 1; its search
    # for the domain asks the Renyi accountant, which hints at orders with a *smaller* epsilon.
    with np.errstate(divide="ignore", over="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        return float(accountant.get_epsilon(delta=delta, eps_error=error))


def pld_epsilon(history: History, delta: float, coarser: float = 1.0) -> float:
    """Epsilon by privacy loss distributions, on a grid `coarser` than what is shown, from above."""
    from dp_accounting.pld import privacy_loss_distribution  # where no privacy is asked for: not

    steps = sum(n for _, _, n in history)
    interval = _PLD_GRID * rough_epsilon(history, delta) / math.sqrt(steps)
    finest, coarsest = _PLD_GRIDS
    reach = max(
        (1 / (2 * s * s) + 12 / s for s, _, _ in history), default=0.0
    )  # of a step's losses
    finest = max(finest, reach / _PLD_CELLS)
    interval = coarser * max(finest, min(coarsest, interval))
    whole = None
    for sigma, q, n in history:
        loss = privacy_loss_distribution.from_gaussian_mechanism(
            sigma, sampling_prob=q, value_discretization_interval=interval
        ).self_compose(n)
        whole = loss if whole is None else whole.compose(loss)
    return float(whole.get_epsilon_for_delta(delta)) if whole else 0.0


def _renyi_epsilon(history: History, delta: float) -> float:
    accountant = RDPAccountant()
    accountant.history = list(history)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        return float(accountant.get_epsilon(delta))


def rough_epsilon(history: History, delta: float) -> float:
    """Epsilon by the central limit theorem (Bu, Dong, Long, Su 2019), or twice that, in no time.

    It may be below the truth, so it is never shown: it says how fine a grid has to be, and where to
    look for sigma.
    """
    # The limit's exponential explodes where noise is small; no sampling amplifies above that of q = 1.
    squares = (n * min(s**-2, q * q * math.expm1(min(600.0, s**-2))) for s, q, n in history)
    mu = math.sqrt(sum(squares))
    low, high = 0.0, mu * mu / 2 + 40 * mu
    for _ in range(50):
        middle = (low + high) / 2
        above = math.exp(min(0.0, middle + float(log_ndtr(-mu / 2 - middle / mu))))
        exceeds = float(ndtr(mu / 2 - middle / mu)) - above > delta
        low, high = (middle, high) if exceeds else (low, middle)
    return high
