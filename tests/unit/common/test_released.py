"""Curve, threshold and calibration of a histogram: by hand without noise, by simulation with it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import isotonic_regression

from common.histogram import auroc_of_histogram, bin_edges
from common.released import bin_centres, isotonic, read

SEED = 20_240_521

# 600 negative and 300 positive patients.
CELLS = np.zeros((2, 16))
CELLS[0, [1, 6, 12]] = 400, 100, 100
CELLS[1, [1, 6, 12]] = 20, 80, 200


def test_everything_without_noise_by_hand() -> None:
    reading = read(CELLS, 0.0)
    assert reading is not None
    # Pairs: 20 x 200 + 80 x 450 + 200 x 550 = 150,000 of 180,000.
    assert reading.auroc.value == pytest.approx(150 / 180, abs=1e-12)
    false_positive, true_positive = reading.roc
    assert np.trapezoid(true_positive, false_positive) == pytest.approx(150 / 180, abs=1e-12)
    point = reading.operating_point
    assert point is not None
    assert point.threshold == bin_edges(16)[5]  # below the seventh bin: 280 of 300 are above
    assert point.sensitivity.value == pytest.approx(280 / 300, abs=1e-12)
    assert point.specificity.value == pytest.approx(400 / 600, abs=1e-12)
    # Wilson's interval for 400 of 600, from its closed formula.
    assert point.specificity.interval == pytest.approx((0.6280, 0.7032), abs=6e-4)
    quality = reading.calibration
    a, b, c = bin_centres(16)[[1, 6, 12]]
    brier = 20 * (1 - a) ** 2 + 400 * a**2 + 80 * (1 - b) ** 2 + 100 * b**2
    brier += 200 * (1 - c) ** 2 + 100 * c**2
    assert quality.brier == pytest.approx(brier / 900, abs=1e-12)
    assert quality.brier_error == 0
    error = 420 * abs(20 / 420 - a) + 180 * abs(80 / 180 - b) + 300 * abs(200 / 300 - c)
    assert quality.expected_error == pytest.approx(error / 900, abs=1e-12)
    assert [r.observed for r in quality.bins] == pytest.approx([20 / 420, 80 / 180, 2 / 3])
    assert all(r.low < r.centre < r.high for r in quality.bins)


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=15))
def test_isotonic_is_that_of_another_library(values: list[float]) -> None:
    np.testing.assert_allclose(
        isotonic(np.array(values)), isotonic_regression(np.array(values)), atol=1e-9
    )


@given(
    cells=st.lists(st.lists(st.floats(-9, 90), min_size=8, max_size=8), min_size=2, max_size=2),
    noise=st.floats(0, 10),
)
def test_any_reading_is_in_range_and_its_curve_rises(
    cells: list[list[float]], noise: float
) -> None:
    reading = read(cells, noise)
    assert (reading is None) == (auroc_of_histogram(cells, noise) is None)
    if reading is None:
        return
    for rate in reading.roc:
        assert (rate[0], rate[-1]) == (0, 1)
        assert np.all(np.diff(rate) >= 0)
    if reading.operating_point is not None:
        assert reading.operating_point.sensitivity.value >= 0.9
        for share in (reading.operating_point.sensitivity, reading.operating_point.specificity):
            assert 0 <= share.interval[0] <= share.value <= share.interval[1] <= 1


def test_a_single_bin_has_no_threshold() -> None:
    reading = read([[50.0], [50.0]], 0.0)
    assert reading is not None
    assert reading.operating_point is None


def population(rng: np.random.Generator, right: bool) -> np.ndarray:
    """Some 2,000 patients whose scores are right, or say twice the logit that they should."""
    centre = bin_centres(16)
    truth = centre if right else 1 / (1 + np.sqrt(1 / centre - 1))
    mass = rng.multinomial(2_000, np.full(16, 1 / 16))
    positives = rng.binomial(mass, truth)
    return np.array([mass - positives, positives], dtype=np.float64)


@pytest.mark.slow
def test_figures_under_noise_are_those_without_it() -> None:
    """Brier score unbiased with its stated error; a calibration error is not made of noise."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    for right in (True, False):
        exact = population(rng, right)
        truth = read(exact, 0.0)
        assert truth is not None
        brier, errors, covered = [], [], []
        for _ in range(400):
            found = read(exact + rng.normal(scale=8, size=exact.shape), 8.0)
            assert found is not None
            brier.append(found.calibration.brier - truth.calibration.brier)
            errors.append(found.calibration.expected_error)
            covered.append(
                [
                    abs(b.observed - c.observed) < 3 * b.error
                    for b, c in zip(found.calibration.bins, truth.calibration.bins, strict=True)
                ]
            )
        noised = read(exact, 8.0)
        assert noised is not None
        stated = noised.calibration.brier_error
        assert abs(np.mean(brier)) < 3 * stated / 20
        assert np.std(brier) == pytest.approx(stated, rel=0.15)
        assert np.mean(covered) > 0.98
        said = [e for e in errors if e is not None]
        if right:
            assert len(said) < 60
        else:
            assert len(said) == 400
            assert np.mean(said) == pytest.approx(truth.calibration.expected_error, rel=0.1)


@pytest.mark.slow
def test_the_interval_of_a_share_covers_under_noise() -> None:
    """Specificity at a threshold that cannot move; nominal 95 %, 600 repetitions."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    covered: list[bool] = []
    blind: list[bool] = []
    for _ in range(600):
        negatives = rng.multinomial(200, [0.6, 0.4])
        cells = np.array([[negatives[0], negatives[1]], [0.0, 600.0]])
        noised = cells + rng.normal(scale=8, size=cells.shape)
        for noise, values in ((8.0, covered), (0.0, blind)):
            reading = read(noised, noise)
            assert reading is not None
            assert reading.operating_point is not None
            low, high = reading.operating_point.specificity.interval
            values.append(low <= 0.6 <= high)
    print(np.mean(covered), np.mean(blind))
    assert 0.92 < np.mean(covered) < 0.98
    assert np.mean(blind) < 0.90
