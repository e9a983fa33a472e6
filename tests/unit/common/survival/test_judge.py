"""The judge of survival: from a model's outputs to scores, a table and a reading."""

import numpy as np
import pytest

from common.histogram import Floats
from common.survival.concordance import harrell, harrell_interval
from common.survival.reading import SurvivalReading
from common.survival.scores import SurvivalScores
from common.survival.table import survival_table
from common.tasks import task_of
from tests.unit.common.survival.populations import EDGES, SEED, proportional
from tests.unit.server.sections.test_survival import study


def judged(outputs: Floats, time: Floats, event: Floats) -> SurvivalScores:
    """As the vault does it: labels are float32."""
    labels = np.stack([time, event], axis=1).astype(np.float32)
    protocol = study()
    judge = task_of(protocol).judge
    assert judge is not None
    scores = judge.scores(protocol, outputs, labels, np.arange(len(labels)), {})
    assert isinstance(scores, SurvivalScores)
    return scores


def test_scores_come_from_outputs_and_go_to_a_table_and_back() -> None:
    whole = proportional(np.random.default_rng(SEED), 300, horizon=2.0)
    assert whole.survival is not None
    outputs = np.concatenate([whole.risk[:, None], whole.survival], axis=1)
    scores = judged(outputs, whole.time, whole.event.astype(float))
    assert scores.time.max() == pytest.approx(EDGES[-1])
    assert np.any(whole.event & ~scores.event)  # after the last edge
    protocol = study()
    judge = task_of(protocol).judge
    assert judge is not None
    table = judge.histogram(protocol, scores)
    assert table.shape == (2, judge.bins(protocol))
    np.testing.assert_array_equal(table, survival_table(whole, EDGES))
    assert judge.groups(scores) == (int(table[0].sum()), int(table[1].sum()))
    assert judge.patients(scores) == 300
    again = judge.of_columns(judge.columns(scores))
    assert judge.discrimination(again) == harrell(scores)
    assert judge.interval(again) == harrell_interval(scores)
    reading = judge.read(protocol, table, 0.0, [table])
    assert isinstance(reading, SurvivalReading)
    exact = harrell(scores)
    assert exact is not None
    assert reading.discrimination.value == pytest.approx(exact, abs=0.02)


def test_a_time_that_is_an_edge_is_in_the_interval_that_it_ends() -> None:
    """float32 has .3 as .300000012: compared with .3 in float64 it came after it."""
    outputs = np.full((2, 1 + len(EDGES)), 0.5)
    scores = judged(outputs, np.array([0.3, 1.0]), np.array([1.0, 1.0]))
    protocol = study()
    judge = task_of(protocol).judge
    assert judge is not None
    np.testing.assert_array_equal(
        judge.histogram(protocol, scores).reshape(2, 5, -1).sum(axis=2),
        [[0, 0, 0, 0, 0], [1, 0, 0, 1, 0]],
    )


def test_an_output_that_is_not_finite_says_nothing_and_refuses_nothing() -> None:
    outputs = np.full((2, 1 + len(EDGES)), 0.5)
    outputs[1, 3] = np.nan
    scores = judged(outputs, np.array([0.3, 0.5]), np.array([1.0, 0.0]))
    assert scores.risk.tolist() == [0.5, 0.5]
    assert judged(np.empty((0, 0)), np.empty(0), np.empty(0)).risk.size == 0
