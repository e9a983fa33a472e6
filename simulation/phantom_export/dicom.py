"""A phantom volume -> a CT series in DICOM files, as an archive would export it (PS3.3 A.3, CT Image IOD).

Every file says that it shows a phantom (Quality Control Image, 0028,0300) and that no person is in it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from simulation.phantom_export.volume import PhantomVolume

_PADDING = -2000  # outside of the round field of view, as some makers write it
_LOWEST, _HIGHEST = -1024, 3071  # HU that 12 bits hold


@dataclass(frozen=True, slots=True)
class Maker:
    """How an invented maker's scanner names itself and writes its files."""

    manufacturer: str
    model: str
    kernel: str
    padded: bool  # signed pixels and padding in the corners, or else unsigned ones
    feet_first: bool  # instance 1 is the lowest slice


@dataclass(frozen=True, slots=True)
class Series:
    """What the header of every slice of one series says."""

    patient_id: str
    hospital: str
    maker: Maker
    spacing_mm: float
    step_mm: float
    year: int
    seed: int  # of the export: with another one it is another series

    @property
    def uid(self) -> str:
        """SeriesInstanceUID."""
        return self.uid_of("series")

    def uid_of(self, *parts: str) -> UID:
        """The UID of one of its parts, always the same."""
        whose = (self.hospital, self.patient_id, str(self.seed))
        return generate_uid(entropy_srcs=["intramural phantom", *whose, *parts])


def origin_mm(volume: PhantomVolume, series: Series) -> npt.NDArray[np.float64]:
    """(3,): x, y, z of the middle of the lowest slice's first pixel; the volume lies in a left lung."""
    rows, columns = volume.hu.shape[1:]
    middle = np.array([70.0, 10.0, -150.0])
    half = np.array([columns - 1, rows - 1, 0]) / 2 * series.spacing_mm
    return np.asarray(np.round(middle - half, 3))


def place_mm(
    volume: PhantomVolume, series: Series, index: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(3,): x, y, z (LPS) of (slice, row, column)."""
    scaled = index[::-1] * np.array([series.spacing_mm, series.spacing_mm, series.step_mm])
    return np.asarray(origin_mm(volume, series) + scaled)


def write_series(folder: Path, volume: PhantomVolume, series: Series) -> list[Path]:
    """Write the slices from the lowest up to `folder`/IM0001 ...; the files in that order."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(volume.hu)
    written = []
    for n, plane in enumerate(volume.hu):
        number = n + 1 if series.maker.feet_first else count - n
        ds = _slice(plane, series, number)
        x, y, z = origin_mm(volume, series) + np.array([0, 0, n * series.step_mm])
        ds.ImagePositionPatient = [f"{x:.3f}", f"{y:.3f}", f"{z:.3f}"]
        ds.SliceLocation = f"{z:.3f}"
        path = folder / f"IM{number:04d}"
        ds.save_as(path, enforce_file_format=True)
        written.append(path)
    return written


def _slice(plane: npt.NDArray[np.float32], series: Series, number: int) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = series.uid_of(
        "image", str(number)
    )
    _whose(ds, series)
    _how(ds, series)
    ds.InstanceNumber = number
    _pixels(ds, plane, series)
    return ds


def _whose(ds: Dataset, series: Series) -> None:
    date = f"{series.year}0615"
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.PatientName, ds.PatientID = f"Phantom^{series.patient_id}", series.patient_id
    ds.PatientBirthDate, ds.PatientSex = "", ""
    ds.PatientIdentityRemoved, ds.DeidentificationMethod = (
        "YES",
        "made of geometry, nobody was scanned",
    )
    ds.StudyInstanceUID, ds.SeriesInstanceUID = series.uid_of("study"), series.uid
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = date
    ds.StudyTime = ds.ContentTime = "120000"
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "1", "", ""
    ds.StudyDescription, ds.SeriesDescription = "Phantom chest CT", f"Lung {series.maker.kernel}"
    ds.InstitutionName = f"pretend hospital {series.hospital}"
    ds.QualityControlImage = "YES"


def _how(ds: Dataset, series: Series) -> None:
    maker = series.maker
    ds.Modality, ds.SeriesNumber, ds.AcquisitionNumber = "CT", 2, 1
    ds.Manufacturer, ds.ManufacturerModelName = maker.manufacturer, maker.model
    ds.BodyPartExamined, ds.PatientPosition = "CHEST", "HFS"
    ds.KVP, ds.ConvolutionKernel = "120", maker.kernel
    ds.SliceThickness = f"{series.step_mm:g}"
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = series.uid_of("frame"), ""
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [f"{series.spacing_mm:.6g}"] * 2


def _pixels(ds: Dataset, plane: npt.NDArray[np.float32], series: Series) -> None:
    hu = np.rint(np.clip(plane, _LOWEST, _HIGHEST)).astype(np.int16)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = hu.shape
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1", "-1024", "HU"
    ds.WindowCenter, ds.WindowWidth = "-500", "1500"
    stored = hu + np.int16(1024)
    ds.BitsAllocated = 16
    if series.maker.padded:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 15, 1
        ds.PixelPaddingValue = _PADDING
        y, x = (np.indices(hu.shape) - (len(hu) - 1) / 2) / (len(hu) / 2)
        stored = np.where(x**2 + y**2 > 1, np.int16(_PADDING), stored)
    else:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
    ds.PixelData = stored.astype("<i2").tobytes()
