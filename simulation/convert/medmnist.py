"""NoduleMNIST3D's .npz -> hospitals with PNG images and manifest.csv, and its test set apart.

Arrays <split>_images (n, side, side, side) uint8 and <split>_labels (n, 1) for train, val and test, the
side 28 or 64, as in the package medmnist 3.0 (Yang et al. 2023, doi 10.1038/s41597-022-01721-8). The
file names no patient, so a nodule stands for one.
"""

import csv
import io
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image

from client.data.listing import MANIFEST
from common.errors import DataError
from common.files import write_atomic
from simulation.convert import HELD_OUT, HOSPITALS
from simulation.convert.hospitals import by_hash

_SPLITS = {"train": "training", "val": "validation", "test": None}  # as a manifest names them
_SIDES = (28, 64)
_MOST_IMAGES = 20_000  # of one split; the set has 1,158


Row = tuple[str, str, str, str | None]  # image, label, patient, split


def convert_medmnist(
    source: Path, out: Path, hospitals: int, classes: tuple[str, str], slices: int
) -> dict[str, Counter[str]]:
    """Write `out`/hospitals/hospital-001 ..., and the test set as `out`/held-out; images by class of each.

    An image is the middle plane across the first axis, or with `slices` = 3 that plane between its two
    neighbours as channels. Training and validation stay as published. DataError when the file is not
    NoduleMNIST3D's, or claims to be larger than it could be.
    """
    rows: dict[Path, list[Row]] = defaultdict(list)
    for split, published in _SPLITS.items():
        for number, (cube, label) in enumerate(_nodules(source, split)):
            nodule = f"{split}-{number:05d}"
            at = f"{HOSPITALS}/{by_hash(nodule, hospitals)}" if published else HELD_OUT
            (folder := out / at).mkdir(parents=True, exist_ok=True)
            _picture(cube, slices).save(folder / f"{nodule}.png")
            rows[folder].append((f"{nodule}.png", classes[label], nodule, published))
    for folder, listed in rows.items():
        _write_manifest(folder, listed)
    return {folder.name: Counter(row[1] for row in listed) for folder, listed in rows.items()}


def _picture(cube: npt.NDArray[np.uint8], slices: int) -> Image.Image:
    middle = len(cube) // 2
    if slices == 1:
        return Image.fromarray(cube[middle])
    return Image.fromarray(np.stack(list(cube[middle - 1 : middle + 2]), axis=-1))


def _write_manifest(folder: Path, listed: list[Row]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    with_split = listed[0][3] is not None
    table.writerow(["image", "label", "patient_id", *(["split"] if with_split else [])])
    table.writerows(row if with_split else row[:3] for row in listed)
    write_atomic(folder / MANIFEST, text.getvalue().encode())


def _nodules(source: Path, split: str) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
    """Each nodule of a split, (side, side, side), and its label 0 or 1; one is in memory at a time."""
    try:
        with zipfile.ZipFile(source) as archive:
            yield from _in_archive(archive, split, source)
    # A damaged archive fails in as many ways as it has parts; an encrypted one with RuntimeError.
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise _not_it(source, f"one that cannot be read ({error})") from error


def _in_archive(
    archive: zipfile.ZipFile, split: str, source: Path
) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
    try:
        names = [archive.getinfo(f"{split}_{what}.npy") for what in ("images", "labels")]
    except KeyError as error:
        raise _not_it(source, f"no array {split}_images or {split}_labels") from error
    with archive.open(names[0]) as images, archive.open(names[1]) as of_labels:
        shape, kind = _header(images, f"{split}_images", source)
        shape_of_labels, kind_of_labels = _header(of_labels, f"{split}_labels", source)
        count, side = shape[0], shape[-1]
        if kind != np.uint8 or side not in _SIDES or shape != (count, side, side, side):
            raise _not_it(source, f"{split}_images of {kind} {shape}")
        if kind_of_labels.kind not in "ui" or shape_of_labels != (count, 1):
            raise _not_it(source, f"{split}_labels of {kind_of_labels} {shape_of_labels}")
        data = _exactly(of_labels, count * kind_of_labels.itemsize, source)
        labels = np.frombuffer(data, kind_of_labels)
        if not np.isin(labels, (0, 1)).all():
            raise _not_it(source, f"{split}_labels other than 0 and 1")
        for label in labels.tolist():
            cube = np.frombuffer(_exactly(images, side**3, source), np.uint8)
            yield cube.reshape(side, side, side), label


def _header(
    stream: IO[bytes], name: str, source: Path
) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """An array's shape and type as its header says: nothing is read or allocated for it yet."""
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise _not_it(source, f"{name} in another version of the format")
        shape, fortran, kind = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise _not_it(source, f"{name} that cannot be read") from error
    if fortran or kind.hasobject or not shape or not 0 < shape[0] <= _MOST_IMAGES:
        raise _not_it(source, f"{name} of {kind} {shape}")
    return shape, kind


def _exactly(stream: IO[bytes], size: int, source: Path) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise _not_it(source, "one that ends too early")
    return data


def _not_it(source: Path, found: str) -> DataError:
    return DataError(
        f"{source}: expected nodulemnist3d.npz or nodulemnist3d_64.npz as published, found {found}; "
        f"download it again"
    )
