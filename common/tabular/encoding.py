"""Values of N records -> (N, D) numbers, by public rules alone: nothing is fitted on the records.

Values are (N, C) float64, a column for each of the protocol's: a number as it is, a category as its
place 0, 1, ... in `categories`, NaN where there is none.

    a cell                        becomes
    number x                      (x - center) / scale, so the public range is -1..1
    number outside of the range   by `outside`: not used, the nearer end, or missing
    missing number                0, the centre; and 1 in "<name> missing" with missing = "indicator"
    category k                    1 in "<name> = <category k>"; the reference is 0 in all of them
    missing category              0 in all of them, and 1 in "<name> missing"
    missing with "refuse"         not used
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.tabular.schema import Column

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def outside(values: Floats, column: Column) -> Flags:
    """(N,): which of the `values` (N,) of `column` its public range does not hold; NaN is no value."""
    if column.range is None:
        return np.zeros(len(values), np.bool_)
    low, high = column.range
    flags: Flags = (values < low) | (values > high)
    return flags


def settled(values: Floats, column: Column) -> Floats:
    """`values` (N,) within the range, or NaN, as `column.outside` says; those to set aside unchanged."""
    if column.outside == "clip" and column.range is not None:
        return np.clip(values, *column.range)
    if column.outside == "missing":
        return np.where(outside(values, column), np.nan, values)
    return values


def encode(values: Floats, columns: Sequence[Column]) -> npt.NDArray[np.float32]:
    """(N, D) float32 of usable, settled `values` (N, C): D = the features of all `columns`, in order."""
    parts = [_encoded(values[:, at], column) for at, column in enumerate(columns)]
    return np.concatenate(parts, axis=1, dtype=np.float32)


def _encoded(values: Floats, column: Column) -> npt.NDArray[np.float32]:
    if column.categories is None:
        center, scale = column.mapping
        own = np.nan_to_num((values - center) / scale)[:, None]
    else:
        own = (values[:, None] == np.arange(1, len(column.categories))).astype(np.float64)
    if column.missing == "indicator":
        own = np.column_stack([own, np.isnan(values)])
    return own.astype(np.float32)
