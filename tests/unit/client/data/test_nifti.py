"""NIfTI volumes: the same places as DICOM's, read from what nibabel wrote, and each defect's reason."""

import gzip
import struct
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from client.data import SetAside, nifti
from client.data.image_folder import open_cohort
from client.data.nifti import read_nifti
from client.data.quarantine import NotUsable
from common.tasks.nodule_classification.study import CtPatches
from tests.unit.client.data.making_dicom import IMAGES, hu_of, write_findings, write_series

Array = npt.NDArray[np.float64]
TO_LPS = np.diag([-1.0, -1, 1, 1])
TRAINS = IMAGES.model_copy(update={"validation_fraction": 1e-9})


def affine(seed: int) -> Array:
    """Voxel (i, j, k) to NIfTI's mm: oblique, anisotropic, off the origin."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    found = np.eye(4)
    found[:3, :3] = q * np.array([0.9, 0.8, 1.7])
    found[:3, 3] = rng.uniform(-50, 50, 3)
    return found


def write(path: Path, hu: Array, of: Array, dtype: str = "int16") -> Path:
    image = nibabel.Nifti1Image(hu.astype(dtype), of)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_pixel_is_where_the_patient_has_it(tmp_path: Path, seed: int, suffix: str) -> None:
    """A field that linear interpolation keeps, over the places that nibabel's affine says."""
    of = affine(seed)
    index = np.stack(np.meshgrid(range(40), range(44), range(24), indexing="ij"), axis=-1)
    to_lps = TO_LPS @ of
    places = index @ to_lps[:3, :3].T + to_lps[:3, 3]
    centre = to_lps @ np.array([19.6, 21.7, 11.2, 1])
    x, y, z = centre[:3]

    def field(at: Array) -> Array:
        return np.asarray((at - centre[:3]) @ np.array([7.0, -4, 9]) - 300)

    write(tmp_path / f"a{suffix}", np.rint(field(places)), of)
    write_findings(
        tmp_path,
        "file,x,y,z,label,patient_id",
        f"a{suffix},{x},{y},{z},nodule,P",
        f"a{suffix},{x + 1},{y},{z},non-nodule,P",
    )
    ct = CtPatches(size_mm=16, slices=3, slice_distance_mm=2)
    images = TRAINS.model_copy(update={"channels": 3, "ct": ct})
    found = hu_of(open_cohort(tmp_path, images).training.pixels[0])
    across = np.arange(16) - 7.5
    row, column, channel = np.meshgrid(across, across, (-2.0, 0, 2), indexing="ij")
    expected = field(centre[:3] + np.stack([column, row, channel], axis=-1))
    np.testing.assert_allclose(found, expected, atol=0.52, rtol=0)


def test_the_same_volume_as_dicom_gives_the_same_patches(tmp_path: Path) -> None:
    rng = np.random.default_rng(20261126)
    hu = np.rint(rng.uniform(-900, 300, (7, 26, 28)))
    write_series(tmp_path / "a", hu, origin=(3, 4, 5), step=(0, 0, 2), spacing=(0.8, 0.7))
    of = TO_LPS @ np.array([[0.7, 0, 0, 3], [0, 0.8, 0, 4], [0, 0, 2, 5], [0, 0, 0, 1.0]])
    write(tmp_path / "b.nii.gz", hu.transpose(2, 1, 0), of)
    write_findings(tmp_path, "file,label,patient_id", "b.nii.gz,nodule,A", "a/0017,non-nodule,B")
    # The middle of file 0017, InstanceNumber 3, is not that of the volume; say the place for both.
    mm = "12.3,14.1,10.2"
    write_findings(
        tmp_path,
        "file,x,y,z,label,patient_id",
        f"b.nii.gz,{mm},nodule,A",
        f"a/0017,{mm},non-nodule,B",
    )
    one, other = open_cohort(tmp_path, TRAINS).training.pixels
    np.testing.assert_array_equal(one, other)
    opened = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    assert tmp_path / "b.nii.gz" not in opened


def test_scale_and_what_is_below_the_scale(tmp_path: Path) -> None:
    hu = np.full((4, 5, 3), 40.0)
    path = write(tmp_path / "a.nii", hu, np.eye(4))
    whole = bytearray(path.read_bytes())
    struct.pack_into("<ff", whole, 112, 0.5, -24.0)  # scl_slope, scl_inter
    struct.pack_into("<h", whole, 352, -9000)  # voxel (0, 0, 0)
    path.write_bytes(whole)
    plane = read_nifti(path).slices[0].hu()
    assert plane.shape == (5, 4)
    assert plane[0, 0] == -1000
    assert (plane.ravel()[1:] == -4).all()


Damage = Callable[[bytearray], bytes | bytearray]


def put(form: str, at: int, *values: int | float) -> Damage:
    def damage(whole: bytearray) -> bytearray:
        struct.pack_into(form, whole, at, *values)
        return whole

    return damage


DEFECTS: dict[str, tuple[Damage, str]] = {
    "empty": (lambda _: b"", "its header is damaged"),
    "text": (lambda _: b"Dear Ann\n" * 99, "it is not a NIfTI-1 volume in one file"),
    "two files": (put("<4s", 344, b"ni1\0"), "it is not a NIfTI-1 volume in one file"),  # type: ignore[arg-type]
    "cut": (lambda whole: whole[:-1], "it is truncated, or would grow beyond what a CT does"),
    "time": (put("<8h", 40, 4, 4, 5, 1, 3, 1, 1, 1), "it has not three sides within 1..4096"),
    "absurd": (put("<4h", 40, 3, 32767, 4, 4), "it has not three sides within 1..4096"),
    "huge": (
        put("<4h", 40, 3, 4096, 4096, 4096),
        "its voxels do not begin in its first MB, or have more than 2 GB",
    ),
    "negative": (put("<4h", 40, 3, -4, 5, 3), "it has not three sides within 1..4096"),
    "bytes": (put("<hh", 70, 2, 8), "its voxels are not intensities of 16 bits or more"),
    "colour": (put("<hh", 70, 128, 24), "its voxels are not intensities of 16 bits or more"),
    "before": (
        put("<f", 108, 4.0),
        "its voxels do not begin in its first MB, or have more than 2 GB",
    ),
    "no place": (
        put("<hh", 252, 0, 0),
        "it does not say where its voxels lie in the patient",
    ),
    "metres": (put("<b", 123, 1), "its places are not in mm"),
    "flat": (put("<12f", 280, *([1.0] * 12)), "its axes are not three directions"),
    "no number": (put("<f", 280, float("nan")), "its spacing is not within 0.01..100 mm"),
}


def reason(path: Path) -> str:
    with pytest.raises(NotUsable) as caught:
        read_nifti(path).slices[-1].hu()
    return str(caught.value)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_file_that_is_no_ct_volume(tmp_path: Path, name: str) -> None:
    damage, why = DEFECTS[name]
    path = write(tmp_path / "a.nii", np.full((4, 5, 3), 40.0), np.eye(4))
    read_nifti(path)
    path.write_bytes(damage(bytearray(path.read_bytes())))
    found = reason(path)
    nifti.close_volumes()
    assert found == why


def test_a_bomb_and_a_damaged_gzip(tmp_path: Path) -> None:
    """Two gigabytes of zeros in two megabytes: refused by its header alone."""
    path = write(tmp_path / "a.nii", np.full((4, 5, 3), 40.0), np.eye(4))
    head = put("<4h", 40, 3, 1000, 1000, 1000)(bytearray(path.read_bytes()[:352]))
    bomb = tmp_path / "bomb.nii.gz"
    bomb.write_bytes(gzip.compress(bytes(head) + bytes(1 << 24), 9) + bytes(2_000_000))
    started = time.process_time()
    assert reason(bomb) == "it is truncated, or would grow beyond what a CT does"
    assert time.process_time() - started < 2
    rng = np.random.default_rng(1)
    packed = write(tmp_path / "b.nii.gz", rng.uniform(-900, 300, (40, 40, 9)), np.eye(4))
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) // 2])
    assert reason(packed) == "its voxels are damaged"
    nifti.close_volumes()


def test_without_nibabel_or_a_patient_id_the_others_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hu = np.full((3, 20, 24), -500.0)
    write_series(tmp_path / "a", hu)
    write(tmp_path / "b.nii", hu.transpose(2, 1, 0), np.diag([-1.0, -1, 1, 1]))
    write_findings(
        tmp_path,
        "file,row,column,label",
        *("a/0003,9,9,nodule", "a/0003,9,8,non-nodule", "b.nii,9,9,nodule", "b.nii,,,nodule"),
    )
    apart: list[SetAside] = []
    open_cohort(tmp_path, TRAINS, set_aside=apart)
    assert [one.reason for one in apart] == ["it has no patient id, nor have its files"] * 2
    text = (tmp_path / "findings.csv").read_text().replace("\n", ",P\n")
    (tmp_path / "findings.csv").write_text(text.replace("label,P", "label,patient_id"))
    apart.clear()
    assert len(open_cohort(tmp_path, TRAINS, set_aside=apart).training.labels) == 3
    why = "a place in pixels is not enough for a volume; give x, y and z"
    assert apart == [SetAside("findings.csv row 4", why)]
    apart.clear()
    monkeypatch.setattr(nifti, "readable", lambda: False)
    assert len(open_cohort(tmp_path, TRAINS, set_aside=apart).training.labels) == 2
    assert apart[0] == SetAside("b.nii", "it is a NIfTI volume, which needs nibabel")
