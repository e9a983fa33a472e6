"""A place in a CT volume -> its patch, resampled to the protocol's millimetres and window of HU."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from client.data.hounsfield import AIR_HU, Slice
from client.data.quarantine import NotUsable
from client.data.series import Points, Volume
from common.tasks.nodule_classification.study import CtPatches, Images

Planes = Callable[[Slice], npt.NDArray[np.float32]]

OUTSIDE = "its place is outside of its series"
_AXIAL = 0.9  # cosine: a single slice can stand for the axial plane to 25 degrees


def ct_patch(
    of: Volume, centre: Points, images: Images, ct: CtPatches, hu: Planes
) -> npt.NDArray[np.uint16]:
    """(size, size, channels): the axial square about `centre` (3,) mm, 0..65535 over the HU window.

    Column grows to the patient's left (x), row to the back (y), channel upwards (z). Linear between
    the eight nearest voxels; air outside of the volume. `hu` decodes a slice, (rows, columns); only
    slices that the square meets are asked for. NotUsable when `centre` is outside of the volume, when
    the study wants neighbours and there is one slice, or when one slice is all and it is not axial.
    """
    if not of.holds(of.index(centre)):
        raise NotUsable(OUTSIDE)
    if len(of.slices) == 1:
        if ct.slices > 1:
            raise NotUsable("its series has one slice, and the study needs its neighbours too")
        normal = of.to_mm[:, 0] / np.linalg.norm(of.to_mm[:, 0])
        if abs(normal[2]) < _AXIAL:
            raise NotUsable("its series has one slice, and that is not axial")
    index = of.index(_places(of, centre, images.size, ct))
    if len(of.slices) == 1:
        index[..., 0] = 0.0  # of a tilted slice, the slice itself
    window = (_sampled(of, index, hu) - ct.hu_low) / (ct.hu_high - ct.hu_low)
    grey = np.rint(np.clip(window, 0, 1) * 65535).astype(np.uint16)
    return np.broadcast_to(grey, (images.size, images.size, images.channels))


def _places(of: Volume, centre: Points, size: int, ct: CtPatches) -> Points:
    """(size, size, slices, 3): x, y, z in mm of each pixel; the centre lies amid them."""
    across = (np.arange(size) - (size - 1) / 2) * (ct.size_mm / size)
    distance = ct.slice_distance_mm or 0.0
    levels = (np.arange(ct.slices) - ct.slices // 2) * distance
    # Beyond the last slice there is nothing to see: the plane through the finding once more.
    above = np.array([0, 0, 1.0])
    levels = np.array([z if of.holds(of.index(centre + z * above)) else 0.0 for z in levels])
    y, x, z = np.meshgrid(across, across, levels, indexing="ij")
    return np.asarray(centre + np.stack([x, y, z], axis=-1))


def _sampled(of: Volume, index: Points, hu: Planes) -> npt.NDArray[np.float64]:
    """HU at (..., 3) slice, row, column; of the volume only the box that they span is in memory."""
    inside = of.holds(index)
    if not inside.any():
        raise NotUsable(OUTSIDE)
    highest = np.array(of.shape) - 1
    # The outer half of the outermost voxels has no further neighbour to interpolate with.
    index = np.clip(index, 0, highest)
    low = np.floor(index[inside].min(axis=0)).astype(int)
    high = np.minimum(np.ceil(index[inside].max(axis=0)).astype(int), highest)
    rows, columns = slice(low[1], high[1] + 1), slice(low[2], high[2] + 1)
    box = np.stack([hu(of.slices[n])[rows, columns] for n in range(low[0], high[0] + 1)])
    found = map_coordinates(box, np.moveaxis(index - low, -1, 0), order=1, mode="nearest")
    return np.where(inside, found, AIR_HU)
