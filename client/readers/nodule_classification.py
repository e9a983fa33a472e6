"""The reader of nodule classification: a folder of images, or of CT series with their findings."""

from pathlib import Path

from client.data import PATCHES, Cohort, Patients, image_folder
from client.readers.reader import Opening, Reader
from common.tasks.nodule_classification.study import NoduleStudy


class NoduleClassification(Reader):
    """Patches of CT series are kept below the state folder."""

    def open_cohort(self, protocol: NoduleStudy, opening: Opening) -> Cohort[Patients]:
        return image_folder.open_cohort(
            opening.folder,
            protocol.images,
            opening.patient_id_pattern,
            cache=None if opening.state is None else opening.state / PATCHES,
            progress=opening.progress,
            set_aside=opening.set_aside,
        )

    def count_patients(self, protocol: NoduleStudy, opening: Opening) -> tuple[int, int]:
        """Decodes no image."""
        return image_folder.count_patients(
            opening.folder, protocol.images, opening.patient_id_pattern
        )

    def holds_data(self, folder: Path) -> bool:
        return image_folder.holds_data(folder)


READER = NoduleClassification()
