"""Likeness by hand and by brute force, and the bound on naming a patient by simulation."""

import math

import numpy as np
import pytest

from simulation.audit.inversion import most_named, ssim

SEED = 20261125


def by_hand(first: np.ndarray, second: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, window by window."""
    place = np.arange(-5, 6)
    window = np.exp(-(place[:, None] ** 2 + place[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for row in range(first.shape[0] - 10):
        for column in range(first.shape[1] - 10):
            x = first[row : row + 11, column : column + 11]
            y = second[row : row + 11, column : column + 11]
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            covariance = (window * (x - mx) * (y - my)).sum()
            found.append(
                (2 * mx * my + 1e-4)
                * (2 * covariance + 9e-4)
                / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
            )
    return float(np.mean(found))


def test_ssim_window_by_window() -> None:
    print(f"seed {SEED}")
    first, second = np.random.default_rng(SEED).random((2, 16, 19))
    assert ssim(first, second) == pytest.approx(by_hand(first, second), rel=1e-9)
    near = np.clip(first + 0.05 * second, 0, 1)
    assert ssim(first, near) == pytest.approx(by_hand(first, near), rel=1e-9)


def test_ssim_of_flat_images_is_their_luminance_term() -> None:
    grey, light = np.full((20, 20), 0.5), np.full((20, 20), 0.75)
    assert ssim(grey, light) == pytest.approx((0.75 + 1e-4) / (0.8125 + 1e-4))


def test_ssim_at_its_ends() -> None:
    stripes = np.tile([[0.0, 1.0]], (20, 10))
    assert ssim(stripes, stripes) == pytest.approx(1.0)
    assert ssim(stripes, 1 - stripes) == pytest.approx(-1.0, abs=0.01)
    assert ssim(stripes, np.full((20, 20), 0.5)) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_no_simulated_attack_names_more_than_the_bound(sigma: float) -> None:
    """The best guess among 20 orthogonal gradients of length C; the bound is near, and never below."""
    print(f"seed {SEED}")
    trials = 20_000
    scores = np.random.default_rng(SEED).normal(size=(trials, 20)) * sigma
    scores[:, 0] += 1
    named = float((scores.argmax(1) == 0).mean())
    error = math.sqrt(named * (1 - named) / trials)
    assert named - 3 * error < most_named(20, sigma) < named + 0.12


def test_the_bound_is_chance_behind_endless_noise() -> None:
    assert most_named(20, 1e9) == pytest.approx(0.05)
    assert most_named(20, 1e-3) == pytest.approx(1.0)
