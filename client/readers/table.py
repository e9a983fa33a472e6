"""What reads a table of records, whatever is made of its rows."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from client.data import Cohort, Patients
from client.data.records import ReadRecords, has_table
from client.readers.reader import Opening, Reader


class TableReader(Reader):
    """`records.csv` or `records.parquet`. Reading takes seconds: nothing is kept for the next time."""

    @abstractmethod
    def read(self, protocol: Any, opening: Opening) -> ReadRecords:
        """The usable rows, with the columns that labels are made of."""

    @abstractmethod
    def labels(self, read: ReadRecords) -> NDArray[Any]:
        """(N, ...), as the task's loss takes them."""

    def open_cohort(self, protocol: Any, opening: Opening) -> Cohort[Patients]:
        read = self.read(protocol, opening)
        if opening.set_aside is not None:
            opening.set_aside.extend(read.set_aside)
        return read.cohort(self.labels(read))

    def holds_data(self, folder: Path) -> bool:
        return has_table(folder)
