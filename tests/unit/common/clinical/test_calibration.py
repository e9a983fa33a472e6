"""Calibration against scikit-learn, against SciPy's optimiser, and where the truth is known."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from common.clinical.calibration import (
    calibration_of,
    expected_error,
    mass_bins,
    recalibrated,
    temperature,
)
from common.clinical.figures import halves, share
from common.metrics import Floats, Scores
from common.temperature import logit, sigmoid
from tests.scored import made

SEED = 20_261_125


def drawn(
    rng: np.random.Generator, patients: int, intercept: float = 0.0, slope: float = 1.0
) -> Scores:
    """Single images whose labels follow logit P = intercept + slope x logit(score)."""
    z = rng.normal(scale=1.5, size=patients)
    label = rng.random(patients) < sigmoid(intercept + slope * z)
    return made(sigmoid(z), label, np.arange(patients))


@pytest.mark.parametrize("levels", [None, 20])
def test_bins_are_those_of_scikit_learn(levels: int | None) -> None:
    scores = drawn(np.random.default_rng(SEED), 230)
    if levels:
        scores = Scores(np.round(scores.score * levels) / levels, scores.label, scores.patient)
    found = calibration_of(scores)
    assert found is not None
    observed, mean = calibration_curve(scores.label, scores.score, n_bins=10, strategy="quantile")
    assert [b.mean for b in found.bins] == pytest.approx(mean)
    assert [b.observed.value for b in found.bins] == pytest.approx(observed)
    images = np.array([b.observed.images for b in found.bins])
    assert images.sum() == 230
    assert found.expected_error == pytest.approx(images @ np.abs(observed - mean) / 230)
    for one in found.bins:
        here = (one.low <= scores.score) & (scores.score <= one.high)
        assert one.observed == share(scores.label[here] == 1, scores.patient[here])


def test_a_calibrated_model_errs_as_much_as_chance_and_another_one_more() -> None:
    rng = np.random.default_rng(SEED)
    right = [calibration_of(drawn(rng, 200)) for _ in range(40)]
    ratio = np.mean([f.expected_error / f.by_chance for f in right if f])
    print("seed", SEED, "error of calibrated models over chance", ratio)
    assert ratio == pytest.approx(1, abs=0.12)
    wrong = calibration_of(drawn(rng, 200, slope=0.3))
    assert wrong is not None
    assert wrong.expected_error > 2 * wrong.by_chance


def test_brier_score_and_its_parts() -> None:
    scores = drawn(np.random.default_rng(SEED), 300)
    found = calibration_of(scores)
    assert found is not None
    brier = found.brier
    assert brier.value == pytest.approx(brier_score_loss(scores.label, scores.score))
    assert brier.interval is not None
    assert brier.interval[0] < brier.value < brier.interval[1]
    base = scores.label.mean()
    mass = np.array([b.observed.images for b in found.bins]) / 300
    mean = np.array([b.mean for b in found.bins])
    observed = np.array([b.observed.value for b in found.bins])
    assert brier.uncertainty == pytest.approx(base * (1 - base))
    assert brier.reliability == pytest.approx(mass @ (mean - observed) ** 2)
    assert brier.resolution == pytest.approx(mass @ (observed - base) ** 2)
    assert abs(brier.within) < 0.01


def test_murphys_parts_are_all_there_is_where_scores_do_not_differ_within_a_bin() -> None:
    """Forecasts of 0.1, 0.4 and 0.8, of which 1 in 10, 5 in 10 and 6 in 10 came true."""
    label = np.concatenate([np.arange(10) < true for true in (1, 5, 6)])
    scores = made(np.repeat([0.1, 0.4, 0.8], 10), label, np.arange(30))
    found = calibration_of(scores)
    assert found is not None
    assert len(found.bins) == 3
    brier = found.brier
    assert brier.reliability == pytest.approx((0.0**2 + 0.1**2 + 0.2**2) / 3)
    assert brier.resolution == pytest.approx((0.3**2 + 0.1**2 + 0.2**2) / 3)
    assert brier.uncertainty == pytest.approx(0.4 * 0.6)
    assert brier.within == pytest.approx(0, abs=1e-12)


def test_recalibration_is_logistic_regression() -> None:
    scores = drawn(np.random.default_rng(SEED), 400, intercept=-0.7, slope=0.6)
    found = recalibrated(scores)
    assert found is not None
    x = logit(scores.score)[:, None]
    expected = LogisticRegression(C=np.inf, tol=1e-10).fit(x, scores.label)
    assert found.intercept.value == pytest.approx(float(expected.intercept_[0]), abs=1e-5)
    assert found.slope.value == pytest.approx(float(expected.coef_[0, 0]), abs=1e-5)
    moved = sigmoid(x[:, 0] + found.in_the_large.value)
    assert moved.mean() == pytest.approx(scores.label.mean())  # what maximum likelihood means here
    # Model-based standard errors; the sandwich agrees with them where the model is right.
    p = sigmoid(found.intercept.value + found.slope.value * x[:, 0])
    design = np.column_stack([np.ones(400), x])
    error = np.sqrt(np.diag(np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design)))
    inverse = np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design)
    gradient = design * (scores.label - p)[:, None]
    sandwich = inverse @ gradient.T @ gradient @ inverse * 400 / 399
    for number, coefficient in enumerate((found.intercept, found.slope)):
        half = (coefficient.interval[1] - coefficient.interval[0]) / 2 / 1.959964
        assert half == pytest.approx(error[number], rel=0.15)
        assert half == pytest.approx(np.sqrt(sandwich[number, number]), rel=1e-4)


def test_the_interval_of_the_slope_takes_the_patient_as_the_unit() -> None:
    scores = drawn(np.random.default_rng(SEED), 60)
    copies = made(*(np.repeat(c, 9) for c in (scores.score, scores.label, scores.patient)))
    once, often = recalibrated(scores), recalibrated(copies)
    assert once is not None
    assert often is not None
    assert often.slope.value == pytest.approx(once.slope.value)
    assert often.slope.interval == pytest.approx(once.slope.interval)


def test_temperature_is_the_best_on_one_half_and_is_judged_on_the_other() -> None:
    scores = drawn(np.random.default_rng(SEED), 400, slope=0.4)
    found, parts = temperature(scores), halves(scores)
    assert found is not None
    assert parts is not None
    fitted_on, judged_on = parts

    def loss(at: float, on: Scores) -> float:
        return float(log_loss(on.label, sigmoid(logit(on.score) / at)))

    best = minimize_scalar(lambda t: loss(t, fitted_on), bounds=(0.1, 10), method="bounded")
    assert found.value == pytest.approx(best.x, abs=1e-4)
    assert found.value > 1.5  # the scores are too extreme
    assert found.patients == judged_on.patients
    assert found.log_loss == pytest.approx((loss(1, judged_on), loss(found.value, judged_on)))
    cooled = sigmoid(logit(judged_on.score) / found.value)
    assert found.brier[1] == pytest.approx(brier_score_loss(judged_on.label, cooled))
    assert found.log_loss[1] < found.log_loss[0]
    assert found.expected_error[1] < found.expected_error[0]
    assert found.brier[1] < found.brier[0]
    alone = LogisticRegression(C=np.inf, fit_intercept=False)
    alone.fit(logit(fitted_on.score)[:, None], fitted_on.label)
    assert found.value == pytest.approx(1 / alone.coef_[0, 0], rel=1e-3)
    for bins, score in zip(found.reliability, (judged_on.score, cooled), strict=True):
        assert sum(b.observed.images for b in bins) == score.size
        mean = sum(b.mean * b.observed.images for b in bins) / score.size
        assert mean == pytest.approx(score.mean())


def test_the_interval_of_the_temperature_covers_it_where_patients_have_many_images() -> None:
    """The truth is 1 / slope = 2; images of a patient share what moves their labels."""
    rng, covered, made_intervals = np.random.default_rng(SEED), 0, 0
    for _ in range(150):
        patient = np.repeat(np.arange(150), rng.integers(1, 6, 150))
        z = rng.normal(scale=1.5, size=patient.size)
        label = rng.random(patient.size) < sigmoid(z)
        found = temperature(made(sigmoid(2 * z), label, patient))
        if found is not None and found.interval is not None:
            made_intervals += 1
            covered += found.interval[0] <= 2 <= found.interval[1]
    print("seed", SEED, "covered", covered, "of", made_intervals)
    assert made_intervals > 140
    assert 0.9 <= covered / made_intervals <= 0.99


def test_a_model_that_is_reversed_has_no_temperature() -> None:
    assert temperature(drawn(np.random.default_rng(SEED), 200, slope=-1)) is None


@pytest.mark.parametrize(
    ("score", "label"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]),  # wholly apart: the slope would be infinite
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1]),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 1, 1]),
        ([0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1]),
    ],
)
def test_no_recalibration_without_a_finite_best_one(score: list[float], label: list[int]) -> None:
    assert recalibrated(made(score, label, np.arange(4))) is None


def test_scores_of_zero_and_one_are_no_end_of_it() -> None:
    scores = made(
        np.tile([0.0, 1.0, 0.5, 0.2], 20), np.tile([0, 1, 1, 0, 1, 0], 14)[:80], np.arange(80)
    )
    found = calibration_of(scores)
    assert found is not None
    assert found.recalibration is not None
    assert np.isfinite([found.recalibration.slope.value, *found.recalibration.slope.interval]).all()
    assert logit(np.array([0.0, 1.0])).tolist() == [-16, 16]


def test_equal_scores_are_never_parted() -> None:
    score: Floats = np.array([0.3] * 50 + [0.7])
    bin_of = mass_bins(score, 10)
    assert bin_of.tolist() == [0] * 50 + [1]
    assert expected_error(score, np.zeros(51), bin_of) == pytest.approx(score.mean())
