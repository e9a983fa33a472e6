"""A hospital's folder of PNG, JPEG or TIFF images, or of CT series -> its cohort.

Three layouts: `manifest.csv` with the columns image, label, patient_id (and, if wanted, split, series_uid,
nodule_id); else `findings.csv` beside DICOM files (client/data/ct_folder.py); else one sub-folder per class
with the patient's id in the file names, found by a pattern.
"""

import os
from itertools import groupby
from pathlib import Path

import numpy as np

from client.data.cohort import Cohort, ImagePatients, Pixels, promoted, series_and_findings
from client.data.findings import FINDINGS
from client.data.listing import MANIFEST, ListedImage, list_images
from client.data.paths import subfolders
from client.data.pixels import read_pixels
from client.data.quarantine import SetAside
from common.progress import Progress
from common.tasks.nodule_classification.study import Images


def open_cohort(
    folder: Path,
    images: Images,
    patient_id_pattern: str | None = None,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    set_aside: list[SetAside] | None = None,
) -> Cohort[ImagePatients]:
    """All images of one hospital, cropped, resized or cut out of CT series, on their two sides.

    `patient_id_pattern` is for class folders (in the other layouts it has no part): a regular
    expression that matches the whole stem of every file name, with one named group `patient`.
    Patients are ordered by id, their images by path, or by series and row of the findings. DataError
    for anything that cannot be used; it names the file and row, so its text stays at the hospital.

    For CT series alone: what cannot be used is left out, and DataError comes only when the rest is no
    cohort; in the folder `cache` patches are kept for the next opening; with a list `set_aside` all is
    read anew and what was left out is appended, by name; `progress` is told (done, total) meanwhile.
    """
    if has_ct(folder):
        from client.data.ct_folder import open_ct_folder  # loads pydicom and scipy

        told = progress or (lambda _done, _total: None)
        return open_ct_folder(folder, images, cache, told, set_aside)
    listed = list_images(folder, images, patient_id_pattern)
    return Cohort(
        training=load_images([image for image in listed if not image.validation], images),
        validation=load_images([image for image in listed if image.validation], images),
    )


def count_patients(
    folder: Path, images: Images, patient_id_pattern: str | None = None
) -> tuple[int, int]:
    """(training, validation) patients as `open_cohort` would split them; decodes no image.

    For the nominal cohort sizes of a rehearsal. DataError as for `open_cohort`, except for what
    only decoding shows.
    """
    if has_ct(folder):
        from client.data.ct_folder import count_ct_patients

        return count_ct_patients(folder, images)
    listed = list_images(folder, images, patient_id_pattern)
    training = {image.patient_id for image in listed if not image.validation}
    validation = {image.patient_id for image in listed if image.validation}
    return len(training), len(validation)


def holds_data(folder: Path) -> bool:
    """Whether `folder` has one of the three layouts, as far as names say."""
    return bool(os.path.lexists(folder / MANIFEST) or has_ct(folder) or subfolders(folder))


def has_ct(folder: Path) -> bool:
    return os.path.lexists(folder / FINDINGS) and not os.path.lexists(folder / MANIFEST)


def load_images(listed: list[ListedImage], images: Images) -> ImagePatients:
    """`listed`, sorted by patient, as ImagePatients; 16-bit when any of the images is."""
    pixels: Pixels = np.empty((len(listed), images.size, images.size, images.channels), np.uint8)
    for index, image in enumerate(listed):
        one = read_pixels(image.path, images, image.where)
        if one.dtype == np.uint16 and pixels.dtype == np.uint8:
            pixels = promoted(pixels)
        pixels[index] = promoted(one) if one.dtype != pixels.dtype else one
    series, finding = None, None
    if listed and all(image.series for image in listed):
        series, finding = series_and_findings(
            [(image.patient_id, image.series, image.nodule) for image in listed]
        )
    images_of_patient = [
        len(list(group)) for _, group in groupby(listed, key=lambda image: image.patient_id)
    ]
    return ImagePatients(
        pixels=pixels,
        labels=np.array([image.label for image in listed], np.int64),
        offsets=np.cumsum([0, *images_of_patient], dtype=np.int64),
        mean=images.mean,
        std=images.std,
        series=series,
        finding=finding,
    )
