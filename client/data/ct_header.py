"""What a CT header must say, and what of it is read: an allow-list (THREATS.md T15).

Each function takes the values of `ALLOWED` by their keywords, None where the file has none, and
raises NotUsable where they are not those of a CT slice. Text that begins with PS3 is the DICOM standard.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.uid import CTImageStorage

from client.data.quarantine import NotUsable

MAX_SIDE = 4096  # rows, columns; scanners make 512 to 2048

ALLOWED = {
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "StudyDate": 0x00080020,
    "AcquisitionDate": 0x00080022,
    "Modality": 0x00080060,
    "Manufacturer": 0x00080070,
    "ManufacturerModelName": 0x00081090,
    "PatientID": 0x00100020,
    "SliceThickness": 0x00180050,
    "KVP": 0x00180060,
    "ConvolutionKernel": 0x00181210,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "InstanceNumber": 0x00200013,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "PixelPaddingValue": 0x00280120,
    "PixelPaddingRangeLimit": 0x00280121,
    "BurnedInAnnotation": 0x00280301,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
}
"""All that is read of a header, and 0008,0005, which says how its text is encoded. Only a DICOM report of a
prediction reads more, what it is to be filed by (client/data/report_objects.py)."""

Values = dict[str, Any]
Vector = tuple[float, float, float]

_MOST_LETTERS = 64  # of a long string (PS3.5 6.2)
_YEAR = re.compile(r"((?:19|20)\d\d)\d{4}")  # of a date, which has eight digits


@dataclass(frozen=True, slots=True)
class Acquisition:
    """How a slice was made, as its file says; None where it says nothing that can be used.

    For the data report alone: nothing of it reaches a cohort. Of the dates only a year is kept.
    """

    maker: str | None
    model: str | None
    kernel: str | None
    kvp: float | None  # kV
    year: int | None  # of acquisition, or else of the study


def check_kind(values: Values) -> None:
    """NotUsable unless it is one slice of a CT whose numbers are intensities."""
    if values["SOPClassUID"] != CTImageStorage or values["Modality"] != "CT":
        raise NotUsable("it is not a CT image of one slice")
    if int(values["NumberOfFrames"] or 1) != 1:
        raise NotUsable("it has several frames")
    if "LOCALIZER" in np.atleast_1d(values["ImageType"] or ""):
        raise NotUsable("it is a localizer, not a slice")
    if values["BurnedInAnnotation"] == "YES":
        raise NotUsable("it says that text is burned into its pixels")
    # MONOCHROME1 changes the display alone (PS3.3 C.7.6.3.1.2): its numbers are Hounsfield units as
    # they stand. A writer that inverted them too breaks the standard, and the data report's distance
    # from the phantom shows it (client/inspection/drift.py).
    grey = values["PhotometricInterpretation"] in ("MONOCHROME1", "MONOCHROME2")
    if not grey or values["SamplesPerPixel"] != 1:
        raise NotUsable("it is not in shades of grey")
    stored = int(values["BitsStored"])
    if values["BitsAllocated"] != 16 or not 8 <= stored <= 16 or values["HighBit"] != stored - 1:
        raise NotUsable("its pixels are not 8 to 16 bits in words of 16")
    if values["PixelRepresentation"] not in (0, 1):
        raise NotUsable("it does not say whether its pixels are signed")


def geometry(
    values: Values,
) -> tuple[tuple[float, float], Vector, Vector, Vector, float | None]:
    """(spacing, along_row, along_column, position, thickness) of a `CtSlice`."""
    try:
        spacing = tuple(float(value) for value in values["PixelSpacing"])
        axes = np.array([float(value) for value in values["ImageOrientationPatient"]])
        position = tuple(float(value) for value in values["ImagePositionPatient"])
        thickness = values["SliceThickness"]
        thick = float(thickness) if thickness not in (None, "") else None
    except (TypeError, ValueError):
        raise NotUsable("its spacing, orientation or position is missing") from None
    numbers = (*spacing, *axes, *position, thick or 0.0)
    if (len(spacing), len(axes), len(position)) != (2, 6, 3) or not all(
        math.isfinite(number) and abs(number) < 1e5 for number in numbers
    ):
        raise NotUsable("its spacing, orientation or position is not made of numbers")
    if not all(0.01 <= step <= 50 for step in spacing):
        raise NotUsable("its pixel spacing is not within 0.01..50 mm")
    row, column = axes[:3], axes[3:]
    lengths = (math.hypot(*row), math.hypot(*column))
    if max(abs(length - 1) for length in lengths) > 1e-2 or abs(row @ column) > 1e-2:
        raise NotUsable("its orientation is not two perpendicular unit vectors")
    return (
        (spacing[0], spacing[1]),
        _vector(row / lengths[0]),
        _vector(column / lengths[1]),
        _vector(np.array(position)),
        thick if thick and 0.01 <= thick <= 100 else None,
    )


def _vector(three: npt.NDArray[np.float64]) -> Vector:
    x, y, z = three.tolist()
    return x, y, z


def acquisition(values: Values) -> Acquisition:
    years = (_YEAR.fullmatch(str(values[date])) for date in ("AcquisitionDate", "StudyDate"))
    return Acquisition(
        maker=_words(values["Manufacturer"]),
        model=_words(values["ManufacturerModelName"]),
        kernel=_words(values["ConvolutionKernel"]),
        kvp=_kilovolt(values["KVP"]),
        year=next((int(year[1]) for year in years if year), None),
    )


def _words(value: object) -> str | None:
    """The value, or the several, on one line; None for control characters or an endless text."""
    parts = [str(part) for part in np.atleast_1d(np.array(value, object)) if part is not None]
    text = " ".join(" ".join(parts).split())
    return text if text.isprintable() and 0 < len(text) <= _MOST_LETTERS else None


def _kilovolt(value: object) -> float | None:
    try:
        voltage = float(str(value))
    except ValueError:
        return None
    return voltage if 1 <= voltage <= 1000 else None


def scale(values: Values) -> tuple[float, float]:
    try:
        slope, intercept = float(values["RescaleSlope"]), float(values["RescaleIntercept"])
    except (TypeError, ValueError):
        raise NotUsable("it has no rescale slope and intercept, so no HU") from None
    if not (0 < slope < 1e3 and abs(intercept) < 1e6):
        raise NotUsable("its rescale slope or intercept cannot be of a CT")
    return slope, intercept


def padding(values: Values, signed: bool) -> tuple[int, int] | None:
    """PixelPaddingValue to PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2), in either order."""
    if values["PixelPaddingValue"] in (None, ""):
        return None
    limit = values["PixelPaddingRangeLimit"]
    ends = [int(values["PixelPaddingValue"])]
    ends.append(ends[0] if limit in (None, "") else int(limit))
    # Some writers give the value as unsigned though the pixels are signed.
    wrapped = [end - 0x10000 if signed and end >= 0x8000 else end for end in ends]
    return min(wrapped), max(wrapped)


def uid(value: object, what: str) -> str:
    if not value or len(text := str(value)) > 64:
        raise NotUsable(f"it has no {what} UID")
    return text
