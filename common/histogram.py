"""The score histogram: what a hospital releases of its validation patients, and its AUROC.

A hospital counts its patients by score and class, adds noise and releases the counts; the
coordinator adds the hospitals' histograms up. Here every patient counts once, whereas the exact
figures in `common.metrics` count every image; the two differ where patients have different numbers
of images. `common.released` reads the curves and thresholds.

Sixteen bins, their edges spaced by the hyperbolic sine in the score's logit: narrow about one half,
wide towards 0 and 1, where a trained network puts most of its scores. Measured on LUNA16 (143
validation patients, 25 of them worth of positives, AUROC .91 to .95), seven models along a
private and a non-private run, and on calibrated Gaussian scores of AUROC .69 to .98: worst loss of
AUROC by ties within bins, and the standard deviation that noise 1 per cell causes:

| 16 bins, equal in            | LUNA16 | calibrated | noise 1 |
|------------------------------|--------|------------|---------|
| probability                  | .074   | .009       | .026    |
| logit, -12 to 12             | .008   | .046       | .045    |
| sinh, unit 2                 | .006   | .017       | .035    |
| **sinh, unit 1**             | .007   | .013       | .033    |
| sinh, unit 1/2               | .009   | .016       | .031    |
| sinh, unit 1, 8 bins         | .028   | .048       | .024    |
| sinh, unit 1, 12 bins        | .010   | .023       | .029    |
| probability, 32 bins         | .056   | .004       | .031    |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from common.metrics import Scores  # scikit-learn stays out of the report

Floats = NDArray[np.float64]
Interval = tuple[float, float]

OUTERMOST = 12.0  # logit at which the last bin would end, were it not open
Z = 1.959964  # two-sided 95 %
LEAST_MASS = 2.0  # standard deviations of its noise; a class with less is not read

# What noise in the positive and in the negative cells moves AUROC by, as a sum of squares over the
# bins. On LUNA16 at AUROC .90 to .95 they were .5 to 1.8 and 1.3 to 4.8, over seven models.
POSITIVE_CELLS, NEGATIVE_CELLS = 0.8, 3.5


@dataclass(frozen=True)
class Estimate:
    """A figure in 0..1 and its 95 % interval for noise and choice of patients together."""

    value: float
    interval: Interval


def bin_edges(bins: int) -> Floats:
    """(bins - 1,) rising scores between the bins; fixed and public, symmetric about 0.5."""
    logit = np.sinh(np.linspace(-1, 1, bins + 1)[1:-1] * np.arcsinh(OUTERMOST))
    edges: Floats = 1 / (1 + np.exp(-logit))
    return edges


def score_histogram(scores: "Scores", bins: int) -> Floats:
    """The summary that a hospital noises and releases: (2, bins), mass of patients per score bin.

    Row 0 holds the negative, row 1 the positive images; a bin holds its lower edge. Private: noise
    it first.

    Sensitivity: an image of a patient with k images adds 1 / k, so a patient adds a non-negative
    (2, bins) array with L1 norm 1, whose L2 norm is at most its L1 norm. Weights depend on no other
    patient. Hence adding or removing a patient changes the result by at most 1 in L2, reached
    when all images of the patient fall into one cell.
    """
    column = np.searchsorted(bin_edges(bins), scores.score, side="right")
    _, ordinal, images = np.unique(scores.patient, return_inverse=True, return_counts=True)
    cells = np.bincount(
        scores.label * bins + column, weights=1.0 / images[ordinal], minlength=2 * bins
    )
    return cells.astype(np.float64).reshape(2, bins)


def checked(histogram: ArrayLike) -> tuple[Floats, Floats]:
    """The rows (negatives, positives), each (bins,); ValueError for what is no score histogram."""
    cells = np.asarray(histogram, dtype=np.float64)
    if cells.ndim != 2 or cells.shape[0] != 2 or cells.shape[1] < 1:
        raise ValueError(f"a score histogram has shape (2, bins), found {cells.shape}")
    if not np.all(np.isfinite(cells)):
        raise ValueError("a score histogram has a non-finite cell")
    return cells[0], cells[1]


def steadied(histogram: ArrayLike, others: Sequence[ArrayLike]) -> tuple[Floats, Floats]:
    """The rows of `histogram` with the mass of each class as in the mean over all releases.

    `others` are releases, as noisy, about other models on the same patients: their number in each
    class does not change with the model, and one release alone knows it worst of all. The
    difference is spread over the cells alike, which is the least-squares solution.
    """
    rows = checked(histogram)
    mass = np.mean([[row.sum() for row in rows], *(np.sum(checked(o), axis=1) for o in others)], 0)
    negatives, positives = (r + (m - r.sum()) / r.size for r, m in zip(rows, mass, strict=True))
    return negatives, positives


def auroc_of_histogram(
    histogram: ArrayLike, noise_std: float, others: Sequence[ArrayLike] = ()
) -> Estimate | None:
    """AUROC of a (2, bins) histogram whose cells carry noise of standard deviation `noise_std`.

    `others` steady it and make it readable more often (see `steadied`). Every patient counts once;
    pairs within a bin count half. With noisy negatives n and positives p and M the matrix of wins
    (1 below, 1/2 within, 0 above), the value is p'Mn / (sum p sum n). The noise of the two rows is
    independent, so numerator and denominator are each right on average, and cells stay as they are:
    to set negative ones to zero, or to smooth them, spreads noise over both classes and draws the
    value towards one half. 143 patients, noise 2 per cell: bias -.004 as here, -.017 after isotonic
    smoothing, -.038 without negative cells.

    Interval: the values A that are not rejected at 5 % by p'(M - A)n, whose mean is 0 at the truth
    whatever the noise is (Fieller, JRSS B 1954, 16:175). Its variance has two parts: the noise's,
    estimated without bias; and the choice of patients by Hanley and McNeil (Radiology 1982,
    143:29), taken at A and not at the estimate (Newcombe, Statistics in Medicine 2006, 25:559). A
    patient whose images differ counts as if they did not, which makes it wider rather than narrower.
    Nothing here covers the choice of hospitals or what ties within bins lose (.00 to .01, see the
    module): with 1,500 patients that can matter, and cost .09 of the coverage in one simulation.

    None when there are too few patients to say: the mass of a class does not stand above the noise
    of its sum. (Not when the interval is wide: wide ones are rarer near 0 and 1, so what is left
    would be biased, by .17 at an AUROC of .76.) ValueError for what is no score histogram.
    """
    negatives, positives = steadied(histogram, others)
    m, n = positives.sum(), negatives.sum()
    known = len(others) / (len(others) + 1)  # share of the noise's variance that a mass has lost
    if min(m, n) <= LEAST_MASS * noise_std * np.sqrt(negatives.size * (1 - known)):
        return None
    below = np.cumsum(negatives) - negatives / 2  # (bins,) negatives that a positive there beats
    above = m - np.cumsum(positives) + positives / 2
    value = float(np.clip(positives @ below / (m * n), 0, 1))
    candidates = np.linspace(0, 1, 2001)[:, None]
    rejected = np.abs(positives @ below - candidates[:, 0] * m * n) > Z * np.sqrt(
        _noise_variance(candidates, below, above, m, n, noise_std, known)
        + (m * n) ** 2 * _hanley_mcneil(candidates[:, 0], m, n)
    )
    kept = [value, *candidates[~rejected, 0]]
    return Estimate(value, (float(min(kept)), float(max(kept))))


def _noise_variance(
    auroc: Floats, below: Floats, above: Floats, m: float, n: float, s: float, known: float
) -> Floats:
    """(candidates,) variance that the noise gives to p'(M - A)n, for A in `auroc` (candidates, 1).

    s^2 (|(M - A) n|^2 + |(M - A)' p|^2) from noisy n and p is too large by s^4 |M - A|^2 on average;
    by less where the masses are better known: both rows' part of it that lies in them is missing.
    That the sum itself is less noisy then is left out, which is on the safe side.
    """
    bins = below.size
    of_pairs = bins * (bins - 1) / 2 * (auroc**2 + (1 - auroc) ** 2) + bins * (0.5 - auroc) ** 2
    of_rows = ((below - auroc * n) ** 2).sum(axis=1) + ((above - auroc * m) ** 2).sum(axis=1)
    of_masses = (bins**2 - 1) / 12 + (bins * (0.5 - auroc)) ** 2
    excess = of_pairs[:, 0] - 2 * known * of_masses[:, 0]
    # It is never less than the part that both rows' noise makes.
    variance: Floats = s**2 * np.maximum(of_rows - s**2 * excess, s**2 * of_pairs[:, 0])
    return variance


def _hanley_mcneil(auroc: Floats, m: float, n: float) -> Floats:
    """(candidates,) variance of AUROC by the choice of m positive and n negative patients."""
    m, n = max(m, 1.0), max(n, 1.0)
    two_positives, two_negatives = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance: Floats = (
        auroc * (1 - auroc)
        + (m - 1) * (two_positives - auroc**2)
        + (n - 1) * (two_negatives - auroc**2)
    ) / (m * n)
    return variance


def auroc_noise_error(patients: float, positive_share: float, noise_std: float) -> float:
    """Standard error that the noise alone gives to the released AUROC, before anything is trained.

    `patients`: validation patients of all hospitals; `positive_share`: the part of their images that
    is positive, between 0 and 1, every patient counting once; `noise_std`: of a cell of the sum, so
    four hospitals with sigma each give 2 sigma. For 16 bins and an AUROC of .90 to .95; at most 0.5.

    Measured with 20 % positive, logits of standard deviation 4 about -9 (negative) and 4.8 about 0.5
    (positive), an AUROC of .936, and in brackets what this function says; "-" where less than half
    of the releases can be read. It depends on where a model puts its scores: on two LUNA16 models
    the measured error was 0.6 to 1.3 times the function's.

    | patients | noise 1 | noise 2 | noise 4 | noise 8 |
    |----------|---------|---------|---------|---------|
    | 60 | .059 (.084) | - (.168) | - (.336) | - (.500) |
    | 150 | .029 (.034) | .052 (.067) | - (.135) | - (.269) |
    | 300 | .014 (.017) | .029 (.034) | .052 (.067) | - (.135) |
    | 600 | .007 (.008) | .015 (.017) | .029 (.034) | .053 (.067) |
    | 1200 | .004 (.004) | .007 (.008) | .014 (.017) | .029 (.034) |
    """
    positives, negatives = patients * positive_share, patients * (1 - positive_share)
    cells = POSITIVE_CELLS / positives**2 + NEGATIVE_CELLS / negatives**2
    return float(min(0.5, noise_std * np.sqrt(cells)))
