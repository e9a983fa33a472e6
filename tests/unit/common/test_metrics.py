"""Metrics against scikit-learn, against a loop over pairs, and against a known population."""

import time

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from common.errors import DataError
from common.metrics import (
    Floats,
    Scores,
    auroc,
    auroc_interval,
    average_precision,
    roc_curve_points,
)

SEED = 20_240_517


def cohort(rng: np.random.Generator, patients: int, levels: int | None = None) -> Scores:
    """Patients with 1 to 12 images each, scores that separate a little; `levels` makes ties."""
    images = rng.integers(1, 13, patients)
    patient = np.repeat(np.arange(patients), images)
    label = rng.integers(0, 2, patient.size)
    score = norm.cdf(rng.normal(size=patient.size) + label)
    if levels is not None:
        score = np.round(score * levels) / levels
    return Scores(score, label, patient)


def pair_counting(scores: Scores, weight: Floats) -> float:
    """AUROC as it is defined: the weighted share of (positive, negative) pairs ranked rightly."""
    score, label = scores.score, scores.label
    right = total = 0.0
    for s, w in zip(score[label == 1], weight[label == 1], strict=True):
        for t, v in zip(score[label == 0], weight[label == 0], strict=True):
            right += w * v * (1.0 if s > t else 0.5 if s == t else 0.0)
            total += w * v
    return right / total


one_class = Scores(np.array([0.1, 0.9, 0.4]), np.array([1, 1, 1]), np.array([0, 1, 2]))
no_images = Scores.concatenate([])


@pytest.mark.parametrize("levels", [None, 4])
def test_auroc_and_average_precision_agree_with_their_definitions(levels: int | None) -> None:
    scores = cohort(np.random.default_rng(SEED), 25, levels)
    found = auroc(scores)
    assert found == pytest.approx(roc_auc_score(scores.label, scores.score), abs=1e-12)
    ones = np.ones(scores.score.size)
    assert found == pytest.approx(pair_counting(scores, ones), abs=1e-12)
    expected = average_precision_score(scores.label, scores.score)
    assert average_precision(scores) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scores", [one_class, no_images])
def test_nothing_is_defined_when_a_class_is_absent(scores: Scores) -> None:
    assert auroc(scores) is None
    assert average_precision(scores) is None
    assert auroc_interval(scores) is None
    assert roc_curve_points(scores) is None


def test_area_under_the_curve_points_is_the_auroc() -> None:
    scores = cohort(np.random.default_rng(SEED), 40, levels=10)
    points = roc_curve_points(scores)
    assert points is not None
    false_positive, true_positive = points
    assert (false_positive[0], true_positive[0]) == (0, 0)
    assert (false_positive[-1], true_positive[-1]) == (1, 1)
    assert np.trapezoid(true_positive, false_positive) == pytest.approx(auroc(scores), abs=1e-12)


@pytest.mark.parametrize(
    ("score", "label", "patient"),
    [
        ([0.5, 0.5], [0], [0, 1]),
        ([[0.5]], [[0]], [[0]]),
        ([1.5], [0], [0]),
        ([-0.1], [0], [0]),
        ([float("nan")], [0], [0]),
        ([0.5], [2], [0]),
        ([0.5], [-1], [0]),
    ],
)
def test_scores_that_make_no_sense_are_refused(
    score: list[float], label: list[int], patient: list[int]
) -> None:
    with pytest.raises(DataError):
        Scores(np.array(score), np.array(label), np.array(patient))


def test_concatenate_keeps_patients_of_different_hospitals_apart() -> None:
    north = Scores(np.array([0.1, 0.2, 0.3]), np.array([0, 1, 0]), np.array([7, 7, 9]))
    south = Scores(np.array([0.4, 0.5]), np.array([1, 0]), np.array([7, -3]))
    both = Scores.concatenate([north, no_images, south])
    assert both.patients == 4
    assert both.patient.tolist() == [0, 0, 1, 3, 2]
    assert both.score.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert both.label.tolist() == [0, 1, 0, 1, 0]


def test_interval_is_repeatable_ordered_and_within_range() -> None:
    scores = cohort(np.random.default_rng(SEED), 30)
    interval = auroc_interval(scores)
    assert interval == auroc_interval(scores)
    assert interval != auroc_interval(scores, seed=1)
    value = auroc(scores)
    assert interval is not None
    assert value is not None
    assert 0 <= interval[0] < value < interval[1] <= 1
    narrow = auroc_interval(scores, level=0.5)
    assert narrow is not None
    assert interval[0] < narrow[0] < narrow[1] < interval[1]


@pytest.mark.parametrize("block", [1, 700, 2_000_000])
def test_interval_equals_a_bootstrap_that_copies_patients(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Same draws, done the slow way: copy each drawn patient's images, then scikit-learn."""
    monkeypatch.setattr("common.metrics.BLOCK_ELEMENTS", block)
    scores = cohort(np.random.default_rng(SEED), 6, levels=5)
    rng, values = np.random.default_rng(3), []
    for times in rng.multinomial(6, np.full(6, 1 / 6), size=200):
        images = np.concatenate(
            [np.flatnonzero(scores.patient == p) for p in range(6) for _ in range(times[p])]
        )
        if np.unique(scores.label[images]).size == 2:
            values.append(roc_auc_score(scores.label[images], scores.score[images]))
    expected = np.quantile(values, [0.05, 0.95])
    found = auroc_interval(scores, resamples=200, seed=3, level=0.9)
    assert found == pytest.approx(tuple(expected), abs=1e-12)


def test_no_interval_from_one_patient_or_from_no_usable_resample() -> None:
    one_patient = Scores(np.array([0.1, 0.9]), np.array([0, 1]), np.array([5, 5]))
    assert auroc_interval(one_patient) is None
    # Half of the resamples draw one patient twice and so one class; with seed 0 the single one
    # asked for is either usable (AUROC 1) or dropped, never an error.
    two = Scores(np.array([0.1, 0.9]), np.array([0, 1]), np.array([0, 1]))
    found = [auroc_interval(two, resamples=1, seed=seed) for seed in range(20)]
    assert set(found) == {None, (1.0, 1.0)}


@pytest.mark.slow
def test_interval_covers_the_true_auroc_and_one_over_images_does_not() -> None:
    """Nominal 95 %. A patient has one class and a random effect that its images share, so every
    pair is between patients and the population's AUROC is Phi(shift / sqrt(2 (1 + effect^2))).

    300 repetitions: the standard error of a coverage of .95 is .013; the percentile bootstrap with
    60 patients loses one or two points. Accepted: .89 to .98. Taking images for patients must fall
    below .85, or the test could not tell a cluster bootstrap from the wrong one.
    """
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    patients, images, shift, effect, repetitions = 60, 4, 1.2, 1.0, 300
    truth = norm.cdf(shift / np.sqrt(2 * (1 + effect**2)))
    patient = np.repeat(np.arange(patients), images)
    label = patient % 2
    covered = np.zeros(2)
    for _ in range(repetitions):
        latent = rng.normal(scale=effect, size=patients)[patient] + rng.normal(size=patient.size)
        score = norm.cdf(latent + shift * label)
        for way, unit in enumerate((patient, np.arange(patient.size))):
            interval = auroc_interval(Scores(score, label, unit), resamples=250)
            assert interval is not None
            covered[way] += interval[0] <= truth <= interval[1]
    by_patient, by_image = covered / repetitions
    print(f"coverage by patient {by_patient:.3f}, by image {by_image:.3f}")
    assert 0.89 <= by_patient <= 0.98
    assert by_image < 0.85


def test_interval_is_fast_enough_for_every_round() -> None:
    """The contract is half a second for 1,500 images of 150 patients; it takes about 0.06 s."""
    scores = cohort(np.random.default_rng(SEED), 230)
    assert scores.score.size > 1_400
    auroc_interval(scores, resamples=10)
    seconds = []
    for _ in range(3):  # the best of three: other work on the machine is not what is measured
        start = time.perf_counter()
        auroc_interval(scores)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5
