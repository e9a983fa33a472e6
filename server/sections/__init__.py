"""What a report says of one task's studies alone, by the study's task; nothing else lists the parts.

Each module is named after a task in `common.tasks` and has a `PART` (see `server.sections.part.Part`).
What two tasks share is in modules of another name, such as `server.sections.binary`. Importing a part
loads neither torch nor matplotlib.
"""

import importlib
from typing import TYPE_CHECKING

from common.tasks import module_of, names

if TYPE_CHECKING:
    from common.protocol import StudyProtocol
    from server.sections.part import Part


def part_of(protocol: "StudyProtocol") -> "Part":
    """The part of this study's task, which is a task's (KeyError)."""
    if protocol.task not in names():
        raise KeyError(protocol.task)
    part: Part = importlib.import_module(f"server.sections.{module_of(protocol.task)}").PART
    return part
