"""Shares, operating points, average precision and decision curve against SciPy, scikit-learn and by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import average_precision_score, confusion_matrix, roc_curve

from common.clinical.curves import bands
from common.clinical.evaluation import AIMS, as_json, evaluate, groups_of
from common.clinical.figures import (
    Share,
    at_threshold,
    average_precision_interval,
    by_patient,
    decision_curve,
    halves,
    on_logit_scale,
    operating_point,
    share,
    threshold_for,
)
from common.errors import DataError
from common.metrics import Scores
from tests.scored import cohort, made

SEED = 20_261_125


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (3, 8), (119, 134), (1, 1)])
def test_the_share_of_single_images_has_wilsons_interval(hits: int, n: int) -> None:
    found = share(np.arange(n) < hits, np.arange(n))
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert found.interval == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert (found.hits, found.images, found.patients) == (hits, n, n)


def test_equal_images_of_a_patient_count_as_one() -> None:
    for hits in (np.ones(6, bool), np.zeros(6, bool)):
        copies = share(np.repeat(hits, 5), np.repeat(np.arange(6), 5))
        assert copies.interval == share(hits, np.arange(6)).interval
    alone = share(np.array([True, True, False]), np.zeros(3, np.int64))
    assert alone.interval[0] < 0.1
    assert alone.interval[1] > 0.9
    assert share(np.empty(0, bool), np.empty(0, np.int64)) == Share(0, 0, 0, (0.0, 1.0))


def test_the_interval_of_a_share_covers_it_where_images_of_a_patient_agree() -> None:
    rng, truth, covered, too_narrow, trials = np.random.default_rng(SEED), 0.8, 0, 0, 400
    for _ in range(trials):
        patient = np.repeat(np.arange(25), rng.integers(1, 13, 25))
        z = np.sqrt(0.5) * (rng.normal(size=25)[patient] + rng.normal(size=patient.size))
        hit = z < norm.ppf(truth)
        for grouped, counted in ((patient, True), (np.arange(patient.size), False)):
            low, high = share(hit, grouped).interval
            covered += counted and low <= truth <= high
            too_narrow += not counted and low <= truth <= high
    print(
        "seed",
        SEED,
        "covered",
        covered / trials,
        "images taken as independent",
        too_narrow / trials,
    )
    assert 0.92 <= covered / trials <= 0.99
    assert too_narrow / trials < 0.85


@pytest.mark.parametrize("levels", [None, 8])
@pytest.mark.parametrize(("aim", "wanted"), AIMS)
def test_a_threshold_is_the_best_on_scikit_learns_curve(
    aim: str, wanted: float, levels: int | None
) -> None:
    scores = cohort(np.random.default_rng(SEED), 40)
    if levels:
        scores = made(np.round(scores.score * levels) / levels, scores.label, scores.patient)
    false, true, thresholds = roc_curve(scores.label, scores.score, drop_intermediate=False)
    if aim == "sensitivity":
        expected = thresholds[(true >= wanted) & (false < 1)].max()
    else:
        expected = thresholds[(1 - false >= wanted) & (true > 0)].min()
    found = threshold_for(scores, aim, wanted)
    assert found == expected
    point = at_threshold(scores, float(expected), aim, wanted, same_patients=True)
    (tn, fp), (fn, tp) = confusion_matrix(scores.label, scores.score >= expected)
    assert (point.true_negatives, point.false_positives) == (tn, fp)
    assert (point.false_negatives, point.true_positives) == (fn, tp)
    assert point.sensitivity.value == tp / (tp + fn)
    assert point.specificity.value == tn / (tn + fp)
    assert point.positive_predictive_value.value == tp / (tp + fp)
    assert point.negative_predictive_value.value == tn / (tn + fn)


def test_no_threshold_where_it_would_call_all_or_none() -> None:
    constant = made(np.full(4, 0.5), [0, 1, 0, 1], np.arange(4))
    reversed_ = made([0.9, 0.1, 0.8, 0.2], [0, 1, 0, 1], np.arange(4))
    one_class = made([0.1, 0.9], [1, 1], [0, 1])
    for scores in (constant, reversed_, one_class):
        for aim, wanted in AIMS:
            assert threshold_for(scores, aim, wanted) is None


def test_halves_share_no_patient_and_both_have_both_classes() -> None:
    scores = cohort(np.random.default_rng(SEED), 60)
    parts = halves(scores)
    assert parts is not None
    first, second = parts
    assert not set(first.patient) & set(second.patient)
    assert first.score.size + second.score.size == scores.score.size
    assert first.both_classes
    assert second.both_classes
    point = operating_point(scores, "sensitivity", 0.9)
    assert point is not None
    assert not point.same_patients
    assert point.threshold == threshold_for(first, "sensitivity", 0.9)
    assert point.sensitivity.images == second.label.sum()
    few = cohort(np.random.default_rng(SEED), 8)
    on_itself = operating_point(few, "sensitivity", 0.9)
    assert halves(few) is None
    assert on_itself is not None
    assert on_itself.same_patients
    assert (on_itself.sensitivity.value or 0) >= 0.9


def test_average_precision_of_a_resample_is_that_of_repeated_patients() -> None:
    scores = cohort(np.random.default_rng(SEED), 12)
    weight = by_patient(scores, lambda drawn: drawn, resamples=100)
    values = [
        average_precision_score(scores.label, scores.score, sample_weight=w)
        for w in weight
        if 0 < w @ scores.label < w.sum()
    ]
    value = average_precision_score(scores.label, scores.score)
    expected = on_logit_scale(float(value), float(np.std(values, ddof=1)), scores)
    found = average_precision_interval(scores, resamples=100)
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_bands_hold_the_curves_and_narrow_with_patients() -> None:
    widths = []
    for patients in (30, 300):
        scores = cohort(np.random.default_rng(SEED), patients, most=3)
        found = bands(scores)
        assert found is not None
        false, true, _ = roc_curve(scores.label, scores.score)
        roc, precision = found
        curve = np.interp(roc.at, false, true)
        assert np.mean((roc.low <= curve + 1e-9) & (curve <= roc.high + 1e-9)) > 0.97
        assert np.all(np.diff(roc.low) >= -1e-9)
        assert np.all(precision.low <= precision.high)
        widths.append(float(np.mean(roc.high - roc.low)))
    assert widths[1] < widths[0] / 2


def test_net_benefit_is_that_of_a_table_worked_by_hand() -> None:
    """Ten patients, four with the disease; at 20 % a false alarm costs 1/4, at 50 % it costs 1."""
    scores = made(
        [0.9, 0.7, 0.4, 0.1, 0.8, 0.3, 0.3, 0.2, 0.1, 0.0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        np.arange(10),
    )
    found = decision_curve(scores, [0.2, 0.5])
    assert found is not None
    # From 0.2 on: 3 true, 4 false alarms. From 0.5 on: 2 true, 1 false.
    assert found.model == pytest.approx([3 / 10 - 4 / 10 / 4, 2 / 10 - 1 / 10])
    assert found.treat_all == pytest.approx([4 / 10 - 6 / 10 / 4, 4 / 10 - 6 / 10])
    assert np.all((found.low <= found.model) & (found.model <= found.high))
    assert np.all(found.advantage <= found.model - np.maximum(found.treat_all, 0))
    for outside in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="above 0 and below 1"):
            decision_curve(scores, [outside])


EDGES = {
    "no images": Scores.concatenate([]),
    "one class": made([0.2, 0.9, 0.4], [1, 1, 1], [0, 1, 2]),
    "one patient": made([0.2, 0.9, 0.4], [0, 1, 1], [5, 5, 5]),
    "one patient a class": made([0.2, 0.9], [0, 1], [0, 1]),
    "constant": made(np.full(40, 0.5), np.arange(40) % 2, np.arange(40)),
    "all tied": made(np.repeat([0.0, 1.0], 20), np.arange(40) % 2, np.arange(40)),
    "apart": made(np.repeat([0.1, 0.9], 20), np.repeat([0, 1], 20), np.arange(40)),
    "reversed": made(np.repeat([1.0, 0.0], 20), np.repeat([0, 1], 20), np.arange(40)),
}


@pytest.mark.parametrize("edge", EDGES)
def test_every_edge_case_has_an_answer_of_finite_numbers(edge: str) -> None:
    scores = EDGES[edge]
    found = evaluate(scores, 5, groups_of(scores, ("no nodule", "nodule")))
    facts = as_json(found)

    def numbers(value: object) -> list[float]:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            return [number for part in value for number in numbers(part)]
        return [value] if isinstance(value, float) else []

    assert np.isfinite(numbers(facts)).all()
    if not scores.both_classes:
        assert found.auroc is None
        assert found.points == (None,) * 4
    if edge in ("apart", "reversed", "one patient", "one patient a class"):
        assert found.auroc_interval is None  # no method has a width for it
    if edge in ("constant", "all tied"):
        assert found.auroc == 0.5


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -0.1, 1.1])
def test_a_score_that_is_none_is_refused(broken: float) -> None:
    with pytest.raises(DataError, match="number in"):
        evaluate(made([broken, 0.5], [0, 1], [0, 1]), 5, {})


def test_an_area_known_from_next_to_nothing_has_the_whole_range_and_no_warning() -> None:
    """Two patients of a class, with several images: Student's t with one degree of freedom."""
    few = Scores(
        score=np.linspace(0.1, 0.9, 8),
        label=np.array([0, 0, 0, 0, 1, 1, 1, 1]),
        patient=np.array([0, 0, 1, 1, 2, 2, 3, 3]),
    )
    low, high = on_logit_scale(0.999, 0.2, few)
    assert low == pytest.approx(0.0, abs=1e-12)
    assert high == pytest.approx(1.0, abs=1e-12)
