"""AUROC intervals and differences against DeLong's own example, all pairs, and known truth."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from common.clinical.delong import auroc_covariance, auroc_difference, auroc_interval
from common.clinical.figures import by_patient
from common.errors import DataError
from common.metrics import Floats, Scores
from tests.scored import cohort, made

SEED = 20_261_125

# Albumin, total protein, K-G score (the lower the better), whether the patient did well: the 43 complete
# cases of DeLong et al. 1988, as printed in the example of SAS/STAT's PROC LOGISTIC.
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0
1.6 5.6 5 1  3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1
4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1
3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1
3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1
3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1
3.6 6.6 5 1
"""


def ovarian() -> tuple[Scores, Scores, Scores]:
    """Albumin, total protein and K-G score, each brought into 0..1 with its order kept."""
    table = np.array(OVARIAN.split(), dtype=np.float64).reshape(-1, 4)
    columns = (table[:, 0] / 10, table[:, 1] / 10, (10 - table[:, 2]) / 10)
    albumin, protein, kg = (made(c, table[:, 3], np.arange(43)) for c in columns)
    return albumin, protein, kg


def test_delong_gives_the_published_figures_of_its_own_example() -> None:
    albumin, protein, kg = ovarian()
    found = auroc_covariance([albumin, protein, kg])
    assert found is not None
    area, covariance = found
    assert area.round(4).tolist() == [0.7366, 0.6478, 0.7258]
    assert np.sqrt(np.diag(covariance)).round(4).tolist() == [0.0927, 0.1000, 0.1028]
    low, high = np.array([-1, 1]) * norm.ppf(0.975) * np.sqrt(covariance[2, 2]) + area[2]
    assert [round(low, 4), round(high, 4)] == [0.5243, 0.9273]  # SAS's; on the logit scale below
    for other, value, chi_square in ((albumin, 0.0108, 0.0127), (protein, -0.0780, 0.5554)):
        apart = auroc_difference(other, kg)
        assert apart is not None
        assert apart.interval is not None
        error = (apart.interval[1] - apart.interval[0]) / 2 / norm.ppf(0.975)
        assert round(apart.value, 4) == value
        assert round((apart.value / error) ** 2, 4) == chi_square


def by_definition(models: list[Scores]) -> tuple[Floats, Floats]:
    """AUROCs and covariance from all pairs, summed by patient (Obuchowski 1997, in her notation)."""
    label, patient = models[0].label, models[0].patient
    positive, negative = (np.flatnonzero(label == c) for c in (1, 0))
    v10, v01 = [], []
    for model in models:
        x, y = model.score[positive][:, None], model.score[negative]
        wins = (x > y) + 0.5 * (x == y)
        v10.append(wins.mean(axis=1))
        v01.append(wins.mean(axis=0))
    area = np.array([v.mean() for v in v10])
    names = np.unique(patient)
    of_x = [
        [sum(v[patient[positive] == c] - a) for c in names] for v, a in zip(v10, area, strict=True)
    ]
    of_y = [
        [sum(v[patient[negative] == c] - a) for c in names] for v, a in zip(v01, area, strict=True)
    ]
    m, n, k = positive.size, negative.size, names.size
    i10, i01 = np.unique(patient[positive]).size, np.unique(patient[negative]).size
    covariance = np.empty((len(models), len(models)))
    for r in range(len(models)):
        for s in range(len(models)):
            s10 = i10 / ((i10 - 1) * m) * np.dot(of_x[r], of_x[s])
            s01 = i01 / ((i01 - 1) * n) * np.dot(of_y[r], of_y[s])
            s11 = k / (k - 1) * (np.dot(of_x[r], of_y[s]) + np.dot(of_x[s], of_y[r])) / 2
            covariance[r, s] = s10 / m + s01 / n + 2 * s11 / (m * n)
    return area, covariance


@pytest.mark.parametrize("most", [1, 9])
@pytest.mark.parametrize("levels", [None, 5])
def test_the_fast_covariance_is_that_of_all_pairs(most: int, levels: int | None) -> None:
    rng = np.random.default_rng(SEED)
    first = cohort(rng, 30, most)
    scores = [first.score, np.clip(first.score + rng.normal(size=first.score.size) / 5, 0, 1)]
    if levels:
        scores = [np.round(score * levels) / levels for score in scores]
    models = [made(score, first.label, first.patient) for score in scores]
    found, expected = auroc_covariance(models), by_definition(models)
    assert found is not None
    np.testing.assert_allclose(found[0], expected[0], atol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-12)


def test_where_patients_have_many_images_the_variance_is_that_of_drawing_patients() -> None:
    scores = cohort(np.random.default_rng(SEED), 150)
    found = auroc_covariance([scores])
    assert found is not None
    error = float(np.sqrt(found[1][0, 0]))
    drawn = by_patient(
        scores,
        lambda weight: np.array(
            [roc_auc_score(scores.label, scores.score, sample_weight=w) for w in weight]
        ),
        resamples=300,
    )
    assert error == pytest.approx(drawn.std(), rel=0.12)
    as_if_alone = auroc_covariance([made(scores.score, scores.label, np.arange(scores.score.size))])
    assert as_if_alone is not None
    assert error > 1.15 * float(
        np.sqrt(as_if_alone[1][0, 0])
    )  # images of a patient resemble each other


def test_models_on_different_images_are_not_compared() -> None:
    one = made([0.1, 0.9, 0.4, 0.3], [0, 1, 0, 1], [0, 1, 2, 3])
    for other in (
        made([0.1, 0.9, 0.4, 0.3], [0, 1, 1, 0], [0, 1, 2, 3]),
        made([0.1, 0.9, 0.4, 0.3], [0, 1, 0, 1], [0, 1, 2, 2]),
    ):
        with pytest.raises(DataError, match="same images in the same order"):
            auroc_difference(one, other)


@pytest.mark.parametrize("most", [1, 9])
def test_the_interval_covers_the_auroc_of_few_patients(most: int) -> None:
    """Binormal scores of which the true AUROC is known; DeLong's plain interval covers less."""
    rng, judged, covered, plainly = np.random.default_rng(SEED), 0, 0, 0
    truth = float(norm.cdf(2.2 / np.sqrt(2 * (0.7**2 + 0.7**2))))
    for _ in range(250):
        scores = cohort(rng, 25, most, apart=2.2)
        interval, found = auroc_interval(scores), auroc_covariance([scores])
        if interval is None or found is None:
            continue  # wholly apart, which is rare here
        judged += 1
        covered += interval[0] <= truth <= interval[1]
        plainly += abs(found[0][0] - truth) <= norm.ppf(0.975) * np.sqrt(found[1][0, 0])
    print("seed", SEED, "covered", covered / judged, "on the plain scale", plainly / judged)
    assert 0.91 <= covered / judged <= 0.99
    assert plainly / judged < 0.91
