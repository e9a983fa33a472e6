"""The concordance index of a released survival table, Harrell's and Uno's, with its interval."""

import numpy as np

from common.histogram import Estimate, Floats
from common.survival.noised import LEAST_MASS, NoisedTable, not_rejected

CANDIDATES = np.linspace(0, 1, 2001)


def harrell(table: NoisedTable) -> Estimate | None:
    """Harrell's index of the patients in the bins; see `index`."""
    return index(table, np.ones(table.periods))


def uno(table: NoisedTable) -> Estimate | None:
    """Uno's, with the last edge as tau. The chance of not yet being lost, G, is that at an event's
    middle of its period, from the sums over all risks; the interval takes it for known."""
    return index(table, 1 / middle_of_period(table) ** 2)


def middle_of_period(table: NoisedTable) -> Floats:
    """(J,) chance of not yet being lost in the middle of each period: the geometric mean of its ends."""
    ends = np.concatenate([[1.0], table.columns(0, table.cells.shape[1]).seen])
    middle: Floats = np.sqrt(ends[:-1] * ends[1:])
    return middle


def index(table: NoisedTable, weight: Floats) -> Estimate | None:
    """How often the higher risk has the event first; `weight` (J,) of pairs by the event's period.

    Compared are an event with all who were seen in a later period; half of a pair with one who was lost
    in the same period, since half of them are lost after the event; no two events of one period. Pairs
    within a bin count half. Two matrices over the cells say what a pair wins and whether it counts:
    with x the cells, the value is x'Ax / x'Bx. No row is ever compared with itself and the noise of
    different rows is independent, so numerator and denominator are right on average, and cells stay as
    they are: to set negative ones to zero would draw the value towards one half.

    Interval: the values c that are not rejected at 5 % by x'(A - cB)x, whose mean is 0 at the truth
    whatever the noise is (Fieller, JRSS B 1954, 16:175; as in `common.histogram`). Its variance is that
    of the noise plus, for the choice of patients, the infinitesimal jackknife's: the sum over patients
    of the square of what their own pairs come to, in a cell ((A - cB) + (A - cB)')x. Both are
    estimated without the bias that the noise in x gives to squares, and both at c and not at the
    estimate, so that few patients or an estimate of 0 or 1 do not make them vanish.

    Nothing here covers what ties in bins lose (see `common.survival.table`) nor the choice of
    hospitals. None where the pairs do not stand above the noise.
    """
    won, counted = _pairs(table, weight)
    x, s = table.cells.ravel(), table.noise_std
    a, b = won @ x, counted @ x
    wins, pairs = float(x @ a) / 2, float(x @ b) / 2
    # As if the noise were alike and independent in all cells.
    won_, counted_ = table.whitened(won), table.whitened(counted)
    second = s**4 / 2 * _square(table.whitened(won_.T), table.whitened(counted_.T))
    first = s**2 * _square(table.whitened(a), table.whitened(b))
    noise = np.maximum(first - second, second)
    patients = _square(a, b, x) - s**2 * _square(won_, counted_, x[:, None])
    of_pairs = s**2 * float(table.whitened(b) @ table.whitened(b))
    if pairs <= LEAST_MASS * np.sqrt(of_pairs) or pairs <= 0:
        return None
    value = float(np.clip(wins / pairs, 0, 1))
    return not_rejected(
        wins - CANDIDATES * pairs, noise + np.maximum(patients, 0), CANDIDATES, value
    )


def _pairs(table: NoisedTable, weight: Floats) -> tuple[Floats, Floats]:
    """(n, n) matrices over the n cells, symmetric: what each pair of patients wins, and counts."""
    periods, bins = table.periods, table.cells.shape[1]
    later = np.triu(np.ones((periods, periods)), 1)
    rows = np.zeros((2 * periods + 1,) * 2)
    with_event = rows[periods + 1 :]
    with_event[:, :periods] = later + np.eye(periods) / 2
    with_event[:, periods] = 1
    with_event[:, periods + 1 :] = later
    with_event *= weight[:, None]
    higher = np.tril(np.ones((bins, bins)), -1) + np.eye(bins) / 2
    won, counted = np.kron(rows, higher), np.kron(rows, np.ones((bins, bins)))
    return won + won.T, counted + counted.T


def _square(u: Floats, v: Floats, weight: Floats | float = 1.0) -> Floats:
    """(candidates,) weighted sum of the squares of u - c v, for each candidate c."""
    c = CANDIDATES
    square: Floats = (
        np.sum(weight * u * u) - 2 * c * np.sum(weight * u * v) + c**2 * np.sum(weight * v * v)
    )
    return square
