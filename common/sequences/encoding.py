"""Irregular measurements of N stays -> (N, T, 3V) numbers, by public rules alone.

For every step t of T and variable v of V there are three numbers, the inputs of GRU-D (Che et al.
2018, doi 10.1038/s41598-018-24271-9, section "Notations") and of Lipton et al. 2016
(arXiv 1606.04130):

* the value: the last one in the step, the public range as -1..1. In a step without one the last
  earlier value is carried forward; before the first one it is 0, the middle of the public range and
  never a mean of patients, so that nothing private is fitted;
* observed: 1 when the step has a measurement, else 0;
* since: how long ago the variable was observed before step t, in steps and divided by T: 0 at the
  first step; t - s when s is the last earlier step with a measurement; t when there is none.

A series that ends before the grid does is a series in which nothing more is observed: every stay has
T steps, and the last one is where the model reads its answer. Whoever plans a study therefore
chooses a grid that ends before the outcome is known, since the end of a series tells it otherwise.
"""

import numpy as np
import numpy.typing as npt

from common.sequences.schema import Sequences

PARTS = ("value", "observed", "since")

Floats = npt.NDArray[np.float64]
Ordinals = npt.NDArray[np.int64]


def feature_names(sequences: Sequences) -> list[str]:
    """F names in the order of the last axis: all values, then all observed, then all since."""
    return [f"{name} {part}" for part in PARTS for name in sequences.variable_names]


def within_grid(time: Floats, sequences: Sequences) -> npt.NDArray[np.bool_]:
    """(M,) which of M times belong to one of the T steps; NaN and infinity do not."""
    steps = _step_number(time, sequences)
    return (steps >= 0) & (steps < sequences.steps)


def encode(
    stays: int,
    stay: Ordinals,
    time: Floats,
    variable: Ordinals,
    value: Floats,
    sequences: Sequences,
) -> npt.NDArray[np.float32]:
    """(N, T, 3V) float32, -1..1, of `stays` stays N and their M measurements, in any order.

    `stay` (M,) is 0..N-1, `time` in the protocol's unit, `variable` (M,) the place in
    `sequences.variables`, `value` (M,) finite, in the variable's unit; what is outside of its range
    becomes the nearer end. Of two values of a variable in a step the later counts, at the same time
    the one that comes later in the arrays.
    """
    kept = np.flatnonzero(within_grid(time, sequences))
    kept = kept[np.argsort(time[kept], kind="stable")]
    step = _step_number(time[kept], sequences).astype(np.int64)
    shape = (stays, sequences.steps, len(sequences.variables))
    at = np.ravel_multi_index((stay[kept], step, variable[kept]), shape)
    # The first of each cell in reverse order is its latest; assigning with repeated places would
    # leave it to numpy which one stays.
    cells, latest = np.unique(at[::-1], return_index=True)
    chosen = kept[::-1][latest]
    observed = np.zeros(shape, bool)
    observed.flat[cells] = True
    values = np.zeros(shape, np.float32)
    values.flat[cells] = _scaled(value[chosen], variable[chosen], sequences)

    steps = np.arange(sequences.steps)[:, None]
    last = np.maximum.accumulate(np.where(observed, steps, -1), axis=1)  # -1: not yet
    carried = np.take_along_axis(values, np.maximum(last, 0), axis=1)  # 0 where nothing is yet
    before = np.concatenate([np.zeros_like(last[:, :1]), np.maximum(last[:, :-1], 0)], axis=1)
    since = (steps - before) / sequences.steps
    return np.concatenate([carried, observed, since], axis=2, dtype=np.float32)


def _step_number(time: Floats, sequences: Sequences) -> Floats:
    # 0.3 hours are 3 steps of 0.1 although 0.3 / 0.1 is 2.9999999999999996.
    steps: Floats = np.floor(time / sequences.step + 1e-9)
    return steps


def _scaled(value: Floats, variable: Ordinals, sequences: Sequences) -> Floats:
    low, high = np.array([v.range for v in sequences.variables], np.float64).T
    middle, half = (low + high) / 2, (high - low) / 2
    scaled: Floats = np.clip((value - middle[variable]) / half[variable], -1.0, 1.0)
    return scaled
