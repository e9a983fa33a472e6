"""A released survival table as it is read: steadied by other releases, with what its noise does to sums."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from common.histogram import Estimate, Floats, Z
from common.survival.table import checked, period_ends

LEAST_MASS = 2.0  # standard deviations of its noise; a sum with less is not read


@dataclass(frozen=True, eq=False)
class NoisedTable:
    """Patients by what is known of them and by risk, each cell with noise of deviation `noise_std`.

    cells: (2 J + 1, R); row j < J: last seen without an event in period j; row J: seen without one to
    the end; row J + 1 + j: with the event in period j. ends: (J,), of the periods. `releases` is the
    number of tables whose mean the sum of each row is: its noise has that much less variance.
    """

    cells: Floats
    ends: Floats
    noise_std: float
    releases: int

    @classmethod
    def of(
        cls,
        table: ArrayLike,
        noise_std: float,
        edges: Sequence[float],
        others: Sequence[ArrayLike] = (),
    ) -> "NoisedTable":
        """`others` are releases, as noisy, about other models on the same patients.

        When an event was does not change with the model. So each row's sum becomes that of the mean
        over all releases, and the difference is spread over the row alike, which is the least-squares
        solution. ValueError for what is no table of the study.
        """
        every = np.stack([_rows(checked(one, edges)) for one in (table, *others)])
        sums = every.sum(axis=2)
        lacking = (sums.mean(axis=0) - sums[0]) / every.shape[2]
        ends = period_ends(edges)
        return cls(every[0] + lacking[:, None], ends, noise_std, len(every))

    @property
    def periods(self) -> int:
        return self.ends.size

    def columns(self, start: int, stop: int) -> "FollowUp":
        """The patients in the bins `start` to `stop` of risk, by when they were last seen."""
        rows = self.cells[:, start:stop].sum(axis=1)
        return FollowUp(rows[: self.periods], rows[self.periods], rows[self.periods + 1 :])

    def whitened(self, weight: Floats) -> Floats:
        """`weight` (..., n) of the n cells, so that its square times the noise's is the variance."""
        rows = weight.reshape(*weight.shape[:-1], *self.cells.shape)
        shared = (1 - 1 / np.sqrt(self.releases)) * rows.mean(axis=-1, keepdims=True)
        whitened: Floats = (rows - shared).reshape(weight.shape)
        return whitened

    def variance(self, weight: Floats) -> float:
        """The noise's variance in the sum of the cells weighted by `weight` (2 J + 1, R)."""
        return float(self.noise_std**2 * (self.whitened(weight.ravel()) ** 2).sum())

    def in_columns(self, weight: Floats, start: int, stop: int) -> Floats:
        """(2 J + 1, R): `weight` (2 J + 1,) of each row in the bins `start` to `stop`, 0 elsewhere."""
        found = np.zeros_like(self.cells)
        found[:, start:stop] = weight[:, None]
        return found


def _rows(cells: Floats) -> Floats:
    """(2 J + 1, R) of (2, J + 1, R); nobody has an event after the last period."""
    return np.concatenate([cells[0], cells[1, :-1]])


@dataclass(frozen=True, eq=False)
class FollowUp:
    """How many were last seen in each period without an event, to the end, and with one in each.

    lost, events: (J,). Within a period events and losses are taken to be spread alike, so who is lost
    is at risk for half of it: the actuarial estimate (Cutler and Ederer, J Chronic Dis 1958, 8:699).
    """

    lost: Floats
    to_the_end: float
    events: Floats

    @property
    def at_risk(self) -> Floats:
        """(J,) who were without an event and not lost when each period began."""
        ended = self.lost + self.events
        remaining: Floats = self.to_the_end + np.cumsum(ended[::-1])[::-1]
        return remaining

    @property
    def exposed(self) -> Floats:
        """(J,) who were at risk for a whole period, as it were."""
        exposed: Floats = self.at_risk - self.lost / 2
        return exposed

    @property
    def survival(self) -> Floats:
        """(J,) share without an event at the end of each period; noise may make it rise."""
        share = np.divide(
            self.events, self.exposed, where=self.exposed > 0, out=np.zeros(self.lost.size)
        )
        survival: Floats = np.cumprod(1 - np.clip(share, -1, 1))
        return survival

    @property
    def seen(self) -> Floats:
        """(J,) share not lost at the end of each period, were there no events; never rising."""
        exposed = self.at_risk - self.events / 2
        share = np.divide(self.lost, exposed, where=exposed > 0, out=np.zeros(self.lost.size))
        seen: Floats = np.cumprod(1 - np.clip(share, 0, MOST_LOST))
        return seen


MOST_LOST = 0.9  # of a period: what noise alone can do to a weight


def not_rejected(distance: Floats, variance: Floats, candidates: Floats, value: float) -> Estimate:
    """The candidates (m,) whose `distance` (m,) lies within 1.96 of its deviations, as one interval."""
    kept = [value, *candidates[np.abs(distance) <= Z * np.sqrt(variance)]]
    return Estimate(value, (float(min(kept)), float(max(kept))))
