"""The share of patients without an event over time, where some were not seen to the end."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.histogram import Floats, Z


@dataclass(frozen=True, eq=False)
class Curve:
    """Kaplan and Meier's estimate (JASA 1958, 53:457) of P(T > t), a step function.

    At each of `time` (m,), rising, the curve falls to `survival` (m,), 0..1; before the first it is 1.
    `low` and `high` (m,) are 95 % intervals from Greenwood's variance on the scale of log(-log S), as
    lifelines and R have them; (0, 0) or (1, 1) where the variance says nothing.
    """

    time: Floats
    survival: Floats
    low: Floats
    high: Floats

    def at(self, time: Floats) -> Floats:
        """P(T > t) for each of `time` (...,)."""
        return self._value(np.searchsorted(self.time, time, side="right"))

    def before(self, time: Floats) -> Floats:
        """P(T >= t) for each of `time` (...,)."""
        return self._value(np.searchsorted(self.time, time, side="left"))

    def _value(self, steps: NDArray[np.int64]) -> Floats:
        value: Floats = np.concatenate([[1.0], self.survival])[steps]
        return value


def kaplan_meier(time: Floats, event: NDArray[np.bool_]) -> Curve:
    """The curve of n patients; who was last seen at the time of an event was still at risk of it."""
    at = np.unique(time[event])
    fell, risk = _counts(at, time[event]), at_risk(time, at)
    return _curve(at, fell, risk)


def censoring(time: Floats, event: NDArray[np.bool_]) -> Curve:
    """The curve of not yet being lost from sight: an event at the same time comes first."""
    at = np.unique(time[~event])
    lost = _counts(at, time[~event])
    return _curve(at, lost, at_risk(time, at) - _counts(at, time[event]))


def at_risk(time: Floats, at: Floats) -> Floats:
    """How many of `time` (n,) are at least each of `at` (m,)."""
    risk: Floats = time.size - np.searchsorted(np.sort(time), at, side="left").astype(np.float64)
    return risk


def _counts(at: Floats, time: Floats) -> Floats:
    ordered = np.sort(time)
    found = np.searchsorted(ordered, at, "right") - np.searchsorted(ordered, at, "left")
    counts: Floats = found.astype(np.float64)
    return counts


def _curve(at: Floats, fell: Floats, risk: Floats) -> Curve:
    survival: Floats = np.multiply.accumulate(1 - fell / risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(fell / (risk * (risk - fell)))  # variance of log S
        reach = np.exp(Z * np.sqrt(greenwood) / np.abs(np.log(survival)))
        low, high = survival**reach, survival ** (1 / reach)
    said = (survival > 0) & (survival < 1)
    return Curve(at, survival, np.where(said, low, survival), np.where(said, high, survival))
