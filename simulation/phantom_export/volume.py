"""A CT volume of synthetic lung with four places to look at: nodules, and what looks like them.

The shapes of `common.phantom`, seen in many slices where a patch has one: each of four tiles has its
candidate in the middle, and tiles fade into each other. Made of geometry, copied from nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from common.phantom_anatomy import paint
from common.phantom_scene import KINDS, PLANES, Scanner, Scene

TILES = 4  # in two rows of two
_TILE_PX, _FADE_PX = 88, 32
SIDE_PX = 2 * _TILE_PX - _FADE_PX
_EXTENT_MM = 24.0  # of the volume across the slices
_OFF_MIDDLE_MM = 5.0  # most that a candidate lies above or below the volume's middle
_FINE_MM = 1.2  # apart, at most: planes that are averaged to a thick slice


@dataclass(frozen=True, slots=True)
class PhantomVolume:
    """One series before it is written."""

    hu: npt.NDArray[np.float32]  # (slices, SIDE_PX, SIDE_PX)
    centres: npt.NDArray[np.float64]  # (TILES, 3): slice, row, column of each candidate


def phantom_volume(
    kinds: Sequence[str], scanner: Scanner, spacing_mm: float, step_mm: float, seed: int
) -> PhantomVolume:
    """A volume with a candidate of each of four `kinds` (of `common.phantom.KINDS`).

    Slices are as thick as they are apart, `step_mm`. Of `scanner` count point spread, sharpening,
    noise and offset. The same arguments give the same volume.
    """
    per_slice = max(1, round(step_mm / _FINE_MM))
    slices = round(_EXTENT_MM / step_mm)
    fine = step_mm / per_slice
    draw = np.random.default_rng(seed)
    above = draw.uniform(-_OFF_MIDDLE_MM, _OFF_MIDDLE_MM, TILES)
    # From the volume's middle, mm; some more at the end make whole groups of `PLANES`.
    planes = (np.arange(slices * per_slice) - (slices * per_slice - 1) / 2) * fine
    tiles = torch.cat(
        [
            _planes(kinds, scanner, spacing_mm, fine, torch.tensor(middle - above), seed)
            for middle in planes[0] + fine + np.arange(0, len(planes), PLANES) * fine
        ],
        dim=1,
    )[:, : len(planes)]
    thick = _joined(tiles.numpy()).reshape(slices, per_slice, SIDE_PX, SIDE_PX).mean(1)
    in_slices = (above / step_mm) + (slices - 1) / 2
    low, high = (_TILE_PX - 1) / 2, (_TILE_PX - 1) / 2 + _TILE_PX - _FADE_PX
    corners = [(low, low), (low, high), (high, low), (high, high)]
    return PhantomVolume(
        hu=_acquired(thick, scanner, draw),
        centres=np.array([(z, *at) for z, at in zip(in_slices, corners, strict=True)]),
    )


def _planes(
    kinds: Sequence[str],
    scanner: Scanner,
    spacing_mm: float,
    fine_mm: float,
    height_mm: Tensor,
    seed: int,
) -> Tensor:
    """(TILES, PLANES, tile, tile) HU: planes `fine_mm` apart, the middle one `height_mm` (TILES,) up.

    The scene is made anew from the same seed each time, so that all planes cut the same anatomy: how
    many numbers it draws does not depend on the height.
    """
    size = spacing_mm, spacing_mm
    # A scene puts its planes a third of the thickness apart.
    thin = replace(scanner, spacing_mm=size, slice_thickness_mm=(PLANES * fine_mm,) * 2)
    generator = torch.Generator().manual_seed(seed)
    scene = Scene(torch.tensor([KINDS.index(kind) for kind in kinds]), _TILE_PX, thin, generator)
    scene.points[..., 2] += height_mm[:, None].float()
    radius, centre = scene.around(3.5, 0.5, 1.5, 12.0), torch.zeros(TILES, 1, 3)
    paint(scene, centre, radius)
    return scene.hu.reshape(TILES, PLANES, _TILE_PX, _TILE_PX)


def _joined(tiles: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(planes, SIDE_PX, SIDE_PX): the tiles beside each other, fading where they overlap."""
    ramp = np.minimum(1, (np.arange(_TILE_PX) + 0.5) / _FADE_PX)
    whole = np.zeros((tiles.shape[1], SIDE_PX, SIDE_PX), np.float32)
    for number, tile in enumerate(tiles):
        down, right = divmod(number, 2)
        weight = np.outer(ramp[:: 1 - 2 * (1 - down)], ramp[:: 1 - 2 * (1 - right)])
        top, left = down * (SIDE_PX - _TILE_PX), right * (SIDE_PX - _TILE_PX)
        whole[:, top : top + _TILE_PX, left : left + _TILE_PX] += tile * weight.astype(np.float32)
    return whole


def _acquired(
    hu: npt.NDArray[np.float32], scanner: Scanner, draw: np.random.Generator
) -> npt.NDArray[np.float32]:
    """What the scanner makes of it: point spread and kernel in the slice, noise, offset."""
    in_slice = (0.0, 1.0, 1.0)
    spread = draw.uniform(*scanner.psf_sigma_px)
    image = gaussian_filter(hu, [spread * axis for axis in in_slice])
    sharpening = draw.uniform(*scanner.sharpening)
    image += sharpening * (image - gaussian_filter(image, in_slice))
    # A sharper kernel lets finer noise through.
    noise = gaussian_filter(draw.standard_normal(hu.shape), [0.6 * spread * a for a in in_slice])
    image += scanner.noise_hu * noise / noise.std() + scanner.offset_hu
    return np.asarray(image, np.float32)
