"""Exact concordance: against scikit-survival and pair counting, and its intervals by coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw
from sksurv.util import Surv

from common.errors import DataError
from common.survival import concordance
from common.survival.scores import SurvivalScores
from tests.unit.common.survival.populations import SEED, only, proportional


@st.composite
def small_cohorts(draw: st.DrawFn) -> SurvivalScores:
    size = draw(st.integers(0, 25))
    return SurvivalScores(
        np.array(draw(st.lists(st.sampled_from([0.1, 0.2, 0.5]), min_size=size, max_size=size))),
        None,
        np.array(draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))),
        np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=bool),
        np.arange(size),
    )


@settings(deadline=None)
@given(scores=small_cohorts())
def test_ties_of_time_and_risk_are_as_counted_pair_by_pair(scores: SurvivalScores) -> None:
    won = compared = 0.0
    for i in np.flatnonzero(scores.event):
        for j in range(scores.risk.size):
            later = scores.time[j] > scores.time[i]
            if later or (scores.time[j] == scores.time[i] and not scores.event[j]):
                compared += 1
                won += (scores.risk[i] > scores.risk[j]) + (scores.risk[i] == scores.risk[j]) / 2
    found = concordance.harrell(scores)
    if compared == 0:
        assert found is None
        assert concordance.uno(scores) is None
        assert concordance.harrell_interval(scores) is None
        assert concordance.harrell_difference(scores, scores) is None
    else:
        assert found == pytest.approx(won / compared, abs=1e-12)


def test_both_indices_are_those_of_scikit_survival() -> None:
    scores = proportional(np.random.default_rng(SEED), 400)
    outcome = Surv.from_arrays(scores.event, scores.time)
    harrell = concordance_index_censored(scores.event, scores.time, scores.risk)[0]
    assert concordance.harrell(scores) == pytest.approx(harrell, abs=1e-12)
    uno = concordance_index_ipcw(outcome, outcome, scores.risk, tau=1.0)[0]
    assert concordance.uno(scores) == pytest.approx(uno, abs=1e-9)
    assert abs(uno - harrell) > 1e-3  # they do differ
    assert np.any(scores.time == 1)  # and somebody is seen to the end


def test_the_jackknife_is_what_leaving_each_patient_out_gives() -> None:
    """The infinitesimal one differs from leaving out by a term of order 1 / n."""
    scores = proportional(np.random.default_rng(SEED), 150)
    whole = concordance.harrell(scores)
    left_out = []
    for patient in range(150):
        found = concordance.harrell(only(scores, np.delete(np.arange(150), patient)))
        assert found is not None
        assert whole is not None
        left_out.append(whole - found)
    _, influence = concordance._influence(scores, np.ones(150))
    np.testing.assert_allclose(influence, left_out, rtol=0.1, atol=3e-4)
    assert np.corrcoef(influence, left_out)[0, 1] > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("patients", [80, 400])
def test_intervals_cover_the_population(patients: int) -> None:
    """Nominal 95 %; 300 repetitions have a standard error of .013."""
    print(f"seed {SEED}")
    everybody = proportional(np.random.default_rng(SEED), 4_000)
    truth = concordance.harrell(everybody)
    other_model = np.random.default_rng(SEED + 1).normal(size=4_000)
    noisier = 1 / (1 + np.exp(-np.log(everybody.risk / (1 - everybody.risk)) - other_model))
    rival = SurvivalScores(noisier, None, everybody.time, everybody.event, everybody.patient)
    true_uno, true_rival = concordance.uno(everybody), concordance.harrell(rival)
    assert truth is not None
    assert true_uno is not None
    assert true_rival is not None
    assert truth - true_rival > 0.03
    rng = np.random.default_rng(SEED)
    covered = []
    for _ in range(300):
        drawn = rng.integers(0, 4_000, patients)
        scores, theirs = only(everybody, drawn), only(rival, drawn)
        harrell, uno = concordance.harrell_interval(scores), concordance.uno_interval(scores)
        difference = concordance.harrell_difference(scores, theirs)
        assert harrell is not None
        assert uno is not None
        assert difference is not None
        assert difference.interval is not None
        pairs = ((harrell, truth), (uno, true_uno), (difference.interval, truth - true_rival))
        covered.append([low <= value <= high for (low, high), value in pairs])
    print("covered: Harrell, Uno, difference", np.mean(covered, axis=0))
    assert np.all((np.mean(covered, axis=0) > 0.92) & (np.mean(covered, axis=0) < 0.985))


def test_the_difference_is_paired_and_of_the_same_patients() -> None:
    scores = proportional(np.random.default_rng(SEED), 120)
    nearly = SurvivalScores(
        np.clip(scores.risk + 1e-3 * (scores.patient % 2), 0, 1),
        None,
        scores.time,
        scores.event,
        scores.patient,
    )
    found = concordance.harrell_difference(scores, nearly)
    alone = concordance.harrell_interval(scores)
    assert found is not None
    assert found.interval is not None
    assert alone is not None
    assert found.interval[1] - found.interval[0] < 0.2 * (alone[1] - alone[0])
    same = concordance.harrell_difference(scores, scores)
    assert same is not None
    assert (same.value, same.interval) == (0.0, None)
    with pytest.raises(DataError, match="the same patients"):
        concordance.harrell_difference(scores, only(scores, np.arange(119)))


def test_nothing_is_said_of_variance_where_all_pairs_are_right_or_one_event_is_all() -> None:
    time = np.arange(1.0, 7.0)
    right = SurvivalScores(1 / (1 + time), None, time, np.ones(6, bool), np.arange(6))
    assert concordance.harrell(right) == 1.0
    assert concordance.harrell_interval(right) is None
    once = SurvivalScores(right.risk[::-1], None, time, time == 2, right.patient)
    assert concordance.harrell(once) is not None
    assert concordance.harrell_interval(once) is None
