"""What a model said of a finding, as DICOM objects of the finding's own study, with highdicom.

A structured report (TID 1500, PS3.16) with the number, the place and the model; a secondary capture with
the overlay. For this alone the patient's and the study's attributes are read from the source slice: they
go into the new objects, so that an archive files them with the patient, and are kept nowhere else.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian

from client.data.quarantine import NotUsable
from client.data.unlabelled import Source
from common.errors import RunError

if TYPE_CHECKING:
    from highdicom.sr import AlgorithmIdentification, Measurement

OF_PATIENT_AND_STUDY = (
    "SpecificCharacterSet",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
)
"""All that is read of a source slice, beside what says which image it is."""

_OF_IMAGE = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns")
_MAKER, _PROGRAM = "intramural", "intramural-client predict"
_REPORT_SERIES, _PICTURE_SERIES = 9801, 9802  # numbers that scanners do not give
_UTF_8 = "ISO_IR 192"
_PRIVATE = "99INTRAMURAL"
RESEARCH = "Research use, not a medical device"


@dataclass(frozen=True)
class Statement:
    """What a report says. `words` are the sentences about the number, `number` counts findings from 1."""

    number: int
    study: str  # of the protocol, not of DICOM
    weights: str  # SHA-256
    classes: tuple[str, str]
    score: float
    probability: float | None
    words: str


class Reports:
    """Writes the objects of one run: those of a study of DICOM are one series of each kind.

    RunError when the library that writes them is not installed.
    """

    def __init__(self) -> None:
        try:
            from highdicom import UID
        except ImportError as error:
            raise RunError(
                "expected highdicom to write DICOM reports and found none; install "
                "intramural[exchange], or leave out --dicom"
            ) from error
        self._device = UID()
        self._series: dict[tuple[str, int], str] = {}

    def structured_report(self, source: Source, said: Statement) -> bytes:
        """A Comprehensive SR of one finding: a DICOM file.

        NotUsable when the source has no study, or says of it what the standard does not allow.
        """
        from highdicom import UID, sr
        from pydicom.sr.codedict import codes

        with _quoting_nothing():
            image = _read(source)
            group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=sr.TrackingIdentifier(UID(), f"Finding {said.number}"),
                referenced_region=sr.ImageRegion(
                    graphic_type=sr.GraphicTypeValues.POINT,
                    # PS3.3 C.18.6: 0 is the corner of the first pixel, and of a finding its middle.
                    graphic_data=np.array([[source.column + 0.5, source.row + 0.5]]),
                    source_image=sr.SourceImageForRegion.from_source_image(image),
                ),
                finding_type=codes.DCM.SingleImageFinding,
                algorithm_id=_model(said),
                measurements=_numbers(said),
            )
            observer = sr.DeviceObserverIdentifyingAttributes(
                uid=self._device, name=_PROGRAM, manufacturer_name=_MAKER
            )
            content = sr.MeasurementReport(
                observation_context=sr.ObservationContext(
                    observer_device_context=sr.ObserverContext(codes.DCM.Device, observer)
                ),
                procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
                imaging_measurements=[group],
            )
            report = sr.ComprehensiveSR(
                evidence=[image],
                content=content[0],
                **self._made(image, said, _REPORT_SERIES),
                is_complete=True,
                specific_character_set=_UTF_8,
            )
            return _file(report)

    def secondary_capture(self, source: Source, said: Statement, picture: bytes) -> bytes:
        """The overlay, a PNG, as an RGB image of the patient's study: a DICOM file. NotUsable as above."""
        from highdicom.sc import SCImage

        with _quoting_nothing():
            image = _read(source)
            capture = SCImage.from_ref_dataset(
                image,
                pixel_array=np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")),
                photometric_interpretation="RGB",
                bits_allocated=8,
                coordinate_system="PATIENT",
                patient_orientation=("L", "P"),  # as patches are cut
                **self._made(image, said, _PICTURE_SERIES),
                transfer_syntax_uid=ExplicitVRLittleEndian,
            )
            return _file(capture)

    def _made(self, image: Dataset, said: Statement, series: int) -> dict[str, Any]:
        """What both kinds of object say of themselves; those of a kind in a study are one series."""
        from highdicom import UID

        return {
            "series_instance_uid": self._series.setdefault(
                (str(image.StudyInstanceUID), series), UID()
            ),
            "series_number": series,
            "sop_instance_uid": UID(),
            "instance_number": said.number,
            "manufacturer": _MAKER,
            "manufacturer_model_name": _PROGRAM,
            "series_description": RESEARCH,
        }


def _model(said: Statement) -> "AlgorithmIdentification":
    from highdicom import sr

    negative, positive = said.classes
    return sr.AlgorithmIdentification(
        name=f"{_PROGRAM}, study {said.study}",
        version=said.weights,
        parameters=[RESEARCH, f"The numbers are of “{positive}” against “{negative}”.", said.words],
    )


def _numbers(said: Statement) -> "list[Measurement]":
    """The score, and the probability where there is one."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    score = sr.CodedConcept("score", _PRIVATE, "Score of the positive class")
    values = {score: said.score, codes.DCM.Probability: said.probability}
    return [
        sr.Measurement(name, round(value, 6), codes.UCUM.NoUnits)
        for name, value in values.items()
        if value is not None
    ]


@contextmanager
def _quoting_nothing() -> Iterator[None]:
    """Inside, names and numbers that are not as the standard has them end as NotUsable at most.

    What the libraries warn of and raise, errors of many kinds, would quote them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except NotUsable:
            raise
        except Exception:
            raise NotUsable(
                "what its file says of the patient or the study is not as DICOM has it"
            ) from None


def _read(source: Source) -> Dataset:
    """The attributes above of the source slice, those that a report must have empty where it has none."""
    try:
        image = dcmread(
            source.slice.path,
            stop_before_pixels=True,
            specific_tags=[*OF_PATIENT_AND_STUDY, *_OF_IMAGE],
        )
    except (OSError, InvalidDicomError) as error:
        raise NotUsable("its file could not be opened again") from error
    if image.get("SOPInstanceUID") != source.slice.instance or not image.get("StudyInstanceUID"):
        raise NotUsable("no report of it was written: its file has no study, or was changed")
    for name in OF_PATIENT_AND_STUDY[1:]:
        if name not in image:
            setattr(image, name, None)
    return image


def _file(made: Dataset) -> bytes:
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
