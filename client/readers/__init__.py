"""A hospital's files -> its patients, by the reader of the study's task; nothing else lists the readers.

Each module is named after a task in `common.tasks` and has what `Reader` says.
"""

import importlib
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from client.data import Cohort, Patients, SetAside
from client.data.paths import existing_folder, subfolders
from client.policy import SitePolicy
from common.documents import Name
from common.errors import DataError
from common.progress import Progress
from common.protocol import StudyProtocol
from common.tasks import module_of, names, task_named


class Reader(Protocol):
    """What opens one task's files; DataError names file and row, so its text stays at the hospital."""

    def open_cohort(
        self,
        protocol: Any,
        folder: Path,
        *,
        patient_id_pattern: str | None,
        state: Path | None,
        progress: Progress | None,
        set_aside: list[SetAside] | None,
    ) -> Cohort[Patients]:
        """All patients in `folder`, on their two sides, as the study's model takes them.

        In the folder `state` something may be kept for the next opening. `progress` is told (done,
        total). What cannot be used and need not end everything is left out; with a list `set_aside`
        all is read anew and what was left out is appended to it, by name.
        """

    def count_patients(
        self, protocol: Any, folder: Path, *, patient_id_pattern: str | None
    ) -> tuple[int, int]:
        """(training, validation) patients as `open_cohort` splits them, as cheaply as that goes."""

    def holds_data(self, folder: Path) -> bool:
        """Whether `folder` looks like a hospital's of this task, for whoever looks for hospitals."""


def reader_of(task: str) -> Reader:
    """The reader of the task of this name, which is a task's (KeyError)."""
    if task not in names():
        raise KeyError(task)
    reader: Reader = importlib.import_module(f"client.readers.{module_of(task)}")
    return reader


def open_cohort(
    protocol: StudyProtocol,
    policy: SitePolicy,
    *,
    state: Path | None,
    progress: Progress | None = None,
    set_aside: list[SetAside] | None = None,
) -> Cohort[Patients]:
    """The patients of `policy`'s hospital as `protocol`'s study sees them (see `Reader`)."""
    return reader_of(protocol.task).open_cohort(
        protocol,
        policy.data,
        patient_id_pattern=policy.patient_id_pattern,
        state=state,
        progress=progress,
        set_aside=set_aside,
    )


def hospital_folders(task: str, root: Path) -> dict[str, Path]:
    """The hospitals of a rehearsal by name, sorted: the sub-folders of `root` with data of this task.

    DataError when there is none, or when a folder's name cannot be a hospital's name.
    """
    reader = reader_of(task)
    found = {p.name: p for p in subfolders(existing_folder(root)) if reader.holds_data(p)}
    if not found:
        raise DataError(
            f"expected a sub-folder for each hospital in {str(root)!r}, with {task_named(task).files}, found none; "
            f"give the folder above the hospitals"
        )
    hospital_name = TypeAdapter[str](Name)
    for name in found:
        try:
            hospital_name.validate_python(name)
        except ValidationError as error:
            raise DataError(
                f"expected hospital folders named in lower-case letters, digits and '.', '_', "
                f"'-', found {name!r}; rename it"
            ) from error
    return found
