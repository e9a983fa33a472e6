"""How well a model tells the classes apart, from exact scores: they stay with whoever holds them.

Every image counts once. What a hospital releases instead is a noised histogram, in which every
patient counts once in each class (`common.histogram`); the AUROCs of the two differ where patients
differ in their number of images: a patient with forty patches weighs forty times one with a single
patch of that class here, and as much as that one there.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError

# scikit-learn takes a second to load, so who needs it imports it: a vault has use for `Scores` alone.

Floats = NDArray[np.float64]

# Elements of one block of bootstrap weights (resamples x images): bounds memory at some 100 MB.
BLOCK_ELEMENTS = 2_000_000


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model said about n images, the truth, and whose images they are.

    score: (n,) float64 in 0..1, the probability of the positive class.
    label: (n,) int64, 0 or 1; 1 is the positive class.
    patient: (n,) int64 ordinals that group the images of a patient; meaningful in one hospital.

    Accepts whatever numpy converts to these. DataError when lengths differ or a value is out of
    range; a non-finite score too, so a caller that evaluates private images maps one to 0.5 first:
    otherwise one patient's broken image decides whether anything is released.
    """

    score: Floats
    label: NDArray[np.int64]
    patient: NDArray[np.int64]

    def __post_init__(self) -> None:
        columns: tuple[tuple[str, Any], ...] = (
            ("score", np.float64),
            ("label", np.int64),
            ("patient", np.int64),
        )
        for name, dtype in columns:
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        shapes = (self.score.shape, self.label.shape, self.patient.shape)
        if self.score.ndim != 1 or len(set(shapes)) != 1:
            raise DataError(f"score, label and patient must be equally long, found {shapes}")
        if not np.all((self.score >= 0) & (self.score <= 1)):
            raise DataError("every score must be a number in 0..1")
        if not np.all((self.label == 0) | (self.label == 1)):
            raise DataError("every label must be 0 or 1")

    @property
    def patients(self) -> int:
        """Number of different patients."""
        return int(np.unique(self.patient).size)

    @property
    def both_classes(self) -> bool:
        """Whether there is at least one image of each class: what every AUROC needs."""
        return bool(0 < self.label.sum() < self.label.size)

    @staticmethod
    def concatenate(parts: "list[Scores]") -> "Scores":
        """All images of `parts`, one per hospital; equal ordinals of two parts stay two patients.

        Patients are renumbered 0, 1, ... in the order of the parts. No parts give no images.
        """
        patient, offset = [np.empty(0, np.int64)], 0
        for part in parts:
            ordinal = np.unique(part.patient, return_inverse=True)[1]
            patient.append(ordinal + offset)
            offset += part.patients
        return Scores(
            score=np.concatenate([np.empty(0), *(part.score for part in parts)]),
            label=np.concatenate([np.empty(0, np.int64), *(part.label for part in parts)]),
            patient=np.concatenate(patient),
        )


def patients_per_class(label: NDArray[np.int64], patient: NDArray[np.int64]) -> tuple[int, int]:
    """Patients with at least one image of the class, negative and positive; some are in both.

    label: (n,), 0 or 1; patient: (n,), whose image it is.
    """
    negative, positive = (np.unique(patient[label == c]).size for c in (0, 1))
    return int(negative), int(positive)


def auroc(scores: Scores) -> float | None:
    """Area under the ROC curve, 0..1, every image counting once, ties half; None for one class."""
    from sklearn.metrics import roc_auc_score

    if not scores.both_classes:
        return None
    return float(roc_auc_score(scores.label, scores.score))


def average_precision(scores: Scores) -> float | None:
    """Average precision, 0..1, every image counting once; None when a class is absent.

    Step-wise, as scikit-learn defines it. Chance level is the share of positive images, so values
    of data sets with different shares do not compare.
    """
    from sklearn.metrics import average_precision_score

    if not scores.both_classes:
        return None
    return float(average_precision_score(scores.label, scores.score))


def roc_curve_points(scores: Scores) -> tuple[Floats, Floats] | None:
    """(false positive rate, true positive rate), each (m,) rising from 0 to 1, for a plot.

    Every image counts once; collinear points are left out. None when a class is absent.
    """
    from sklearn.metrics import roc_curve

    if not scores.both_classes:
        return None
    false_positive, true_positive, _ = roc_curve(scores.label, scores.score)
    return false_positive.astype(np.float64), true_positive.astype(np.float64)


def auroc_interval(
    scores: Scores, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile interval of `auroc` by a bootstrap over patients, as (low, high) in 0..1.

    Patients are drawn with replacement, each with all its images: images of a patient resemble
    each other, and an interval over images would be too narrow (Field and Welsh, JRSS B 2007,
    69:369). Drawing is done as multiplicity weights, AUROC is exact under them with ties half.
    Resamples in which a class is absent are dropped, so with very few patients the interval is
    conditional on both classes being drawn and says little. It covers the choice of patients,
    not the choice of hospitals nor the randomness of training. The same seed gives the same
    interval.

    None with fewer than two patients, when a class is absent, or when every resample was dropped.
    """
    patients = scores.patients
    if patients < 2 or not scores.both_classes:
        return None
    order = np.argsort(scores.score, kind="stable")
    score = scores.score[order]
    positive = scores.label[order] == 1
    patient = np.unique(scores.patient, return_inverse=True)[1][order]
    # First index of each run of equal scores: a run is one step of the ROC curve.
    starts = np.flatnonzero(np.concatenate([[True], np.diff(score) > 0]))
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK_ELEMENTS // score.size)
    values: list[Floats] = []
    for done in range(0, resamples, block):
        rows = min(block, resamples - done)
        drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=rows)
        weight = drawn[:, patient].astype(np.float64)
        negatives = np.add.reduceat(weight * ~positive, starts, axis=1)
        positives = np.add.reduceat(weight * positive, starts, axis=1)
        usable = (negatives.sum(axis=1) > 0) & (positives.sum(axis=1) > 0)
        values.append(_auroc_of_counts(negatives[usable], positives[usable]))
    kept = np.concatenate(values)
    if kept.size == 0:
        return None
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _auroc_of_counts(negatives: Floats, positives: Floats) -> Floats:
    """AUROC (r,) of r weighted samples given as mass per score step, each (r, steps), rising score.

    A positive beats the negatives of lower steps and half of those of its own (Mann-Whitney U).
    """
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = negatives.sum(axis=1) * positives.sum(axis=1)
    wins: Floats = np.einsum("rs,rs->r", positives, below) / pairs
    return wins
