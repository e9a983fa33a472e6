"""The canary's patients and their faults, by the study's task; nothing else lists them.

Each module is named after a task in `common.tasks` and has what `client.canary.hospital.Planted` says.
"""

import importlib

from client.canary.hospital import Planted
from common.tasks import module_of, names


def planted_of(task: str) -> Planted:
    """The planted patients of the task of this name, which is a task's (KeyError)."""
    if task not in names():
        raise KeyError(task)
    planted: Planted = importlib.import_module(f"client.canary.planted.{module_of(task)}")
    return planted
