"""A hospital's folder of PNG, JPEG or TIFF images -> its cohort.

Two layouts: `manifest.csv` with the columns image, label, patient_id (and, if wanted, split), or
one sub-folder per class with the patient's id in the file names, found by a pattern.
"""

import os
from itertools import groupby
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from client.data.cohort import Cohort, Patients, Pixels
from client.data.listing import MANIFEST, ListedImage, list_images
from client.data.paths import existing_folder, subfolders
from client.data.pixels import read_pixels
from common.documents import Name
from common.errors import DataError
from common.protocol import Images


def open_cohort(folder: Path, images: Images, patient_id_pattern: str | None = None) -> Cohort:
    """All images of one hospital, cropped or resized, on their two sides.

    `patient_id_pattern` is for folders without a manifest (with one it has no part): a regular
    expression that matches the whole stem of every file name, with one named group `patient`.
    Patients are ordered by id, their images by path. DataError for anything that cannot be used;
    it names the file and row, so its text stays at the hospital.
    """
    listed = list_images(folder, images, patient_id_pattern)
    return Cohort(
        training=_load([image for image in listed if not image.validation], images),
        validation=_load([image for image in listed if image.validation], images),
    )


def count_patients(
    folder: Path, images: Images, patient_id_pattern: str | None = None
) -> tuple[int, int]:
    """(training, validation) patients as `open_cohort` would split them; decodes no image.

    For the nominal cohort sizes of a rehearsal. DataError as for `open_cohort`, except for what
    only decoding shows.
    """
    listed = list_images(folder, images, patient_id_pattern)
    training = {image.patient_id for image in listed if not image.validation}
    validation = {image.patient_id for image in listed if image.validation}
    return len(training), len(validation)


def hospital_folders(root: Path) -> dict[str, Path]:
    """The hospitals of a rehearsal by name, sorted: sub-folders with a manifest or class folders.

    DataError when there is none, or when a folder's name cannot be a hospital's name.
    """
    found = {
        path.name: path
        for path in subfolders(existing_folder(root))
        if os.path.lexists(path / MANIFEST) or subfolders(path)
    }
    if not found:
        raise DataError(
            f"expected a sub-folder for each hospital in {str(root)!r}, with {MANIFEST} or a "
            f"folder for each class, found none; give the folder above the hospitals"
        )
    hospital_name = TypeAdapter[str](Name)
    for name in found:
        try:
            hospital_name.validate_python(name)
        except ValidationError as error:
            raise DataError(
                f"expected hospital folders named in lower-case letters, digits and '.', '_', "
                f"'-', found {name!r}; rename it"
            ) from error
    return found


def _load(listed: list[ListedImage], images: Images) -> Patients:
    """`listed`, sorted by patient, as Patients; 16-bit when any of the images is."""
    pixels: Pixels = np.empty((len(listed), images.size, images.size, images.channels), np.uint8)
    for index, image in enumerate(listed):
        one = read_pixels(image.path, images, image.where)
        if one.dtype == np.uint16 and pixels.dtype == np.uint8:
            pixels = _promoted(pixels)
        pixels[index] = _promoted(one) if one.dtype != pixels.dtype else one
    images_of_patient = [
        len(list(group)) for _, group in groupby(listed, key=lambda image: image.patient_id)
    ]
    return Patients(
        pixels=pixels,
        labels=np.array([image.label for image in listed], np.int64),
        offsets=np.cumsum([0, *images_of_patient], dtype=np.int64),
        mean=images.mean,
        std=images.std,
    )


def _promoted(pixels: Pixels) -> Pixels:
    """8-bit pixels as 16-bit ones, exactly: v / 255 = 257 v / 65535."""
    return pixels.astype(np.uint16) * np.uint16(257)
