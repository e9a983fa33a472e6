"""The mechanism does what the accountant assumes; tests/integration/test_mutations.py breaks it."""

from collections.abc import Callable
from typing import Any

import pytest

from client.policy import Engine
from common.tasks import USUAL
from tests import honesty
from tests.tasks import TASKS

SLOW = {honesty.epsilon_is_that_of_the_golden_table}


@pytest.mark.slow
@pytest.mark.parametrize(
    "detector",
    [pytest.param(d, marks=[pytest.mark.slow] if d in SLOW else []) for d in honesty.DETECTORS],
    ids=lambda detector: detector.__name__,
)
def test_the_engine_is_honest(detector: Callable[[], None]) -> None:
    detector()


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in TASKS if task != USUAL])
@pytest.mark.parametrize("detector", honesty.OF_A_TASK, ids=lambda detector: detector.__name__)
def test_the_engine_is_honest_in_every_task(detector: Callable[[str], None], task: str) -> None:
    if not honesty.applies(detector, task):
        pytest.skip("nothing is judged in this task")
    detector(task)


@pytest.mark.parametrize(
    ("task", "model"), [(task, model) for task, models in honesty.SMALL.items() for model in models]
)
@pytest.mark.parametrize("engine", ["book-keeping", "opacus"])
def test_one_patient_moves_the_sum_by_the_clip_norm_in_every_model_and_engine(
    task: str, model: dict[str, Any], engine: Engine
) -> None:
    honesty.one_patient_moves_the_sum_by_the_clip_norm(task, engine, model=model)
