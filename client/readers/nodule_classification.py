"""The reader of nodule classification: a folder of images, or of CT series with their findings."""

from pathlib import Path

from client.data import PATCHES, Cohort, ImagePatients, SetAside, image_folder
from client.data.image_folder import holds_data
from common.progress import Progress
from common.tasks.nodule_classification.study import NoduleStudy

__all__ = ["count_patients", "holds_data", "open_cohort"]


def open_cohort(
    protocol: NoduleStudy,
    folder: Path,
    *,
    patient_id_pattern: str | None,
    state: Path | None,
    progress: Progress | None,
    set_aside: list[SetAside] | None,
) -> Cohort[ImagePatients]:
    """See `client.readers.Reader`; patches of CT series are kept below `state`."""
    return image_folder.open_cohort(
        folder,
        protocol.images,
        patient_id_pattern,
        cache=None if state is None else state / PATCHES,
        progress=progress,
        set_aside=set_aside,
    )


def count_patients(
    protocol: NoduleStudy, folder: Path, *, patient_id_pattern: str | None
) -> tuple[int, int]:
    """(training, validation) patients; decodes no image."""
    return image_folder.count_patients(folder, protocol.images, patient_id_pattern)
