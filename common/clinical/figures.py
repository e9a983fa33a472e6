"""What a clinician asks of exact scores: sensitivity at a threshold, subgroups, what a decision gains.

All figures count images; all intervals are 95 % ones that take the patient as the unit, since images
of a patient resemble each other. They cover the choice of patients and nothing else: not the
choice of hospitals, not labels that are wrong. `common.clinical.delong` has the AUROC's,
`common.clinical.calibration` says how far a score can be read as a probability.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import t

from common.histogram import Interval, Z
from common.metrics import Floats, Scores, average_precision, patients_per_class

Flags = NDArray[np.bool_]

LEAST_IN_HALF = 5  # patients of each class in each half; below, a split judges nothing
RESAMPLES = 1000
# Elements of one block of bootstrap weights (resamples x images): bounds memory at some 100 MB.
BLOCK_ELEMENTS = 2_000_000


@dataclass(frozen=True)
class Share:
    """`hits` of `images`, with the 95 % interval of the share; `value` is None of no images."""

    hits: int
    images: int
    patients: int
    interval: Interval

    @property
    def value(self) -> float | None:
        return self.hits / self.images if self.images else None


def share(hit: Flags, patient: NDArray[np.int64]) -> Share:
    """How often `hit` (n,) is true; `patient` (n,) groups the images.

    Wilson's interval (JASA 1927, 22:209) for the number of independent images: n where every patient
    has one, else n over the design effect, which is estimated from the patients' own sums and carries
    Student's t for their number (Korn and Graubard, Survey Methodology 1998, 24:193). Where all
    or none are hit nothing can be estimated: all images of a patient then count as one.
    """
    n, hits = hit.size, int(hit.sum())
    of_patient = np.unique(patient, return_inverse=True)[1]
    images = np.bincount(of_patient).astype(np.float64)
    patients = images.size
    if n == 0:
        return Share(0, 0, 0, (0.0, 1.0))
    value, independent = hits / n, float(n)
    if patients == 1:
        independent = 1.0
    elif patients < n:
        residual = np.bincount(of_patient, weights=hit - value)
        variance = patients / (patients - 1) * float(residual @ residual) / n**2
        independent = float(n**2 / (images @ images))
        if variance > 0:
            estimated = value * (1 - value) / variance
            independent = min(float(n), estimated * float(Z / t.ppf(0.975, patients - 1)) ** 2)
    return Share(hits, n, patients, _wilson(value, independent))


def _wilson(value: float, n: float) -> Interval:
    centre = (value + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(value * (1 - value) / n + Z**2 / (4 * n**2))
    # Rounding must not shut the share itself out where it is 0 or 1.
    return min(value, max(0.0, float(centre - half))), max(value, min(1.0, float(centre + half)))


@dataclass(frozen=True)
class OperatingPoint:
    """Positive means score >= `threshold`; the four cells of the 2x2 table and what follows.

    `aim` is the figure that was asked to be at least `wanted` on the patients on which the threshold
    was chosen. With `same_patients` those are the ones judged here, which flatters the figure aimed at.
    """

    aim: str
    wanted: float
    threshold: float
    same_patients: bool
    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int
    sensitivity: Share
    specificity: Share
    positive_predictive_value: Share
    negative_predictive_value: Share


def threshold_for(scores: Scores, aim: str, wanted: float) -> float | None:
    """The score at and above which an image counts as positive so that `aim` is at least `wanted`.

    `aim` "sensitivity": the highest such score; "specificity": the lowest. One of the scores at hand;
    None when a class is absent, or when the one reaches its aim only where the other is zero.
    """
    if not scores.both_classes:
        return None
    levels = np.unique(scores.score)
    positives = np.sort(scores.score[scores.label == 1])
    negatives = np.sort(scores.score[scores.label == 0])
    below = negatives if aim == "specificity" else positives
    reached = np.searchsorted(below, levels, side="left") / below.size
    if aim == "specificity":
        possible = levels[(reached >= wanted - 1e-12) & (levels <= positives[-1])]
        return float(possible.min()) if possible.size else None
    possible = levels[(1 - reached >= wanted - 1e-12) & (levels > negatives[0])]
    return float(possible.max()) if possible.size else None


def at_threshold(
    scores: Scores, threshold: float, aim: str, wanted: float, *, same_patients: bool
) -> OperatingPoint:
    """What `threshold` gives on `scores`."""
    called, positive = scores.score >= threshold, scores.label == 1

    def among(of: Flags, hit: Flags) -> Share:
        return share(hit[of], scores.patient[of])

    return OperatingPoint(
        aim=aim,
        wanted=wanted,
        threshold=threshold,
        same_patients=same_patients,
        true_positives=int((called & positive).sum()),
        false_negatives=int((~called & positive).sum()),
        false_positives=int((called & ~positive).sum()),
        true_negatives=int((~called & ~positive).sum()),
        sensitivity=among(positive, called),
        specificity=among(~positive, ~called),
        positive_predictive_value=among(called, positive),
        negative_predictive_value=among(~called, ~positive),
    )


def operating_point(scores: Scores, aim: str, wanted: float) -> OperatingPoint | None:
    """The threshold of one half of the patients judged on the other; of all on all with few patients.

    Few: `halves` gives none. None as for `threshold_for`.
    """
    parts = halves(scores)
    chosen_on, judged_on = (scores, scores) if parts is None else parts
    threshold = threshold_for(chosen_on, aim, wanted)
    if threshold is None:
        return None
    return at_threshold(judged_on, threshold, aim, wanted, same_patients=parts is None)


def halves(scores: Scores, seed: int = 0) -> tuple[Scores, Scores] | None:
    """The images of one random half of the patients and those of the other half.

    Patients with a positive image are halved on their own, so both halves have both classes. None
    when a half would have fewer than LEAST_IN_HALF patients of a class. The same seed, the same halves.
    """
    rng = np.random.default_rng(seed)
    with_positive = np.unique(scores.patient[scores.label == 1])
    without = np.setdiff1d(scores.patient, with_positive)
    first = [rng.permutation(group)[: group.size // 2] for group in (with_positive, without)]
    here = np.isin(scores.patient, np.concatenate(first))
    parts = _only(scores, here), _only(scores, ~here)
    least = min(min(patients_per_class(part.label, part.patient)) for part in parts)
    return parts if least >= LEAST_IN_HALF else None


def _only(scores: Scores, kept: Flags) -> Scores:
    return Scores(scores.score[kept], scores.label[kept], scores.patient[kept])


Statistic = Callable[[Floats], Floats]


def by_patient(
    scores: Scores, statistic: Statistic, *, resamples: int = RESAMPLES, seed: int = 0
) -> Floats:
    """(resamples, ...) `statistic` of resamples of the patients, drawn with replacement.

    `statistic` gets weights (r, n), how often each image was drawn, and returns (r, ...), NaN where
    it is not defined. A patient is drawn with all its images (Field and Welsh, JRSS B 2007, 69:369).
    """
    patients = scores.patients
    patient = np.unique(scores.patient, return_inverse=True)[1]
    rng, block = np.random.default_rng(seed), max(1, BLOCK_ELEMENTS // max(1, scores.score.size))
    found = []
    for done in range(0, resamples, block):
        rows = min(block, resamples - done)
        drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=rows)
        found.append(statistic(drawn[:, patient].astype(np.float64)))
    return np.concatenate(found)


def between(values: Floats) -> Interval | None:
    """The 95 % percentile interval of (r,) `values`; those that are NaN are left out."""
    kept = values[np.isfinite(values)]
    if kept.size == 0:
        return None
    low, high = np.quantile(kept, [0.025, 0.975])
    return float(low), float(high)


def standard_errors(scores: Scores) -> float:
    """How many standard errors either way make 95 %: the normal's where every patient has one image.

    Where the error is estimated from patients' sums, Student's t for the patients of the rarer class.
    """
    if scores.patients == scores.score.size:
        return Z
    return float(t.ppf(0.975, min(patients_per_class(scores.label, scores.patient)) - 1))


def on_logit_scale(value: float, error: float, scores: Scores) -> Interval:
    """The 95 % interval of an area `value` (above 0, below 1) with standard error `error`."""
    centre = np.log(value / (1 - value))
    half = standard_errors(scores) * error / (value * (1 - value))
    return float(expit(centre - half)), float(expit(centre + half))  # expit: half can be huge


def average_precision_interval(scores: Scores, *, resamples: int = RESAMPLES) -> Interval | None:
    """The 95 % interval of `average_precision`: a bootstrap over patients, on the logit scale.

    (Boyd, Eng and Page, ECML 2013.) Its standard error is the bootstrap's; percentiles cover 84 to 93 %
    for 20 to 100 patients, this 88 to 97. None where a class has fewer than two patients, and where
    all positives score above all negatives, since no resample then differs.
    """
    positive = scores.label == 1
    if min(patients_per_class(scores.label, scores.patient)) < 2:
        return None
    if scores.score[positive].min() > scores.score[~positive].max():
        return None
    order = np.argsort(-scores.score, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(scores.score[order]) < 0]))

    def average_precisions(weight: Floats) -> Floats:
        drawn = weight[:, order]
        hits = np.add.reduceat(drawn * positive[order], starts, axis=1)
        called = np.cumsum(np.add.reduceat(drawn, starts, axis=1), axis=1)
        precision = np.cumsum(hits, axis=1) / np.maximum(called, 1)
        positives, usable = hits.sum(axis=1), hits.sum(axis=1) < called[:, -1]
        values = (hits * precision).sum(axis=1) / np.maximum(positives, 1)
        return np.where(usable & (positives > 0), values, np.nan)

    error = float(np.nanstd(by_patient(scores, average_precisions, resamples=resamples), ddof=1))
    value = average_precision(scores)
    return None if value is None or error == 0 else on_logit_scale(value, error, scores)


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit per image of acting on score >= threshold (Vickers and Elkin, MDM 2006, 26:565).

    A true positive gains 1, a false one costs the odds of the `threshold`: whoever acts from 10 % on
    takes nine needless acts for one that is due. `model`, `low` and `high` (95 %, by patient) and
    `treat_all` are (m,); to treat none has net benefit 0. `advantage` is the lower end of the 95 %
    interval of what the model gains over the better of the two.
    """

    threshold: Floats
    model: Floats
    low: Floats
    high: Floats
    treat_all: Floats
    advantage: Floats


def decision_curve(scores: Scores, thresholds: Sequence[float]) -> DecisionCurve | None:
    """The curve at `thresholds`; None with fewer than two patients, ValueError outside of 0..1."""
    at = np.asarray(thresholds, dtype=np.float64)
    if not np.all((at > 0) & (at < 1)):
        raise ValueError("every threshold must be above 0 and below 1")
    if scores.patients < 2:
        return None
    gain = _gain(scores.label, at)  # (n, m)
    acted = np.where(scores.score[:, None] >= at, gain, 0.0)

    def net_benefits(weight: Floats) -> Floats:
        both = np.stack([weight @ acted, weight @ gain], axis=1)
        benefit: Floats = both / weight.sum(axis=1)[:, None, None]
        return benefit

    model, treat_all = by_patient(scores, net_benefits).transpose(1, 0, 2)
    low, high = np.quantile(model, [0.025, 0.975], axis=0)
    advantage = np.quantile(model - np.maximum(treat_all, 0), 0.025, axis=0)
    return DecisionCurve(at, acted.mean(axis=0), low, high, gain.mean(axis=0), advantage)


def _gain(label: NDArray[np.int64], at: Floats) -> Floats:
    return np.where(label[:, None] == 1, 1.0, -at / (1 - at))
