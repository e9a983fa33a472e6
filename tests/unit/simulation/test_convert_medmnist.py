"""NoduleMNIST3D's file, made small: images, sides and labels as published, and no bomb is opened."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from typer.testing import CliRunner

from client.data.image_folder import count_patients, open_cohort
from common.tasks.nodule_classification.study import Images
from simulation.__main__ import app

COUNTS = {"train": 60, "val": 12, "test": 9}
IMAGES = Images(classes=("benign", "malignant"), size=28)
Arrays = dict[str, npt.NDArray[Any]]


def published(side: int = 28) -> Arrays:
    """Arrays as medmnist 3.0 has them."""
    draw, found = np.random.default_rng(5), {}
    for split, count in COUNTS.items():
        cubes = draw.integers(0, 256, (count, side, side, side), dtype=np.uint8)
        found[f"{split}_images"] = cubes
        found[f"{split}_labels"] = (np.arange(count) % 3 == 0).astype(np.uint8)[:, None]
    return found


def convert(file: Path, *more: str) -> tuple[int, str]:
    given = ["convert", "medmnist", str(file), str(file.parent / "out"), *more]
    done = CliRunner().invoke(app, given)
    return done.exit_code, " ".join(done.output.split())


def test_images_sides_and_labels_stay_as_published(tmp_path: Path) -> None:
    arrays = published()
    np.savez_compressed(tmp_path / "nodulemnist3d.npz", **arrays)  # type: ignore[arg-type]
    code, said = convert(tmp_path / "nodulemnist3d.npz", "--hospitals", "3")
    assert code == 0, said
    hospitals = sorted((tmp_path / "out/hospitals").iterdir())
    assert [h.name for h in hospitals] == ["hospital-001", "hospital-002", "hospital-003"]
    counts = [count_patients(h, IMAGES) for h in hospitals]
    assert (sum(t for t, _ in counts), sum(v for _, v in counts)) == (60, 12)
    assert min(t for t, _ in counts) > 8
    for side, split in (("training", "train"), ("validation", "val")):
        cohorts = [getattr(open_cohort(h, IMAGES), side) for h in hospitals]
        found = np.concatenate([c.pixels[..., 0] for c in cohorts])
        labels = np.concatenate([c.labels for c in cohorts])
        middle = arrays[f"{split}_images"][:, 14]
        expected = dict(
            zip(map(np.ndarray.tobytes, middle), arrays[f"{split}_labels"][:, 0], strict=True)
        )
        assert {p.tobytes(): label for p, label in zip(found, labels, strict=True)} == expected
    held = sorted((tmp_path / "out/held-out").glob("*.png"))
    assert [np.asarray(Image.open(p)).tolist() for p in held] == arrays["test_images"][
        :, 14
    ].tolist()


def test_three_slices_are_the_channels(tmp_path: Path) -> None:
    arrays = published(side=64)
    np.savez(tmp_path / "nodulemnist3d_64.npz", **arrays)  # type: ignore[arg-type]
    code, said = convert(tmp_path / "nodulemnist3d_64.npz", "--hospitals", "1", "--slices", "3")
    assert code == 0, said
    found = np.asarray(Image.open(tmp_path / "out/hospitals/hospital-001/train-00007.png"))
    assert np.array_equal(np.moveaxis(found, -1, 0), arrays["train_images"][7, 31:34])
    images = IMAGES.model_copy(update={"size": 64, "channels": 3})
    assert open_cohort(tmp_path / "out/hospitals/hospital-001", images).training.pixels.shape == (
        60, 64, 64, 3)  # fmt: skip


def header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    """The header of a .npy file, which may claim anything."""
    text = io.BytesIO()
    fields = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(text, fields)
    return text.getvalue()


@pytest.mark.parametrize(
    ("member", "content", "reason"),
    [
        ("train_images", header((20_000, 28, 28, 28)), "train_labels of uint8"),
        ("train_images", header((10**9, 28, 28, 28)), "train_images of uint8"),
        ("train_images", header((60, 10**6, 10**6, 10**6)), "train_images of uint8"),
        ("train_images", header((60, 28, 28, 28)) + bytes(10**6), "ends too early"),
        ("train_images", header((60, 28, 28)), "train_images of uint8 (60, 28, 28)"),
        ("train_images", header((60, 28, 28, 28), "<f8"), "train_images of float64"),
        ("train_images", header((60,), "|O"), "train_images of object (60,)"),
        ("train_images", b"\x93NUMPY\x01\x00\xff\xff{", "that cannot be read"),
        ("val_labels", header((12, 1)) + bytes([7] * 12), "val_labels other than 0 and 1"),
        ("val_labels", header((11, 1)) + bytes(11), "val_labels of uint8 (11, 1)"),
        ("test_images", None, "no array test_images or"),
    ],
)
def test_another_file_is_refused(
    tmp_path: Path, member: str, content: bytes | None, reason: str
) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in published().items():
            if name != member:
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, array)
            elif content is not None:
                archive.writestr(f"{name}.npy", content)
    code, said = convert(tmp_path / "x.npz")
    assert code == 2, said
    assert reason in said


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"not a zip")
    assert convert(tmp_path / "x.npz")[0] == 2
    np.savez_compressed(tmp_path / "y.npz", **published())  # type: ignore[arg-type]
    data = bytearray((tmp_path / "y.npz").read_bytes())
    data[2000:3000] = bytes(1000)
    (tmp_path / "y.npz").write_bytes(data)
    code, said = convert(tmp_path / "y.npz")
    assert code == 2
    assert "one that cannot be read" in said


def test_a_place_that_cannot_be_written_is_not_the_files_fault(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", **published())  # type: ignore[arg-type]
    (tmp_path / "out").write_text("a file")
    code, said = convert(tmp_path / "x.npz")
    assert code == 2
    assert said.startswith("E-RUN: expected a folder that can be written")
