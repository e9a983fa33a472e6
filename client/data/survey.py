"""A hospital's images with what belongs to each, for the data report: patients, series, scanners.

Unlike a cohort this names patients and says how an image was made, so it lives only while
`intramural-client check` looks at it, at the hospital; no training and no message sees one.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.data.cohort import Cohort, ImagePatients
from client.data.image_folder import has_ct, load_images
from client.data.listing import MANIFEST, ListedImage, check_whole, list_rows
from client.data.paths import existing_folder
from client.data.quarantine import SetAside
from common.errors import DataError
from common.progress import Progress
from common.tasks.nodule_classification.study import Images

SCANNER, KERNEL, VOLTAGE = "scanner", "reconstruction kernel", "tube voltage, kV"
THICKNESS, SPACING, YEAR = "slice thickness, mm", "pixel spacing, mm", "year of acquisition"
FILE_FORMAT = "file format"
NOT_STATED = "not stated"

Value = str | float | None  # None: the file does not say


@dataclass(frozen=True, eq=False, slots=True)
class Survey:
    """N images in the order of the cohort: the training side, then the validation side.

    A patient id that is on both sides is there twice, once a side; then, or when a class or the
    training side is missing, `refusal` says why no study can open this folder.
    """

    cohort: Cohort[ImagePatients]
    patient_ids: tuple[str, ...]  # N, canonical
    rows: tuple[str | None, ...]  # N, "findings.csv row 7"; None where a file name is all there is
    series: tuple[str | None, ...]  # N
    studies: tuple[str | None, ...]  # N, StudyInstanceUID
    places: npt.NDArray[np.float64]  # (N, 3) mm, patient coordinates (LPS); NaN where there is none
    facts: dict[str, tuple[Value, ...]]  # by what it is, e.g. SCANNER: N values
    refusal: DataError | None

    def __len__(self) -> int:
        """Number of images, N."""
        return len(self.patient_ids)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,)"""
        return np.concatenate([self.cohort.training.labels, self.cohort.validation.labels])

    @property
    def validation(self) -> npt.NDArray[np.bool_]:
        """(N,): which images are on the validation side."""
        return np.arange(len(self)) >= len(self.cohort.training.labels)

    @property
    def patients(self) -> npt.NDArray[np.int64]:
        """(N,): 0.. for each patient id, in the order of the ids."""
        return np.unique(np.array(self.patient_ids), return_inverse=True)[1].astype(np.int64)

    def grey(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n, size, size, channels) in 0..1: a copy of the images `indices` (n,), whichever side's."""
        training, validation = self.cohort.training, self.cohort.validation
        found = np.empty((len(indices), *training.pixels.shape[1:]), np.float32)
        later = indices >= len(training.labels)
        found[~later] = training.pixels[indices[~later]] / np.float32(training.scale)
        own = indices[later] - len(training.labels)
        found[later] = validation.pixels[own] / np.float32(validation.scale)
        return found


def survey(
    folder: Path,
    images: Images,
    patient_id_pattern: str | None,
    *,
    cache: Path | None,
    progress: Progress | None = None,
    set_aside: list[SetAside],
) -> Survey:
    """All images of one hospital; the arguments are those of `open_cohort`.

    DataError as there, except for what `Survey.refusal` says.
    """
    if has_ct(folder):
        from client.data.ct_survey import survey_ct  # loads pydicom and scipy

        told = progress or (lambda _done, _total: None)
        return survey_ct(folder, images, cache, told, set_aside)
    listed = list_rows(folder, images, patient_id_pattern)
    ordered = sorted(listed, key=lambda image: image.validation)
    refusal = None
    try:
        check_whole(existing_folder(folder), listed, images)
    except DataError as error:
        if not listed:
            raise
        refusal = error
    training = sum(not image.validation for image in ordered)
    return Survey(
        cohort=Cohort(
            load_images(ordered[:training], images), load_images(ordered[training:], images)
        ),
        patient_ids=tuple(image.patient_id for image in ordered),
        rows=tuple(_row(image) for image in ordered),
        series=tuple(image.series or None for image in ordered),
        studies=(None,) * len(ordered),
        places=np.full((len(ordered), 3), np.nan),
        facts={FILE_FORMAT: tuple(_format(image.path) for image in ordered)},
        refusal=refusal,
    )


def _row(image: ListedImage) -> str | None:
    row = image.where.rpartition(f"{MANIFEST} row ")[2]
    return f"{MANIFEST} row {row}" if row.isdecimal() else None


def _format(path: Path) -> str | None:
    """By the name's end, of which a manifest may have any."""
    known = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
    return known.get(path.suffix.lower())
