"""What of a header says how a slice was made, held against pydicom; and that no date is kept of it."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from client.data.ct_header import Acquisition
from client.data.dicom import CtSlice, read_slice
from client.data.scan import list_files, scan
from client.data.survey import KERNEL, SCANNER, SPACING, THICKNESS, VOLTAGE, YEAR, survey
from tests.unit.client.data.making_dicom import (
    IMAGES,
    save,
    slice_dataset,
    write_findings,
    write_series,
)

FLAT = np.full((8, 8), -500.0)
NOTHING = Acquisition(None, None, None, None, None)


def read_after(tmp_path: Path, edit: Callable[[Dataset], object]) -> CtSlice:
    return read_slice(save(slice_dataset(FLAT, (0, 0, 0)), tmp_path / "a", edit))


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KI.dcm"])
def test_pydicoms_files_say_what_pydicom_reads(name: str) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    ds = pydicom.dcmread(path)
    found = read_slice(path).acquisition
    assert found.maker == (str(ds.get("Manufacturer", "")).strip() or None)
    assert found.model == (str(ds.get("ManufacturerModelName", "")).strip() or None)
    assert found.kernel == (str(ds.get("ConvolutionKernel", "")).strip() or None)
    assert found.kvp == (float(ds.KVP) if ds.get("KVP") else None)
    date = str(ds.get("AcquisitionDate") or ds.get("StudyDate") or "")
    assert found.year == (int(date[:4]) if date else None)
    assert found != NOTHING
    assert read_slice(path).study == ds.StudyInstanceUID


def test_of_two_dates_the_year_of_acquisition_is_kept_and_nothing_more(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        ds.AcquisitionDate, ds.StudyDate, ds.SeriesDate = "20190304", "20200506", "20210708"

    one = read_after(tmp_path, edit)
    assert one.acquisition.year == 2019
    held = pickle.dumps(one)
    for date in (b"0304", b"0506", b"0708", b"2020", b"2021"):
        assert date not in held

    def without(ds: Dataset) -> None:
        ds.AcquisitionDate, ds.StudyDate = "", "20200506"

    assert read_after(tmp_path, without).acquisition.year == 2020


def values(**said: object) -> Callable[[Dataset], object]:
    def edit(ds: Dataset) -> None:
        for name, value in said.items():
            setattr(ds, name, value)

    return edit


def test_several_kernels_are_one_text(tmp_path: Path) -> None:
    found = read_after(tmp_path, values(ConvolutionKernel=["B30f", "2"], Manufacturer=" Maker  X "))
    assert (found.acquisition.kernel, found.acquisition.maker) == ("B30f 2", "Maker X")


@pytest.mark.filterwarnings("ignore")  # pydicom's, that such values are odd
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"Manufacturer": "", "ConvolutionKernel": "", "AcquisitionDate": ""},
        {"Manufacturer": "A\x01B", "ManufacturerModelName": "x" * 65},
        {"AcquisitionDate": "2019", "StudyDate": "99990101"},
        {"AcquisitionDate": "20190304-20190305"},
    ],
    ids=["absent", "empty", "odd letters", "no date", "a range"],
)
def test_what_cannot_be_used_is_not_stated_and_the_slice_is_used(
    tmp_path: Path, said: dict[str, object]
) -> None:
    assert read_after(tmp_path, values(**said)).acquisition == NOTHING


@pytest.mark.parametrize("kvp", [b"0", b"abc ", b"1e9 ", b"nan "])
def test_a_voltage_that_is_none_is_not_stated(tmp_path: Path, kvp: bytes) -> None:
    path = save(slice_dataset(FLAT, (0, 0, 0)), tmp_path / "a", values(KVP=1234))
    path.write_bytes(path.read_bytes().replace(b"1234", kvp.ljust(4)))
    assert read_slice(path).acquisition == NOTHING


def test_the_slices_of_a_folder_share_what_they_say_alike(tmp_path: Path) -> None:
    write_series(tmp_path, np.full((4, 8, 8), -500.0))
    found = scan(tmp_path, list_files(tmp_path), lambda _done: None, [])
    assert len(found.slices) == 4
    assert len({id(one.acquisition) for one in found.slices.values()}) == 1


def test_a_nifti_volume_has_a_geometry_and_says_nothing_of_its_scanner(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    hu = np.full((20, 24, 3), -500, np.int16)
    nibabel.save(
        nibabel.Nifti1Image(hu, np.diag([-0.7, -0.8, 2.5, 1.0])), str(tmp_path / "a.nii.gz")
    )
    write_findings(
        tmp_path,
        "file,x,y,z,label,patient_id",
        "a.nii.gz,8,8,2.5,nodule,P",
        "a.nii.gz,4,4,2.5,non-nodule,P",
    )
    images = IMAGES.model_copy(update={"validation_fraction": 1e-9})
    found = survey(tmp_path, images, None, cache=None, set_aside=[])
    assert found.patient_ids == ("P", "P")
    assert found.studies == (None, None)
    assert {fact: set(values) for fact, values in found.facts.items()} == {
        SCANNER: {None},
        KERNEL: {None},
        VOLTAGE: {None},
        YEAR: {None},
        THICKNESS: {2.5},
        SPACING: {0.8},
    }
