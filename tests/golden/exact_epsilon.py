"""Epsilon without any accountant: closed forms, an integral, and a histogram that is rounded both ways.

`tests/golden/epsilon.csv` was computed with this file alone, by
`python tests/golden/exact_epsilon.py > tests/golden/epsilon.csv`.
It shares no line and no library but NumPy and SciPy with Opacus, dp-accounting and intramural.
"""

import csv
import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.signal import fftconvolve
from scipy.special import log_ndtr, ndtr

Mechanism = tuple[float, float, int]  # sigma, q, steps


def gaussian(sigma: float, steps: int, delta: float) -> float:
    """`steps` Gaussian releases at q = 1: Balle and Wang 2018, theorem 8, with sigma / sqrt(steps)."""
    s = sigma / math.sqrt(steps)

    def excess(epsilon: float) -> float:
        upper = float(log_ndtr(-1 / (2 * s) - epsilon * s))
        return float(ndtr(1 / (2 * s) - epsilon * s)) - math.exp(epsilon + upper) - delta

    return float(brentq(excess, 0.0, 1 / (2 * s * s) + 40 / s, xtol=1e-13, rtol=1e-14))


def _hockey_stick(epsilon: float, sigma: float, q: float, *, removed: bool) -> float:
    """Exact delta of one sampled Gaussian step at any real `epsilon`; P = (1-q)N(0) + qN(1), Q = N(0).

    The likelihood ratio P / Q rises with x, so the set on which it exceeds a value is a half-line
    and delta a difference of normal tails. `removed`: P against Q, otherwise Q against P.
    """
    ratio = math.exp(epsilon if removed else -epsilon)
    if ratio - 1 + q <= 0:  # always exceeded (P against Q), or never (Q against P)
        return 1 - ratio if removed else 0.0
    at = sigma**2 * math.log((ratio - 1 + q) / q) + 0.5
    if removed:
        p = (1 - q) * ndtr(-at / sigma) + q * ndtr((1 - at) / sigma)
        return float(p - ratio * ndtr(-at / sigma))
    p = (1 - q) * ndtr(at / sigma) + q * ndtr((at - 1) / sigma)
    return float(ndtr(at / sigma) - p / ratio)


def _solve(way: Callable[..., float], delta: float, most: float) -> float:
    """The larger of the epsilons at which `way`, in either direction, has `delta`."""

    def excess(epsilon: float, removed: bool) -> float:
        return way(epsilon, removed=removed) - delta

    directions = [removed for removed in (True, False) if excess(0.0, removed) > 0]
    return max(float(brentq(excess, 0.0, most, args=(d,), xtol=1e-10)) for d in directions)


def one_step(sigma: float, q: float, delta: float) -> float:
    """One step of the Poisson-sampled Gaussian mechanism, in closed form."""
    way = partial(_hockey_stick, sigma=sigma, q=q)
    return _solve(way, delta, 1 / (2 * sigma**2) + 40 / sigma)


def two_steps(first: tuple[float, float], second: tuple[float, float], delta: float) -> float:
    """One step of each of two (sigma, q): the second in closed form, integrated over the first."""
    sigma, q = first

    def both(epsilon: float, *, removed: bool) -> float:
        def inner(x: float) -> float:
            at_q = math.exp(-0.5 * (x / sigma) ** 2)
            at_p = (1 - q) * at_q + q * math.exp(-0.5 * ((x - 1) / sigma) ** 2)
            loss = math.log1p(q * math.expm1((2 * x - 1) / (2 * sigma**2)))
            there = at_p if removed else at_q
            rest = epsilon - (loss if removed else -loss)
            return there * _hockey_stick(rest, *second, removed=removed)

        knots = np.linspace(-12 * sigma, 1 + 12 * sigma, 49)
        parts = [
            quad(inner, a, b, epsabs=1e-16, epsrel=1e-11)[0] for a, b in itertools.pairwise(knots)
        ]
        return math.fsum(parts) / (sigma * math.sqrt(2 * math.pi))

    most = sum(1 / (2 * s**2) + 40 / s for s, _ in (first, second))
    return _solve(both, delta, most)


@dataclass(frozen=True)
class Losses:
    """Masses of privacy losses in cells of one width; `mass[k]` is at loss (first + k) x width.

    `lost` is the mass of tails that are not kept.
    """

    first: int
    mass: NDArray[np.float64]
    lost: float

    def __add__(self, other: "Losses") -> "Losses":
        """Of two independent releases together; tails of at most 1e-14 are cut off."""
        mass = np.maximum(fftconvolve(self.mass, other.mass), 0.0)
        below, above = np.cumsum(mass) < 1e-14, np.cumsum(mass[::-1])[::-1] < 1e-14
        keep = np.flatnonzero(~(below | above))
        kept = slice(int(keep[0]), int(keep[-1]) + 1)
        cut = float(mass[: kept.start].sum() + mass[kept.stop :].sum())
        first = self.first + other.first + kept.start
        return Losses(first, mass[kept], self.lost + other.lost + cut)


def one_release(sigma: float, q: float, cell: float, *, removed: bool, up: bool) -> Losses:
    """One sampled Gaussian step, each loss rounded down or `up` to a multiple of `cell`."""

    def loss(x: float) -> float:
        return math.log1p(q * math.expm1((2 * x - 1) / (2 * sigma**2)))

    reach = 8.0 * sigma  # 6e-16 of the mass is beyond
    lowest, highest = loss(-reach), loss(1 + reach)
    edges = np.arange(math.floor(lowest / cell), math.ceil(highest / cell) + 1)
    ratio = np.expm1(edges * cell) + q
    x = np.full(len(edges), -np.inf)
    x[ratio > 0] = sigma**2 * np.log(ratio[ratio > 0] / q) + 0.5
    x[0], x[-1] = -np.inf, np.inf
    # Differences on the side where the tail is small, so that they do not cancel.
    tail = -np.sign(x - 0.5)

    def mass_between(mean: float) -> NDArray[np.float64]:
        z = (x - mean) / sigma
        low, high = ndtr(z), ndtr(-z)
        found: NDArray[np.float64] = np.where(tail[1:] > 0, np.diff(low), -np.diff(high))
        return found

    mass = mass_between(0.0)
    if removed:
        mass = (1 - q) * mass + q * mass_between(1.0)
        return Losses(int(edges[0]) + up, mass, 2e-15)
    # Q against P: the same cells with the sign of the loss turned round.
    return Losses(-int(edges[-1]) + up, mass[::-1], 2e-15)


def bracket(mechanisms: list[Mechanism], delta: float, cell: float) -> tuple[float, float]:
    """Bounds of epsilon from both sides, by adding privacy losses up in cells of width `cell`.

    Each loss is rounded down for the lower bound and up for the upper one, and what is lost of the
    tails is nothing for the one and certain disclosure for the other. So the truth is between them,
    and they are at most `cell` x steps apart.
    """
    bounds = []
    for up in (False, True):
        found = 0.0
        for removed in (True, False):
            whole = None
            for sigma, q, steps in mechanisms:
                power = one_release(sigma, q, cell, removed=removed, up=up)
                while steps:
                    if steps % 2:
                        whole = power if whole is None else whole + power
                    steps //= 2
                    power = power + power if steps else power
            assert whole is not None
            found = max(found, _epsilon_of(whole, delta, cell, up=up))
        bounds.append(found)
    return bounds[0], bounds[1]


def _epsilon_of(losses: Losses, delta: float, cell: float, *, up: bool) -> float:
    at = (losses.first + np.arange(len(losses.mass))) * cell

    def excess(epsilon: float) -> float:
        above = at > epsilon
        total = float((losses.mass[above] * -np.expm1(epsilon - at[above])).sum())
        return total + (losses.lost if up else 0.0) - delta

    return float(brentq(excess, 0.0, at[-1], xtol=1e-9)) if excess(0.0) > 0 else 0.0


TABLE = Path(__file__).with_name("epsilon.csv")

CLOSED = "Balle and Wang 2018, closed form"
ONE_STEP = "sampled Gaussian, one step, closed form"
TWO_STEPS = "two sampled Gaussians, closed form integrated by quadrature"
ROUNDED = "losses added up in cells, rounded down and up"

CASES: list[tuple[str, list[Mechanism], float, float]] = [  # source, mechanisms, delta, cell
    (CLOSED, [(3.730631634944469, 1.0, 1)], 1e-5, 0.0),
    (CLOSED, [(2.0, 1.0, 4)], 1e-5, 0.0),
    (CLOSED, [(1.9974, 1.0, 11)], 1e-5, 0.0),
    (CLOSED, [(0.5, 1.0, 11)], 1e-5, 0.0),
    (CLOSED, [(400.0, 1.0, 40)], 1e-5, 0.0),
    (CLOSED, [(60.0, 1.0, 3000)], 1e-6, 0.0),
    (ONE_STEP, [(1.0, 0.01, 1)], 1e-5, 0.0),
    (ONE_STEP, [(0.5, 0.1, 1)], 1e-5, 0.0),
    (ONE_STEP, [(2.0, 0.5, 1)], 1e-5, 0.0),
    (ONE_STEP, [(30.0, 0.5, 1)], 1e-5, 0.0),
    (TWO_STEPS, [(1.0, 0.1, 2)], 1e-5, 0.0),
    (TWO_STEPS, [(3.0, 0.5, 2)], 1e-5, 0.0),
    (TWO_STEPS, [(1.0, 0.1, 1), (2.0, 0.5, 1)], 1e-5, 0.0),
    (ROUNDED, [(3.0, 0.5, 40)], 1e-5, 2e-5),
    (ROUNDED, [(2.0703, 0.5, 40)], 1e-5, 5e-5),
    (ROUNDED, [(0.8, 0.05, 10)], 1e-5, 5e-5),
    (ROUNDED, [(4.0, 0.5, 20), (8.0, 0.25, 20)], 1e-5, 2e-5),
    (ROUNDED, [(2.0, 0.08, 750)], 1e-5, 4e-6),
    (ROUNDED, [(1.0, 0.01, 1000)], 1e-5, 2e-6),
]


def computed(
    source: str, mechanisms: list[Mechanism], delta: float, cell: float
) -> tuple[float, float]:
    """Bounds of the true epsilon from below and above, equal where it is known exactly."""
    if source == ROUNDED:
        return bracket(mechanisms, delta, cell)
    if source == TWO_STEPS:
        first, second = [(sigma, q) for sigma, q, steps in mechanisms for _ in range(steps)]
        exact = two_steps(first, second, delta)
    else:
        ((sigma, q, steps),) = mechanisms
        exact = gaussian(sigma, steps, delta) if source == CLOSED else one_step(sigma, q, delta)
    return exact, exact


@dataclass(frozen=True)
class Row:
    """One line of the table: the true epsilon lies in [low, high]."""

    source: str
    mechanisms: list[Mechanism]
    delta: float
    cell: float
    low: float
    high: float


def table() -> list[Row]:
    with TABLE.open(newline="") as file:
        return [_row(fields) for fields in csv.DictReader(file)]


def _row(fields: dict[str, str]) -> Row:
    parts = [part.split(":") for part in fields["mechanisms"].split(" + ")]
    numbers = [float(fields[key]) for key in ("delta", "cell", "epsilon_from", "epsilon_to")]
    mechanisms = [(float(sigma), float(q), int(steps)) for sigma, q, steps in parts]
    return Row(fields["source"], mechanisms, *numbers)


def main() -> None:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["source", "mechanisms", "delta", "cell", "epsilon_from", "epsilon_to"])
    for source, mechanisms, delta, cell in CASES:
        text = " + ".join(f"{sigma!r}:{q!r}:{steps}" for sigma, q, steps in mechanisms)
        low, high = computed(source, mechanisms, delta, cell)
        rows.writerow([source, text, f"{delta:g}", f"{cell:g}", f"{low:.9f}", f"{high:.9f}"])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
