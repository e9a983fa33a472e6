"""The best guess, against closed formulas and against somebody who really guesses."""

import math
import random

import numpy as np
import pytest
from scipy.stats import norm

from client.ledger import Spend
from client.privacy.guessing import right_guesses


@pytest.mark.parametrize(("sigma", "steps"), [(1.2044, 4), (20.0, 50), (0.5, 1), (3.0, 400)])
def test_without_sampling_it_is_the_closed_formula(sigma: float, steps: int) -> None:
    """Two normals at a distance of sqrt(T) / sigma: the best threshold lies in the middle."""
    expected = norm.cdf(math.sqrt(steps) / sigma / 2)
    assert right_guesses([Spend(sigma, 1.0, steps)]) == pytest.approx(expected, abs=1e-4)


def test_spends_compose() -> None:
    expected = norm.cdf(math.sqrt(4 / 1.5**2 + 9 / 2.5**2) / 2)
    found = right_guesses([Spend(1.5, 1.0, 4), Spend(2.5, 1.0, 9)])
    assert found == pytest.approx(expected, abs=1e-4)
    assert right_guesses([]) == 0.5
    assert right_guesses([Spend(0.0, 0.1, 1), Spend(5.0, 1.0, 1)]) == 1.0


def test_nobody_who_sees_one_sampled_step_guesses_better() -> None:
    """The likelihood-ratio test on draws of the mechanism itself: one step, sigma 1, q 0.5."""
    seed = random.SystemRandom().randrange(10**6)
    print("seed:", seed)
    generator, draws = np.random.default_rng(seed), 400_000
    out = generator.normal(size=draws)
    took_part = generator.normal(size=draws) + (generator.random(draws) < 0.5)
    ratio = [0.5 + 0.5 * np.exp(x - 0.5) for x in (out, took_part)]
    right = (np.mean(ratio[0] < 1) + np.mean(ratio[1] >= 1)) / 2
    # Four standard errors of a share of 2 x 400,000 guesses.
    assert right_guesses([Spend(1.0, 0.5, 1)]) == pytest.approx(right, abs=4 * 0.5 / 894)
