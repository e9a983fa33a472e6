"""Where a place in the patient comes to lie in a patch: every orientation, spacing and order."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from client.data.image_folder import open_cohort
from common.phantom import phantom_patches
from common.tasks.nodule_classification.study import CtPatches, Images
from tests.unit.client.data.making_dicom import (
    AXIAL,
    CORONAL,
    IMAGES,
    SAGITTAL,
    hu_of,
    uid,
    write_findings,
    write_series,
)

Array = npt.NDArray[np.float64]
CENTRE = np.array([12.3, -45.6, 78.9])  # mm
ROUNDING_HU = 0.02 + 0.5  # one step of 16 bits, and the whole numbers that a file stores


def rotated(seed: int) -> tuple[float, ...]:
    """Two perpendicular unit vectors that no axis is along."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return (*q[0].tolist(), *q[1].tolist())


ORIENTATIONS: dict[str, Sequence[float]] = {
    "axial": AXIAL,
    "sagittal": SAGITTAL,
    "coronal": CORONAL,
    "prone": (-1, 0, 0, 0, -1, 0),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "oblique 1": rotated(1),
    "oblique 2": rotated(2),
}
SPACINGS: dict[str, tuple[float, float, float]] = {  # mm between rows, columns, slices
    "isotropic": (1.5, 1.5, 1.5),
    "anisotropic": (0.7, 0.9, 2.5),
    "thick": (0.5, 0.5, 5),
}
Field = Callable[[Array], Array]  # (..., 3) mm -> (...) HU


def study(
    folder: Path,
    field: Field,
    of: Images,
    orientation: Sequence[float],
    spacing: tuple[float, float, float],
    tilt: Sequence[float] = (0, 0, 0),
) -> list[Array]:
    """HU of two patches (size, size, channels) about `CENTRE`, from volumes that `field` fills.

    The slices of the second one are numbered from the other end.
    """
    rows_mm, columns_mm, slices_mm = spacing
    along_row, along_column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    shape = [round(40 / each) + 1 for each in (slices_mm, rows_mm, columns_mm)]
    # The centre of the volume is off the grid of voxels, by a fraction that differs on each axis.
    middle = np.array([(n - 1) / 2 for n in shape]) + np.array([0.2, 0.3, -0.4])
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    for n, direction in enumerate((1, -1)):
        step = direction * (np.cross(along_row, along_column) * slices_mm + np.array(tilt))
        axes = np.stack([step, along_column * rows_mm, along_row * columns_mm], axis=1)
        origin = CENTRE - axes @ middle
        write_series(
            folder / str(n),
            field(index @ axes.T + origin),
            origin=origin.tolist(),
            step=step.tolist(),
            orientation=orientation,
            spacing=(rows_mm, columns_mm),
            series=uid(n + 1),
            patient=f"{n}",
        )
    x, y, z = CENTRE
    rows = (f"{uid(n + 1)},{x},{y},{z},{of.classes[n]}" for n in range(2))
    write_findings(folder, "series_uid,x,y,z,label", *rows)
    training = open_cohort(folder, of).training
    assert training.labels.tolist() == [0, 1]
    return [hu_of(patch) for patch in training.pixels]


def images(size: int, size_mm: float, distance: float | None = None) -> Images:
    slices, channels = (1, 1) if distance is None else (3, 3)
    ct = CtPatches.model_validate(
        {"size_mm": size_mm, "slices": slices, "slice_distance_mm": distance}
    )
    update = {"size": size, "channels": channels, "ct": ct, "validation_fraction": 1e-9}
    return IMAGES.model_copy(update=update)


def expected_places(of: Images) -> Array:
    """(size, size, channels, 3) mm, written down from the docs and not from the code."""
    assert of.ct is not None
    step = of.ct.size_mm / of.size
    places = np.empty((of.size, of.size, of.channels, 3))
    for row in range(of.size):
        for column in range(of.size):
            for channel in range(of.channels):
                x = (column - (of.size - 1) / 2) * step
                y = (row - (of.size - 1) / 2) * step
                z = (channel - of.channels // 2) * (of.ct.slice_distance_mm or 0)
                places[row, column, channel] = CENTRE + np.array([x, y, z])
    return places


def slope(places: Array) -> Array:
    """A field that linear interpolation keeps exactly, different along each axis."""
    return np.asarray((places - CENTRE) @ np.array([7.0, -4.0, 9.0]) - 300)


def nodule(places: Array) -> Array:
    """A ball, brightest at `CENTRE`."""
    square = ((places - CENTRE) ** 2).sum(-1)
    return np.asarray(900 * np.exp(-square / (2 * 4.0**2)) - 850)


@pytest.mark.parametrize(
    "spacing",
    [
        "anisotropic",
        pytest.param("isotropic", marks=pytest.mark.slow),
        pytest.param("thick", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_pixel_is_where_the_patient_has_it(
    tmp_path: Path, orientation: str, spacing: str
) -> None:
    """2.5-D patches, exact to the rounding of the file: left is left, up is up, mm are mm."""
    of = images(16, 20.0, distance=3.0)
    for found in study(tmp_path, slope, of, ORIENTATIONS[orientation], SPACINGS[spacing]):
        np.testing.assert_allclose(found, slope(expected_places(of)), atol=ROUNDING_HU, rtol=0)


@pytest.mark.parametrize(
    "orientation",
    [
        name if name in ("axial", "oblique 1") else pytest.param(name, marks=pytest.mark.slow)
        for name in ORIENTATIONS
    ],
)
def test_a_nodule_is_in_the_middle(tmp_path: Path, orientation: str) -> None:
    spacing = SPACINGS["anisotropic"]
    # Of linear interpolation: a sum over the axes of step^2 / 8 times the second derivative.
    lost = 900 / 4.0**2 * sum(step**2 for step in spacing) / 8
    for patch in study(tmp_path, nodule, images(17, 17.0), ORIENTATIONS[orientation], spacing):
        weight = (patch[..., 0] - patch.min()) ** 2
        at = np.arange(17) - 8  # mm
        for axis in (0, 1):
            assert abs(weight.sum(axis) @ at / weight.sum()) < 0.1
        assert 50 - lost - ROUNDING_HU < patch[8, 8, 0] <= 50 + ROUNDING_HU


def test_a_tilted_gantry_is_no_matter(tmp_path: Path) -> None:
    """Slices that are displaced within their plane, as with a tilted gantry."""
    of = images(16, 20.0, distance=3.0)
    for found in study(tmp_path, slope, of, AXIAL, (0.8, 0.8, 2), tilt=(0, 0.6, 0)):
        np.testing.assert_allclose(found, slope(expected_places(of)), atol=ROUNDING_HU, rtol=0)


@cache
def phantom_volume() -> Array:
    """(32, 32, 32) HU by z, y, x: phantom patches as slices, so that every voxel has its own value.

    The study's window bounds it, since what is far below air is taken for padding.
    """
    hu = phantom_patches(32, size=32, seed=6).hu[:, 0].clamp(-1000, 400)
    return np.rint(hu.numpy().astype(np.float64))


@pytest.mark.parametrize("layout", ["axial", "axial, from above", "sagittal", "coronal"])
def test_a_phantom_comes_back(tmp_path: Path, layout: str) -> None:
    """On its own grid to the rounding; off it as torch interpolates the same volume. 1 mm a voxel."""
    volume = phantom_volume()
    orders: dict[str, tuple[Array, Sequence[float], Sequence[float], Sequence[float]]] = {
        "axial": (volume, AXIAL, (0, 0, 1), (0, 0, 0)),
        "axial, from above": (volume[::-1], AXIAL, (0, 0, -1), (0, 0, 31)),
        "sagittal": (volume.transpose(2, 0, 1)[:, ::-1], SAGITTAL, (1, 0, 0), (0, 0, 31)),
        "coronal": (volume.transpose(1, 0, 2)[:, ::-1], CORONAL, (0, 1, 0), (0, 0, 31)),
    }
    hu, orientation, step, origin = orders[layout]
    write_series(tmp_path, hu, origin=origin, step=step, orientation=orientation)
    of = images(16, 16.0, distance=2.0)
    places = np.array([[15.5, 12.5, 20], [15.1, 12.8, 20.25]])
    rows = (f"{uid(1)},{x},{y},{z},{of.classes[n]}" for n, (x, y, z) in enumerate(places.tolist()))
    write_findings(tmp_path, "series_uid,x,y,z,label", *rows)
    on_grid, off_grid = open_cohort(tmp_path, of).training.pixels

    expected = np.moveaxis(volume[18:23:2, 5:21, 8:24], 0, -1)
    np.testing.assert_allclose(hu_of(on_grid), expected, atol=ROUNDING_HU, rtol=0)
    at = expected_places(of) - CENTRE + places[1]
    grid = torch.from_numpy(at / 31 * 2 - 1)[None]  # x, y, z of -1..1, first to last voxel
    sampled = F.grid_sample(
        torch.from_numpy(volume)[None, None], grid, mode="bilinear", align_corners=True
    )[0, 0].numpy()
    np.testing.assert_allclose(hu_of(off_grid), sampled, atol=ROUNDING_HU, rtol=0)
