"""The reader of a summary: a table of records, of a patient one row or several."""

import numpy as np
from numpy.typing import NDArray

from client.data.records import ReadRecords, read_records
from client.readers.reader import Opening
from client.readers.table import TableReader
from common.tasks.summary.study import SummaryStudy


class Summary(TableReader):
    """A record is its own label."""

    def read(self, protocol: SummaryStudy, opening: Opening) -> ReadRecords:
        return read_records(opening.folder, protocol.records, progress=opening.progress)

    def labels(self, read: ReadRecords) -> NDArray[np.float32]:
        return read.values


READER = Summary()
