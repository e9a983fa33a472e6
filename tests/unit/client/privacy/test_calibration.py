"""The noise fits the budget: both accountants say so, and no accountant says that less would do."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from client.ledger import Spend
from client.privacy import calibration
from client.privacy.accounting import epsilon_of
from client.privacy.calibration import LEAST_NOISE, calibrate
from common.errors import AccountingError
from tests.golden import exact_epsilon

pytestmark = pytest.mark.slow

DELTA = 1e-5

# From small to large in every direction; what takes the accountants long (a tiny epsilon over
# thousands of steps: half a minute) is left out.
GRID = [
    *itertools.product((0.05, 0.5, 3.0, 8.0, 20.0, 100.0), (1.0,), (1, 11)),
    *itertools.product((0.5, 8.0, 100.0), (1.0, 0.1), (3000,)),
    *itertools.product((0.05, 1.0, 8.0, 20.0), (0.5,), (40,)),
    *itertools.product((0.1, 3.0), (0.01,), (1, 40, 500)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "q", "steps"), GRID)
def test_calibrated_noise_spends_the_budget_and_no_more(
    epsilon: float, q: float, steps: int
) -> None:
    cost = epsilon_of([Spend(calibrate(epsilon, DELTA, q, steps), q, steps)], DELTA)
    assert 0.997 * epsilon <= cost.value <= epsilon
    assert cost.second.value <= cost.value


@pytest.mark.parametrize(("epsilon", "steps"), [(0.05, 1), (1.0, 1), (8.0, 11), (100.0, 40)])
def test_calibrated_noise_is_enough_by_the_closed_form(epsilon: float, steps: int) -> None:
    sigma = calibrate(epsilon, DELTA, 1.0, steps)
    assert 0.994 * epsilon <= exact_epsilon.gaussian(sigma, steps, DELTA) <= epsilon


def test_less_noise_than_calibrated_breaks_the_budget() -> None:
    sigma = calibrate(3.0, DELTA, 0.5, 40)
    assert epsilon_of([Spend(sigma * 0.995, 0.5, 40)], DELTA).value > 3.0


@pytest.mark.parametrize("epsilon", [1.5, 8.0])
def test_earlier_spends_are_part_of_the_budget(epsilon: float) -> None:
    earlier = [Spend(9.0, 0.5, 20), Spend(30.0, 1.0, 5)]
    sigma = calibrate(epsilon, DELTA, 0.5, 40, earlier)
    assert sigma > calibrate(epsilon, DELTA, 0.5, 40)
    whole = epsilon_of([*earlier, Spend(sigma, 0.5, 40)], DELTA).value
    assert 0.997 * epsilon <= whole <= epsilon


def test_where_nothing_is_left_there_is_no_noise_that_helps() -> None:
    with pytest.raises(AccountingError, match="no noise multiplier"):
        calibrate(1.0, DELTA, 0.5, 40, [Spend(3.0, 0.5, 40)])


@pytest.mark.slow
def test_noise_is_never_less_than_the_least() -> None:
    # One patient in a million: drawn at all with less than delta, whatever the noise.
    assert calibrate(8.0, DELTA, 1e-6, 1) == pytest.approx(LEAST_NOISE)
    assert math.isfinite(epsilon_of([Spend(LEAST_NOISE, 1.0, 1)], DELTA).value)


def test_hospitals_that_calibrate_at_once_get_one_value() -> None:
    calibration._calibrate.cache_clear()
    with ThreadPoolExecutor(2) as pool:
        values = list(pool.map(lambda _: calibrate(5.0, DELTA, 1.0, 7), range(6)))
    assert len(set(values)) == 1
    assert calibration._calibrate.cache_info().misses == 1  # computed once, not twice
