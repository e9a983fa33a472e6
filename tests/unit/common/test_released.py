"""Curve, threshold and calibration of a histogram: by hand without noise, by simulation with it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.isotonic import isotonic_regression

from common.histogram import PATIENT, Floats, auroc_of_histogram, bin_edges
from common.released import bin_centres, isotonic, read

SEED = 20_240_521

# 600 patients with negative and 300 with positive images.
CELLS = np.zeros((2, 16))
CELLS[0, [1, 6, 12]] = 400, 100, 100
CELLS[1, [1, 6, 12]] = 20, 80, 200
CELLS *= PATIENT


def test_everything_without_noise_by_hand() -> None:
    reading = read(CELLS, 0.0, 0.25)
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
    # A quarter of positives where the histogram has a third: 300 positives count as 200 of 800.
    few, some, many = 20 / 1.5, 80 / 1.5, 200 / 1.5
    brier = few * (1 - a) ** 2 + 400 * a**2 + some * (1 - b) ** 2 + 100 * b**2
    brier += many * (1 - c) ** 2 + 100 * c**2
    assert quality.prevalence == 0.25
    assert quality.brier == pytest.approx(brier / 800, abs=1e-12)
    assert quality.brier_error == 0
    error = abs(few - a * (400 + few)) + abs(some - b * (100 + some)) + abs(many - c * (100 + many))
    assert quality.expected_error == pytest.approx(error / 800, abs=1e-12)
    assert [r.observed for r in quality.bins] == pytest.approx(
        [few / (400 + few), some / (100 + some), many / (100 + many)], abs=1e-12
    )
    assert all(r.low < r.centre < r.high for r in quality.bins)


def test_at_the_images_own_prevalence_shares_are_the_counted_ones() -> None:
    """The standard error is that of 80 of 180 patients, but for one more of each class."""
    reading = read(CELLS, 0.0, 300 / 900)
    assert reading is not None
    bins = reading.calibration.bins
    assert [r.observed for r in bins] == pytest.approx([20 / 420, 80 / 180, 2 / 3], abs=1e-12)
    assert bins[1].error == pytest.approx(np.sqrt(80 / 180 * 100 / 180 / 180), rel=0.02)
    assert bins[0].error == pytest.approx(np.sqrt(20 / 420 * 400 / 420 / 420), rel=0.05)
    rarer = read(CELLS, 0.0, 0.01)
    assert rarer is not None
    assert rarer.auroc == reading.auroc
    assert rarer.operating_point == reading.operating_point
    assert all(r.observed < 0.05 for r in rarer.calibration.bins)


def test_the_error_of_the_brier_score_is_that_of_its_gradient() -> None:
    """By finite differences: what noise of one cell moves the score by, the mass's change with it."""

    def brier(cells: Floats) -> float:
        reading = read(cells, 0.0, 0.2)
        assert reading is not None
        return reading.calibration.brier

    steps = 1e-4 * np.eye(32).reshape(32, 2, 16)
    gradient = [(brier(CELLS + step) - brier(CELLS - step)) / 2e-4 for step in steps]
    reading = read(CELLS, 4.0, 0.2)
    assert reading is not None
    assert reading.calibration.brier_error == pytest.approx(4 * np.linalg.norm(gradient), rel=1e-6)


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=15))
def test_isotonic_is_that_of_another_library(values: list[float]) -> None:
    np.testing.assert_allclose(
        isotonic(np.array(values)), isotonic_regression(np.array(values)), atol=1e-9
    )


@given(
    cells=st.lists(st.lists(st.floats(-9, 90), min_size=8, max_size=8), min_size=2, max_size=2),
    noise=st.floats(0, 10),
    prevalence=st.floats(0.01, 0.99),
)
def test_any_reading_is_in_range_and_its_curve_rises(
    cells: list[list[float]], noise: float, prevalence: float
) -> None:
    reading = read(cells, noise, prevalence)
    assert (reading is None) == (auroc_of_histogram(cells, noise) is None)
    if reading is None:
        return
    for rate in reading.roc:
        assert (rate[0], rate[-1]) == (0, 1)
        assert np.all(np.diff(rate) >= 0)
    for one in reading.calibration.bins:
        assert 0 <= one.observed <= 1
        assert np.isfinite(one.error)
        assert one.error >= 0
    if reading.operating_point is not None:
        assert reading.operating_point.sensitivity.value >= 0.9
        for share in (reading.operating_point.sensitivity, reading.operating_point.specificity):
            assert 0 <= share.interval[0] <= share.value <= share.interval[1] <= 1


def test_a_single_bin_has_no_threshold() -> None:
    reading = read([[50.0], [50.0]], 0.0, 0.2)
    assert reading is not None
    assert reading.operating_point is None


def population(right: bool, prevalence: float) -> Floats:
    """2,000 patients of each class, whose scores are right at the prevalence, or say twice the logit
    that they should."""
    centre = bin_centres(16)
    truth = centre if right else 1 / (1 + np.sqrt(1 / centre - 1))

    def mass(tilt: float) -> Floats:
        weight = np.exp(tilt * np.arange(16.0))
        shares: Floats = weight / weight.sum()
        return shares

    of_bins = mass(brentq(lambda tilt: mass(tilt) @ truth - prevalence, -2, 2))
    rows = [of_bins * (1 - truth) / (1 - prevalence), of_bins * truth / prevalence]
    cells: Floats = 2_000 * PATIENT * np.array(rows)
    return cells


@pytest.mark.slow
@pytest.mark.parametrize("prevalence", [0.5, 0.2])
def test_figures_under_noise_are_those_without_it(prevalence: float) -> None:
    """Brier score unbiased with its stated error; a calibration error is not made of noise."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    for right in (True, False):
        exact = population(right, prevalence)
        truth = read(exact, 0.0, prevalence)
        assert truth is not None
        known = {b.centre: b.observed for b in truth.calibration.bins}
        brier, errors, covered = [], [], []
        for _ in range(300):
            found = read(exact + rng.normal(scale=8, size=exact.shape), 8.0, prevalence)
            assert found is not None
            brier.append(found.calibration.brier - truth.calibration.brier)
            errors.append(found.calibration.expected_error)
            covered += [
                abs(b.observed - known[b.centre]) < 3 * b.error for b in found.calibration.bins
            ]
        noised = read(exact, 8.0, prevalence)
        assert noised is not None
        stated = noised.calibration.brier_error
        assert abs(np.mean(brier)) < 3 * stated / np.sqrt(300)
        assert np.std(brier) == pytest.approx(stated, rel=0.15)
        assert np.mean(covered) > 0.97  # not .997: of a bin just above the noise the share is skew
        said = [e for e in errors if e is not None]
        if right:
            assert truth.calibration.expected_error == pytest.approx(0, abs=1e-12)
            assert len(said) < 25
        else:
            assert len(said) == 300
            assert np.mean(said) == pytest.approx(truth.calibration.expected_error, rel=0.1)


@pytest.mark.slow
def test_the_error_of_a_share_is_the_simulated_one() -> None:
    """Of noise alone, of patients alone and of both; the number of patients is Poisson."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    patients = np.array([np.linspace(160, 10, 16), np.linspace(10, 90, 16)])
    for noise, sampled in ((4.0, False), (0.0, True), (4.0, True)):
        shares = np.full((200, 16), np.nan)
        for attempt in shares:
            drawn = rng.poisson(patients) if sampled else patients
            attempt[:] = by_bin(drawn * PATIENT + rng.normal(scale=noise, size=(2, 16)), noise)[0]
        measured = np.nanstd(shares, axis=0)
        stated = by_bin(patients * PATIENT, noise)[1]
        if not sampled:  # without the part of the patients
            stated = np.sqrt(stated**2 - by_bin(patients * PATIENT, 0.0)[1] ** 2)
        np.testing.assert_allclose(measured[2:-2], stated[2:-2], rtol=0.25)


def by_bin(cells: Floats, noise: float) -> tuple[Floats, Floats]:
    """Observed share and its error, each (16,), at a prevalence of 30 %; NaN where it is left out."""
    reading = read(cells, noise, 0.3)
    assert reading is not None
    found = np.full((2, 16), np.nan)
    for one in reading.calibration.bins:
        found[:, np.searchsorted(bin_centres(16), one.centre)] = one.observed, one.error
    return found[0], found[1]


@pytest.mark.slow
def test_the_interval_of_a_share_covers_under_noise_and_sampling() -> None:
    """Specificity at a threshold that cannot move; nominal 95 %, 400 repetitions."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    for noise, narrow in ((8.0, 0.90), (0.0, 0.98)):
        covered: list[bool] = []
        blind: list[bool] = []
        for _ in range(400):
            negatives = rng.multinomial(200, [0.6, 0.4])
            cells = np.array([[negatives[0], negatives[1]], [0.0, 600.0]]) * PATIENT
            noised = cells + rng.normal(scale=noise, size=cells.shape)
            for assumed, values in ((noise, covered), (0.0, blind)):
                reading = read(noised, assumed, 0.2)
                assert reading is not None
                assert reading.operating_point is not None
                low, high = reading.operating_point.specificity.interval
                values.append(low <= 0.6 <= high)
        print(noise, np.mean(covered), np.mean(blind))
        assert 0.92 < np.mean(covered) < 0.98
        assert np.mean(blind) < narrow
