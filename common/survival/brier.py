"""How far predicted survival lies from what happened: the integrated Brier score, exactly."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.histogram import Estimate, Floats, Z
from common.survival.kaplan_meier import censoring
from common.survival.scores import SurvivalScores


def brier_scores(scores: SurvivalScores, edges: Sequence[float]) -> Floats | None:
    """(K,) mean squared distance of the predicted survival from what was, at each of K `edges`.

    Graf and others (Statistics in Medicine 1999, 18:2529): whoever had the event up to an edge should
    have 0 there, whoever was seen without it beyond should have 1, and whoever was lost before counts
    through the others, who weigh 1 / G; G, the chance of not yet being lost, is Kaplan and Meier's of
    these patients, just before an event and at an edge. 0 is best; a constant 1/2 has 1/4. At the last
    edge, who was without an event until then was seen beyond it. None without patients or predictions.
    """
    found = _distances(scores, edges)
    if found is None:
        return None
    mean: Floats = found.mean(axis=0)
    return mean


def integrated_brier(scores: SurvivalScores, edges: Sequence[float]) -> Estimate | None:
    """The integrated score, its interval over patients with G taken for known; None as above."""
    found = _distances(scores, edges)
    if found is None:
        return None
    of_patient = integrated(found, edges)
    value = float(of_patient.mean())
    if of_patient.size < 2:
        return Estimate(value, (0.0, max(1.0, value)))
    half = float(Z * of_patient.std(ddof=1) / np.sqrt(of_patient.size))
    return Estimate(value, (max(0.0, value - half), value + half))


def _distances(scores: SurvivalScores, edges: Sequence[float]) -> Floats | None:
    """(n, K) weighted squared distance of each patient at each edge."""
    if scores.survival is None or scores.risk.size == 0:
        return None
    lost = censoring(scores.time, scores.event)
    before = lost.before(scores.time)[:, None]
    ends = np.asarray(edges, dtype=np.float64)
    had, seen_beyond = _known(scores, ends)
    at = np.concatenate([lost.at(ends[:-1]), lost.before(ends[-1:])])
    at = np.maximum(at, np.finfo(np.float64).tiny)  # 0 where nobody is seen beyond
    found: Floats = np.where(had, scores.survival**2 / before, 0.0)
    found += np.where(seen_beyond, (1 - scores.survival) ** 2 / at, 0.0)
    return found


def _known(scores: SurvivalScores, edges: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n, K): who had the event up to an edge, and who was seen without it beyond."""
    had = scores.event[:, None] & (scores.time[:, None] <= edges)
    beyond = scores.time[:, None] > edges
    beyond[:, -1] = ~had[:, -1] & (scores.time >= edges[-1])
    return had, beyond


def integrated(brier: Floats, edges: ArrayLike) -> Floats:
    """(...) the mean of (..., K) scores from 0, where they are 0, to the last of (K,) `edges`.

    By the trapezoidal rule. That is Graf's; scikit-survival begins at the first edge, so its values are
    larger.
    """
    at = np.append(0.0, edges)
    score = np.concatenate([np.zeros_like(brier[..., :1]), brier], axis=-1)
    mean: Floats = np.trapezoid(score, at, axis=-1) / at[-1]
    return mean
