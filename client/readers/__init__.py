"""A hospital's files -> its patients, by the reader of the study's task; nothing else lists the readers.

Each module is named after a task in `common.tasks` and has a `READER` (see `client.readers.reader.Reader`).
What several share is in modules of another name.
"""

import importlib
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from client.data import Cohort, Patients, SetAside
from client.data.paths import existing_folder, subfolders
from client.policy import SitePolicy
from client.readers.reader import Opening, Reader
from common.documents import Name
from common.errors import DataError
from common.progress import Progress
from common.protocol import StudyProtocol
from common.tasks import module_of, names, task_named


def reader_of(task: str) -> Reader:
    """The reader of the task of this name, which is a task's (KeyError)."""
    if task not in names():
        raise KeyError(task)
    reader: Reader = importlib.import_module(f"client.readers.{module_of(task)}").READER
    return reader


def open_cohort(
    protocol: StudyProtocol,
    policy: SitePolicy,
    *,
    state: Path | None,
    progress: Progress | None = None,
    set_aside: list[SetAside] | None = None,
) -> Cohort[Patients]:
    """The patients of `policy`'s hospital as `protocol`'s study sees them (see `Opening`)."""
    opening = Opening(policy.data, policy.patient_id_pattern, state, progress, set_aside)
    return reader_of(protocol.task).open_cohort(protocol, opening)


def hospital_folders(task: str, root: Path) -> dict[str, Path]:
    """The hospitals of a rehearsal by name, sorted: the sub-folders of `root` with data of this task.

    DataError when there is none, or when a folder's name cannot be a hospital's name.
    """
    reader = reader_of(task)
    found = {p.name: p for p in subfolders(existing_folder(root)) if reader.holds_data(p)}
    if not found:
        raise DataError(
            f"expected a sub-folder for each hospital in {str(root)!r}, with {task_named(task).files}, found "
            f"none; give the folder above the hospitals"
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
