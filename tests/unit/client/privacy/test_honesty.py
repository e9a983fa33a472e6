"""The mechanism does what the accountant assumes; tests/integration/test_mutations.py breaks it."""

from collections.abc import Callable

import pytest

from tests import honesty

SLOW = {honesty.epsilon_is_that_of_the_golden_table}


@pytest.mark.slow
@pytest.mark.parametrize(
    "detector",
    [pytest.param(d, marks=[pytest.mark.slow] if d in SLOW else []) for d in honesty.DETECTORS],
    ids=lambda detector: detector.__name__,
)
def test_the_engine_is_honest(detector: Callable[[], None]) -> None:
    detector()
