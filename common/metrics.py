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


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model said about n images, the truth, and whose images they are.

    score: (n,) float64 in 0..1, the probability of the positive class.
    label: (n,) int64, 0 or 1; 1 is the positive class.
    patient: (n,) int64 ordinals that group the images of a patient; meaningful in one hospital.
    series, finding: (n,) int64 ordinals of the scan that an image was cut from and of what it shows,
    so that several candidates of one nodule count once in an FROC curve. Both or neither; like
    `patient` they stay with whoever holds the images.

    Accepts whatever numpy converts to these. DataError when lengths differ or a value is out of
    range; a non-finite score too, so a caller that evaluates private images maps one to 0.5 first:
    otherwise one patient's broken image decides whether anything is released.
    """

    score: Floats
    label: NDArray[np.int64]
    patient: NDArray[np.int64]
    series: NDArray[np.int64] | None = None
    finding: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        columns: tuple[tuple[str, Any], ...] = (
            ("score", np.float64),
            ("label", np.int64),
            ("patient", np.int64),
        )
        if (self.series is None) != (self.finding is None):
            raise DataError("series and finding must be given both or not at all")
        if self.series is not None:
            columns = (*columns, ("series", np.int64), ("finding", np.int64))
        for name, dtype in columns:
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        shapes = [getattr(self, name).shape for name, _ in columns]
        if self.score.ndim != 1 or len(set(shapes)) != 1:
            raise DataError(f"all columns of scores must be equally long, found {shapes}")
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

        Patients are renumbered 0, 1, ... in the order of the parts; series and findings too, where
        all parts with images have them. No parts give no images.
        """
        known = all(part.series is not None for part in parts if part.score.size)
        return Scores(
            score=np.concatenate([np.empty(0), *(part.score for part in parts)]),
            label=np.concatenate([np.empty(0, np.int64), *(part.label for part in parts)]),
            patient=_renumbered([part.patient for part in parts]),
            series=_renumbered([part.series for part in parts]) if known else None,
            finding=_renumbered([part.finding for part in parts]) if known else None,
        )


def _renumbered(parts: "list[NDArray[np.int64] | None]") -> NDArray[np.int64]:
    """The ordinals of all parts as 0, 1, ...; equal ones of two parts become two. None has none."""
    columns, offset = [np.empty(0, np.int64)], 0
    for part in parts:
        if part is not None and part.size:
            ordinal = np.unique(part, return_inverse=True)[1]
            columns.append(ordinal + offset)
            offset += int(ordinal.max()) + 1
    return np.concatenate(columns)


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
