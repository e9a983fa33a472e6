"""What a score histogram, noised or not, says about a model: ROC curve, calibration, a threshold.

The coordinator reads the sum of the hospitals' released histograms, with the standard deviation of
the noise in a cell of that sum. A rehearsal reads the exact histogram too, with noise 0. Where the
noise leaves nothing to say the answer is None. Every patient counts once (`common.histogram`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from common.histogram import (
    OUTERMOST,
    Estimate,
    Floats,
    Z,
    auroc_of_histogram,
    bin_edges,
    steadied,
)

WANTED_SENSITIVITY = 0.90


@dataclass(frozen=True)
class OperatingPoint:
    """A score at and above which an image counts as positive, and what that gives.

    The threshold was chosen on the same patients, so a little is lost on others; the intervals
    (noise and choice of patients) are those of the threshold as it stands.
    """

    threshold: float
    sensitivity: Estimate
    specificity: Estimate


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of scores, `low` to `high`, all 0..1.

    `observed` is the share of positives among its patients; `error` its standard error, from the
    noise and from the number of patients.
    """

    low: float
    centre: float
    high: float
    observed: float
    error: float


@dataclass(frozen=True)
class Calibration:
    """How far scores can be read as probabilities, as far as bins allow.

    A score counts as the centre of its bin (in the spacing of the bins). `bins` are those whose mass
    stands above the noise, rising. `brier` is the mean squared distance to the label, its
    `brier_error` the standard error from the noise alone. `expected_error` is the expected
    calibration error (Naeini et al., AAAI 2015), less what the noise adds in each bin; None where
    it is no larger than noise alone would make it.
    """

    bins: tuple[ReliabilityBin, ...]
    brier: float
    brier_error: float
    expected_error: float | None


@dataclass(frozen=True, eq=False)
class Reading:
    """All that a histogram says. `roc`: (false, true positive rate), each (bins + 1,), 0 to 1.

    `operating_point` has the highest threshold between bins with the wanted sensitivity, None when
    only the threshold 0 has it.
    """

    auroc: Estimate
    roc: tuple[Floats, Floats]
    calibration: Calibration
    operating_point: OperatingPoint | None


def read(
    histogram: ArrayLike, noise_std: float, others: Sequence[ArrayLike] = ()
) -> Reading | None:
    """What a (2, bins) histogram with noise `noise_std` per cell says; `others` as for `steadied`.

    None when there are too few patients to say, as for `auroc_of_histogram`. ValueError for what is
    no score histogram.
    """
    auroc = auroc_of_histogram(histogram, noise_std, others)
    if auroc is None:
        return None
    negatives, positives = steadied(histogram, others)
    return Reading(
        auroc=auroc,
        roc=(_share_above(negatives), _share_above(positives)),
        calibration=_calibration(negatives, positives, noise_std),
        operating_point=_operating_point(negatives, positives, noise_std),
    )


def _share_above(cells: Floats) -> Floats:
    """(bins + 1,) share of the mass at or above each edge, the highest edge first: 0 to 1, rising.

    The noise makes the shares fall here and there; what is drawn is the nearest rising sequence
    (least squares). The area under it can therefore differ a little from the AUROC.
    """
    share = np.cumsum(cells[::-1])[:-1] / cells.sum()
    rising: Floats = np.concatenate([[0.0], np.clip(isotonic(share), 0, 1), [1.0]])
    return rising


def isotonic(values: Floats) -> Floats:
    """The non-decreasing sequence nearest to `values` (n,), by the min-max formula.

    (Robertson, Wright, Dykstra 1988: the largest over starts of the least mean over ends.) Takes
    n^3 work, for a handful of bins.
    """
    count = values.size
    fitted = [
        max(min(values[a : b + 1].mean() for b in range(k, count)) for a in range(k + 1))
        for k in range(count)
    ]
    return np.array(fitted, dtype=np.float64)


def _operating_point(negatives: Floats, positives: Floats, s: float) -> OperatingPoint | None:
    false_positive, true_positive = _share_above(negatives), _share_above(positives)
    bins = positives.size
    for above in range(1, bins):  # number of bins at and above the threshold
        if true_positive[above] >= WANTED_SENSITIVITY:
            return OperatingPoint(
                threshold=float(bin_edges(bins)[bins - 1 - above]),
                sensitivity=_share(true_positive[above], positives, above, s),
                specificity=_share(1 - false_positive[above], negatives, bins - above, s),
            )
    return None


def _share(share: float, cells: Floats, counted: int, s: float) -> Estimate:
    """A share of a row's mass that is the sum of `counted` of its cells, with its interval.

    The shares t that `share` does not reject at 5 %: counted - t all has mean 0 at the truth
    (Fieller) and the variance of the noise and of a binomial share of so many patients (Wilson).
    """
    mass, candidates = float(cells.sum()), np.linspace(0, 1, 2001)
    noise = s**2 * ((1 - candidates) ** 2 * counted + candidates**2 * (cells.size - counted))
    patients = candidates * (1 - candidates) * max(mass, 1.0)
    kept = np.abs(share - candidates) * mass <= Z * np.sqrt(noise + patients)
    within = [float(share), *candidates[kept]]
    return Estimate(float(share), (float(min(within)), float(max(within))))


def bin_centres(bins: int) -> Floats:
    """(bins,) score in the middle of each bin, in the spacing of `bin_edges`."""
    middle = (np.arange(bins) + 0.5) / bins * 2 - 1
    centres: Floats = 1 / (1 + np.exp(-np.sinh(middle * np.arcsinh(OUTERMOST))))
    return centres


def _calibration(negatives: Floats, positives: Floats, s: float) -> Calibration:
    total, centre = negatives.sum() + positives.sum(), bin_centres(positives.size)
    if_positive, if_negative = (1 - centre) ** 2, centre**2
    brier = float((positives @ if_positive + negatives @ if_negative) / total)
    moved = np.concatenate([if_positive - brier, if_negative - brier])
    # Distance of a bin's positives from centre x patients, and the noise's part in it.
    distance = np.abs(positives * (1 - centre) - negatives * centre)
    noise = s * np.sqrt((1 - centre) ** 2 + centre**2)
    by_chance = noise.sum() * np.sqrt(2 / np.pi)
    spread = np.sqrt((1 - 2 / np.pi) * (noise**2).sum())
    beyond = np.sqrt(np.maximum(distance**2 - noise**2, 0)).sum()
    return Calibration(
        bins=_reliability(negatives, positives, centre, s),
        brier=brier,
        brier_error=float(s * np.linalg.norm(moved) / total),
        expected_error=float(beyond / total) if distance.sum() > by_chance + 2 * spread else None,
    )


def _reliability(
    negatives: Floats, positives: Floats, centre: Floats, s: float
) -> tuple[ReliabilityBin, ...]:
    edges = np.concatenate([[0.0], bin_edges(centre.size), [1.0]])
    found = []
    for j, (n, p) in enumerate(zip(negatives, positives, strict=True)):
        mass = n + p
        if mass < 1 or mass <= 2 * s * np.sqrt(2):
            continue  # less than a patient, or not above the noise of its two cells
        observed = float(np.clip(p / mass, 0, 1))
        noise = s**2 * ((1 - observed) ** 2 + observed**2) / mass**2
        # One patient more of each class: no bin of a few patients is certain.
        hedged = (observed * mass + 1) / (mass + 2)
        found.append(
            ReliabilityBin(
                low=float(edges[j]),
                centre=float(centre[j]),
                high=float(edges[j + 1]),
                observed=observed,
                error=float(np.sqrt(noise + hedged * (1 - hedged) / mass)),
            )
        )
    return tuple(found)
