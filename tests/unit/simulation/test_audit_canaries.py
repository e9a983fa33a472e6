"""The audit's statistics against closed forms, brute force, another library and simulation."""

import math

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian

from simulation.audit.canaries import (
    MARGIN,
    epsilon_lower_bound,
    gaussian_fit,
    judged,
    mu_epsilon,
    p_value,
)

SEED = 20261125
LEVEL = 0.05


def brute_force(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """Theorem 5.2 of Steinke, Nasr and Jagielski 2023, term by term."""
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    tail = [math.fsum(mass[k:]) for k in range(r + 2)]
    alpha = max((tail[max(0, v - i)] - tail[v]) / i for i in range(1, m + 1))
    return min(1.0, tail[v] + 2 * m * delta * alpha)


@pytest.mark.parametrize(("m", "r", "v"), [(10, 10, 10), (40, 20, 14), (40, 20, 0), (30, 30, 21)])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (1.0, 0.0), (0.5, 1e-3), (3.0, 1e-5)])
def test_p_value_is_the_papers(m: int, r: int, v: int, epsilon: float, delta: float) -> None:
    assert p_value(m, r, v, epsilon, delta) == pytest.approx(
        brute_force(m, r, v, epsilon, delta), rel=1e-9
    )


@pytest.mark.parametrize("guesses", [10, 100, 5_000])
def test_all_guesses_right_without_delta_is_a_closed_form(guesses: int) -> None:
    accuracy = LEVEL ** (1 / guesses)
    expected = math.log(accuracy / (1 - accuracy))
    found = epsilon_lower_bound(guesses, guesses, guesses, 0.0, LEVEL)
    assert found == pytest.approx(expected, abs=1e-4)


def test_delta_and_wrong_guesses_lower_the_bound() -> None:
    bounds = [
        epsilon_lower_bound(1_000, 200, right, delta, LEVEL)
        for right, delta in ((200, 0.0), (200, 1e-5), (180, 1e-5), (140, 1e-5), (100, 1e-5))
    ]
    assert bounds == sorted(bounds, reverse=True)
    assert len(set(bounds)) == 5
    assert bounds[-1] == 0.0


def test_the_bound_is_above_the_truth_no_more_often_than_it_says() -> None:
    """Randomised response is what the bound is tight for: each guess right with e^eps / (1 + e^eps)."""
    print(f"seed {SEED}")
    random, truth, runs = np.random.default_rng(SEED), 1.0, 2_000
    right = random.binomial(100, 1 / (1 + math.exp(-truth)), runs)
    known = {v: epsilon_lower_bound(100, 100, v, 0.0, LEVEL) for v in set(right.tolist())}
    above = np.mean([known[v] > truth for v in right.tolist()])
    assert 0.01 < above < LEVEL + 4 * math.sqrt(LEVEL / runs)


@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
def test_epsilon_of_mu_is_that_of_the_gaussian_mechanism(sigma: float, delta: float) -> None:
    assert mu_epsilon(1 / sigma, delta) == pytest.approx(
        get_epsilon_gaussian(sigma, delta), rel=1e-6
    )


def test_epsilon_of_mu_at_its_ends() -> None:
    assert [mu_epsilon(mu, 1e-5) for mu in (-1.0, 0.0, 1e-7)] == [0.0, 0.0, 0.0]
    assert mu_epsilon(math.inf, 1e-5) == math.inf
    assert math.isfinite(mu_epsilon(1e3, 1e-5))


def test_gaussian_fit_finds_mu_within_its_margin() -> None:
    print(f"seed {SEED}")
    random = np.random.default_rng(SEED)
    deviations = []
    for _ in range(300):
        mu, error = gaussian_fit(5 + 3 * random.normal(size=500), 2 * random.normal(size=500))
        deviations.append((mu - 2.5) / error)
    assert abs(np.mean(deviations)) < 0.2
    assert 0.9 < np.std(deviations) < 1.1  # the stated error is the real one
    assert np.mean(np.abs(deviations) > MARGIN) < 0.02


def test_no_noise_is_infinite_and_no_trace_is_nothing() -> None:
    assert gaussian_fit(np.full(50, 3.0), np.zeros(50)) == (math.inf, 0.0)
    assert gaussian_fit(np.zeros(50), np.zeros(50)) == (0.0, 0.0)


def test_scores_without_information_prove_nothing_and_scores_that_tell_all_prove_the_most() -> None:
    print(f"seed {SEED}")
    random = np.random.default_rng(SEED)
    included = random.random(1_000) < 0.5
    blind = judged(random.normal(size=1_000), included, 1e-5)
    assert blind.lower_bound == 0.0
    assert blind.estimate < 1.5
    open_ = judged(included + 1e-3 * random.normal(size=1_000), included, 1e-5)
    assert open_.lower_bound > 4
    assert open_.lower_bound <= open_.reach
    assert open_.right == open_.guesses
    assert open_.estimate_low > 1e3


def test_scores_that_are_not_finite_are_no_excuse() -> None:
    """A mechanism that lets NaN through must not turn the audit's figures into NaN."""
    included = np.arange(1_000) % 2 == 0
    scores = np.where(included, np.inf, np.nan)
    found = judged(scores, included, 1e-5)
    assert found.lower_bound > 4
    assert found.estimate_low == math.inf
