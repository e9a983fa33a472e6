"""What a table says: exactly without noise, and with intervals that hold under it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.utils import concordance_index
from scipy.stats import binomtest
from sksurv.metrics import concordance_index_ipcw
from sksurv.util import Surv

from common.histogram import Estimate
from common.survival import concordance
from common.survival.brier import brier_scores, integrated
from common.survival.groups import exact_groups, thirds
from common.survival.noised import NoisedTable
from common.survival.reading import SurvivalReading, read_table
from common.survival.released_concordance import harrell
from common.survival.scores import SurvivalScores
from common.survival.table import (
    PERIODS,
    period_ends,
    risk_centres,
    risk_edges,
    survival_table,
)
from tests.conftest import SHARED_DATA
from tests.unit.common.survival.populations import EDGES, SEED, only, proportional

BRCA = SHARED_DATA / "fed-tcga-brca"


def read(scores: SurvivalScores, noise: float = 0.0) -> SurvivalReading:
    found = read_table(survival_table(scores, EDGES), noise, EDGES)
    assert found is not None
    return found


def binned(
    scores: SurvivalScores,
) -> tuple[SurvivalScores, "np.ndarray[tuple[int], np.dtype[np.int64]]"]:
    """Every patient twice, with the number of the period for a time and that of the bin for a risk.

    Of one who was lost in a period one copy is lost before its events and one after: so half of the
    pairs with them count, and in a curve half of the patients are at risk. Also the bins.
    """
    period = np.searchsorted(period_ends(EDGES), scores.time, side="left")
    to_the_end = ~scores.event & (scores.time >= EDGES[-1])
    time = np.where(to_the_end, PERIODS, period) + 1.0
    column = np.searchsorted(risk_edges(), scores.risk, side="right")
    shift = np.where(scores.event | to_the_end, 0.0, 0.25)
    twice = SurvivalScores(
        np.tile(risk_centres()[column], 2),
        None,
        np.concatenate([time - shift, time + shift]),
        np.tile(scores.event, 2),
        np.arange(2 * time.size),
    )
    return twice, np.tile(column, 2)


def test_without_noise_concordance_is_that_of_lifelines_on_binned_patients() -> None:
    scores = proportional(np.random.default_rng(SEED), 300)
    twice, _ = binned(scores)
    expected = concordance_index(twice.time, -twice.risk, twice.event)
    assert read(scores).discrimination.value == pytest.approx(expected, abs=1e-9)


def test_without_noise_curves_are_those_of_lifelines_on_binned_patients() -> None:
    scores = proportional(np.random.default_rng(SEED), 300)
    twice, column = binned(scores)
    bounds = [0.0, *risk_edges(), 1.0]
    groups = read(scores).groups
    assert [group.name for group in groups] == ["low", "middle", "high"]
    for group in groups:
        start, stop = bounds.index(group.low), bounds.index(group.high)
        mine = (column >= start) & (column < stop)
        reference = KaplanMeierFitter().fit(twice.time[mine], twice.event[mine])
        expected = reference.predict(np.arange(1, PERIODS + 1))
        np.testing.assert_allclose(group.survival, expected, atol=1e-9)
        assert group.predicted == pytest.approx(twice.risk[mine].mean())
        assert group.observed is not None
        assert group.observed.value == pytest.approx(1 - expected.iloc[-1])
        assert group.at_risk[0] == mine.sum() / 2
        assert group.at_risk[-1] == np.sum(twice.time[mine] == PERIODS + 1) / 2


def test_without_noise_unos_index_and_brier_score_are_nearly_the_exact_ones() -> None:
    """They stand for each other up to bins and periods: .01 is what the module's table grants."""
    scores = proportional(np.random.default_rng(SEED), 4_000)
    found = read(scores)
    outcome = Surv.from_arrays(scores.event, scores.time)
    uno = concordance_index_ipcw(outcome, outcome, scores.risk, tau=1.0)[0]
    assert found.uno is not None
    assert found.uno.value == pytest.approx(uno, abs=0.01)
    assert abs(uno - found.discrimination.value) > 0.0005  # weights do something
    exact = brier_scores(scores, EDGES)
    assert exact is not None
    assert found.brier is not None
    assert found.brier.value == pytest.approx(integrated(exact, EDGES), rel=0.03)
    useless = SurvivalScores(np.full(4_000, 0.5), None, scores.time, scores.event, scores.patient)
    blind = read(useless).brier
    assert blind is not None
    assert blind.value > 1.1 * found.brier.value
    ranked = read_table(survival_table(scores, EDGES), 0.0, EDGES, ranks_only=True)
    assert ranked is not None
    assert ranked.brier is None


def test_no_event_is_no_certainty_but_bounded_by_who_was_followed_to_the_end() -> None:
    time = np.array([9.0, 9.0, 9.0, 9.0, 2.0, 3.0])
    scores = SurvivalScores(
        risk=np.full(6, 0.1),
        survival=None,
        time=time,
        event=np.zeros(6, bool),
        patient=np.arange(6),
    )
    (group,) = exact_groups(scores, (0.3, 0.6), (4.0, 8.0))
    assert group.observed is not None
    reference = binomtest(0, 4).proportion_ci(0.95, method="exact")
    assert group.until == 8.0
    assert group.observed.value == 0.0
    assert group.observed.interval == pytest.approx((reference.low, reference.high))


def test_exact_groups_are_those_of_the_released_ones_without_ties() -> None:
    scores = proportional(np.random.default_rng(SEED), 3_000)
    released = read(scores).groups
    exact = exact_groups(scores, (released[1].low, released[1].high), EDGES)
    for one, other in zip(released, exact, strict=True):
        assert (one.name, one.low, one.high) == (other.name, other.low, other.high)
        at_ends = np.interp(one.time, other.time, other.survival)
        np.testing.assert_allclose(one.survival, at_ends, atol=0.01)
        assert one.observed is not None
        assert other.observed is not None
        assert one.observed.interval == pytest.approx(other.observed.interval, abs=0.01)
        assert one.predicted == pytest.approx(other.predicted, abs=0.02)
        assert other.at_risk[0] == one.at_risk[0]
        assert other.at_risk[-1] == one.at_risk[-1]
    counts = [group.at_risk[0] for group in exact_groups(scores, thirds(scores), EDGES)]
    assert counts == pytest.approx([1000] * 3, abs=1)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    patients=st.integers(1, 400),
    noise=st.sampled_from([0.0, 0.5, 3.0]),
    understated=st.floats(0, 1),
    releases=st.integers(1, 3),
)
def test_whatever_noise_makes_of_a_table_figures_stay_in_their_range(
    seed: int, patients: int, noise: float, understated: float, releases: int
) -> None:
    rng = np.random.default_rng(seed)
    exact = survival_table(proportional(rng, patients), EDGES)
    one, *others = exact + rng.normal(scale=noise, size=(releases, *exact.shape))
    found = read_table(one, noise * understated, EDGES, others)
    if found is None:
        return
    groups = [group.observed for group in found.groups]
    estimates = [found.discrimination, found.uno, found.brier, *groups]
    for estimate in filter(None, estimates):
        low, high = estimate.interval
        assert 0 <= low <= estimate.value <= high <= 1
    for group in found.groups:
        assert np.all(np.diff(np.concatenate([[1.0], group.survival])) <= 1e-12)
        low_band, high_band = group.band
        assert np.all((low_band >= 0) & (low_band <= group.survival + 1e-12))
        assert np.all((group.survival <= high_band + 1e-12) & (high_band <= 1))
        assert 0 <= group.predicted <= 1


def test_noise_that_leaves_nothing_to_say_is_not_read() -> None:
    scores = proportional(np.random.default_rng(SEED), 60)
    table = survival_table(scores, EDGES)
    assert read_table(table, 0.5, EDGES) is not None
    assert read_table(table, 20.0, EDGES) is None
    assert read_table(np.zeros_like(table), 0.0, EDGES) is None
    nobody_had_one = table.copy()
    nobody_had_one[1] = 0
    assert read_table(nobody_had_one, 0.0, EDGES) is None


def test_everybody_in_one_bin_is_one_group_and_says_one_half() -> None:
    base = proportional(np.random.default_rng(SEED), 200)
    alike = SurvivalScores(np.full(200, 0.3), None, base.time, base.event, base.patient)
    found = read(alike)
    assert found.discrimination.value == 0.5
    assert len(found.groups) == 1


@pytest.mark.slow
def test_the_noise_does_not_pull_the_concordance_towards_one_half() -> None:
    """Noise 2: the standard error of the mean of 500 releases is .003. Setting negative cells to
    zero, the obvious way, is off by more than .03."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    exact = survival_table(proportional(rng, 400), EDGES)
    truth = read_table(exact, 0.0, EDGES)
    assert truth is not None
    errors: list[float] = []
    cut: list[float] = []
    for _ in range(500):
        noised = exact + rng.normal(scale=2.0, size=exact.shape)
        for values, table in ((errors, noised), (cut, np.maximum(noised, 0))):
            found = harrell(NoisedTable.of(table, 2.0, EDGES))
            assert found is not None
            values.append(found.value - truth.discrimination.value)
    print(f"bias {np.mean(errors):.4f}, cut {np.mean(cut):.4f}")
    assert abs(np.mean(errors)) < 0.01
    assert np.mean(cut) < -0.03


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patients", "spread", "others"), [(100, 1.0, 3), (300, 2.5, 0), (1_000, 1.0, 3)]
)
def test_intervals_cover_the_population_under_noise_and_sampling(
    patients: int, spread: float, others: int
) -> None:
    """Nominal 95 %, and at least 89 % for each noise that leaves half of the releases readable.

    100 repetitions: the standard error of a coverage of .95 is .022. An interval for the patients
    alone must cover less at the largest such noise, or the test could not tell.
    """
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    everybody = proportional(rng, 20_000, spread)
    truth = read(everybody)  # with the ties of the bins, as the interval claims
    naive = 1.0
    for noise in (0.0, 1.0, 4.0):
        covered, blind = [], []
        for _ in range(100):
            exact = survival_table(only(everybody, rng.integers(0, 20_000, patients)), EDGES)
            one, *more = exact + rng.normal(scale=noise, size=(1 + others, *exact.shape))
            found = read_table(one, noise, EDGES, more)
            without = harrell(NoisedTable.of(one, 0.0, EDGES, more))
            if found is None or without is None:
                continue
            pairs = (
                (found.discrimination, truth.discrimination),
                (found.uno, truth.uno),
                (found.brier, truth.brier),
            )
            covered.append([mine is None or within(mine, theirs) for mine, theirs in pairs])
            blind.append(within(without, truth.discrimination))
        if len(covered) < 50:
            continue
        print(f"noise {noise:g}: Harrell, Uno, Brier", np.mean(covered, axis=0), len(covered))
        assert np.min(np.mean(covered, axis=0)) >= 0.89
        naive = float(np.mean(blind))
    assert naive < 0.92


def within(found: Estimate, truth: Estimate | None) -> bool:
    assert truth is not None
    return found.interval[0] <= truth.value <= found.interval[1]


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_bands_of_the_groups_cover_the_population(noise: float) -> None:
    """At each end of a period, for groups that the released counts chose; nominal 95 %."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    everybody = proportional(rng, 20_000)
    truth = NoisedTable.of(survival_table(everybody, EDGES), 0.0, EDGES)
    bounds = [0.0, *risk_edges(), 1.0]
    covered: list[bool] = []
    for _ in range(100):
        exact = survival_table(only(everybody, rng.integers(0, 20_000, 300)), EDGES)
        found = read_table(exact + rng.normal(scale=noise, size=exact.shape), noise, EDGES)
        assert found is not None
        for group in found.groups:
            of = truth.columns(bounds.index(group.low), bounds.index(group.high))
            low, high = group.band
            expected = of.survival[: low.size]
            covered += ((low - 1e-3 <= expected) & (expected <= high + 1e-3)).tolist()
    print(f"noise {noise:g}: {np.mean(covered):.3f} of {len(covered)}")
    assert np.mean(covered) > 0.92


@pytest.mark.skipif(not BRCA.is_dir(), reason="the TCGA-BRCA records are not on this machine")
def test_real_patients_and_a_cox_model() -> None:
    """222 test patients with 28 events in eight years: exact and without noise .84 and .83."""
    import pandas as pd

    records = pd.read_csv(BRCA / "brca.csv").merge(pd.read_csv(BRCA / "train_test_split.csv"))
    columns = [name for name in records.columns if name not in ("pid", "fold", "fold2")]
    training, testing = (records[records["fold"] == fold] for fold in ("train", "test"))
    cox = CoxPHFitter(penalizer=0.1).fit(training[columns], "T", "E")
    edges = [365.25 * year for year in range(1, 9)]
    survival = cox.predict_survival_function(testing, times=edges).to_numpy().T
    scores = SurvivalScores(
        1 - survival[:, -1],
        survival,
        testing["T"].to_numpy(),
        testing["E"].to_numpy() == 1,
        np.arange(len(testing)),
    ).up_to(edges[-1])
    exact, interval = concordance.harrell(scores), concordance.harrell_interval(scores)
    table = survival_table(scores, edges)
    found = read_table(table, 0.0, edges)
    assert found is not None
    assert exact is not None
    assert interval is not None
    print(exact, interval, concordance.uno(scores), found.discrimination, found.uno, found.brier)
    assert exact == pytest.approx(0.84, abs=0.01)
    assert found.discrimination.value == pytest.approx(exact, abs=0.02)
    assert interval == pytest.approx(found.discrimination.interval, abs=0.06)
    high = exact_groups(scores, thirds(scores), edges)[-1]
    own = testing[scores.risk >= high.low]
    reference = KaplanMeierFitter().fit(own["T"], own["E"]).predict(edges[-1])
    assert high.observed is not None
    assert high.observed.value == pytest.approx(1 - reference, abs=1e-9)
