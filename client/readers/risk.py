"""The reader of risk: a table of records with an outcome, of a patient one row or several."""

import numpy as np
from numpy.typing import NDArray

from client.data.records import ReadRecords, read_records
from client.readers.reader import Opening
from client.readers.table import TableReader
from common.tasks.risk.study import RiskStudy


class Risk(TableReader):
    """Labels (N,) are places among the classes."""

    def read(self, protocol: RiskStudy, opening: Opening) -> ReadRecords:
        records = protocol.records
        return read_records(
            opening.folder, records, records.label_columns, progress=opening.progress
        )

    def labels(self, read: ReadRecords) -> NDArray[np.int64]:
        return read.labels[:, 0].astype(np.int64)


READER = Risk()
