"""The tasks that a study may have, each a package of its name here; nothing else lists them.

A further task is one more package with a `TASK` (see `common.tasks.task.Task`), a file of the same name
in `client.readers`, which opens a hospital's files, in `server.sections` its part of the report, and in
`simulation.phantoms` its synthetic patients.
"""

import importlib
import pkgutil
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from common.documents import kebab, shown
from common.errors import ProtocolError, RunError

if TYPE_CHECKING:
    from common.judging.judge import Judge
    from common.protocol import StudyProtocol
    from common.tasks.task import Loss, Task

# What of a model's quality may leave a hospital, as a site policy allows it: a judge's histogram.
Release = Literal["score-histogram", "survival-histogram"]

USUAL = "nodule-classification"  # where a protocol names none


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """The tasks' names as a protocol writes them, in alphabetical order."""
    return tuple(
        sorted(kebab(found.name) for found in pkgutil.iter_modules(__path__) if found.ispkg)
    )


def task_named(name: object) -> "Task[Any]":
    """The task of this name; ProtocolError when there is none."""
    if name not in names():
        raise ProtocolError(
            f"'task' is {shown(name, repr)} but must be one of {', '.join(names())}"
        )
    task: Task[Any] = importlib.import_module(f"common.tasks.{module_of(str(name))}").TASK
    return task


def task_of(protocol: "StudyProtocol") -> "Task[Any]":
    """The task of this study."""
    return task_named(protocol.task)


def judge_of(protocol: "StudyProtocol") -> "Judge[Any]":
    """The study's judge; RunError where there is nothing to judge, for whom it should not be asked."""
    judge = task_of(protocol).judge
    if judge is None:
        raise RunError(f"expected a study with a model to judge, and '{protocol.task}' has none")
    return judge


def loss_of(protocol: "StudyProtocol") -> "Loss":
    """What training makes small in this study."""
    return task_of(protocol).loss(protocol)


def bins_of(protocol: "StudyProtocol") -> int:
    """Cells in each row of the study's released histograms; 0 where nothing is judged."""
    judge = task_of(protocol).judge
    return 0 if judge is None else judge.bins(protocol)


def releases(protocol: "StudyProtocol") -> tuple[Release, ...]:
    """What of a model's quality leaves a hospital in this study: one histogram, or nothing."""
    judge = task_of(protocol).judge
    return () if judge is None else (judge.release,)


def model_names(protocol: "StudyProtocol") -> tuple[str, ...]:
    """The names of all models that the study's task knows."""
    field = type(protocol.model).model_fields["name"]
    return tuple(map(str, get_args(field.annotation)))


def module_of(name: str) -> str:
    """A task's name as the name of its modules."""
    return name.replace("-", "_")
