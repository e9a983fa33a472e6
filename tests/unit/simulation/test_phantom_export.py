"""The pretend export: valid DICOM, the anatomy in one piece, findings in their places, defects as meant."""

import csv
import json
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from scipy.ndimage import map_coordinates

from client.data import SetAside
from client.data.dicom import read_slice
from client.data.image_folder import count_patients, open_cohort
from client.data.patches import ct_patch
from client.data.series import volume
from client.readers import hospital_folders
from common.errors import RunError
from common.phantom import SCANNERS
from common.tasks.nodule_classification.study import CtPatches
from simulation.phantom_export.dicom import Series, place_mm, write_series
from simulation.phantom_export.export import MAKERS, export
from simulation.phantom_export.volume import TILES, phantom_volume
from simulation.prepare import FIRST_RUN
from tests.studies import nodule_study

KINDS = ("spiculated", "vessel", "juxta-pleural", "airway")
SPACING = 0.66

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export(folder, hospitals=2, patients=4, seed=3, progress=lambda _done, _total: None)
    return folder


def missing(ds: Dataset) -> list[str]:
    """What PS3.3 asks of every CT image and `ds` lacks, by the tables of the standard in highdicom."""
    tables = Path(highdicom.__file__).parent / "_standard"
    modules = json.loads((tables / "iod_module_map.json").read_text())["ct-image"]
    attributes = json.loads((tables / "module_attribute_map.json").read_text())
    return [
        attribute["keyword"]
        for module in modules
        if module["usage"] == "M"
        for attribute in attributes[module["key"]]
        if not attribute["path"]
        and (
            (attribute["type"] in "12" and attribute["keyword"] not in ds)
            or (attribute["type"] == "1" and ds.get(attribute["keyword"]) in (None, "", []))
        )
    ]


def test_every_maker_writes_what_the_standard_asks_for(exported: Path) -> None:
    for hospital in ("north", "east"):
        path = sorted((exported / "hospitals" / hospital).rglob("IM0002"))[0]
        ds = dcmread(path)
        assert missing(ds) == []
        assert ds.QualityControlImage == "YES"
        assert ds.pixel_array.shape == (ds.Rows, ds.Columns)
    del ds.KVP, ds.PixelSpacing  # the tables would notice
    ds.Modality = ""
    assert set(missing(ds)) == {"KVP", "PixelSpacing", "Modality"}
    assert tag_for_keyword("QualityControlImage") == 0x00280300


@pytest.mark.parametrize("number", range(len(MAKERS)))
def test_written_and_read_back_it_is_the_same_in_the_same_places(
    tmp_path: Path, number: int
) -> None:
    scanner, maker = list(SCANNERS.values())[number], MAKERS[number]
    step = 1.25 if number % 2 else 2.5
    made = phantom_volume(KINDS, scanner, SPACING, step, seed=40 + number)
    series = Series("P", "north", maker, SPACING, step, 2020, seed=0)
    paths = write_series(tmp_path, made, series)
    read = volume([read_slice(path) for path in reversed(paths)])
    images = nodule_study(FIRST_RUN.read_text()).images
    ct = CtPatches(size_mm=32 * SPACING)
    stored = np.clip(made.hu, -1024, 3071)  # what 12 bits hold
    for at in made.centres:
        patch = ct_patch(read, place_mm(made, series, at), images, ct, lambda one: one.hu())
        across = np.arange(32) - 15.5
        row, column = np.meshgrid(at[1] + across, at[2] + across, indexing="ij")
        expected = map_coordinates(stored, [np.full_like(row, at[0]), row, column], order=1)
        hu = patch[..., 0] / 65535 * 1400 - 1000
        # HU are whole numbers in the file, places have three decimals.
        assert np.abs(hu - np.clip(expected, -1000, 400)).max() < 1.5


def test_planes_are_cuts_through_one_anatomy() -> None:
    """A nodule of some millimetres is in several slices, and neighbours differ less than strangers."""
    scanner = SCANNERS["soft-kernel"]
    hu = phantom_volume(KINDS, scanner, SPACING, 1.0, seed=11).hu
    steps = [np.abs(hu[n + 1] - hu[n]).mean() for n in range(len(hu) - 1)]
    far = np.abs(hu[-1] - hu[0]).mean()
    # Planes are made three at a time: where groups meet must not show.
    inner, outer = np.mean(steps[0::3] + steps[1::3]), np.mean(steps[2::3])
    assert outer == pytest.approx(inner, rel=0.15)
    assert far > 1.5 * inner
    again = phantom_volume(KINDS, scanner, SPACING, 1.0, seed=11).hu
    assert np.array_equal(hu, again)


def test_the_hospitals_are_a_study_and_the_defects_are_named(exported: Path) -> None:
    protocol = nodule_study((exported / "protocol.toml").read_text())
    folders = hospital_folders("nodule-classification", exported / "hospitals")
    assert tuple(folders) == ("east", "north")
    assert set(folders) == set(protocol.hospital_names)
    reasons: dict[str, list[SetAside]] = {}
    for name, folder in folders.items():
        apart = reasons.setdefault(name, [])
        cohort = open_cohort(folder, protocol.images, set_aside=apart)
        lost = name == "north"  # the patient whose slice is lost
        assert len(cohort.training) + len(cohort.validation) == 4 - lost
        patches = len(cohort.training.labels) + len(cohort.validation.labels)
        assert patches == TILES * (4 - lost)
    assert (
        count_patients(folders["east"], protocol.images)[0]
        == protocol.hospital("east").nominal_patients
    )
    assert reasons["east"] == []
    assert sorted(one.reason for one in reasons["north"]) == [
        "it is a copy of another file",
        "it is not a DICOM file",
        *["its series has missing slices"] * TILES,
    ]


def test_the_visitor_is_at_no_hospital(exported: Path) -> None:
    visitor = exported / "held-out/VISITOR-0001"
    series = {str(dcmread(path).SeriesInstanceUID) for path in visitor.rglob("IM*")}
    with (visitor / "findings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["series_uid"] for row in rows} == series
    assert {row["label"] for row in rows} == {"nodule", "non-nodule"}
    for path in (exported / "hospitals").glob("*/findings.csv"):
        assert not series & set(path.read_text().replace("\n", ",").split(","))


def test_what_is_there_is_not_written_over(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="choose another folder"):
        export(exported, 1, 4, 0, lambda _done, _total: None)
    with pytest.raises(RunError, match="expected at least 4 patients"):
        export(tmp_path, 1, 2, 0, lambda _done, _total: None)
