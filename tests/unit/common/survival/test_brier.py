"""The exact Brier score against scikit-survival."""

import numpy as np
import pytest
from sksurv.metrics import brier_score, integrated_brier_score
from sksurv.util import Surv

from common.survival.brier import brier_scores, integrated, integrated_brier
from common.survival.scores import SurvivalScores
from tests.unit.common.survival.populations import EDGES, SEED, only, proportional


def test_the_score_at_each_edge_is_that_of_scikit_survival() -> None:
    rng = np.random.default_rng(SEED)
    scores = proportional(rng, 500, horizon=2.0)  # seen beyond the last edge, as that library needs
    outcome = Surv.from_arrays(scores.event, scores.time)
    found = brier_scores(scores, EDGES)
    assert found is not None
    _, expected = brier_score(outcome, outcome, scores.survival, EDGES)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    theirs = integrated_brier_score(outcome, outcome, scores.survival, EDGES)
    # Theirs begins at the first edge, and divides by what is left.
    from_zero = theirs * (EDGES[-1] - EDGES[0]) + EDGES[0] * found[0] / 2
    assert integrated(found, EDGES) == pytest.approx(from_zero / EDGES[-1], rel=1e-9)
    # What is not known beyond the last edge changes nothing.
    cut = brier_scores(scores.up_to(1.0), EDGES)
    assert cut is not None
    np.testing.assert_allclose(cut, found, rtol=1e-9)


def test_by_hand() -> None:
    """Without anyone lost it is the mean squared distance; a constant half has 1/4."""
    half = np.full((4, 2), 0.5)
    time, event = np.array([1.0, 2.0, 3.0, 3.0]), np.array([True, True, False, False])
    scores = SurvivalScores(half[:, 1], half, time, event, np.arange(4))
    edges = (1.5, 3.0)
    found = brier_scores(scores, edges)
    assert found is not None
    assert found.tolist() == [0.25, 0.25]
    assert integrated(found, edges) == pytest.approx((0.125 * 1.5 + 0.25 * 1.5) / 3)
    assert integrated(np.array([0.2]), (3.0,)) == pytest.approx(0.1)


def test_everybody_lost_before_the_last_edge_leaves_it_to_those_with_an_event() -> None:
    survival = np.array([[0.5], [0.5]])
    scores = SurvivalScores([0.5, 0.5], survival, [1.0, 2.0], [1, 0], [0, 1])  # type: ignore[arg-type]
    assert brier_scores(scores, (3.0,)) == pytest.approx([0.125])


def test_a_model_that_ranks_only_has_no_score() -> None:
    scores = SurvivalScores([0.5], None, [1.0], [1], [0])  # type: ignore[arg-type]
    assert brier_scores(scores, EDGES) is None
    assert brier_scores(SurvivalScores.concatenate([]), EDGES) is None
    assert integrated_brier(scores, EDGES) is None


def test_the_interval_covers_the_population() -> None:
    """Nominal 95 %; 200 repetitions have a standard error of .015."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    everybody = proportional(rng, 4_000)
    truth = integrated_brier(everybody, EDGES)
    assert truth is not None
    exact = brier_scores(everybody, EDGES)
    assert exact is not None
    assert truth.value == pytest.approx(float(integrated(exact, EDGES)))
    covered = []
    for _ in range(200):
        found = integrated_brier(only(everybody, rng.integers(0, 4_000, 150)), EDGES)
        assert found is not None
        covered.append(found.interval[0] <= truth.value <= found.interval[1])
    print(f"covered {np.mean(covered):.3f}")
    assert 0.90 < np.mean(covered) < 0.99
