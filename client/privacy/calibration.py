"""How much noise a guarantee needs: the inverse of the accountants, before round 1."""

import math
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from scipy.optimize import brentq

from client.ledger import Spend
from client.privacy.accounting import (
    History,
    epsilon_of,
    history_of,
    pld_epsilon,
    rough_epsilon,
)
from common.errors import AccountingError

LEAST_NOISE = 0.05  # nobody needs less: one step at q = 1 costs epsilon 280 with it
MOST_NOISE = 1e6

_CLOSE = 0.997  # of the epsilon asked for: where the search ends
_COARSER = 3.0  # PLD's grid while searching, which adds about 1e-3 of epsilon

_one_at_a_time = threading.Lock()  # hospitals of a rehearsal ask for the same one at once


def calibrate(
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    earlier: Sequence[Spend] = (),
) -> float:
    """The noise multiplier with which `steps` steps after `earlier` spends cost `epsilon` in all.

    The larger of both accountants is then at most `epsilon`, and at least 99.7 % of it unless
    `LEAST_NOISE` is more than enough. AccountingError when `MOST_NOISE` is not enough, which is so
    where `earlier` spends alone have used `epsilon` up.
    """
    with _one_at_a_time:
        return _calibrate(epsilon, delta, sampling_rate, steps, history_of(earlier))


@lru_cache(maxsize=256)
def _calibrate(epsilon: float, delta: float, q: float, steps: int, earlier: History) -> float:
    """PLD on a coarse grid searches; both accountants judge what it finds, once or twice."""

    def history(sigma: float) -> History:
        return history_of([*(Spend(*entry) for entry in earlier), Spend(sigma, q, steps)])

    def excess(log_sigma: float, aim: float) -> float:
        return pld_epsilon(history(math.exp(log_sigma)), delta, _COARSER) - aim

    def rough(log_sigma: float, aim: float) -> float:
        return rough_epsilon(history(math.exp(log_sigma)), delta) - aim

    aim = 0.996 * epsilon  # PRV is above PLD by its stated error of 0.2 %
    for _ in range(6):
        low, high = _bracket(partial(excess, aim=aim), _first_guess(partial(rough, aim=aim)))
        if low == high and excess(high, aim) > 0:  # the most noise is not enough
            break
        log_sigma = high if low == high else brentq(excess, low, high, args=(aim,), xtol=2e-4)
        sigma = math.exp(log_sigma)
        cost = epsilon_of([Spend(*entry) for entry in history(sigma)], delta).value
        if cost <= epsilon and (cost >= _CLOSE * epsilon or low == high):
            return sigma
        aim *= 0.9985 * epsilon / cost
    raise AccountingError(
        f"no noise multiplier up to {MOST_NOISE:g} was found that costs epsilon {epsilon:g} at "
        f"delta {delta:g} over {steps} steps at rate {q:g}"
    )


def _first_guess(excess: Callable[[float], float]) -> float:
    """The log sigma at which `excess` ends, by halving: it need not be there, or be continuous."""
    low, high = math.log(LEAST_NOISE), math.log(MOST_NOISE)
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def _bracket(excess: Callable[[float], float], guess: float) -> tuple[float, float]:
    """Log sigmas around `guess` between which `excess` ends; both at the end of the range it is in."""
    least, most = math.log(LEAST_NOISE), math.log(MOST_NOISE)
    if excess(guess) > 0:
        low, high = guess, min(most, guess + 0.1)
        while excess(high) > 0:
            if high == most:
                return most, most
            low, high = high, min(most, high + 2 * (high - low))
    else:
        low, high = max(least, guess - 0.1), guess
        while excess(low) <= 0:
            if low == least:
                return least, least
            low, high = max(least, low - 2 * (high - low)), low
    return low, high
