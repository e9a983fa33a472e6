"""Patients of known survival, for the tests of how a model of it is judged."""

import numpy as np

from common.histogram import Floats
from common.survival.scores import SurvivalScores

SEED = 20_261_126
EDGES = tuple(edge / 10 for edge in range(1, 11))


def proportional(
    rng: np.random.Generator,
    patients: int,
    spread: float = 1.0,
    events: float = 0.3,
    horizon: float = 1.0,
) -> SurvivalScores:
    """Proportional hazards, predicted right; lost from sight at a uniform time up to twice the last edge.

    The log hazards have the standard deviation `spread`; about the share `events` of the patients have
    one before the last edge, 1, were nobody lost. Nobody is followed beyond `horizon`.
    """
    log_hazard = rng.normal(scale=spread, size=patients) + np.log(-np.log(1 - events))
    hazard = np.exp(log_hazard)
    had, lost = rng.exponential(size=patients) / hazard, rng.uniform(0, 2, patients)
    survival: Floats = np.exp(-hazard[:, None] * np.array(EDGES))
    whole = SurvivalScores(
        1 - survival[:, -1], survival, np.minimum(had, lost), had <= lost, np.arange(patients)
    )
    return whole.up_to(horizon)


def only(
    scores: SurvivalScores, drawn: "np.ndarray[tuple[int], np.dtype[np.intp]]"
) -> SurvivalScores:
    """The patients `drawn`, each as a patient of its own even if drawn twice."""
    return SurvivalScores(
        scores.risk[drawn],
        None if scores.survival is None else scores.survival[drawn],
        scores.time[drawn],
        scores.event[drawn],
        np.arange(drawn.size),
    )
