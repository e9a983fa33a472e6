"""What all tasks on a table of records have in common."""

from typing import TypeVar

from common.protocol import StudyProtocol
from common.tabular.schema import Records
from common.tasks.task import Task


class TableStudy(StudyProtocol):
    """A study whose hospitals have a table of records each."""

    records: Records


T = TypeVar("T", bound=TableStudy)


class TableTask(Task[T]):
    """A view is a row, encoded into D numbers."""

    view = "record"
    files = "records.csv or records.parquet"

    def view_shape(self, protocol: T) -> tuple[int, ...]:
        """(D,)"""
        return (len(protocol.records.features),)
