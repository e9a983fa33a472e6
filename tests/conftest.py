"""What all tests share: nothing phones home, one thread for torch, and where the real data lies."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from common import outbound
from common.tasks.nodule_classification.study import NoduleStudy
from tests.studies import nodule_study

outbound.switch_off()

REPOSITORY = Path(__file__).parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

SMALL_STUDY = """
study = "small"
rounds = 3
images = {{ classes = ["non-nodule", "nodule"], size = 16, mean = 0.4 }}
model = {{ initial-model = "random" }}
training = {{ steps-per-round = 2, learning-rate = 0.5, sampling-rate = 0.5, views-per-patient = 2 }}
privacy = {{ mechanism = "{mechanism}" }}
participation = {{ quorum = {quorum}, deadline-seconds = 120 }}
hospitals = [{hospitals}]
"""


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Bitwise comparisons need a fixed thread count, and two cores have enough to do with one each.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _as_loud_as_before() -> Iterator[None]:
    """A command that is called in this process quietens Flower for the rest of it."""
    flower = logging.getLogger("flwr")
    level = flower.level
    yield
    flower.setLevel(level)


@pytest.fixture
def repository() -> Path:
    return REPOSITORY


@pytest.fixture
def luna() -> Path:
    """Four real sites of lung-CT patches; skips where they are absent."""
    folder = SHARED_DATA / "luna16-train"
    if not folder.is_dir():
        pytest.skip("the real LUNA16 patches are not on this machine")
    return folder


@pytest.fixture
def small_study() -> Callable[..., NoduleStudy]:
    """A study that trains in seconds: `small_study(north=12, west=5, mechanism="none")`."""

    def make(mechanism: str = "dp-sgd", quorum: int | None = None, **cohorts: int) -> NoduleStudy:
        cohorts = cohorts or {"north": 10, "west": 4}
        rows = ", ".join(
            f'{{ name = "{name}", nominal-patients = {count} }}' for name, count in cohorts.items()
        )
        needed = len(cohorts) if quorum is None else quorum
        return nodule_study(SMALL_STUDY.format(mechanism=mechanism, quorum=needed, hospitals=rows))

    return make
