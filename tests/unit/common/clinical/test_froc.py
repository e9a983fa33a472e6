"""FROC by hand, against a loop over thresholds, against scikit-learn's curve, and on LUNA16's candidates."""

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike
from sklearn.metrics import roc_curve

from client.data.image_folder import open_cohort
from common.clinical.evaluation import as_json, evaluate
from common.clinical.froc import RATES, froc
from common.metrics import Scores
from common.tasks.nodule_classification.study import Images

SEED = 20_261_126


def candidates(
    score: ArrayLike, label: ArrayLike, patient: ArrayLike, series: ArrayLike, finding: ArrayLike
) -> Scores:
    columns = (np.asarray(column) for column in (score, label, patient, series, finding))
    return Scores(*columns)


def drawn(rng: np.random.Generator, patients: int, levels: int | None = None) -> Scores:
    """Patients of 1 to 3 scans with up to 6 candidates, some of them of one nodule."""
    rows = []
    for patient in range(patients):
        for scan in range(int(rng.integers(1, 4))):
            for _ in range(rng.integers(1, 7)):
                positive = rng.random() < 0.4
                shows = int(rng.integers(2) if positive else rng.integers(100, 1000))
                value = 1 / (1 + np.exp(-rng.normal(1.5 if positive else -0.5)))
                rows.append((value, positive, patient, 10 * patient + scan, shows))
    score, label, of, series, nodule = (np.array(column) for column in zip(*rows, strict=True))
    if levels:
        score = np.round(score * levels) / levels
    return candidates(score, label, of, series, series * 1000 + nodule)


def by_a_loop(scores: Scores, rate: float) -> float:
    """Sensitivity at `rate` false positives per scan, threshold by threshold, straight in between."""
    assert scores.series is not None
    assert scores.finding is not None
    findings = {int(f) for f in scores.finding[scores.label == 1]}
    scans = {int(s) for s in scores.series}
    points = [(0.0, 0.0)]
    for threshold in sorted(set(scores.score), reverse=True):
        called = scores.score >= threshold
        shown = {int(f) for f in scores.finding[called & (scores.label == 1)]}
        alarms = int((called & (scores.label == 0)).sum())
        points.append((alarms / len(scans), len(shown) / len(findings)))
    before = [point for point in points if point[0] <= rate][-1]
    after = [point for point in points if point[0] > rate][:1]
    if not after:
        return before[1]
    part = (rate - before[0]) / (after[0][0] - before[0])
    return before[1] + part * (after[0][1] - before[1])


def test_a_curve_that_is_worked_out_by_hand() -> None:
    """Two scans, three nodules: A has two candidates (.9 and .2), B one (.6), C one (.3).

    Falling: A is shown at .9, a false positive at .8, B at .6, false ones at .5 and .4, C at .3; A's
    second candidate at .2 adds nothing, a false one at .1 ends it. So with 0, 1, 2, 3, 4 false
    positives in two scans 1, 2, 2, 3, 3 of 3 nodules are shown.
    """
    found = froc(
        candidates(
            [0.9, 0.2, 0.8, 0.6, 0.5, 0.4, 0.3, 0.1],
            [1, 1, 0, 1, 0, 0, 1, 0],
            [0, 0, 0, 0, 0, 1, 1, 1],
            [0, 0, 0, 0, 0, 1, 1, 1],
            [0, 0, 1, 2, 3, 4, 5, 6],
        )
    )
    assert found is not None
    assert (found.scans, found.findings, found.patients, found.most) == (2, 3, 2, 2.0)
    # From (0, 1/3) straight to (1/2, 1/3), where B lifts it to 2/3; then (1, 2/3), (3/2, 2/3) and C: 1.
    hand = {0.125: 1 / 3, 0.25: 1 / 3, 0.5: 2 / 3, 1.0: 2 / 3, 2.0: 1.0, 4.0: 1.0, 8.0: 1.0}
    assert {p.rate: p.sensitivity for p in found.points} == pytest.approx(hand)
    assert found.score == pytest.approx(sum(hand.values()) / 7)


@pytest.mark.parametrize("levels", [None, 6])
def test_the_curve_is_that_of_a_loop_and_of_the_challenges_way(levels: int | None) -> None:
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    for patients in (3, 12, 40):
        scores = drawn(rng, patients, levels)
        found = froc(scores)
        assert found is not None
        at_rates = [point.sensitivity for point in found.points]
        assert at_rates == pytest.approx([by_a_loop(scores, rate) for rate in RATES])
        # As the challenge's script has it: scikit-learn's ROC of best candidates, its axis rescaled.
        assert scores.series is not None
        assert scores.finding is not None
        best = {
            f: scores.score[(scores.finding == f) & (scores.label == 1)].max()
            for f in set(scores.finding[scores.label == 1])
        }
        wrong = scores.score[scores.label == 0]
        false, true, _ = roc_curve(
            [1] * len(best) + [0] * wrong.size, [*best.values(), *wrong], drop_intermediate=True
        )
        scans = len(set(scores.series))
        assert np.interp(RATES, false * wrong.size / scans, true) == pytest.approx(at_rates)
        assert found.most == pytest.approx(wrong.size / scans)


def test_the_interval_is_that_of_patients_who_are_copied() -> None:
    """The same draws, done the slow way: each drawn patient's images, scans and findings again."""
    scores, patients = drawn(np.random.default_rng(SEED), 5), 5
    assert scores.series is not None
    assert scores.finding is not None
    alone = []
    for patient in range(patients):
        here = scores.patient == patient
        columns = (scores.score, scores.label, scores.patient, scores.series, scores.finding)
        alone.append(Scores(*(column[here] for column in columns)))
    values: dict[tuple[int, ...], list[float]] = {}
    draws = np.random.default_rng(0).multinomial(patients, np.full(patients, 0.2), size=1000)
    for times in map(tuple, draws.tolist()):
        if times not in values:
            copies = [p for p, count in zip(alone, times, strict=True) for _ in range(count)]
            again = Scores.concatenate(copies)
            some = bool(again.label.any())
            values[times] = [by_a_loop(again, rate) if some else np.nan for rate in RATES]
    every = np.array([values[times] for times in map(tuple, draws.tolist())])
    found = froc(scores)
    assert found is not None
    expected = np.nanquantile(every, [0.025, 0.975], axis=0).T
    for point, (low, high) in zip(found.points, expected, strict=True):
        assert point.interval == (pytest.approx((low, high)) if low < high else None)
    assert found.points[0].interval is not None
    means = np.nanquantile(every.mean(axis=1), [0.025, 0.975])
    assert found.interval == pytest.approx(tuple(means))


def test_without_series_or_with_one_class_there_is_none() -> None:
    scores = drawn(np.random.default_rng(SEED), 5)
    assert froc(Scores(scores.score, scores.label, scores.patient)) is None
    assert scores.series is not None
    nothing = np.zeros_like(scores.label)
    assert (
        froc(candidates(scores.score, nothing, scores.patient, scores.series, scores.series))
        is None
    )
    lone = froc(candidates([0.9, 0.1], [1, 0], [0, 0], [0, 0], [0, 1]))
    assert lone is not None
    assert (lone.score, lone.interval) == (1.0, None)  # one patient: nothing to draw from


def test_where_no_draw_of_patients_differs_there_is_no_interval() -> None:
    """Every finding above every false positive: that is no certainty."""
    label, each = np.arange(40) % 2, np.arange(40)
    apart = froc(candidates(0.3 + 0.4 * label, label, each, each, each))
    assert apart is not None
    assert apart.score == 1.0
    assert {apart.interval, *(point.interval for point in apart.points)} == {None}


def test_on_real_candidates_the_counts_are_those_of_the_manifest(luna: Path) -> None:
    """Philips' and Toshiba's patients; scores made of the patches' own brightness."""
    images = Images(classes=("non-nodule", "nodule"), size=16, validation_fraction=0.5)
    for site in ("philips", "toshiba"):
        patients = open_cohort(luna / site, images).validation
        bright = patients.pixels.mean(axis=(1, 2, 3)) / 255
        scores = Scores(
            bright, patients.labels, patients.patient_of_view, patients.series, patients.finding
        )
        found = froc(scores)
        assert found is not None
        with (luna / site / "manifest.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        nodules = {(r["series_uid"], r["nodule_id"]) for r in rows if r["label"] == "nodule"}
        # Some candidates of one nodule: fewer findings than positive images.
        assert len(nodules) < sum(r["label"] == "nodule" for r in rows)
        assert found.findings < int(patients.labels.sum())
        training = open_cohort(luna / site, images).training
        assert training.finding is not None
        shown = np.unique(training.finding[training.labels == 1]).size
        assert found.findings + shown == len(nodules)
        assert training.series is not None
        scans = np.unique(training.series).size + found.scans
        assert scans == len({r["series_uid"] for r in rows})
        at_rates = [point.sensitivity for point in found.points]
        assert at_rates == pytest.approx([by_a_loop(scores, rate) for rate in RATES])
        facts = as_json(evaluate(scores, 1, {}))["froc"]
        assert facts["score"] == found.score
        assert "curve" not in facts
