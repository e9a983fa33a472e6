"""The reader of survival: a table of records with time and event, one row for each patient."""

from pathlib import Path

import numpy as np

from client.data import Cohort, Patients, SetAside
from client.data.records import has_table, read_records
from common.progress import Progress
from common.tasks.survival.study import SurvivalStudy


def open_cohort(
    protocol: SurvivalStudy,
    folder: Path,
    *,
    patient_id_pattern: str | None,  # noqa: ARG001  (a table names its patients)
    state: Path | None,  # noqa: ARG001  (reading takes seconds: nothing is kept)
    progress: Progress | None,
    set_aside: list[SetAside] | None,
) -> Cohort[Patients]:
    """See `client.readers.Reader`."""
    read = read_records(
        folder,
        protocol.records,
        protocol.survival.label_columns,
        one_row_each=True,
        progress=progress,
    )
    if set_aside is not None:
        set_aside += read.set_aside
    return read.cohort(read.labels.astype(np.float32))


def count_patients(
    protocol: SurvivalStudy, folder: Path, *, patient_id_pattern: str | None
) -> tuple[int, int]:
    """(training, validation) patients with a row that can be used."""
    cohort = open_cohort(
        protocol,
        folder,
        patient_id_pattern=patient_id_pattern,
        state=None,
        progress=None,
        set_aside=None,
    )
    return len(cohort.training), len(cohort.validation)


def holds_data(folder: Path) -> bool:
    """Whether `folder` has a table of records."""
    return has_table(folder)
