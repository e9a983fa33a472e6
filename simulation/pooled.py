"""All hospitals' patients in one place: the pretend hospital of the pooled baseline.

A rehearser holds all the data, so it may be asked what a study without walls would reach: the same
protocol, steps and epsilon for each patient, and the noise added once instead of in each hospital.
"""

from collections.abc import Sequence

from client.data import Cohort, Patients
from client.policy import SitePolicy
from client.vault import Vault
from common.protocol import StudyProtocol


class EverybodysVault(Vault):
    """A vault that holds the training patients of all hospitals, and nobody to validate on.

    The model is judged where the others are, on each hospital's own validation patients.
    """

    def __init__(self, policy: SitePolicy, cohorts: Sequence[Cohort[Patients]]) -> None:
        """`cohorts` are the hospitals' own, of one study. All of it is copied into memory."""
        super().__init__(policy)
        parts = [cohort.training for cohort in cohorts]
        everybody = type(parts[0]).together(parts)
        self._everybody = Cohort(training=everybody, validation=everybody.nobody())

    def cohort(self, protocol: StudyProtocol) -> Cohort[Patients]:  # noqa: ARG002  (a Vault's)
        """The same patients whatever is asked: the baseline has one study."""
        return self._everybody
