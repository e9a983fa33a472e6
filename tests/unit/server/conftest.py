"""What the tests of the coordinator share: a small study, and the identity that Flower's runtime sets."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from flwr.supercore.task_identity import TaskIdentity

from common.tasks.nodule_classification.study import NoduleStudy

MakeStudy = Callable[..., NoduleStudy]


@pytest.fixture
def flower_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Message takes its sender from this; without it none can be made outside Flower's runtime."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def make_study() -> MakeStudy:
    """Makes a study; arguments are its top-level values, and sections to be merged into its own."""

    def make(**changes: Any) -> NoduleStudy:
        fields: dict[str, Any] = {
            "study": "a-study",
            "rounds": 3,
            "images": {"classes": ["no", "yes"], "size": 16},
            "model": {"name": "compact-cnn", "initial-model": "random"},
            "training": {"steps-per-round": 1, "learning-rate": 0.1, "sampling-rate": 0.5},
            "participation": {"quorum": 2, "grace-seconds": 0.0},
            "hospitals": [
                {"name": name, "nominal-patients": patients}
                for name, patients in (("north", 60), ("east", 40), ("south", 24), ("west", 8))
            ],
        }
        for key, value in changes.items():
            section = isinstance(value, Mapping)
            fields[key] = {**fields.get(key, {}), **value} if section else value
        return NoduleStudy.model_validate(fields)

    return make
