"""Survival by group of risk, read from a released table."""

import numpy as np

from common.histogram import Estimate, Floats, Interval
from common.released import isotonic
from common.survival.groups import NAMES, RiskGroup
from common.survival.noised import LEAST_MASS, FollowUp, NoisedTable, not_rejected
from common.survival.table import RISK_BINS, risk_centres, risk_edges

CANDIDATES = np.linspace(0, 1, 1001)
LEAST_EXPOSED = 0.5  # patients; who is lost in a period counts half


def cuts(table: NoisedTable) -> tuple[float, float]:
    """The two risks between the groups."""
    first, second = _cut(table)
    return float(risk_edges()[first - 1]), float(risk_edges()[second - 1])


def _cut(table: NoisedTable) -> tuple[int, int]:
    """Two bins of risk that share the patients out most evenly: groups end before each.

    Chosen by the released counts, which costs no more privacy: each cut is where the share of patients
    below comes nearest to one and to two thirds.
    """
    share = np.cumsum(table.cells.sum(axis=0))[:-1] / table.cells.sum()
    first = int(np.argmin(np.abs(share[:-1] - 1 / 3)))
    second = first + 1 + int(np.argmin(np.abs(share[first + 1 :] - 2 / 3)))
    return first + 1, second + 1


def released_groups(table: NoisedTable) -> tuple[RiskGroup, ...]:
    """Up to three groups of a released table, the lowest risk first; one that does not stand above the
    noise is left out, and a curve goes on for as long as who is at risk does."""
    first, second = _cut(table)
    bounds = np.concatenate([[0.0], risk_edges(), [1.0]])
    found = []
    for name, start, stop in zip(
        NAMES, (0, first, second), (first, second, RISK_BINS), strict=True
    ):
        group = _followed(table, name, start, stop, (float(bounds[start]), float(bounds[stop])))
        if group is not None:
            found.append(group)
    return tuple(found)


def _followed(
    table: NoisedTable, name: str, start: int, stop: int, risk: Interval
) -> RiskGroup | None:
    of = table.columns(start, stop)
    read = _readable(table, of, start, stop)
    if read == 0:
        return None
    falling = 1 - np.clip(isotonic(1 - of.survival[:read]), 0, 1)
    estimates = [
        _share_left(table, of, period, float(falling[period]), start, stop)
        for period in range(read)
    ]
    low, high = (np.array([e.interval[end] for e in estimates]) for end in (0, 1))
    mass = np.maximum(table.cells[:, start:stop].sum(axis=0), 0)
    whole = read == table.periods
    last = estimates[-1]
    observed = Estimate(1 - last.value, (1 - last.interval[1], 1 - last.interval[0]))
    return RiskGroup(
        name=name,
        low=risk[0],
        high=risk[1],
        time=table.ends[:read],
        survival=falling,
        band=(low, high),
        until=float(table.ends[read - 1]),
        at_risk=np.append(of.at_risk, of.to_the_end),
        predicted=float(np.average(risk_centres()[start:stop], weights=mass)),
        observed=observed if whole else None,
    )


def _readable(table: NoisedTable, of: FollowUp, start: int, stop: int) -> int:
    """In how many periods, from the first on, those who are exposed stand above the noise."""
    for period in range(table.periods):
        weight = table.in_columns(_exposes(table.periods, period), start, stop)
        if of.exposed[period] <= max(LEAST_MASS * np.sqrt(table.variance(weight)), LEAST_EXPOSED):
            return period
    return table.periods


def _exposes(periods: int, period: int) -> Floats:
    """(2 J + 1,): what a patient of each row adds to those exposed in `period`."""
    number = np.arange(periods)
    lost = (number >= period) - (number == period) / 2
    weight: Floats = np.concatenate([lost, [1.0], number >= period])
    return weight


def _share_left(
    table: NoisedTable, of: FollowUp, period: int, value: float, start: int, stop: int
) -> Estimate:
    """`value` with the shares without an event at the end of `period` that it does not reject at 5 %.

    Noise by the delta method; patients as in a binomial share of the effective number of them, which
    is that whose variance is Greenwood's, taken at each candidate (Rothman, J Chronic Dis 1978,
    31:557): so neither a share of 1 nor a small group is certain.
    """
    exposed = np.maximum(of.exposed[: period + 1], LEAST_EXPOSED)
    events = np.clip(of.events[: period + 1], 0, exposed)
    left = np.maximum(exposed - events, LEAST_EXPOSED)
    slope = np.zeros(2 * table.periods + 1)
    for p in range(period + 1):
        slope += _exposes(table.periods, p) * (1 / left[p] - 1 / exposed[p])
        slope[table.periods + 1 + p] -= 1 / left[p]
    noise = value**2 * table.variance(table.in_columns(slope, start, stop))
    greenwood = value**2 * float(np.sum(events / (exposed * left)))
    effective = exposed[-1]
    if 0 < value < 1 and greenwood > 0:
        effective = max(1.0, value * (1 - value) / greenwood)
    variance = noise + CANDIDATES * (1 - CANDIDATES) / effective
    return not_rejected(value - CANDIDATES, variance, CANDIDATES, value)
