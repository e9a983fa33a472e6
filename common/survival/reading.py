"""What a survival table, noised or not, says about a model; None where noise leaves nothing to say.

The coordinator reads the sum of the hospitals' released tables, with the standard deviation of the
noise in a cell of that sum; a rehearsal reads the exact table too, with noise 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from common.histogram import Estimate, Floats, Z
from common.released import isotonic
from common.survival.brier import integrated
from common.survival.groups import RiskGroup
from common.survival.noised import LEAST_MASS, NoisedTable
from common.survival.released_concordance import harrell, middle_of_period, uno
from common.survival.released_groups import cuts, released_groups
from common.survival.table import risk_centres


@dataclass(frozen=True, eq=False)
class SurvivalReading:
    """All that a table says; every figure with its 95 % interval for noise and choice of patients.

    `discrimination` is Harrell's concordance index, `uno` Uno's. `brier` is the integrated Brier score
    over the ends of the periods, as `integrated_brier` has it; None for a model without a baseline
    hazard. `groups` are up to three, split at the risks `cuts` and followed over the periods, whose ends
    are `ends` (J,).
    """

    discrimination: Estimate
    uno: Estimate | None
    brier: Estimate | None
    cuts: tuple[float, float]
    groups: tuple[RiskGroup, ...]
    ends: Floats


def read_table(
    table: ArrayLike,
    noise_std: float,
    edges: Sequence[float],
    others: Sequence[ArrayLike] = (),
    *,
    ranks_only: bool = False,
) -> SurvivalReading | None:
    """What a (2, cells) table with noise `noise_std` in a cell says; `others` steady it.

    `others` are releases, as noisy, about other models on the same patients; `ranks_only` is for a
    model whose risk is no probability. None where the noise leaves no concordance index to read.
    ValueError for what is no table of a study with these `edges`.
    """
    noised = NoisedTable.of(table, noise_std, edges, others)
    concordance = harrell(noised)
    if concordance is None:
        return None
    return SurvivalReading(
        discrimination=concordance,
        uno=uno(noised),
        brier=None if ranks_only else integrated_brier(noised),
        cuts=cuts(noised),
        groups=released_groups(noised),
        ends=noised.ends,
    )


def integrated_brier(table: NoisedTable) -> Estimate | None:
    """The integrated Brier score at the J ends of the periods, as far as a table can say it.

    As `common.survival.brier` has it, but for three approximations. A patient's risk is the middle of
    its bin. Of a patient's predicted survival only its value at the last edge is released: at an
    earlier end t it is taken to be (1 - risk)^(H(t) / H(last)), as under proportional hazards, where H
    is the cumulative hazard of all patients of the table together. And the chance of not yet being
    lost, at an event the one in the middle of its period, is that of all of them too; the interval takes
    these last two for known. The score is then a weighted mean over the cells, and its interval that of
    such a mean, for noise and patients. None where the patients do not stand above the noise.
    """
    everybody = float(table.cells.sum())
    if everybody <= LEAST_MASS * np.sqrt(table.variance(np.ones_like(table.cells))):
        return None
    periods = table.periods
    of = table.columns(0, table.cells.shape[1])
    with np.errstate(divide="ignore"):
        hazard = -np.log(1 - np.clip(isotonic(1 - of.survival), 0, 1 - 1e-9))
    shape = hazard / hazard[-1] if hazard[-1] > 0 else table.ends / table.ends[-1]
    survival = (1 - risk_centres()) ** shape[:, None]  # (J, R)
    middle, seen = middle_of_period(table), of.seen
    terms = np.zeros((periods, *table.cells.shape))
    for end in range(periods):
        beyond = (1 - survival[end]) ** 2 / seen[end]
        terms[end, end + 1 : periods + 1] = beyond
        terms[end, periods + 2 + end :] = beyond
        terms[end, periods + 1 : periods + 2 + end] = survival[end] ** 2 / middle[: end + 1, None]
    term = integrated(np.moveaxis(terms, 0, -1), table.ends)
    value = float((term * table.cells).sum()) / everybody
    apart = term - value
    patients = max(0.0, float((apart**2 * table.cells).sum()))
    half = float(Z * np.sqrt(table.variance(apart) + patients) / everybody)
    low, middle, high = np.clip([value - half, value, value + half], 0, 1)
    return Estimate(float(middle), (float(low), float(high)))
