"""Which patients and which of their views a step sees. Rates and counts are public constants."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data import Patients
from client.privacy.randomness import RandomStream


@dataclass(frozen=True)
class Draw:
    """The drawn patients of one step: `views` (U, V) indices of views, `weights` (U, V)."""

    views: NDArray[np.int64]
    weights: NDArray[np.float32]


def poisson_draw(patients: Patients, rate: float, views: int, stream: RandomStream) -> Draw:
    """Each patient independently with probability `rate`; up to `views` different ones of each.

    Independent draws are what the accountant assumes: shuffled batches of a fixed size with Poisson
    accounting are not valid (13.2 against a claimed 5.9, PRIVACY.md section 3). A draw may be empty.
    A patient with fewer views is padded with weight 0, and the weights of a patient sum to 1, so
    that a patient counts the same however many views there are. The padding repeats the patient's
    own views: 0 x NaN is NaN, so with another's there a crafted model that overflows on that one
    view would silence every padded patient, and clipping would bound nothing.
    """
    drawn = np.flatnonzero(stream.uniform(len(patients)) < rate)
    found = np.zeros((len(drawn), views), dtype=np.int64)
    weights = np.zeros((len(drawn), views), dtype=np.float32)
    for row, patient in enumerate(drawn.tolist()):
        own = patients.of(patient)
        order = own.start + np.argsort(stream.uniform(own.stop - own.start), kind="stable")[:views]
        found[row] = np.resize(order, views)
        weights[row, : len(order)] = 1.0 / len(order)
    return Draw(found, weights)
