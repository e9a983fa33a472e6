"""The reader of risk: a table of records with an outcome, of a patient one row or several."""

from pathlib import Path

import numpy as np

from client.data import Cohort, Patients, SetAside
from client.data.records import has_table, read_records
from common.progress import Progress
from common.tasks.risk.study import RiskStudy


def open_cohort(
    protocol: RiskStudy,
    folder: Path,
    *,
    patient_id_pattern: str | None,  # noqa: ARG001  (a table names its patients)
    state: Path | None,  # noqa: ARG001  (reading takes seconds: nothing is kept)
    progress: Progress | None,
    set_aside: list[SetAside] | None,
) -> Cohort[Patients]:
    """See `client.readers.Reader`."""
    records = protocol.records
    read = read_records(folder, records, records.label_columns, progress=progress)
    if set_aside is not None:
        set_aside += read.set_aside
    return read.cohort(read.labels[:, 0].astype(np.int64))


def count_patients(
    protocol: RiskStudy, folder: Path, *, patient_id_pattern: str | None
) -> tuple[int, int]:
    """(training, validation) patients with at least one row that can be used."""
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
