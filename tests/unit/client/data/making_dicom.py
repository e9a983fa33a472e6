"""DICOM files as scanners and archives write them, made by pydicom: whole ones, and damaged ones."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from client.data.cohort import Pixels
from common.tasks.nodule_classification.study import CtPatches, Images

AXIAL = (1.0, 0, 0, 0, 1, 0)
SAGITTAL = (0.0, 1, 0, 0, 0, -1)
CORONAL = (1.0, 0, 0, 0, 0, -1)
IMAGES = Images(
    classes=("non-nodule", "nodule"),
    size=16,
    validation_fraction=0.2,
    ct=CtPatches(size_mm=16, hu_low=-1000, hu_high=400),
)

Edit = Callable[[Dataset], object]


def uid(*parts: int) -> str:
    return ".".join(map(str, ("1.2.3", *parts)))


def slice_dataset(
    hu: npt.NDArray[np.float64],
    position: Sequence[float],
    *,
    series: str = uid(1),
    number: int = 1,
    patient: str = "P",
    orientation: Sequence[float] = AXIAL,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Dataset:
    """One slice of (rows, columns) HU, stored signed as HU + 1024 with an intercept of -1024."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"{series}.{number}")
    ds.ImageType, ds.Modality, ds.PatientID = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", patient
    ds.SeriesInstanceUID, ds.InstanceNumber = series, number
    ds.ImagePositionPatient = [float(f"{value:.9g}") for value in position]
    ds.ImageOrientationPatient = [float(f"{value:.9g}") for value in orientation]
    ds.PixelSpacing = list(spacing)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = hu.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.PixelData = np.rint(hu + 1024).astype("<i2").tobytes()
    return ds


def save(ds: Dataset, path: Path, *edits: Edit) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    for edit in edits:
        edit(ds)
    ds.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    hu: npt.NDArray[np.float64],
    *,
    origin: Sequence[float] = (0.0, 0, 0),
    step: Sequence[float] = (0.0, 0, 1),
    series: str = uid(1),
    patient: str = "P",
    orientation: Sequence[float] = AXIAL,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> list[Path]:
    """(slices, rows, columns) HU, slice n at origin + n * step, in files whose names say nothing."""
    return [
        save(
            slice_dataset(
                plane,
                np.array(origin) + n * np.array(step),
                series=series,
                number=n + 1,
                patient=patient,
                orientation=orientation,
                spacing=spacing,
            ),
            folder / f"{(7 * n + 3) % 1009:04d}",
        )
        for n, plane in enumerate(hu)
    ]


def write_findings(folder: Path, *rows: str) -> None:
    (folder / "findings.csv").write_text("\n".join(rows) + "\n")


def hospital(folder: Path, patients: int = 8) -> Path:
    """Each patient has two series, one of either class, in nested folders.

    The first two series have three slices, the others one.

    Series n is -900 + 10 n HU throughout, so that a patch says which one it is of.
    """
    rows = ["series_uid,label"]
    for n in range(2 * patients):
        write_series(
            folder / f"{n % 3}" / f"study{n}",
            np.full((1 if n > 1 else 3, 20, 24), -900.0 + 10 * n),
            series=uid(9, n),
            patient=f"P{n // 2:03d}",
        )
        rows.append(f"{uid(9, n)},{IMAGES.classes[n % 2]}")
    write_findings(folder, *rows)
    return folder


def hu_of(pixels: Pixels) -> npt.NDArray[np.float64]:
    """Stored pixels back in HU, by the window of `IMAGES`."""
    return pixels / 65535 * 1400.0 - 1000
