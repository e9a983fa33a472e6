"""Made scores: patients with images that resemble each other, of which the truth is known."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from common.metrics import Scores


def made(score: ArrayLike, label: ArrayLike, patient: ArrayLike) -> Scores:
    return Scores(np.asarray(score), np.asarray(label), np.asarray(patient))


def cohort(rng: np.random.Generator, patients: int, most: int = 12, apart: float = 1.4) -> Scores:
    """Patients of 1 to `most` images that resemble each other."""
    patient = np.repeat(np.arange(patients), rng.integers(1, most + 1, patients))
    label = (rng.random(patient.size) < 0.4).astype(np.int64)
    own = rng.normal(size=patients)[patient]
    z = 0.7 * own + 0.7 * rng.normal(size=patient.size) + apart * label - 0.7
    return made(norm.cdf(z), label, patient)
