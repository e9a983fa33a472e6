"""All hospitals' patients in one place: the pretend hospital of the pooled baseline.

A rehearser holds all the data, so it may be asked what a study without walls would reach: the same
protocol, steps and epsilon for each patient, and the noise added once instead of in each hospital.
"""

from collections.abc import Sequence

import numpy as np

from client.data import Cohort, Patients
from client.data.image_folder import promoted
from client.policy import SitePolicy
from client.vault import Vault
from common.protocol import Images


class EverybodysVault(Vault):
    """A vault that holds the training patients of all hospitals, and nobody to validate on.

    The model is judged where the others are, on each hospital's own validation patients.
    """

    def __init__(self, policy: SitePolicy, cohorts: Sequence[Cohort]) -> None:
        """`cohorts` are the hospitals' own, of one study's images. All of it is copied into memory."""
        super().__init__(policy)
        everybody = together([cohort.training for cohort in cohorts])
        self._everybody = Cohort(training=everybody, validation=_nobody(everybody))

    def cohort(self, images: Images) -> Cohort:  # noqa: ARG002  (the signature of a Vault's)
        """The same patients whatever is asked: the baseline has one study."""
        return self._everybody


def together(parts: Sequence[Patients]) -> Patients:
    """The patients of all `parts` (at least one), in their order; 16-bit when any part is."""
    wide = any(part.pixels.dtype == np.uint16 for part in parts)
    pixels = [
        promoted(part.pixels) if wide and part.pixels.dtype == np.uint8 else part.pixels
        for part in parts
    ]
    images = np.concatenate([np.diff(part.offsets) for part in parts])
    return Patients(
        pixels=np.concatenate(pixels),
        labels=np.concatenate([part.labels for part in parts]),
        offsets=np.cumsum([0, *images], dtype=np.int64),
        mean=parts[0].mean,
        std=parts[0].std,
    )


def _nobody(like: Patients) -> Patients:
    return Patients(
        pixels=like.pixels[:0],
        labels=like.labels[:0],
        offsets=np.zeros(1, np.int64),
        mean=like.mean,
        std=like.std,
    )
