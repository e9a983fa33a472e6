"""The survival table: what a hospital releases of its validation patients, and how it is spaced.

A hospital counts its patients by what happened (no event, event), when (in at most four periods, or
seen to the end of the last) and predicted risk (in twelve bins), adds noise and releases the counts;
the coordinator adds the hospitals' tables up. `common.survival.reading` reads them.

Noise falls on every cell, so periods are few; and who was seen to the last edge has cells apart from
who was lost in the last period, which costs the concordance nothing and tells it who was lost. Bins lie
at equal steps of the logit of risk, from .02 to .90: risks of an event are small more often than
large, and where they are, a step is the same hazard ratio everywhere. Largest loss of Harrell's
concordance by ties and periods (mean in brackets) over populations of 4,000 with events in 5, 20 and
50 % and log hazards of standard deviation 1/2 and 1: predicted right, twice too far apart
(overconfident), four times too close (timid, as after little training under much noise), and for
2.7 times the true hazard (shifted); on the 222 test patients of the public TCGA-BRCA data (28 events
in eight years) as the mean of two Cox models at five and eight years; and the error that noise 1 per
cell causes with 300 patients, mean of the populations but those with 5 %:

| bins, equal in            | periods | right       | overconf.   | timid       | shifted     | BRCA | noise |
|---------------------------|---------|-------------|-------------|-------------|-------------|------|-------|
| 10, probability           | 4       | .105 (.033) | .066 (.021) | .262 (.080) | .023 (.008) | .018 | .032  |
| 10, as in a histogram     | 4       | .070 (.022) | .043 (.010) | .186 (.101) | .029 (.008) | .030 | .038  |
| 10, log hazard, .02 to .8 | 4       | .009 (.002) | .021 (.004) | .125 (.092) | .038 (.015) | .016 | .041  |
| 8, logit                  | 4       | .031 (.011) | .017 (.004) | .183 (.098) | .025 (.013) | .016 | .035  |
| 10, logit                 | 4       | .021 (.004) | .019 (.004) | .126 (.083) | .013 (.008) | .023 | .039  |
| **12, logit**             | **4**   | .019 (.003) | .022 (.002) | .105 (.076) | .007 (.003) | .009 | .043  |
| 16, logit                 | 4       | .017 (.002) | .020 (.000) | .058 (.039) | .009 (.002) | .007 | .050  |
| 10, logit                 | 2       | .027 (.002) | .022 (.002) | .124 (.079) | .011 (.001) | .048 | .029  |
| 10, logit                 | 6       | .021 (.006) | .018 (.006) | .126 (.084) | .018 (.010) | .018 | .047  |
| 10, logit                 | 12      | .021 (.009) | .019 (.009) | .127 (.085) | .024 (.013) | .016 | .065  |
| 10, logit, end not apart  | 4       | .020 (.004) | .018 (.004) | .126 (.083) | .014 (.008) | .024 | .039  |

A timid model loses in any bins that are public: its released concordance is too low, not too high.
"""

from collections.abc import Sequence
from math import log

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.histogram import Floats
from common.survival.scores import SurvivalScores

PERIODS = 4  # at most
RISK_BINS = 12
OUTERMOST = (
    0.02,
    0.90,
)  # the risk up to which the first bin goes, and from which the last one does

Indices = NDArray[np.intp]


def risk_edges() -> Floats:
    """(RISK_BINS - 1,) rising risks between the bins, at equal steps of the logit; public."""
    first, last = map(_logit, OUTERMOST)
    return _risk(np.linspace(first, last, RISK_BINS - 1))


def risk_centres() -> Floats:
    """(RISK_BINS,) risk in the middle of each bin on the logit scale, as if the outer ones ended too."""
    first, last = map(_logit, OUTERMOST)
    half = (last - first) / (RISK_BINS - 2) / 2
    return _risk(np.linspace(first - half, last + half, RISK_BINS))


def _logit(risk: float) -> float:
    return log(risk / (1 - risk))


def _risk(logit: Floats) -> Floats:
    risk: Floats = 1 / (1 + np.exp(-logit))
    return risk


def period_ends(edges: Sequence[float]) -> Floats:
    """(J,) ends of the released periods, J at most PERIODS, from the study's (K,) edges; public.

    Every end is an edge, the last one the last edge, and the study's intervals are shared out as
    evenly as they can be, the longer periods first. Period j is (end j-1, end j], the first from 0 on.
    """
    periods = min(PERIODS, len(edges))
    last = [-(-len(edges) * j // periods) - 1 for j in range(1, periods + 1)]
    return np.asarray(edges, dtype=np.float64)[last]


def cells(edges: Sequence[float]) -> int:
    """Cells in each of the two rows of a study's table."""
    return (period_ends(edges).size + 1) * RISK_BINS


def survival_table(scores: SurvivalScores, edges: Sequence[float]) -> Floats:
    """The summary that a hospital noises and releases: (2, (J + 1) RISK_BINS), patients per cell.

    Row 0 holds the patients without an event up to the last edge, row 1 those with one. A row is J + 1
    blocks of RISK_BINS cells: block j < J for a patient whose time is in period j, the last block for
    one who was without an event until the last edge. Nobody with an event is in the last block: those
    cells of row 1 are noise, and are not read. A bin of risk holds its lower edge. Private: noise it
    first.

    Sensitivity: a patient has one risk, one time and one event (`SurvivalScores` refuses a patient who
    stands there twice), and edges are public, so that a patient adds exactly 1 to exactly one cell,
    whoever else is there. Hence adding or removing a patient changes the table by exactly 1 in L2 (and
    in L1), whatever the edges.
    """
    period, event = _period(scores, edges)
    column = np.searchsorted(risk_edges(), scores.risk, side="right")
    size = cells(edges)
    cell = event * size + period * RISK_BINS + column
    return np.bincount(cell, minlength=2 * size).astype(np.float64).reshape(2, size)


def _period(scores: SurvivalScores, edges: Sequence[float]) -> tuple[Indices, NDArray[np.bool_]]:
    ends = period_ends(edges)
    period = np.searchsorted(ends, scores.time, side="left")
    event = scores.event & (scores.time <= ends[-1])
    seen_to_the_end = ~event & (scores.time >= ends[-1])
    return np.where(seen_to_the_end, ends.size, period), event


def checked(table: ArrayLike, edges: Sequence[float]) -> Floats:
    """A study's table as (2, J + 1, RISK_BINS); ValueError for what is none."""
    found = np.asarray(table, dtype=np.float64)
    wanted = (2, cells(edges))
    if found.shape != wanted:
        raise ValueError(f"a survival table of this study has shape {wanted}, found {found.shape}")
    if not np.all(np.isfinite(found)):
        raise ValueError("a survival table has a non-finite cell")
    return found.reshape(2, -1, RISK_BINS)
