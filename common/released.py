"""What a score histogram, noised or not, says about a model: ROC curve, calibration, a threshold.

The coordinator reads the sum of the hospitals' released histograms, with the standard deviation of
the noise in a cell of that sum. A rehearsal reads the exact histogram too, with noise 0. Where the
noise leaves nothing to say the answer is None. Every patient counts once in each class in which it
has images (`common.histogram`), so the two rows do not have the images' proportions, and whatever
depends on how common positives are is stated at a prevalence that the caller names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from common.histogram import (
    PATIENT,
    Estimate,
    Floats,
    Z,
    auroc_of_histogram,
    bin_edges,
    spaced,
    steadied,
)
from common.temperature import Temperature, fitted, logit

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

    `observed` is the share of positives among its images at the stated prevalence; `error` its
    standard error, from the noise and from the number of patients.
    """

    low: float
    centre: float
    high: float
    observed: float
    error: float


@dataclass(frozen=True)
class Calibration:
    """How far scores can be read as probabilities at `prevalence`, as far as bins allow.

    `prevalence` (between 0 and 1) is the assumed share of positives; the scores of each class are
    distributed as in the histogram. A score counts as the centre of its bin (in the spacing of the
    bins). `bins` are those whose mass stands above the noise, rising. `brier` is the mean squared
    distance to the label, its `brier_error` the standard error from the noise alone.
    `expected_error` is the expected calibration error (Naeini et al., AAAI 2015), less what the
    noise adds in each bin; None where it is no larger than noise alone would make it.
    """

    prevalence: float
    bins: tuple[ReliabilityBin, ...]
    brier: float
    brier_error: float
    expected_error: float | None


@dataclass(frozen=True, eq=False)
class Reading:
    """All that a histogram says. `roc`: (false, true positive rate), each (bins + 1,), 0 to 1.

    `accuracy` is the share of patients on the right side of a score of one half, an edge of a bin; one
    who counts in both classes does so in it too.
    `operating_point` has the highest threshold between bins with the wanted sensitivity, None when
    only the threshold 0 has it. `temperature` is None where the noise leaves nothing to say (see
    `common.temperature.fitted`); it was fitted to the patients whom the rest describes, so that what it
    makes of their scores would flatter it.
    """

    auroc: Estimate
    roc: tuple[Floats, Floats]
    calibration: Calibration
    accuracy: Estimate
    operating_point: OperatingPoint | None
    temperature: Temperature | None

    @property
    def discrimination(self) -> Estimate:
        """The AUROC."""
        return self.auroc


def read(
    histogram: ArrayLike,
    noise_std: float,
    prevalence: float,
    others: Sequence[ArrayLike] = (),
    unit: float = 1.0,
) -> Reading | None:
    """What a (2, bins) histogram with noise `noise_std` per cell says; `others` as for `steadied`.

    Its bins are spaced by `unit` (`common.histogram.bin_edges`).

    `prevalence`, between 0 and 1, is the share of positives at which calibration and temperature are
    stated; the temperature is that of this histogram alone. None when there are too few patients to
    say, as for `auroc_of_histogram`. ValueError for what is no score histogram.
    """
    auroc = auroc_of_histogram(histogram, noise_std, others)
    if auroc is None:
        return None
    negatives, positives = steadied(histogram, others)
    s = noise_std / PATIENT  # as the rows: in patients
    centre = bin_centres(positives.size, unit)
    return Reading(
        auroc=auroc,
        roc=(_share_above(negatives), _share_above(positives)),
        calibration=_calibration(negatives, positives, s, prevalence, unit),
        accuracy=_accuracy(negatives, positives, s),
        operating_point=_operating_point(negatives, positives, s, unit),
        temperature=fitted(*steadied(histogram, ()), logit(centre), s, prevalence),
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
    n^2 memory, for a handful of bins.
    """
    total = np.concatenate([[0.0], np.cumsum(values)])
    start, end = np.indices((values.size, values.size))
    length = end - start + 1
    means = np.where(
        length > 0, (total[1:] - total[:-1, None]) / np.maximum(length, 1), np.inf
    )  # (start, end)
    least = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]  # of all ends from here on
    fitted: Floats = np.where(start <= end, least, -np.inf).max(axis=0, initial=-np.inf)
    return fitted


def _accuracy(negatives: Floats, positives: Floats, s: float) -> Estimate:
    half = positives.size // 2
    cells = np.concatenate([negatives[:half], positives[half:], negatives[half:], positives[:half]])
    right = float(np.clip(cells[: positives.size].sum() / cells.sum(), 0, 1))
    return _share(right, cells, positives.size, s)


def _operating_point(
    negatives: Floats, positives: Floats, s: float, unit: float
) -> OperatingPoint | None:
    false_positive, true_positive = _share_above(negatives), _share_above(positives)
    bins = positives.size
    for above in range(1, bins):  # number of bins at and above the threshold
        if true_positive[above] >= WANTED_SENSITIVITY:
            return OperatingPoint(
                threshold=float(bin_edges(bins, unit)[bins - 1 - above]),
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


def bin_centres(bins: int, unit: float = 1.0) -> Floats:
    """(bins,) score in the middle of each bin, in the spacing of `bin_edges`."""
    return spaced((np.arange(bins) + 0.5) / bins * 2 - 1, unit)


def _calibration(
    negatives: Floats, positives: Floats, s: float, prevalence: float, unit: float
) -> Calibration:
    centre = bin_centres(positives.size, unit)
    if_positive, if_negative = (1 - centre) ** 2, centre**2
    # What a positive and a negative patient weigh: all together 1, positives `prevalence` of it.
    a, b = prevalence / positives.sum(), (1 - prevalence) / negatives.sum()
    of_positives, of_negatives = a * (positives @ if_positive), b * (negatives @ if_negative)
    # By how much noise in a cell moves the score; the mass of its class moves too.
    moved = np.concatenate(
        [
            a * (if_positive - of_positives / prevalence),
            b * (if_negative - of_negatives / (1 - prevalence)),
        ]
    )
    # Distance of a bin's positives from centre x mass, and the noise's part in it.
    distance = np.abs(a * positives * (1 - centre) - b * negatives * centre)
    noise = np.sqrt(
        (a * (1 - centre)) ** 2 * _variance(positives, s)
        + (b * centre) ** 2 * _variance(negatives, s)
    )
    by_chance = noise.sum() * np.sqrt(2 / np.pi)
    spread = np.sqrt((1 - 2 / np.pi) * (noise**2).sum())
    beyond = np.sqrt(np.maximum(distance**2 - noise**2, 0)).sum()
    return Calibration(
        prevalence=prevalence,
        bins=_reliability(negatives, positives, s, prevalence, unit),
        brier=float(of_positives + of_negatives),
        brier_error=float(s * np.linalg.norm(moved)),
        expected_error=float(beyond) if distance.sum() > by_chance + 2 * spread else None,
    )


def _variance(cells: Floats, s: float) -> Floats:
    """(bins,) the noise's variance in a cell less its share of the row's mass, which is noisy too.

    Other releases make the mass less noisy; that is left out, which is on the safe side.
    """
    share = cells / cells.sum()
    variance: Floats = s**2 * (1 - 2 * share + cells.size * share**2)
    return variance


def _reliability(
    negatives: Floats, positives: Floats, s: float, prevalence: float, unit: float
) -> tuple[ReliabilityBin, ...]:
    """Observed share pi f1 / (pi f1 + (1 - pi) f0), f1 and f0 the parts of the classes in the bin.

    Its odds are those of the prevalence times f1 / f0, whose logarithm has the variance of Woolf
    (1955): one over the patients of each class, here with one patient more of each, so that no bin
    of a few patients is certain.
    """
    bins = positives.size
    a, b = prevalence / positives.sum(), (1 - prevalence) / negatives.sum()
    edges = np.concatenate([[0.0], bin_edges(bins, unit), [1.0]])
    centre = bin_centres(bins, unit)
    of_positives, of_negatives = _variance(positives, s), _variance(negatives, s)
    found = []
    for j, (n, p) in enumerate(zip(negatives, positives, strict=True)):
        mass = a * p + b * n
        if n + p < 1 or mass <= 2 * s * np.hypot(a, b):
            continue  # less than a patient, or not above the noise of its two cells
        observed = float(np.clip(a * p / mass, 0, 1))
        noise = (
            ((1 - observed) * a) ** 2 * of_positives[j] + (observed * b) ** 2 * of_negatives[j]
        ) / mass**2
        p, n = max(p, 0) + 1, max(n, 0) + 1
        hedged = a * p / (a * p + b * n)
        found.append(
            ReliabilityBin(
                low=float(edges[j]),
                centre=float(centre[j]),
                high=float(edges[j + 1]),
                observed=observed,
                error=float(np.sqrt(noise + (hedged * (1 - hedged)) ** 2 * (1 / p + 1 / n))),
            )
        )
    return tuple(found)
