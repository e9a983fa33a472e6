"""A model on groups of the patients, with small cells suppressed.

A figure of very few patients says little about the model and much about them. Who knows the total can
subtract, so where one cell is suppressed another one is too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.clinical.delong import auroc_interval
from common.clinical.figures import Flags, Share, share
from common.histogram import Interval
from common.metrics import Scores, auroc

Suppressed = Literal["suppressed"]
SUPPRESSED: Suppressed = "suppressed"


@dataclass(frozen=True)
class Auroc:
    """An AUROC, 0..1, and its 95 % interval; None as for `auroc_interval`."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Subgroup:
    """One group. A cell is SUPPRESSED where its patients are too few; None where it has none.

    `sensitivity` and `specificity` are those of the threshold that the table was made with; the first
    is of the group's patients with a positive image, the second of those with a negative one; where
    either are too few, neither is shown.
    """

    name: str
    patients: int | Suppressed
    images: int | Suppressed
    auroc: Auroc | Suppressed | None
    sensitivity: Share | Suppressed | None
    specificity: Share | Suppressed | None


def suppressed(counts: Sequence[int], smallest: int, hidden: Flags | None = None) -> Flags:
    """Which of `counts` are not to be shown: those from 1 to `smallest` - 1, and their complement.

    Smallest first, more are hidden until at least two are and together make `smallest`, so that
    the total less what is shown does not give one away. A zero is shown. `hidden` are hidden anyway.
    """
    count = np.asarray(counts, dtype=np.int64)
    kept_back = (count > 0) & (count < smallest)
    if hidden is not None:
        kept_back |= hidden & (count > 0)
    while kept_back.any() and (kept_back.sum() < 2 or count[kept_back].sum() < smallest):
        shown = np.flatnonzero(~kept_back & (count > 0))
        if shown.size == 0:
            break
        kept_back[shown[np.argmin(count[shown])]] = True
    return kept_back


def subgroups(
    scores: Scores, group: NDArray[np.str_], smallest: int, threshold: float | None
) -> tuple[Subgroup, ...]:
    """One row for each name in `group` (n,), which says of each image where it belongs.

    `smallest` is the least number of patients of a cell. Without a `threshold` there is neither
    sensitivity nor specificity. Rows come in the order of the names; ValueError for another length.
    """
    if group.shape != scores.score.shape:
        raise ValueError(f"expected a group for each of {scores.score.size} images")
    names = np.unique(group)
    parts = [_part(scores, group == name) for name in names]
    in_all = suppressed([part.patients for part in parts], smallest)
    of_class = [
        suppressed(
            [np.unique(part.patient[part.label == c]).size for part in parts], smallest, in_all
        )
        for c in (0, 1)
    ]
    rows = []
    for at, (name, part) in enumerate(zip(names, parts, strict=True)):
        hidden = bool(in_all[at])
        # Both classes together: a row's patients less those of one class tell of the other.
        too_few = any(bool(h[at]) for h in (in_all, *of_class))
        rows.append(
            Subgroup(
                name=str(name),
                patients=SUPPRESSED if hidden else part.patients,
                images=SUPPRESSED if hidden else part.score.size,
                auroc=SUPPRESSED if too_few else _auroc(part),
                sensitivity=SUPPRESSED if too_few else _called(part, 1, threshold),
                specificity=SUPPRESSED if too_few else _called(part, 0, threshold),
            )
        )
    return tuple(rows)


def _part(scores: Scores, here: Flags) -> Scores:
    return Scores(scores.score[here], scores.label[here], scores.patient[here])


def _auroc(scores: Scores) -> Auroc | None:
    value = auroc(scores)
    return None if value is None else Auroc(value, auroc_interval(scores))


def _called(scores: Scores, of: int, threshold: float | None) -> Share | None:
    """Images of class `of` on their right side of the threshold."""
    here = scores.label == of
    if threshold is None or not here.any():
        return None
    return share((scores.score[here] >= threshold) == bool(of), scores.patient[here])
