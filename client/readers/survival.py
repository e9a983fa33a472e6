"""The reader of survival: a table of records with time and event, one row for each patient."""

import numpy as np
from numpy.typing import NDArray

from client.data.records import ReadRecords, read_records
from client.readers.reader import Opening
from client.readers.table import TableReader
from common.tasks.survival.study import SurvivalStudy


class Survival(TableReader):
    """Labels (N, 2) are time and event, 0 or 1."""

    def read(self, protocol: SurvivalStudy, opening: Opening) -> ReadRecords:
        return read_records(
            opening.folder,
            protocol.records,
            protocol.survival.label_columns,
            one_row_each=True,
            progress=opening.progress,
        )

    def labels(self, read: ReadRecords) -> NDArray[np.float32]:
        return read.labels.astype(np.float32)


READER = Survival()
