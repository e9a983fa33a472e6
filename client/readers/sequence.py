"""The reader of sequences: what was measured in a patient's stays, and how they ended."""

from pathlib import Path

from client.data import Cohort, Patients
from client.data.sequences import OUTCOMES, SERIES, open_sequences
from client.data.tables import has_table
from client.readers.reader import Opening, Reader
from common.tasks.sequence.study import SequenceStudy


class Sequence(Reader):
    """Two tables, as CSV or Parquet; nothing is kept for the next time."""

    def open_cohort(self, protocol: SequenceStudy, opening: Opening) -> Cohort[Patients]:
        return open_sequences(
            opening.folder,
            protocol.sequences,
            progress=opening.progress,
            set_aside=opening.set_aside,
        )

    def holds_data(self, folder: Path) -> bool:
        return has_table(folder, SERIES) and has_table(folder, OUTCOMES)


READER = Sequence()
