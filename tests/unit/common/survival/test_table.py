"""The released table: what any patient can change of it, and where each one stands in it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.survival.noised import NoisedTable
from common.survival.scores import SurvivalScores
from common.survival.table import (
    OUTERMOST,
    PERIODS,
    RISK_BINS,
    cells,
    checked,
    period_ends,
    risk_centres,
    risk_edges,
    survival_table,
)
from tests.unit.common.survival.populations import EDGES, SEED, only, proportional

TIMES = st.one_of(st.floats(0, 12), st.integers(0, 12), st.just(0.0), st.just(1e300))
RISKS = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.02, 0.9, 1.0]))


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[SurvivalScores, list[float]]:
    size = draw(st.integers(1, 30))

    def column(of: st.SearchStrategy[object]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        return np.array(draw(st.lists(of, min_size=size, max_size=size)), dtype=float)

    scores = SurvivalScores(
        column(RISKS), None, column(TIMES), column(st.integers(0, 1)) > 0, np.arange(size)
    )
    edges = draw(st.lists(st.integers(1, 11), min_size=1, max_size=9, unique=True))
    return scores, [float(edge) for edge in sorted(edges)]


@settings(deadline=None)
@given(cohort=cohorts())
def test_any_one_patient_changes_one_cell_by_one(
    cohort: tuple[SurvivalScores, list[float]],
) -> None:
    scores, edges = cohort
    table = survival_table(scores, edges)
    assert table.shape == (2, cells(edges))
    assert table.dtype == np.float64
    assert table.sum() == scores.risk.size
    assert table[1].sum() == np.sum(scores.event & (scores.time <= edges[-1]))
    assert not checked(table, edges)[1, -1].any()  # no event after the last edge
    for patient in range(scores.risk.size):
        rest = np.delete(np.arange(scores.risk.size), patient)
        change = table - survival_table(only(scores, rest), edges)
        assert np.linalg.norm(change) == 1
        assert change.sum() == 1


@given(edges=st.lists(st.integers(1, 1000), min_size=1, max_size=40, unique=True).map(sorted))
def test_periods_end_at_edges_and_share_the_intervals_out(edges: list[int]) -> None:
    ends = period_ends(edges)
    assert ends.size == min(PERIODS, len(edges))
    assert ends[-1] == edges[-1]
    number = np.diff([0, *(edges.index(int(end)) + 1 for end in ends)])
    assert number.min() >= 1
    assert number.max() - number.min() <= 1


def test_where_a_patient_stands() -> None:
    """Periods of edges 1..8: to 2, 4, 6 and 8; an edge belongs to the interval before it."""
    edges = list(range(1, 9))
    assert period_ends(edges).tolist() == [2, 4, 6, 8]
    whole = [(0.0, 1), (2.0, 1), (2.1, 1), (8.0, 1), (8.1, 1), (7.9, 0), (8.0, 0), (99.0, 0)]
    times, events = zip(*whole, strict=True)
    scores = SurvivalScores([0.5] * 8, None, times, events, np.arange(8))  # type: ignore[arg-type]
    table = checked(survival_table(scores, edges), edges)
    assert table.sum(axis=2).tolist() == [[0, 0, 0, 1, 3], [2, 1, 0, 1, 0]]
    np.testing.assert_array_equal(  # and cutting first changes nothing
        survival_table(scores.up_to(8.0), edges), survival_table(scores, edges)
    )


def test_bins_hold_their_lower_edge_and_their_centre() -> None:
    edges, centres = risk_edges(), risk_centres()
    assert (edges[0], edges[-1]) == pytest.approx(OUTERMOST)
    steps = np.diff(np.log(edges / (1 - edges)))
    np.testing.assert_allclose(steps, steps[0])
    assert np.all((centres[1:-1] > edges[:-1]) & (centres[1:-1] < edges[1:]))
    assert centres[0] < edges[0]
    assert edges[-1] < centres[-1]
    risk = np.array([0.0, edges[0] - 1e-9, edges[0], edges[-1], 1.0])
    scores = SurvivalScores(risk, None, np.ones(5), np.ones(5, bool), np.arange(5))
    found = survival_table(scores, [1.0])[1, :RISK_BINS]
    assert (found[0], found[1], found[-1]) == (2, 1, 2)


def test_tables_of_hospitals_add_up_to_that_of_all_patients() -> None:
    rng = np.random.default_rng(SEED)
    parts = [proportional(rng, patients) for patients in (31, 7, 80)]
    total = np.sum([survival_table(part, EDGES) for part in parts], axis=0)
    np.testing.assert_array_equal(total, survival_table(SurvivalScores.concatenate(parts), EDGES))


def test_what_is_no_table_of_the_study_is_refused() -> None:
    table = np.zeros((2, cells(EDGES)))
    with pytest.raises(ValueError, match="has shape"):
        checked(table[:, :-1], EDGES)
    with pytest.raises(ValueError, match="non-finite"):
        checked(table + np.inf, EDGES)


def test_other_releases_give_each_row_the_sum_of_the_mean() -> None:
    rng = np.random.default_rng(SEED)
    tables = [*rng.normal(size=(3, 2, cells(EDGES)))]
    steadied = NoisedTable.of(tables[0], 1.0, EDGES, tables[1:])
    sums = np.mean([checked(one, EDGES).sum(axis=2) for one in tables], axis=0)
    wanted = np.concatenate([sums[0], sums[1, :-1]])
    np.testing.assert_allclose(steadied.cells.sum(axis=1), wanted)
    moved = steadied.cells - NoisedTable.of(tables[0], 1.0, EDGES).cells
    np.testing.assert_allclose(moved, np.repeat(moved[:, :1], RISK_BINS, axis=1))


def test_the_variance_of_a_sum_is_what_noise_makes_it() -> None:
    """4,000 draws: the standard error of a standard deviation is 1.1 %."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    weight = rng.normal(size=(2 * PERIODS + 1, RISK_BINS)) + 0.5
    for others in (0, 3):
        tables = rng.normal(scale=2.0, size=(4_000, 1 + others, 2, cells(EDGES)))
        read = [NoisedTable.of(one, 2.0, EDGES, more) for one, *more in tables]
        measured = np.std([np.sum(table.cells * weight) for table in read])
        assert np.sqrt(read[0].variance(weight)) == pytest.approx(measured, rel=0.04)
