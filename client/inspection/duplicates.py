"""Images that are there more than once: whose, on which sides, and with which labels."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree
from sklearn.neighbors import NearestNeighbors

from client.data.survey import Survey
from client.inspection.limits import CONSTANT, NEAR, SAME_PLACE_MM
from client.inspection.measures import Measures, unit

NEIGHBOURS = 8  # nearest images that are looked at: bounds memory where thousands are alike
_COARSE = 0.985  # correlation of the small pictures, below which the large ones are not compared
_PAIRS_AT_ONCE = 512

Kind = Literal["same pixels", "nearly the same pixels", "nearly the same place"]


@dataclass(frozen=True, eq=False, slots=True)
class Alike:
    """Images (two or more, by number) that are one, and what differs between them."""

    kind: Kind
    images: tuple[int, ...]
    patients: int  # different ones
    both_sides: bool
    both_labels: bool


def alike(survey: Survey, measures: Measures) -> list[Alike]:
    """All of the three kinds. Images that show nothing are not compared: they are all the same."""
    shows = measures.spans >= CONSTANT.value
    exact = _groups((digest if shows[n] else None) for n, digest in enumerate(measures.digests))
    copies = {n for group in exact for n in group[1:]}
    single = np.array([n for n in np.flatnonzero(shows).tolist() if n not in copies], np.int64)
    found = [_described(survey, "same pixels", group) for group in exact]
    found += [
        _described(survey, "nearly the same pixels", pair)
        for pair in _near(survey, measures, single)
    ]
    known = {pair for one in found for pair in _pairs(one.images)}
    found += [
        _described(survey, "nearly the same place", pair)
        for pair in _at_one_place(survey)
        if pair not in known
    ]
    return found


def _groups(keys: Iterable[Hashable | None]) -> list[tuple[int, ...]]:
    """The numbers of equal keys, two or more; None is equal to nothing."""
    members: defaultdict[Hashable, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        if key is not None:
            members[key].append(number)
    return [tuple(group) for group in members.values() if len(group) > 1]


def _pairs(images: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    return ((images[0], other) for other in images[1:])


def _near(
    survey: Survey, measures: Measures, single: npt.NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    if len(single) < 2:
        return
    small = measures.small[single]
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(single) - 1), algorithm="brute")
    distance, neighbour = nearest.fit(small).kneighbors()
    # Of unit vectors: their distance squared is 2 - 2 r.
    close = 1 - distance**2 / 2 >= _COARSE
    first = np.broadcast_to(np.arange(len(single))[:, None], close.shape)[close]
    ends = np.sort(np.stack([first, neighbour[close]], axis=1), axis=1)
    ends = single[np.unique(ends, axis=0)] if len(ends) else ends
    for start in range(0, len(ends), _PAIRS_AT_ONCE):
        part = ends[start : start + _PAIRS_AT_ONCE]
        one, other = (unit(survey.grey(part[:, end]).mean(axis=-1)) for end in (0, 1))
        for pair in part[(one * other).sum(axis=1) >= NEAR.value].tolist():
            yield pair[0], pair[1]


def _at_one_place(survey: Survey) -> Iterator[tuple[int, int]]:
    """Pairs of findings of one series with two labels; with one label a nodule may be marked twice."""
    labels = survey.labels
    for group in _groups(survey.series):
        members = np.array(group)
        members = members[np.isfinite(survey.places[members]).all(axis=1)]
        if len(members) > 1:
            near = KDTree(survey.places[members]).query_pairs(
                SAME_PLACE_MM.value, output_type="ndarray"
            )
            for pair in members[near].tolist():
                if labels[pair[0]] != labels[pair[1]]:
                    yield pair[0], pair[1]


def _described(survey: Survey, kind: Kind, images: tuple[int, ...]) -> Alike:
    members = list(images)
    return Alike(
        kind=kind,
        images=images,
        patients=len({survey.patient_ids[n] for n in members}),
        both_sides=len(set(survey.validation[members].tolist())) > 1,
        both_labels=len(set(survey.labels[members].tolist())) > 1,
    )
