"""Temperature: by hand, against SciPy's and scikit-learn's optimum, and where the truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from common.histogram import PATIENT, Floats, score_histogram
from common.metrics import Scores
from common.released import bin_centres, read
from common.temperature import LARGEST_LOGIT, Temperature, calibrated, fitted, logit, sigmoid

SEED = 20_261_126
# Per cell of the sum of four hospitals' histograms, at lung-nodules.toml's epsilon of 8.
NOISE_AT_EPSILON_8 = 2.1
LOGITS = logit(bin_centres(16))


def test_nine_to_one_at_temperature_two_is_three_to_one() -> None:
    assert calibrated(0.9, 2.0) == pytest.approx(0.75)
    assert calibrated([[0.1], [0.5]], 2.0) == pytest.approx(np.array([[0.25], [0.5]]))
    assert calibrated(0.9, 0.5) == pytest.approx(81 / 82)


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=20),
    st.floats(0.1, 50),
)
def test_it_keeps_the_order_and_stays_between_zero_and_one(
    score: list[float], temperature: float
) -> None:
    probability = calibrated(score, temperature)
    assert np.all((probability > 0) & (probability <= 1))
    assert np.all(np.diff(probability[np.argsort(score)]) >= 0)
    back = logit(probability) * temperature
    inside = np.abs(logit(score)) < min(LARGEST_LOGIT, LARGEST_LOGIT * temperature) - 1
    np.testing.assert_allclose(back[inside], logit(score)[inside], rtol=1e-6, atol=1e-6)


def test_zero_and_one_are_scores_like_others() -> None:
    assert calibrated([0, 1], 1.0) == pytest.approx([expit(-16), expit(16)], rel=1e-12)
    assert calibrated(1.0, 4.0) == pytest.approx(expit(4))


@pytest.mark.parametrize(
    ("score", "temperature"), [(1.1, 1), (-0.1, 1), (np.nan, 1), (0.5, 0), (0.5, -1), (0.5, np.inf)]
)
def test_what_is_no_score_and_no_temperature_is_refused(score: float, temperature: float) -> None:
    with pytest.raises(ValueError, match=r"score|temperature"):
        calibrated(score, temperature)


def made(rng: np.random.Generator, patients: int, temperature: float) -> Scores:
    """Single images whose labels are drawn at their logit, scored with `temperature` times it."""
    z = rng.normal(-0.8, 2.0, patients)
    label = (rng.random(patients) < sigmoid(z)).astype(np.int64)
    return Scores(sigmoid(z * temperature), label, np.arange(patients))


PREVALENCE = float(sigmoid(np.random.default_rng(0).normal(-0.8, 2.0, 1_000_000)).mean())


def released(scores: Scores, rng: np.random.Generator, noise: float) -> Floats:
    return score_histogram(scores, 16) + noise * rng.normal(size=(2, 16))


def fit(histogram: Floats, noise: float) -> Temperature | None:
    negatives, positives = histogram / PATIENT
    return fitted(negatives, positives, LOGITS, noise / PATIENT, PREVALENCE)


@pytest.mark.parametrize("noise", [0.0, NOISE_AT_EPSILON_8])
def test_the_value_is_where_scipy_finds_the_least_loss(noise: float) -> None:
    rng = np.random.default_rng(SEED)
    histogram = released(made(rng, 800, 1.6), rng, noise)
    negatives, positives = histogram / PATIENT

    def loss(temperature: float) -> float:
        p = expit(LOGITS / temperature)
        of_positive = np.arccos(np.sqrt(p)) - np.sqrt(p * (1 - p))
        of_negative = np.arccos(np.sqrt(1 - p)) - np.sqrt(p * (1 - p))
        return float(
            PREVALENCE * positives @ of_positive / positives.sum()
            + (1 - PREVALENCE) * negatives @ of_negative / negatives.sum()
        )

    best = minimize_scalar(loss, bounds=(0.3, 6), method="bounded", options={"xatol": 1e-8})
    found = fit(histogram, noise)
    assert found is not None
    assert found.value == pytest.approx(best.x, rel=1e-4)
    assert found.interval[0] < found.value < found.interval[1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_of_many_patients_it_is_that_of_logistic_regression(temperature: float) -> None:
    """From the scores themselves, without bins or noise; bins cost a few per cent."""
    rng = np.random.default_rng(SEED)
    scores = made(rng, 40_000, temperature)
    model = LogisticRegression(C=np.inf, fit_intercept=False)
    model.fit(logit(scores.score)[:, None], scores.label)
    found = fit(score_histogram(scores, 16), 0.0)
    assert found is not None
    assert found.value == pytest.approx(1 / model.coef_[0, 0], rel=0.04)
    assert found.value == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("noise", [0.0, NOISE_AT_EPSILON_8])
def test_the_interval_covers_the_truth_with_noise_and_without(noise: float) -> None:
    """Nominal 95 %: 150 cohorts of 400 patients give a standard error of .018."""
    print("seed", SEED)
    rng, truth, values, covered = np.random.default_rng(SEED), 2.0, [], 0
    for _ in range(150):
        found = fit(released(made(rng, 400, truth), rng, noise), noise)
        if found is None:
            continue
        values.append(found.value)
        covered += found.interval[0] <= truth <= found.interval[1]
    print(f"noise {noise}: {len(values)} read, covered {covered}, median {np.median(values):.3f}")
    assert len(values) >= 140
    assert 0.9 <= covered / len(values) <= 0.99
    assert np.median(values) == pytest.approx(truth, rel=0.06)


def test_an_interval_that_left_the_noise_out_would_cover_less() -> None:
    rng, covered = np.random.default_rng(SEED), 0
    for _ in range(100):
        histogram = released(made(rng, 400, 2.0), rng, NOISE_AT_EPSILON_8)
        found = fit(histogram, 1e-9)
        covered += found is not None and found.interval[0] <= 2.0 <= found.interval[1]
    print("seed", SEED, "covered", covered, "of 100")
    assert covered < 85


def test_nothing_is_said_where_noise_or_separation_leaves_nothing() -> None:
    rng = np.random.default_rng(SEED)
    scores = made(rng, 60, 1.0)
    assert fit(score_histogram(scores, 16), 0.0) is not None
    assert fit(released(scores, rng, 20.0), 20.0) is None
    apart = np.zeros((2, 16))
    apart[0, 3], apart[1, 12] = 50, 50
    assert fit(apart, 0.0) is None  # the lower the temperature, the better
    reversed_ = apart[::-1].copy()
    assert fit(reversed_, 0.0) is None


def test_a_reading_has_the_temperature_of_its_own_histogram_alone() -> None:
    rng = np.random.default_rng(SEED)
    histogram = released(made(rng, 600, 2.0), rng, 1.0)
    others = [released(made(rng, 600, 0.5), rng, 1.0) for _ in range(3)]
    alone, steadied = (read(histogram, 1.0, PREVALENCE, o) for o in ([], others))
    assert alone is not None
    assert steadied is not None
    assert alone.auroc != steadied.auroc
    assert alone.temperature == steadied.temperature == fit(histogram, 1.0)
