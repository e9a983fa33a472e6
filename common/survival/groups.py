"""Groups of patients by predicted risk: how their survival differs, and whether it is as predicted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.histogram import Estimate, Floats
from common.survival.kaplan_meier import at_risk, kaplan_meier
from common.survival.scores import SurvivalScores
from common.survival.table import period_ends

NAMES = ("low", "middle", "high")


@dataclass(frozen=True, eq=False)
class RiskGroup:
    """The patients of predicted risk `low` to `high` (0..1), the last one's upper end included.

    A step in a curve, or a point on a line: `survival` (m,), 0..1 and never rising, is the share
    without an event at each of `time` (m,), rising; `band` are the (m,) ends of its 95 % intervals.
    After `until` nobody was seen, so the curve ends there.
    `at_risk` (J + 1,) are the patients who were still seen without an event at 0 and at each end of a
    period but the last, and to the end of the last; noised where the table is. `predicted` is the mean
    predicted risk of an event up to the last edge and `observed` the share that had one; None where
    the group cannot be followed so far.
    """

    name: str
    low: float
    high: float
    time: Floats
    survival: Floats
    band: tuple[Floats, Floats]
    until: float
    at_risk: Floats
    predicted: float
    observed: Estimate | None


def exact_groups(
    scores: SurvivalScores, cuts: tuple[float, float], edges: Sequence[float]
) -> tuple[RiskGroup, ...]:
    """The same from exact scores, split at the risks `cuts`; a group without patients is left out.

    Kaplan and Meier's curves, with their intervals as in `Curve`, up to the last of (K,) `edges`. Where no
    event was seen the variance says nothing, and who was followed to the end bounds `observed`.
    """
    seen = scores.up_to(edges[-1])
    column = np.searchsorted(np.array(cuts), seen.risk, side="right")
    found = []
    for number, name in enumerate(NAMES):
        of = column == number
        if not of.any():
            continue
        time, event = seen.time[of], seen.event[of]
        curve = kaplan_meier(time, event)
        value, low, high = (
            1 - float(v[-1]) if v.size else 0.0 for v in (curve.survival, curve.high, curve.low)
        )
        followed = int((time >= edges[-1]).sum())
        if not event.any() and followed:
            high = 1 - 0.025 ** (1 / followed)  # of k = 0 among them (Clopper and Pearson 1934)
        found.append(
            RiskGroup(
                name=name,
                low=(0.0, *cuts)[number],
                high=(*cuts, 1.0)[number],
                time=curve.time,
                survival=curve.survival,
                band=(curve.low, curve.high),
                until=float(time.max()),
                at_risk=at_risk(time, np.array([0.0, *period_ends(edges)])),
                predicted=float(seen.risk[of].mean()),
                observed=Estimate(value, (low, high)) if followed else None,
            )
        )
    return tuple(found)


def thirds(scores: SurvivalScores) -> tuple[float, float]:
    """The risks that split patients into thirds."""
    first, second = np.quantile(scores.risk, [1 / 3, 2 / 3])
    return float(first), float(second)
