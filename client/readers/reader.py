"""What opens a hospital's files for one task."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.data import Cohort, Patients, SetAside
from common.progress import Progress


@dataclass(frozen=True)
class Opening:
    """A hospital's `folder`, and how it is opened.

    `patient_id_pattern` is the site policy's, for files whose names hold the patients. In the folder
    `state` something may be kept for the next opening. `progress` is told (done, total). What cannot
    be used and need not end everything is left out; with a list `set_aside` all is read anew and what
    was left out is appended to it, by name.
    """

    folder: Path
    patient_id_pattern: str | None = None
    state: Path | None = None
    progress: Progress | None = None
    set_aside: list[SetAside] | None = None


class Reader(ABC):
    """DataError names file and row, so its text stays at the hospital."""

    @abstractmethod
    def open_cohort(self, protocol: Any, opening: Opening) -> Cohort[Patients]:
        """All patients, on their two sides, as the study's model takes them."""

    def count_patients(self, protocol: Any, opening: Opening) -> tuple[int, int]:
        """(training, validation) patients as `open_cohort` splits them."""
        cohort = self.open_cohort(protocol, opening)
        return len(cohort.training), len(cohort.validation)

    @abstractmethod
    def holds_data(self, folder: Path) -> bool:
        """Whether `folder` looks like a hospital's of this task, for whoever looks for hospitals."""
