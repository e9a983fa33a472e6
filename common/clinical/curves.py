"""Precision-recall curve, and what patients drawn anew make of it and of the ROC curve: 95 % bands."""

from dataclasses import dataclass

import numpy as np

from common.clinical.figures import by_patient
from common.metrics import Floats, Scores

GRID = np.linspace(0, 1, 101)
RESAMPLES = 400


@dataclass(frozen=True, eq=False)
class Band:
    """A 95 % band, pointwise: `low` and `high` (101,) over the false positive rate or recall `at`."""

    at: Floats
    low: Floats
    high: Floats


def precision_recall_points(scores: Scores) -> tuple[Floats, Floats] | None:
    """(recall, precision), each (m,), recall falling from 1 to 0, for a plot; None for one class."""
    from sklearn.metrics import precision_recall_curve

    if not scores.both_classes:
        return None
    precision, recall, _ = precision_recall_curve(
        scores.label, scores.score, drop_intermediate=True
    )
    return recall.astype(np.float64), precision.astype(np.float64)


def bands(scores: Scores) -> tuple[Band, Band] | None:
    """The bands of the ROC curve (sensitivity) and of the precision-recall curve (precision).

    By a bootstrap over patients. None when a class is absent or with fewer than two patients.
    """
    if scores.patients < 2 or not scores.both_classes:
        return None
    order = np.argsort(-scores.score, kind="stable")
    positive = scores.label[order] == 1
    ends = np.flatnonzero(np.concatenate([np.diff(scores.score[order]) < 0, [True]]))

    def curves(weight: Floats) -> Floats:
        drawn = weight[:, order]
        hits = np.cumsum(drawn * positive, axis=1)[:, ends]
        alarms = np.cumsum(drawn * ~positive, axis=1)[:, ends]
        return np.stack([_both(h, a) for h, a in zip(hits, alarms, strict=True)])

    found = by_patient(scores, curves, resamples=RESAMPLES)  # (resamples, 2, grid)
    if np.isnan(found).all():
        return None
    low, high = np.nanquantile(found, [0.025, 0.975], axis=0)
    return Band(GRID, low[0], high[0]), Band(GRID, low[1], high[1])


def _both(hits: Floats, alarms: Floats) -> Floats:
    """(2, grid) sensitivity at each false positive rate, and precision at each recall, of one draw."""
    if hits[-1] == 0 or alarms[-1] == 0:
        return np.full((2, GRID.size), np.nan)
    recall, false = hits / hits[-1], alarms / alarms[-1]
    # Of several points at one rate NumPy takes the last, which is the highest.
    sensitivity = np.interp(GRID, np.concatenate([[0.0], false]), np.concatenate([[0.0], recall]))
    reached = np.minimum(np.searchsorted(recall, GRID - 1e-12), recall.size - 1)
    precision = hits[reached] / np.maximum(hits[reached] + alarms[reached], 1)
    return np.stack([sensitivity, precision])
