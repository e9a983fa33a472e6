"""Exact survival scores: what is refused, how hospitals are put together, how time is cut."""

import io
from typing import Any

import numpy as np
import pytest

from common.errors import DataError
from common.survival.scores import SurvivalScores

FINE = {
    "risk": [0.5, 0.25],
    "survival": [[0.75, 0.5], [1.0, 0.75]],
    "time": [3.0, 5.0],
    "event": [1, 0],
    "patient": [0, 1],
}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"risk": [0.5, 1.25]}, "every risk"),
        ({"risk": [0.5, float("nan")]}, "every risk"),
        ({"risk": [0.5]}, "equally long"),
        ({"time": [3.0, -1.0]}, "every time"),
        ({"time": [3.0, float("inf")]}, "every time"),
        ({"event": [1, 2]}, "every event"),
        ({"event": [1, float("nan")]}, "every event"),
        ({"patient": [1, 1]}, "each patient once"),
        ({"survival": [[0.75, 0.5]]}, "a row for each"),
        ({"survival": [0.5, 0.75]}, "a row for each"),
        ({"survival": [[0.75, 0.5], [1.5, 0.75]]}, "every predicted survival"),
        ({"survival": [[0.25, 0.5], [1.0, 0.75]]}, "must not rise"),
        ({"survival": [[0.75, 0.5], [1.0, 0.5]]}, "1 - risk"),
    ],
)
def test_what_is_no_score_is_refused(wrong: dict[str, object], said: str) -> None:
    SurvivalScores(**FINE)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=said):
        SurvivalScores(**(FINE | wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("survival", [FINE["survival"], None])
def test_columns_make_a_file_and_come_back(survival: object) -> None:
    scores = SurvivalScores(**(FINE | {"survival": survival}))  # type: ignore[arg-type]
    file = io.BytesIO()
    columns: dict[str, Any] = scores.columns()
    np.savez(file, **columns)
    file.seek(0)
    with np.load(file, allow_pickle=False) as kept:
        again = SurvivalScores(**({"survival": None} | dict(kept)))  # type: ignore[arg-type]
    assert again.columns().keys() == scores.columns().keys()
    for name, column in scores.columns().items():
        np.testing.assert_array_equal(again.columns()[name], column)


def test_equal_ordinals_of_two_hospitals_stay_two_patients() -> None:
    one = SurvivalScores(**FINE)  # type: ignore[arg-type]
    nobody = SurvivalScores([], None, [], [], [])  # type: ignore[arg-type]
    both = SurvivalScores.concatenate([one, nobody, one])
    assert both.patient.tolist() == [0, 1, 2, 3]
    assert both.time.tolist() == [3.0, 5.0, 3.0, 5.0]
    assert both.survival is not None
    assert both.survival.shape == (4, 2)
    assert SurvivalScores.concatenate([]).risk.size == 0
    ranked = SurvivalScores(**(FINE | {"survival": None}))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the same edges"):
        SurvivalScores.concatenate([one, ranked])


def test_what_happened_after_the_last_edge_is_not_known_at_it() -> None:
    scores = SurvivalScores([0.5] * 4, None, [2, 4, 5, 6], [1, 1, 0, 1], [0, 1, 2, 3])  # type: ignore[arg-type]
    cut = scores.up_to(4.0)
    assert cut.time.tolist() == [2, 4, 4, 4]
    assert cut.event.tolist() == [True, True, False, False]
