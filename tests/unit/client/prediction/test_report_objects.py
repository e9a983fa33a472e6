"""DICOM reports: read back by pydicom and highdicom, of the patient's own study, and complete."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom import _standard_utils as standard
from PIL import Image
from pydicom import Dataset, config
from pydicom.uid import UID

from tests.conftest import SHARED_DATA
from tests.unit.client.data.making_dicom import save, slice_dataset
from tests.unit.client.prediction.conftest import Said

pytestmark = pytest.mark.slow  # seconds together

Predict = Callable[..., Said]


def missing(ds: Dataset) -> list[str]:
    """What the standard's tables (as highdicom has them) demand of the object's mandatory modules."""
    iod = standard.get_sop_class_iod_map()[ds.SOPClassUID]
    wrong = []
    for module in standard.get_iod_module_map()[iod]:
        # Of a report's tree the table lists what each kind of node needs as if every node were of all.
        if module["usage"] != "M" or module["key"] == "sr-document-content":
            continue
        for attribute in standard.get_module_attribute_map()[module["key"]]:
            if attribute["type"] not in ("1", "2"):
                continue
            items = [ds]
            for keyword in attribute["path"]:
                items = [inner for item in items for inner in item.get(keyword) or []]
            for item in items:
                value = item.get(attribute["keyword"])
                absent = attribute["keyword"] not in item
                if absent or (attribute["type"] == "1" and value in (None, "", [])):
                    wrong.append("/".join([*attribute["path"], attribute["keyword"]]))
    return wrong


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """One slice as a scanner's archive has it, of a patient whose name is not ASCII."""
    hu = np.random.default_rng(9).normal(-700, 80, (64, 64))
    ds = slice_dataset(hu, (10.0, 20.0, 30.0), patient="P-77", spacing=(0.7, 0.7))
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "Müller^Zoë", "19500102", "F"
    ds.StudyInstanceUID, ds.StudyDate, ds.StudyTime = "1.2.3.99", "20250102", "101112"
    ds.AccessionNumber, ds.InstitutionName = "A1", "General Hospital"
    return save(ds, tmp_path / "ct" / "a.dcm")


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.RAISE)


@pytest.mark.usefixtures("strict")
def test_a_structured_report_says_what_predict_says(
    series: Path, run: Path, predict: Predict
) -> None:
    said = predict(run, series, "--pixel=30,25", "--dicom")
    assert said.code == 0, said.text
    (one,) = said.facts["predictions"]
    path = said.out / "report-0001.dcm"
    assert path.stat().st_mode & 0o777 == 0o600
    ds = pydicom.dcmread(path)
    assert missing(ds) == []
    assert (str(ds.PatientName), ds.PatientID, ds.PatientBirthDate, ds.PatientSex) == (
        "Müller^Zoë",
        "P-77",
        "19500102",
        "F",
    )
    assert (ds.StudyInstanceUID, ds.StudyDate, ds.AccessionNumber) == ("1.2.3.99", "20250102", "A1")
    assert (ds.VerificationFlag, ds.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert "not a medical device" in ds.SeriesDescription
    assert "InstitutionName" not in ds  # of the source, only what files the report is read

    report = highdicom.sr.ComprehensiveSR.from_dataset(ds)
    source = pydicom.dcmread(series)
    assert report.get_evidence() == [
        (
            source.StudyInstanceUID,
            source.SeriesInstanceUID,
            source.SOPInstanceUID,
            source.SOPClassUID,
        )
    ]
    content: Any = report.content
    (group,) = content.get_planar_roi_measurement_groups()
    assert group.roi.graphic_type.value == "POINT"
    np.testing.assert_allclose(group.roi.value, [[25.5, 30.5]])
    values = {m.name.meaning: m.value for m in group.get_measurements()}
    assert values["Score of the positive class"] == pytest.approx(one["score"], abs=1e-6)
    assert values["Probability"] == pytest.approx(one["probability"], abs=1e-6)
    texts = [
        item.TextValue
        for item in group[0].ContentSequence
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeValue == "111002"
    ]
    assert "Research use, not a medical device" in texts
    assert one["meaning"] in texts
    assert "The numbers are of “nodule” against “non-nodule”." in texts


@pytest.mark.usefixtures("strict")
def test_a_secondary_capture_is_the_overlay(series: Path, run: Path, predict: Predict) -> None:
    said = predict(run, series, "--pixel=30,25", "--dicom", overlay=True)
    assert said.code == 0, said.text
    ds = pydicom.dcmread(said.out / "overlay-0001.dcm")
    assert missing(ds) == []
    assert (str(ds.PatientName), ds.StudyInstanceUID) == ("Müller^Zoë", "1.2.3.99")
    assert "not a medical device" in ds.SeriesDescription
    drawn = Image.open(io.BytesIO((said.out / "overlay-0001.png").read_bytes())).convert("RGB")
    np.testing.assert_array_equal(ds.pixel_array, np.asarray(drawn))


def test_reports_of_one_study_are_one_series(series: Path, run: Path, predict: Predict) -> None:
    other = pydicom.dcmread(series)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4.5")
    other.ImagePositionPatient, other.InstanceNumber = [10, 20, 31], 2
    save(other, series.with_name("b.dcm"))
    said = predict(run, series.parent, "--pixel=30,25", "--dicom")
    assert said.code == 0, said.text
    made = [pydicom.dcmread(said.out / f"report-{n:04d}.dcm") for n in (1, 2)]
    assert made[0].SeriesInstanceUID == made[1].SeriesInstanceUID
    assert made[0].SOPInstanceUID != made[1].SOPInstanceUID
    assert [ds.InstanceNumber for ds in made] == [1, 2]


def test_a_slice_without_a_study_is_predicted_and_has_no_report(
    series: Path, run: Path, predict: Predict
) -> None:
    ds = pydicom.dcmread(series)
    del ds.StudyInstanceUID
    save(ds, series)
    said = predict(run, series, "--pixel=30,25", "--dicom")
    assert said.code == 0, said.text
    assert not (said.out / "report-0001.dcm").exists()
    assert "its file has no study" in said.facts["set-aside"][0]["reason"]


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("PatientBirthDate", "19500231"), ("PatientSex", "U")],
)
def test_facts_that_a_report_cannot_repeat_cost_the_report_alone(
    series: Path, run: Path, predict: Predict, keyword: str, value: str
) -> None:
    def odd(ds: Dataset) -> None:
        ds.add_new(keyword, ds[keyword].VR, value)

    save(pydicom.dcmread(series), series, odd)
    said = predict(run, series, "--pixel=30,25", "--dicom", overlay=True)
    assert said.code == 0, said.text
    assert len(said.facts["predictions"]) == 1
    (apart,) = said.facts["set-aside"]
    assert "not as DICOM has it" in apart["reason"]
    assert value not in apart["reason"]


def test_a_real_slice_has_a_report(run: Path, predict: Predict) -> None:
    folder = SHARED_DATA / "ct-dicom"
    if not folder.is_dir():
        pytest.skip("the real CT slices are not on this machine")
    files = [sorted(folder.glob("*/*.dcm"))[n] for n in (0, -1)]
    said = predict(run, *files, "--pixel=255,200", "--dicom")
    assert said.code == 0, said.text
    for number, file in enumerate(files, 1):
        made = pydicom.dcmread(said.out / f"report-{number:04d}.dcm")
        source = pydicom.dcmread(file)
        assert missing(made) == []
        assert made.StudyInstanceUID == source.StudyInstanceUID
        assert made.PatientID == source.PatientID


def test_without_the_library_the_extra_is_named(
    series: Path, run: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    said = predict(run, series, "--pixel=30,25", "--dicom")
    assert said.code == 2
    assert "install intramural[exchange]" in said.text
    assert not said.out.exists()
