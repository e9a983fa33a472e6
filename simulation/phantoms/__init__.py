"""Synthetic patients for a rehearsal without data, by the study's task; nothing else lists them.

Each module is named after a task in `common.tasks` and has what `Phantoms` says.
"""

import importlib
from pathlib import Path
from typing import Any, Protocol

from client.data.split import is_validation_patient
from common.tasks import module_of, names


class Phantoms(Protocol):
    """What writes one task's synthetic patients as a hospital's files."""

    def write(
        self, protocol: Any, folder: Path, patients: list[str], hospital: int, seed: int
    ) -> None:
        """Files of `patients` (ids) into `folder`, for the `hospital`-th hospital, 0..

        What there is to be learnt is the same at all hospitals. Equal seeds give equal patients.
        """


def phantoms_of(task: str) -> Phantoms:
    """The phantoms of the task of this name, which is a task's (KeyError)."""
    if task not in names():
        raise KeyError(task)
    phantoms: Phantoms = importlib.import_module(f"simulation.phantoms.{module_of(task)}")
    return phantoms


def patient_ids(hospital: str, training: int, validation_fraction: float) -> list[str]:
    """As many ids as it takes to have `training` training patients among them."""
    patients: list[str] = []
    while training > 0:
        patients.append(f"{hospital}-{len(patients):05d}")
        training -= not is_validation_patient(patients[-1], validation_fraction)
    return patients
