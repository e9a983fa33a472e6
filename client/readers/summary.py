"""The reader of a summary: a table of records, of a patient one row or several."""

from pathlib import Path

from client.data import Cohort, Patients, SetAside
from client.data.records import FILES, has_table, read_records
from common.progress import Progress
from common.tasks.summary.study import SummaryStudy

__all__ = ["FILES", "count_patients", "holds_data", "open_cohort"]


def open_cohort(
    protocol: SummaryStudy,
    folder: Path,
    *,
    patient_id_pattern: str | None,  # noqa: ARG001  (a table names its patients)
    state: Path | None,  # noqa: ARG001  (reading takes seconds: nothing is kept)
    progress: Progress | None,
    set_aside: list[SetAside] | None,
) -> Cohort[Patients]:
    """See `client.readers.Reader`; a record is its own label."""
    read = read_records(folder, protocol.records, progress=progress)
    if set_aside is not None:
        set_aside += read.set_aside
    return read.cohort(read.values)


def count_patients(
    protocol: SummaryStudy, folder: Path, *, patient_id_pattern: str | None
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
