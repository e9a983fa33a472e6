"""LUNA16's own formats, made small: what lies at a place in mm lies in the centre of the patch."""

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
from typer.testing import CliRunner

from client.data.image_folder import open_cohort
from common.errors import DataError
from common.tasks.nodule_classification.study import CtPatches, Images
from simulation.__main__ import app
from simulation.convert.candidates import read_candidates
from simulation.convert.hospitals import by_hash, chosen_homes, read_sites
from simulation.convert.volumes import nifti_from_mhd

itk: Any = SimpleITK  # its functions have no types
UID = "1.3.6.1.4.1.14519.5.2.1.6279.6001"
IMAGES = Images(
    classes=("non-nodule", "nodule"), size=17, ct=CtPatches(size_mm=17, hu_low=-1000, hu_high=400)
)
AIR = -950
SHAPE = (20, 36, 40)  # slices, rows, columns
AT = (9, 15, 22)  # the bright voxel
TURN = np.deg2rad(12)
# Direction cosines in rows, as SimpleITK has them: column n is the direction of index n.
MATRICES = {
    "as most of LUNA16": np.eye(3),
    "as LUNA16's flipped series": np.diag([-1.0, -1, 1]),
    "feet first": np.diag([1.0, -1, -1]),
    "mirrored": np.diag([1.0, 1, -1]),
    "sagittal": np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0]]),
    "oblique": np.array(
        [
            [np.cos(TURN), -np.sin(TURN), 0],
            [np.sin(TURN), np.cos(TURN), 0],
            [0, 0, 1],
        ]
    ),
}
PLACES = [
    ((0.703125, 0.703125, 1.25), (-180.0, -171.7, -312.5)),
    ((0.7617, 0.7617, 2.5), (12.34, 0.0, 88.8)),
]


def voxels(bright: int) -> npt.NDArray[np.int16]:
    found = np.full(SHAPE, AIR, np.int16)
    found[AT] = bright
    return found


def by_itk(
    folder: Path,
    name: str,
    of: npt.NDArray[np.int16],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
    matrix: npt.NDArray[np.float64],
) -> list[tuple[float, ...]]:
    """Write a volume; where ITK says that the bright voxel and one of the air lie."""
    image = itk.GetImageFromArray(of)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(matrix.flatten().tolist())
    folder.mkdir(parents=True, exist_ok=True)
    itk.WriteImage(image, str(folder / f"{name}.mhd"))
    z, y, x = AT
    return [image.TransformIndexToPhysicalPoint(i) for i in ((x, y, z), (x - 12, y, z))]


def by_hand(folder: Path, name: str, of: npt.NDArray[np.int16], **changed: str) -> None:
    """A volume with the header that LUNA16's files have; `changed` are other values in it."""
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "-195.5 -180 -378.25",
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": "0.75 0.75 2",
        "DimSize": " ".join(map(str, reversed(of.shape))),
        "ElementType": "MET_SHORT",
        "ElementDataFile": f"{name}.raw",
    } | changed
    (folder / f"{name}.mhd").write_text("".join(f"{k} = {v}\n" for k, v in header.items()))
    (folder / f"{name}.raw").write_bytes(of.astype("<i2").tobytes())


def table(path: Path, rows: list[tuple[object, ...]], last: str = "class") -> Path:
    text = [f"seriesuid,coordX,coordY,coordZ,{last}", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\r\n".join(text) + "\r\n")
    return path


def convert(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["convert", "luna16", *map(str, arguments)])
    return done.exit_code, " ".join(done.output.split())


def stand_in(folder: Path, series: int = 3) -> Path:
    """A folder like LUNA16's, in two subsets; series n is bright with 100 + n HU."""
    rows: list[tuple[object, ...]] = []
    for n in range(series):
        name = f"{UID}.{n}"
        by_hand(folder / f"subset{n % 2}", name, voxels(100 + n))
        z, y, x = (v * s for v, s in zip(AT, (2, 0.75, 0.75), strict=True))
        mm = (x - 195.5, y - 180, z - 378.25)
        rows += [(name, *mm, 1), (name, mm[0] - 9, *mm[1:], 0)]
    table(folder / "candidates_V2.csv", rows)
    return folder


def test_a_place_in_mm_is_the_centre_of_its_patch(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = []
    bright = {}
    for number, (matrix, (spacing, origin)) in enumerate(
        (matrix, place) for matrix in MATRICES.values() for place in PLACES
    ):
        name = f"{UID}.{number}"
        bright[name] = 40 + 10 * number
        there, aside = by_itk(
            tmp_path / "in/subset3", name, voxels(bright[name]), spacing, origin, matrix
        )
        rows += [(name, *there, 1), (name, *aside, 0)]
    table(tmp_path / "in/candidates.csv", rows)
    code, said = convert(tmp_path / "in", tmp_path / "out")
    assert code == 0, said
    cohort = open_cohort(tmp_path / "out/hospitals/subset3", IMAGES)
    sides = [cohort.training, cohort.validation]
    pixels = np.concatenate([side.pixels for side in sides])[..., 0]
    labels = np.concatenate([side.labels for side in sides])
    hu = pixels / 65535 * 1400 - 1000
    of_nodules = hu[labels == 1]
    assert len(of_nodules) == len(MATRICES) * len(PLACES) == len(hu[labels == 0])
    # Places pass through 32-bit floats of mm, so a neighbour takes part by some millionths.
    assert sorted(of_nodules[:, 8, 8].round(1)) == pytest.approx(sorted(bright.values()), abs=0.2)
    assert (of_nodules[:, 8, 8] == of_nodules.max(axis=(1, 2))).all()
    assert hu[labels == 0][:, 8, 8] == pytest.approx(AIR, abs=0.1)


def test_luna16s_own_header_and_folders(tmp_path: Path) -> None:
    stand_in(tmp_path / "in")
    # Lung masks have the names of the volumes; a series without candidates is not converted.
    by_hand(tmp_path / "in/seg-lungs-LUNA16", f"{UID}.0", voxels(0))
    by_hand(tmp_path / "in/subset0", f"{UID}.77", voxels(0))
    code, said = convert(tmp_path / "in", tmp_path / "out", "--classes", "other", "lesion")
    assert code == 0, said
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/**/*.*"))
    assert files == [
        f"hospitals/subset0/{UID}.0.nii",
        f"hospitals/subset0/{UID}.2.nii",
        "hospitals/subset0/findings.csv",
        f"hospitals/subset1/{UID}.1.nii",
        "hospitals/subset1/findings.csv",
    ]
    images = IMAGES.model_copy(update={"classes": ("other", "lesion")})
    cohort = open_cohort(tmp_path / "out/hospitals/subset0", images)
    hu = np.concatenate([s.pixels for s in (cohort.training, cohort.validation)]) / 65535 * 1400
    # The place lies in the middle of a voxel here, and 17 pixels of 1 mm have a middle one.
    assert sorted(hu[:, 8, 8, 0].round(2) - 1000) == pytest.approx([AIR, AIR, 100, 102], abs=0.1)


def test_a_second_call_keeps_what_is_whole(tmp_path: Path) -> None:
    stand_in(tmp_path / "in")
    assert convert(tmp_path / "in", tmp_path / "out", "--hospitals", "1")[0] == 0
    volumes = sorted((tmp_path / "out/hospitals/hospital-001").glob("*.nii"))
    assert len(volumes) == 3
    whole, first = volumes[0].read_bytes(), [path.stat().st_ino for path in volumes]
    volumes[0].write_bytes(whole[:1000])
    code, said = convert(tmp_path / "in", tmp_path / "out", "--hospitals", "1")
    assert code == 0
    assert "2 series were there already" in said
    assert volumes[0].read_bytes() == whole
    again = [path.stat().st_ino for path in volumes]
    assert [a == b for a, b in zip(first, again, strict=True)] == [False, True, True]
    assert {path.stat().st_mode & 0o777 for path in volumes} == {0o600}


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path) -> None:
    stand_in(tmp_path / "in", series=2)
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(voxels(0).nbytes))
    wrong = {
        "outside": {"ElementDataFile": "../../secret.raw"},
        "absolute": {"ElementDataFile": str(secret)},
        "huge": {"DimSize": "4000 4000 4000"},
        "mask": {"ElementType": "MET_UCHAR"},
        "short": {"DimSize": "40 36 21"},
        "flat": {"NDims": "2", "DimSize": "40 720"},
        "no-sides": {"DimSize": "many"},
    }
    rows = [line.split(",") for line in (tmp_path / "in/candidates_V2.csv").read_text().split()[1:]]
    for name, changed in wrong.items():
        by_hand(tmp_path / "in/subset0", name, voxels(0), **changed)
        rows.append([name, "0", "0", "0", "0"])
    table(tmp_path / "in/candidates_V2.csv", [tuple(row) for row in rows])
    code, said = convert(tmp_path / "in", tmp_path / "out")
    assert code == 0, said
    assert f"{len(wrong)} are left out" in said
    for name in wrong:
        assert f"{name}.mhd: expected" in said
    assert "found '../../secret.raw'" in said
    assert "expected at most 2 GB, found 122070 MB" in said
    assert "found 40 x 36 x 20 of 8-bit unsigned integer" in said
    assert "expected 60480 bytes of voxels beside it, not compressed, found 57600" in said
    assert not list(tmp_path.glob("out/**/*unfinished*"))


def test_no_volume_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    code, said = convert(tmp_path / "in", tmp_path / "out")
    assert code == 2
    assert "expected candidates_V2.csv or candidates.csv" in said
    table(tmp_path / "in/candidates.csv", [(UID, 0, 0, 0, 1)])
    code, said = convert(tmp_path / "in", tmp_path / "out")
    assert code == 2
    assert "unpack at least one subset" in said


def test_a_table_of_other_series_and_a_place_that_cannot_be_written_are_named(
    tmp_path: Path,
) -> None:
    stand_in(tmp_path / "in")
    (sites := tmp_path / "sites.csv").write_text("series_uid,hospital\n1.2.3,north\n")
    code, said = convert(tmp_path / "in", tmp_path / "out", "--sites", sites)
    assert code == 2
    assert "give a --sites table of these series" in said
    code, said = convert(tmp_path / "in", sites)
    assert code == 2
    assert f"expected a folder that can be written at {sites}" in said


def test_without_simple_itk_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "in")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    code, said = convert(tmp_path / "in", tmp_path / "out")
    assert code == 2
    assert "install intramural[datasets]" in said


def test_negatives_are_drawn_evenly_and_whatever_their_order(tmp_path: Path) -> None:
    seed = random.Random().randrange(10**6)
    print("seed", seed)
    rows: list[tuple[object, ...]] = [("a", n, 0, 0, 0) for n in range(40)]
    rows += [("b", 0, 0, 0, 1), ("b", 1, 0, 0, 1), ("b", 2, 0, 0, 0)]
    path = table(tmp_path / "c.csv", rows)
    random.Random(seed).shuffle(rows)
    mixed = table(tmp_path / "mixed.csv", rows)
    drawn = np.zeros(40)
    for n in range(200):
        found = read_candidates(path, None, 10, seed + n)
        again = read_candidates(mixed, None, 10, seed + n)
        assert {s: set(of) for s, of in found.items()} == {s: set(of) for s, of in again.items()}
        assert [one.label for one in found["b"]] == [1, 1, 0]
        assert len(found["a"]) == 10
        drawn[[int(one.mm[0]) for one in found["a"]]] += 1
    # Binomial(200, 1/4): deviation 6.1, and beyond 5 of them for one of 40 by chance in 1 of 40,000.
    assert np.abs(drawn - 50).max() < 31
    assert drawn.std() > 1
    assert "a" not in read_candidates(path, None, 0, seed)


def test_annotations_take_the_place_of_the_detectors_nodules(tmp_path: Path) -> None:
    marks = table(tmp_path / "c.csv", [("a", 1, 1, 1, 1), ("a", 1.5, 1, 1, 1), ("a", 9, 9, 9, 0)])
    nodules = table(tmp_path / "a.csv", [("a", 1.25, 1, 1, 5.65)], last="diameter_mm")
    found = read_candidates(marks, nodules, 10, 0)["a"]
    assert [(one.mm[0], one.label, one.diameter_mm) for one in found] == [
        ("1.25", 1, "5.65"),
        ("9", 0, ""),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seriesuid,coordX,coordY,class\na,1,2,0\n", "expected the columns"),
        ("seriesuid,coordX,coordY,coordZ,class\na,1,2,here,0\n", "expected millimetres"),
        ("seriesuid,coordX,coordY,coordZ,class\na,1,2,nan,0\n", "expected millimetres"),
        ("seriesuid,coordX,coordY,coordZ,class\na,1,2,3,2\n", "expected 0 or 1"),
        ('seriesuid,coordX,coordY,coordZ,class\na,"1,2,3,2\n', "expected a table"),
    ],
)
def test_a_table_in_another_form_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_candidates(tmp_path / "c.csv", None, 10, 0)


def test_hospitals_by_table_and_by_hash(tmp_path: Path) -> None:
    flamby = tmp_path / "metadata.csv"
    flamby.write_text(
        "SeriesInstanceUID,Manufacturer,Split\na,GE MEDICAL SYSTEMS,train\nb,Philips,\n"
    )
    homes = chosen_homes(flamby, None)
    found = [homes(series, "subset0", series) for series in "abc"]
    assert [home and home.hospital for home in found] == ["ge-medical-systems", "philips", None]
    (own := tmp_path / "own.csv").write_text("series_uid,hospital,patient_id\na,x,P1\nb,x,P1\n")
    assert {home.patient_id for home in read_sites(own).values()} == {"P1"}
    own.write_text("series_uid,hospital\na,x\na,y\n")
    with pytest.raises(DataError, match="found it at two"):
        read_sites(own)
    with pytest.raises(DataError, match="found both"):
        chosen_homes(own, 3)
    counts = np.unique([by_hash(f"P{n}", 4) for n in range(2000)], return_counts=True)[1]
    assert counts.min() > 420  # of 500 expected, deviation 19
    assert len(counts) == 4


def test_a_volume_becomes_the_same_volume(tmp_path: Path) -> None:
    seed = random.Random().randrange(10**6)
    print("seed", seed)
    noise = np.random.default_rng(seed).integers(-3024, 3000, SHAPE).astype(np.int16)
    matrix = MATRICES["oblique"] @ MATRICES["feet first"]
    by_itk(tmp_path, "v", noise, (0.6, 0.7, 1.9), (-10.5, 3.25, 7.0), matrix)
    assert nifti_from_mhd(tmp_path / "v.mhd", tmp_path / "v.nii")
    before, after = (itk.ReadImage(str(tmp_path / name)) for name in ("v.mhd", "v.nii"))
    assert np.array_equal(itk.GetArrayFromImage(after), noise)
    for index in ((0, 0, 0), (39, 0, 0), (0, 35, 0), (0, 0, 19)):
        there = before.TransformIndexToPhysicalPoint(index)
        assert after.TransformIndexToPhysicalPoint(index) == pytest.approx(there, abs=1e-4)
