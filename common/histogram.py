"""The score histogram: what a hospital releases of its validation patients, and its AUROC.

A hospital counts its patients by score and class, adds noise and releases the counts; the
coordinator adds the hospitals' histograms up. Here every patient counts once in each class in which
it has images, whereas the exact figures in `common.metrics` count every image; the two differ where
patients have different numbers of images. `common.released` reads the curves and thresholds.

Sixteen bins, their edges spaced by the hyperbolic sine in the score's logit: narrow about one half,
wide towards 0 and 1, where a trained network may put most of its scores. Worst loss of AUROC by ties
within bins: on LUNA16 (143 validation patients, 100 of them with positives, AUROC .94 to .95), fifteen
models along five private runs; on calibrated Gaussian scores of AUROC .69 to .98; and on
overconfident ones (logits of standard deviation 4 to 5, AUROC .94), which training without
privacy can give. Last, the error that noise 1 per cell causes on LUNA16:

| 16 bins, equal in            | LUNA16 | calibrated | overconfident | noise 1 |
|------------------------------|--------|------------|---------------|---------|
| probability                  | .003   | .004       | .076          | .023    |
| logit, -12 to 12             | .015   | .042       | .003          | .038    |
| sinh, unit 2                 | .006   | .011       | .005          | .033    |
| **sinh, unit 1**             | .004   | .006       | .007          | .031    |
| sinh, unit 1/2               | .005   | .003       | .010          | .029    |
| sinh, unit 1, 8 bins         | .013   | .021       | .027          | .023    |
| sinh, unit 1, 12 bins        | .008   | .009       | .012          | .027    |
| probability, 32 bins         | .001   | .002       | .057          | .031    |
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

# What a patient adds to the row of each class in which it has images: 1 in L2 where it has both.
PATIENT = np.sqrt(0.5)

# What noise in the positive and in the negative cells moves AUROC by, as a sum of squares over the
# bins. On LUNA16 at AUROC .94 to .95 they were 2.3 to 3.8 and 3.6 to 6.1, over fifteen models.
POSITIVE_CELLS, NEGATIVE_CELLS = 2.5, 5.5


@dataclass(frozen=True)
class Estimate:
    """A figure in 0..1 and its 95 % interval for noise and choice of patients together."""

    value: float
    interval: Interval


def bin_edges(bins: int, unit: float = 1.0) -> Floats:
    """(bins - 1,) rising scores between the bins; fixed and public, symmetric about 0.5.

    Logits up to about `unit` are spaced evenly, beyond it ever more widely.
    """
    return spaced(np.linspace(-1, 1, bins + 1)[1:-1], unit)


def spaced(place: Floats, unit: float) -> Floats:
    """Scores at `place`, -1..1, of the spacing: -1 and 1 are where the outermost bins would end."""
    scores: Floats = 1 / (1 + np.exp(-unit * np.sinh(place * np.arcsinh(OUTERMOST / unit))))
    return scores


def score_histogram(scores: "Scores", bins: int, unit: float = 1.0) -> Floats:
    """The summary that a hospital noises and releases: (2, bins), mass of patients per score bin.

    Row 0 holds the negative, row 1 the positive images; a bin holds its lower edge (`bin_edges`).
    Private: noise it first.

    Sensitivity: an image adds 1 / (sqrt(2) m) to the row of its class, where m is the number of the
    patient's images of that class. So a patient adds a non-negative array whose rows have an L1
    norm, and thereby an L2 norm, of at most 1 / sqrt(2); the rows are disjoint, so that the L2 norm
    of both together is at most sqrt(1/2 + 1/2) = 1. Weights depend on no other patient. Hence
    adding or removing a patient changes the result by at most 1 in L2, reached when the patient has
    images of both classes and those of each class fall into one cell.

    Most of a hospital's patients have images of both classes and few positive ones among many: to
    share one unit out over all images of a patient instead would leave the positives of LUNA16 with
    a mass of 25, where this gives them 71, at the same noise.
    """
    column = np.searchsorted(bin_edges(bins, unit), scores.score, side="right")
    _, ordinal = np.unique(scores.patient, return_inverse=True)
    group = 2 * ordinal + scores.label
    cells = np.bincount(
        scores.label * bins + column,
        weights=PATIENT / np.bincount(group)[group],
        minlength=2 * bins,
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
    """The rows of `histogram` in patients, the mass of each class as in the mean over all releases.

    `others` are releases, as noisy, about other models on the same patients: their number in each
    class does not change with the model, and one release alone knows it worst of all. The
    difference is spread over the cells alike, which is the least-squares solution. The noise in a
    cell is divided by PATIENT as the counts are.
    """
    rows = checked(histogram)
    mass = np.mean([[row.sum() for row in rows], *(np.sum(checked(o), axis=1) for o in others)], 0)
    negatives, positives = (
        (r + (m - r.sum()) / r.size) / PATIENT for r, m in zip(rows, mass, strict=True)
    )
    return negatives, positives


def auroc_of_histogram(
    histogram: ArrayLike, noise_std: float, others: Sequence[ArrayLike] = ()
) -> Estimate | None:
    """AUROC of a (2, bins) histogram whose cells carry noise of standard deviation `noise_std`.

    `others` steady it and make it readable more often (see `steadied`). Every patient counts once
    in each class; pairs within a bin count half. With noisy negatives n and positives p and M the
    matrix of wins (1 below, 1/2 within, 0 above), the value is p'Mn / (sum p sum n). The noise of
    the two rows is independent, so numerator and denominator are each right on average, and cells
    stay as they are: to set negative ones to zero, or to smooth them, spreads noise over both
    classes and draws the value towards one half. LUNA16, noise 2 per cell: bias -.004 as here, -.019
    after isotonic smoothing, -.059 without negative cells; noise 4: -.020, -.043 and -.116.

    Interval: the values A that are not rejected at 5 % by p'(M - A)n, whose mean is 0 at the truth
    whatever the noise is (Fieller, JRSS B 1954, 16:175). Its variance has two parts: the noise's,
    estimated without bias; and the choice of patients by Hanley and McNeil (Radiology 1982,
    143:29), taken at A and not at the estimate (Newcombe, Statistics in Medicine 2006, 25:559). A
    patient whose images differ counts as if they did not, which makes it wider rather than narrower.
    The positives and the negatives of a patient count as independent. Where they share what makes
    scores high, as scanner and dose do, the interval is too wide: coverage .96 to 1.00 of nominally
    .95, in simulations with 60 to 1,500 patients of five images. On LUNA16 a bootstrap over
    patients gives half the standard error that Hanley and McNeil do (.0085, .0165). Where instead
    some patients' images are told apart well and others' badly, it fell to .89 without noise and was
    .93 to .97 with noise 4 or more. Nothing here covers the choice of hospitals or what ties within
    bins lose (.00 to .01, see the module): with 1,500 patients that can matter, and cost .09 of the
    coverage in one simulation.

    None when there are too few patients to say: the mass of a class does not stand above the noise
    of its sum. (Not when the interval is wide: wide ones are rarer near 0 and 1, so what is left
    would be biased, by .17 at an AUROC of .76.) ValueError for what is no score histogram.
    """
    negatives, positives = steadied(histogram, others)
    noise_std = noise_std / PATIENT
    m, n = float(positives.sum()), float(negatives.sum())
    known = len(others) / (len(others) + 1)  # share of the noise's variance that a mass has lost
    if min(m, n) <= LEAST_MASS * noise_std * np.sqrt(negatives.size * (1 - known)):
        return None
    below = np.cumsum(negatives) - negatives / 2  # (bins,) negatives that a positive there beats
    above = m - np.cumsum(positives) + positives / 2
    value = float(np.clip(positives @ below / (m * n), 0, 1))
    candidates = np.linspace(0, 1, 2001)
    rejected = np.abs(positives @ below - candidates * m * n) > Z * np.sqrt(
        _noise_variance(candidates, below, above, m, n, noise_std, known)
        + (m * n) ** 2 * _hanley_mcneil(candidates, m, n)
    )
    kept = [value, *candidates[~rejected]]
    return Estimate(value, (float(min(kept)), float(max(kept))))


def _noise_variance(
    auroc: Floats, below: Floats, above: Floats, m: float, n: float, s: float, known: float
) -> Floats:
    """(candidates,) variance that the noise gives to p'(M - A)n, for A in `auroc` (candidates,).

    s^2 (|(M - A) n|^2 + |(M - A)' p|^2) from noisy n and p is too large by s^4 |M - A|^2 on average;
    by less where the masses are better known: both rows' part of it that lies in them is missing.
    That the sum itself is less noisy then is left out, which is on the safe side.
    """
    bins = below.size
    of_pairs = bins * (bins - 1) / 2 * (auroc**2 + (1 - auroc) ** 2) + bins * (0.5 - auroc) ** 2
    of_rows = sum(  # |row - A mass|^2
        row @ row - 2 * auroc * mass * row.sum() + bins * (auroc * mass) ** 2
        for row, mass in ((below, n), (above, m))
    )
    of_masses = (bins**2 - 1) / 12 + (bins * (0.5 - auroc)) ** 2
    excess = of_pairs - 2 * known * of_masses
    # It is never less than the part that both rows' noise makes.
    variance: Floats = s**2 * np.maximum(of_rows - s**2 * excess, s**2 * of_pairs)
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


def auroc_noise_error(positives: float, negatives: float, noise_std: float) -> float:
    """Standard error that the noise alone gives to the released AUROC, before anything is trained.

    `positives` and `negatives`: validation patients of all hospitals with a positive and with a
    negative image, those with both in either number; `noise_std`: of a cell of the sum, so four
    hospitals with sigma each give 2 sigma. For 16 bins and an AUROC about .94; at most 0.5.

    Measured with logits of standard deviation 1.7 about -3.3 (negative) and 1.3 about 0 (positive),
    an AUROC of .938, and in brackets what this function says; "-" where less than half of the
    releases can be read. Where noise is large the function is too careful: no AUROC is above 1. On
    LUNA16 (100 positives, 143 negatives, fifteen models) the measured error was .93 to 1.02 times
    the function's at noise 1, .71 to .77 times at noise 3. Scores nearer 0 and 1 suffer less.

    | positives | negatives | noise 1 | noise 2 | noise 4 | noise 8 |
    |-----------|-----------|---------|---------|---------|---------|
    | 42 | 60 | .061 (.077) | .097 (.153) | - (.307) | - (.500) |
    | 105 | 150 | .029 (.031) | .051 (.061) | .086 (.123) | .134 (.246) |
    | 210 | 300 | .015 (.015) | .029 (.031) | .052 (.061) | .084 (.123) |
    | 420 | 600 | .008 (.008) | .015 (.015) | .030 (.031) | .050 (.061) |
    | 840 | 1200 | .004 (.004) | .008 (.008) | .015 (.015) | .029 (.031) |
    """
    cells = POSITIVE_CELLS / positives**2 + NEGATIVE_CELLS / negatives**2
    return float(min(0.5, noise_std / PATIENT * np.sqrt(cells)))
