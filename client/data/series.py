"""The slices of a CT series -> a volume whose every voxel has a place in the patient."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.data.dicom import CtSlice
from client.data.hounsfield import Slice
from client.data.quarantine import NotUsable

_LEAST_STEP_MM = 0.05  # two slices that are nearer lie at one place
_UNEVEN = 0.1  # of the step: what tables and rounding make of equal steps is far less
_MISSING = 1.5  # steps; a gap of so many lacks a slice
_SAME_DIRECTION = 1e-3
_SAME_SPACING = 1e-3  # of the spacing

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Volume:
    """Slices in order along their common normal, in equal steps.

    A step need not be along the normal: with a tilted gantry it is not. `to_mm` is (3, 4): it takes
    (slice, row, column, 1) to x, y, z in mm, patient coordinates (LPS, PS3.3 C.7.6.2.1.1), for the
    middle of a voxel.
    """

    slices: tuple[Slice, ...]
    to_mm: Points

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return (len(self.slices), *self.slices[0].shape)

    def mm(self, index: tuple[float, float, float]) -> Points:
        """(3,): where (slice, row, column) lies, mm."""
        at: Points = self.to_mm[:, :3] @ np.array(index) + self.to_mm[:, 3]
        return at

    def index(self, mm: Points) -> Points:
        """(..., 3) places in mm -> (..., 3) slice, row, column, with fractions."""
        found: Points = (mm - self.to_mm[:, 3]) @ np.linalg.inv(self.to_mm[:, :3]).T
        return found

    def holds(self, index: Points) -> npt.NDArray[np.bool_]:
        """(...,): which of the (..., 3) slice, row, column lie in a voxel, not only in its middle."""
        inside = (index >= -0.5) & (index <= np.array(self.shape) - 0.5)
        return np.asarray(inside.all(axis=-1))


def by_series(slices: Iterable[CtSlice]) -> dict[str, list[CtSlice]]:
    """The slices of each SeriesInstanceUID, in the order in which they come."""
    found: dict[str, list[CtSlice]] = defaultdict(list)
    for one in slices:
        found[one.series].append(one)
    return dict(found)


def volume(slices: list[CtSlice]) -> Volume:
    """The volume of one series, whatever the order of its slices. NotUsable says what is wrong."""
    first = slices[0]
    _check_alike(slices)
    normal = np.cross(first.along_row, first.along_column)
    places = np.array([one.position for one in slices])
    order = np.argsort(places @ normal, kind="stable")
    ordered, places = tuple(slices[n] for n in order), places[order]
    step = _step(places, normal, first)
    columns = (
        step,
        np.array(first.along_column) * first.spacing[0],
        np.array(first.along_row) * first.spacing[1],
        places[0],
    )
    return Volume(ordered, np.stack(columns, axis=1))


def _check_alike(slices: list[CtSlice]) -> None:
    first = slices[0]
    if len({one.patient_id for one in slices}) > 1:
        raise NotUsable("its series has slices of several patients")
    if len({one.shape for one in slices}) > 1:
        raise NotUsable("its series has slices of several sizes")
    axes = np.array([(*one.along_row, *one.along_column) for one in slices])
    if np.abs(axes - axes[0]).max() > _SAME_DIRECTION:
        raise NotUsable("its series has slices of several orientations")
    spacing = np.array([one.spacing for one in slices])
    if np.abs(spacing - first.spacing).max() > _SAME_SPACING * min(first.spacing):
        raise NotUsable("its series has slices of several pixel spacings")


def _step(places: Points, normal: Points, first: CtSlice) -> Points:
    """(3,) mm from one slice to the next; a single one is as thick as it says, else 1 mm."""
    if len(places) == 1:
        return normal * (first.thickness or 1.0)
    along = np.diff(places @ normal)
    usual = float(np.median(along))
    if along.min() < _LEAST_STEP_MM:
        raise NotUsable("its series has two slices at one place")
    if along.max() > _MISSING * usual:
        raise NotUsable("its series has missing slices")
    mean: Points = (places[-1] - places[0]) / (len(places) - 1)
    expected = places[0] + np.arange(len(places))[:, None] * mean
    if np.linalg.norm(places - expected, axis=1).max() > _UNEVEN * usual:
        raise NotUsable("its series has slices at uneven distances")
    return mean
