"""The reader of sequences: what was measured in a patient's stays, and how they ended."""

from pathlib import Path

from client.data import Cohort, Patients, SetAside
from client.data.sequences import OUTCOMES, SERIES, open_sequences
from client.data.tables import has_table
from common.progress import Progress
from common.tasks.sequence.study import SequenceStudy


def open_cohort(
    protocol: SequenceStudy,
    folder: Path,
    *,
    patient_id_pattern: str | None,  # noqa: ARG001  (a table names its patients)
    state: Path | None,  # noqa: ARG001  (nothing is kept)
    progress: Progress | None,
    set_aside: list[SetAside] | None,
) -> Cohort[Patients]:
    """See `client.readers.Reader`."""
    return open_sequences(folder, protocol.sequences, progress=progress, set_aside=set_aside)


def count_patients(
    protocol: SequenceStudy,
    folder: Path,
    *,
    patient_id_pattern: str | None,  # noqa: ARG001
) -> tuple[int, int]:
    """(training, validation) patients with at least one stay that can be used."""
    cohort = open_sequences(folder, protocol.sequences)
    return len(cohort.training), len(cohort.validation)


def holds_data(folder: Path) -> bool:
    """Whether `folder` has both tables."""
    return has_table(folder, SERIES) and has_table(folder, OUTCOMES)
