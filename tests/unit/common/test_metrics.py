"""Metrics against scikit-learn and against a loop over pairs."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from common.errors import DataError
from common.metrics import (
    Floats,
    Scores,
    auroc,
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


def test_series_and_findings_of_different_hospitals_stay_apart() -> None:
    one, label = np.array([0.1, 0.2]), np.array([0, 1])
    north = Scores(one, label, np.array([7, 7]), np.array([4, 9]), np.array([3, 3]))
    south = Scores(one, label, np.array([0, 1]), np.array([9, 9]), np.array([3, 2]))
    both = Scores.concatenate([north, no_images, south])
    assert both.series is not None
    assert both.finding is not None
    assert both.series.tolist() == [0, 1, 2, 2]
    assert both.finding.tolist() == [0, 0, 2, 1]
    without = Scores(one, label, label)
    assert Scores.concatenate([north, without]).series is None
    with pytest.raises(DataError, match="both or not at all"):
        Scores(one, label, label, series=label)
    with pytest.raises(DataError, match="equally long"):
        Scores(one, label, label, series=label, finding=np.zeros(3, np.int64))
