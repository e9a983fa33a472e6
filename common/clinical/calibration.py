"""How far exact scores can be read as probabilities: reliability, Brier score, recalibration.

All of it holds for the share of positives among these images and for no other: where findings are
rarer, the same score means less. Images count once; intervals take the patient as the unit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from common.clinical.figures import Share, between, by_patient, halves, share
from common.histogram import Interval, Z
from common.metrics import Floats, Scores
from common.temperature import logit, sigmoid

Kind = TypeVar("Kind")

MOST_BINS, PATIENTS_PER_BIN = 10, 10
CHANCE_DRAWS = 200


@dataclass(frozen=True)
class ScoreBin:
    """The images with scores from `low` to `high`: their `mean` score and the `observed` positives."""

    low: float
    high: float
    mean: float
    observed: Share


@dataclass(frozen=True)
class Brier:
    """The mean squared distance of score and label, `value`, and what it is made of (Murphy 1973).

    value = reliability - resolution + uncertainty + within. The parts are those of the bins; `within`
    is what a bin's spread of scores adds (zero where each bin has one score). A model that always
    says the share of positives has value = `uncertainty`.
    """

    value: float
    interval: Interval | None
    reliability: float
    resolution: float
    uncertainty: float
    within: float


@dataclass(frozen=True)
class Coefficient:
    """A fitted coefficient and its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Recalibration:
    """logit P(positive) = intercept + slope x logit(score) (Cox, Biometrika 1958, 45:562).

    Perfect is slope 1 and intercept 0. A slope below 1: scores too extreme. `in_the_large` is the
    intercept with the slope held at 1; above 0: scores too low on the whole. Intervals by the
    sandwich over patients (Liang and Zeger 1986).
    """

    intercept: Coefficient
    slope: Coefficient
    in_the_large: Coefficient


@dataclass(frozen=True)
class Calibration:
    """`bins` of about equally many images, rising; `expected_error` is the mean |observed - mean|.

    (Expected calibration error, Naeini et al., AAAI 2015.) It is never zero, so `by_chance` says how
    large it is on the average when labels are drawn as the scores say, image by image.
    `recalibration` is None where the classes lie wholly apart or the scores do not differ.
    """

    bins: tuple[ScoreBin, ...]
    expected_error: float
    by_chance: float
    brier: Brier
    recalibration: Recalibration | None


@dataclass(frozen=True)
class Scaling:
    """The temperature `value`, fitted on one half of the patients and judged on the other.

    (`common.temperature`; by maximum likelihood, as in Guo et al., ICML 2017.) `interval` is the 95 % one
    by the sandwich over patients, None where it has no upper end. Before and after, on the `patients` of
    the other half: mean negative log-likelihood (nats), Brier score, expected calibration error, and the
    `reliability` in bins of the same images.
    """

    value: float
    interval: Interval | None
    patients: int
    log_loss: tuple[float, float]
    brier: tuple[float, float]
    expected_error: tuple[float, float]
    reliability: tuple[tuple[ScoreBin, ...], tuple[ScoreBin, ...]]


def calibration_of(scores: Scores) -> Calibration | None:
    """How `scores` are calibrated; None when a class is absent or with fewer than two patients."""
    if scores.patients < 2 or not scores.both_classes:
        return None
    bin_of = mass_bins(scores.score, bins_for(scores))
    rng = np.random.default_rng(0)
    drawn = rng.random((CHANCE_DRAWS, scores.score.size)) < scores.score
    return Calibration(
        bins=_bins(scores, bin_of),
        expected_error=expected_error(scores.score, scores.label, bin_of),
        by_chance=float(np.mean([expected_error(scores.score, d, bin_of) for d in drawn])),
        brier=_brier(scores, bin_of),
        recalibration=recalibrated(scores),
    )


def bins_for(scores: Scores) -> int:
    """How many bins so many patients fill: one for ten patients, 1 to 10."""
    return max(1, min(MOST_BINS, scores.patients // PATIENTS_PER_BIN))


def mass_bins(score: Floats, bins: int) -> NDArray[np.int64]:
    """(n,) the bin, 0 upwards, of each of n scores: quantile bins, equal scores never parted.

    With ties there are fewer than `bins`; the numbers have no gaps.
    """
    inner = np.quantile(score, np.linspace(0, 1, bins + 1)[1:-1])
    numbers: NDArray[np.int64] = np.unique(np.searchsorted(inner, score), return_inverse=True)[1]
    return numbers


def expected_error(score: Floats, label: NDArray[np.generic], bin_of: NDArray[np.int64]) -> float:
    """Mean over the images of |positives - mean score| of their bins."""
    gap = np.bincount(bin_of, weights=score - label.astype(np.float64))
    return float(np.abs(gap).sum() / score.size)


def _bins(scores: Scores, bin_of: NDArray[np.int64]) -> tuple[ScoreBin, ...]:
    found = []
    for number in range(bin_of.max() + 1):
        here = bin_of == number
        score = scores.score[here]
        observed = share(scores.label[here] == 1, scores.patient[here])
        found.append(ScoreBin(score.min(), score.max(), float(score.mean()), observed))
    return tuple(found)


def _brier(scores: Scores, bin_of: NDArray[np.int64]) -> Brier:
    squared = (scores.score - scores.label) ** 2
    value, base = float(squared.mean()), float(scores.label.mean())
    mass = np.bincount(bin_of)
    observed = np.bincount(bin_of, weights=scores.label) / mass
    mean = np.bincount(bin_of, weights=scores.score) / mass
    reliability = float(mass @ (mean - observed) ** 2 / mass.sum())
    resolution = float(mass @ (observed - base) ** 2 / mass.sum())
    uncertainty = base * (1 - base)
    return Brier(
        value=value,
        interval=between(by_patient(scores, lambda w: (w @ squared) / w.sum(axis=1))),
        reliability=reliability,
        resolution=resolution,
        uncertainty=uncertainty,
        within=value - reliability + resolution - uncertainty,
    )


def recalibrated(scores: Scores) -> Recalibration | None:
    """Cox's recalibration; None when a class is absent or when no finite coefficients fit best."""
    x, one = logit(scores.score), np.ones(scores.score.size)
    patient = np.unique(scores.patient, return_inverse=True)[1]
    both = _fit(np.stack([one, x], axis=1), scores.label, patient)
    large = _fit(one[:, None], scores.label, patient, offset=x)
    if both is None or large is None:
        return None
    return Recalibration(intercept=both[0], slope=both[1], in_the_large=large[0])


def temperature(scores: Scores) -> Scaling | None:
    """Fitted on one half of the patients, judged on the other (`halves`, which may give none).

    None also where no finite positive temperature fits best.
    """
    parts = halves(scores)
    if parts is None:
        return None
    fitted_on, judged_on = parts
    patient = np.unique(fitted_on.patient, return_inverse=True)[1]
    found = _fit(logit(fitted_on.score)[:, None], fitted_on.label, patient)
    if found is None or found[0].value <= 0:
        return None
    value = 1 / found[0].value
    low, high = found[0].interval
    before = logit(judged_on.score)
    bin_of = mass_bins(judged_on.score, bins_for(judged_on))  # unmoved: the order stays

    def both(measure: Callable[[Floats], Kind]) -> tuple[Kind, Kind]:
        return measure(before), measure(before / value)

    label, patient = judged_on.label, judged_on.patient
    return Scaling(
        value=value,
        interval=(1 / high, 1 / low) if low > 0 else None,
        patients=judged_on.patients,
        log_loss=both(lambda z: float(np.mean(np.logaddexp(0, z) - label * z))),
        brier=both(lambda z: float(np.mean((sigmoid(z) - label) ** 2))),
        expected_error=both(lambda z: expected_error(sigmoid(z), label, bin_of)),
        reliability=both(lambda z: _bins(Scores(sigmoid(z), label, patient), bin_of)),
    )


def _fit(
    x: Floats,
    label: NDArray[np.int64],
    patient: NDArray[np.int64],
    offset: Floats | float = 0.0,
) -> list[Coefficient] | None:
    """Logistic regression of `label` on (n, k) `x` by Newton's method with halved steps.

    None without a finite optimum: one class, classes wholly apart, or columns that depend.
    """
    if not 0 < label.sum() < label.size or patient.max() == 0:
        return None

    def likelihood(at: Floats) -> float:
        z = x @ at + offset
        return float(np.sum(label * z - np.logaddexp(0, z)))

    beta = np.zeros(x.shape[1])
    for _ in range(100):
        p = sigmoid(x @ beta + offset)
        information = (x * (p * (1 - p))[:, None]).T @ x
        if np.linalg.cond(information) > 1e12:
            return None
        step = np.linalg.solve(information, x.T @ (label - p))
        while likelihood(beta + step) < likelihood(beta) and np.abs(step).max() > 1e-10:
            step = step / 2
        beta = beta + step
        if np.abs(step).max() < 1e-9:
            break
    else:
        return None
    inverse = np.linalg.inv(information)
    residual = x * (label - p)[:, None]
    sums = np.stack([np.bincount(patient, weights=column) for column in residual.T])
    clusters = sums.shape[1]
    covariance = inverse @ (sums @ sums.T) @ inverse * clusters / (clusters - 1)
    half = Z * np.sqrt(np.diag(covariance))
    return [
        Coefficient(float(b), (float(b - h), float(b + h))) for b, h in zip(beta, half, strict=True)
    ]
