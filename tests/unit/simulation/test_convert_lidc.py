"""LIDC-IDRI's DICOM folder with LUNA16's candidates: whose series, at which hospital, at which place."""

import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.data.image_folder import count_patients, open_cohort
from common.tasks.nodule_classification.study import CtPatches, Images
from simulation.__main__ import app
from tests.unit.client.data.making_dicom import hu_of, save, slice_dataset, uid

PATCHES = Images(
    classes=("non-nodule", "nodule"),
    size=17,
    validation_fraction=0.01,  # no hospital of so few may have all on one side
    ct=CtPatches(size_mm=17, hu_low=-1000, hu_high=400),
)
ORIGIN = (-100.0, -80.0, 40.0)


def series(folder: Path, number: int, patient: str, manufacturer: str | None) -> str:
    """A CT series of air with one bright voxel, slice 2, row 8, column 10; its UID."""
    hu = np.full((5, 20, 24), -1000.0)
    hu[2, 8, 10] = 100 + number
    name = uid(6279, number)
    for n, plane in enumerate(hu):
        position = np.array(ORIGIN) + np.array((0, 0, 2 * n))
        ds = slice_dataset(plane, position, series=name, number=n + 1, patient=patient)
        ds.StudyDate = "20000101"
        if manufacturer is not None:
            ds.Manufacturer = manufacturer
        save(ds, folder / patient / f"study-{number}" / f"1-{n + 1:03d}.dcm")
    return name


@pytest.fixture
def tcia(tmp_path: Path) -> Path:
    """Six patients of three makers, one of them with a second series by another; and other files."""
    root, rows = tmp_path / "LIDC-IDRI", ["seriesuid,coordX,coordY,coordZ,class"]
    makers = [
        "GE MEDICAL SYSTEMS",
        "GE MEDICAL SYSTEMS",
        "Philips",
        "Philips",
        "SIEMENS",
        "SIEMENS",
    ]
    for n, maker in enumerate(makers):
        name = series(root, n, f"LIDC-IDRI-{n:04d}", maker)
        rows += [f"{name},-90,-72,44,1", f"{name},-96,-72,44,0"]
    second = series(root, 6, "LIDC-IDRI-0000", "TOSHIBA")
    rows += [f"{second},-90,-72,44,1", "1.2.3.999,0,0,0,1"]  # the last one was not downloaded
    series(root, 7, "LIDC-IDRI-0007", "TOSHIBA")  # no candidate
    x_ray = slice_dataset(np.zeros((4, 4)), ORIGIN, series=uid(6279, 0), number=99)
    x_ray.Modality = "DX"
    save(x_ray, root / "LIDC-IDRI-0000/x-ray/1-1.dcm")
    (root / "LIDC-IDRI-0000/158.xml").write_text("<LidcReadMessage/>")
    (tmp_path / "candidates_V2.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def convert(folder: Path, *more: str) -> tuple[int, str]:
    given = [folder / "LIDC-IDRI", folder / "out", "--candidates", folder / "candidates_V2.csv"]
    done = CliRunner().invoke(app, ["convert", "lidc", *map(str, given), *more])
    return done.exit_code, " ".join(done.output.split())


def test_hospitals_are_makers_and_patients_have_their_names(tcia: Path) -> None:
    code, said = convert(tcia)
    assert code == 0, said
    hospitals = sorted((tcia / "out/hospitals").iterdir())
    assert [h.name for h in hospitals] == ["ge-medical-systems", "philips", "siemens"]
    # The second series by TOSHIBA is of a patient of the first one's maker: one patient, one hospital.
    assert sum(map(sum, (count_patients(h, PATCHES) for h in hospitals))) == 6
    assert len(list(hospitals[0].iterdir())) == 3 + 1
    assert "1 of the table are not in the folder" in said
    cohort = open_cohort(hospitals[0], PATCHES)
    parts = (cohort.training, cohort.validation)
    centres = np.concatenate([hu_of(part.pixels)[:, 8, 8, 0] for part in parts])
    assert sorted(centres) == pytest.approx([-1000, -1000, 100, 101, 106], abs=0.1)


def test_files_are_linked_or_else_copied(tcia: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert convert(tcia)[0] == 0
    source = tcia / "LIDC-IDRI/LIDC-IDRI-0002/study-2/1-003.dcm"
    (target,) = (tcia / "out").glob(f"hospitals/philips/{uid(6279, 2)}/*.3.dcm")
    assert target.stat().st_ino == source.stat().st_ino

    def other_disk(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    target.unlink()
    kept = target.with_name(target.name.replace(".3.dcm", ".2.dcm")).stat().st_ino
    assert convert(tcia)[0] == 0
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_ino != source.stat().st_ino
    assert "7 series were there already" in convert(tcia)[1]
    assert target.with_name(target.name.replace(".3.dcm", ".2.dcm")).stat().st_ino == kept


def test_a_hash_of_the_patient_keeps_a_patient_together(tcia: Path) -> None:
    code, said = convert(tcia, "--hospitals", "2", "--negatives", "0")
    assert code == 0, said
    homes = {p.name: p.parent.name for p in tcia.glob(f"out/hospitals/*/{uid(6279)}.*")}
    assert len(homes) == 7
    assert homes[uid(6279, 0)] == homes[uid(6279, 6)]
    text = "".join(p.read_text() for p in tcia.glob("out/hospitals/*/findings.csv"))
    assert ",non-nodule," not in text
    assert "patient_id" not in text  # the reader takes it from the files


def test_a_table_that_names_only_a_patients_second_series_keeps_that_one(tcia: Path) -> None:
    table = tcia / "sites.csv"
    table.write_text(f"series_uid,hospital\n{uid(6279, 6)},north\n{uid(6279, 2)},east\n")
    code, said = convert(tcia, "--sites", str(table))
    assert code == 0, said
    found = {p.name: p.parent.name for p in tcia.glob(f"out/hospitals/*/{uid(6279)}.*")}
    assert found == {uid(6279, 6): "north", uid(6279, 2): "east"}
    table.write_text("series_uid,hospital\n1.2.3.998,north\n")
    code, said = convert(tcia, "--sites", str(table))
    assert code == 2
    assert "give a --sites table of these series" in said


def test_a_folder_without_these_series_is_refused(tcia: Path) -> None:
    (tcia / "candidates_V2.csv").write_text("seriesuid,coordX,coordY,coordZ,class\n9.9,0,0,0,1\n")
    code, said = convert(tcia)
    assert code == 2
    assert "expected CT series of the candidates" in said
