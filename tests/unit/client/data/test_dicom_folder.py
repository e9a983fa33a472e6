"""A hospital's folder of CT series: what loads, what is set aside and why, what is not kept."""

import gc
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from client.data import Cohort, ImagePatients, SetAside, scan
from client.data.dicom import read_slice
from client.data.image_folder import count_patients, open_cohort
from client.readers import hospital_folders
from common.errors import DataError
from common.tasks.nodule_classification.study import CtPatches, Images
from tests.unit.client.data.making_dicom import (
    IMAGES,
    SAGITTAL,
    Edit,
    hospital,
    hu_of,
    save,
    slice_dataset,
    uid,
    write_findings,
    write_series,
)

pytestmark = pytest.mark.slow  # seconds together

SHARED = Path(__file__).resolve().parents[4].parent / "shared" / "data"
REAL = SHARED / "ct-dicom"
TRAINS = IMAGES.model_copy(update={"validation_fraction": 1e-9})
FLAT = np.full((3, 20, 24), -500.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hospital(tmp_path_factory.mktemp("made"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "hospital"))


def opened(folder: Path, images: Images = IMAGES) -> tuple[Cohort[ImagePatients], list[SetAside]]:
    apart: list[SetAside] = []
    return open_cohort(folder, images, set_aside=apart), apart


def refusal(folder: Path, images: Images = IMAGES) -> str:
    with pytest.raises(DataError) as caught:
        open_cohort(folder, images)
    text = str(caught.value)
    assert "expected" in text, text
    assert "found" in text, text
    return text


def series_values(cohort: Cohort[ImagePatients]) -> list[int]:
    """Which of the hospital's series the patches are of, by their HU."""
    values = []
    for side in (cohort.training, cohort.validation):
        for patch in side.pixels:
            middle = hu_of(patch)[4:12, 4:12]
            assert np.ptp(middle) == 0
            values.append(round((float(middle[0, 0, 0]) + 900) / 10))
    return values


# --- what is read


def test_every_series_is_one_patch_of_its_patient(folder: Path) -> None:
    cohort, apart = opened(folder)
    assert apart == []
    assert sorted(series_values(cohort)) == list(range(16))
    for side, values in (
        (cohort.training, series_values(cohort)[: len(cohort.training.pixels)]),
        (cohort.validation, series_values(cohort)[len(cohort.training.pixels) :]),
    ):
        assert side.pixels.dtype == np.uint16
        assert side.pixels.shape[1:] == (16, 16, 1)
        assert side.labels.tolist() == [value % 2 for value in values]
        assert side.patient_of_view.tolist() == [n // 2 for n in range(len(values))]
        assert [value // 2 for value in values[::2]] == [value // 2 for value in values[1::2]]
    assert count_patients(folder, IMAGES) == (len(cohort.training), len(cohort.validation))
    assert len(cohort.validation) > 0


def test_findings_of_one_nodule_are_one_and_each_series_is_a_scan(folder: Path) -> None:
    cohort, _ = opened(folder)
    assert cohort.training.series is not None
    assert cohort.training.finding is not None
    count = len(cohort.training.labels)
    assert (
        np.unique(cohort.training.series).size == np.unique(cohort.training.finding).size == count
    )
    rows = (folder / "findings.csv").read_text().splitlines()[1:]
    text = ["series_uid,label,x,y,z,nodule_id"]
    for row in rows:  # two places in every series, of one nodule or of two
        of, label = row.split(",")
        text += [f"{of},{label},{x},0,0,{nodule}" for x, nodule in ((0, "a"), (1, "a"), (2, ""))]
    (folder / "findings.csv").write_text("\n".join(text) + "\n")
    cohort, apart = opened(folder)
    assert not apart
    side = cohort.training
    assert side.series is not None
    assert side.finding is not None
    assert len(side.labels) == 3 * count
    assert np.bincount(side.series)[np.unique(side.series)].tolist() == [3] * count
    assert np.unique(side.finding).size == 2 * count
    for series in np.unique(side.series):
        one, other, third = side.finding[side.series == series]
        assert one == other != third


def test_the_split_is_that_of_an_image_folder_with_the_same_ids(folder: Path) -> None:
    from client.data.split import is_validation_patient

    cohort, _ = opened(folder)
    validation = [n for n in range(8) if is_validation_patient(f"P{n:03d}", 0.2)]
    found = series_values(cohort)[len(cohort.training.pixels) :]
    assert sorted({value // 2 for value in found}) == validation


def test_hospitals_of_a_rehearsal_may_have_ct(tmp_path: Path, made: Path) -> None:
    flat = tmp_path / "north"
    write_series(flat, FLAT)
    write_findings(flat, "series_uid,label", f"{uid(1)},nodule")
    shutil.copytree(made, tmp_path / "south")
    assert list(hospital_folders("nodule-classification", tmp_path)) == ["north", "south"]


def test_a_manifest_goes_before_findings(folder: Path) -> None:
    (folder / "manifest.csv").write_text("image,label,patient_id\n")
    assert "expected images, found none" in refusal(folder)


def test_a_study_of_images_alone_says_so(folder: Path) -> None:
    assert "[images.ct]" in refusal(folder, IMAGES.model_copy(update={"ct": None}))


def test_a_place_may_be_given_in_four_ways(tmp_path: Path) -> None:
    """mm; row and column of a file; row, column and InstanceNumber of a series; none, the middle."""
    rng = np.random.default_rng(4)
    hu = np.rint(rng.uniform(-900, 300, (5, 31, 33)))
    spacing, origin, step = (0.8, 0.7), (-20.0, 30, 100), (0.0, 0, -2)
    files = write_series(tmp_path, hu, spacing=spacing, origin=origin, step=step)
    row, column, n = 14, 17, 3
    mm = (-20 + column * 0.7, 30 + row * 0.8, 100 - 2 * n)
    images = TRAINS.model_copy(update={"size": 17, "ct": CtPatches(size_mm=17 * 0.7)})
    other = f"{row - 3},{column},"

    def first_patch(header: str, place: str, apart: str) -> np.ndarray:
        write_findings(tmp_path, header, f"{place},nodule", f"{apart},non-nodule")
        training = open_cohort(tmp_path, images).training
        return hu_of(training.pixels[0])

    expected = first_patch(
        "series_uid,x,y,z,label", f"{uid(1)},{mm[0]},{mm[1]},{mm[2]}", f"{uid(1)},-10,40,96"
    )
    assert abs(expected[8, 8, 0] - hu[n, row, column]) < 0.6
    for header, place, apart in (
        (
            "series_uid,row,column,slice,label",
            f"{uid(1)},{row},{column},{n + 1}",
            f"{uid(1)},{other}1",
        ),
        (
            "file,row,column,label",
            f"{files[n].name},{row},{column}",
            f"./{files[n].name},{other[:-1]}",
        ),
    ):
        np.testing.assert_array_equal(first_patch(header, place, apart), expected)
    middle = first_patch("series_uid,x,y,z,label", f"{uid(1)},,,", f"{uid(1)},-10,40,96")
    assert abs(middle[8, 8, 0] - hu[2, 15, 16]) < 0.6
    of_file = first_patch("file,row,column,label", f"{files[n].name},,", f"{files[1].name},,")
    assert abs(of_file[8, 8, 0] - hu[n, 15, 16]) < 0.6


@pytest.mark.skipif(not REAL.is_dir(), reason="the real folder ct-dicom is not here")
def test_real_slices_become_patches_with_their_own_hu(tmp_path: Path) -> None:
    """Each file is a series of one slice; the patch in its middle, pixel by pixel, as stored."""
    folder = Path(shutil.copytree(REAL, tmp_path / "real"))
    files = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.dcm"))
    assert len(files) == 20
    spacings = {name: read_slice(folder / name).spacing[0] for name in files}
    spacing = spacings[files[0]]
    ct = CtPatches(size_mm=64 * spacing, hu_low=-1024, hu_high=3071)
    images = TRAINS.model_copy(update={"size": 64, "ct": ct})
    rows = [f"{name},{IMAGES.classes[n % 2]}" for n, name in enumerate(files)]
    write_findings(folder, "file,label", *rows)
    cohort, apart = opened(folder, images)
    assert apart == []
    assert len(cohort.training) == 10
    expected = read_slice(folder / files[0]).hu()[224:288, 224:288]
    assert any(
        np.abs(patch[..., 0] / 65535 * 4095 - 1024 - np.clip(expected, -1024, 3071)).max() < 0.1
        for patch in cohort.training.pixels
    )


# --- what is set aside


def text_file(folder: Path) -> str:
    (folder / "0" / "README.txt").write_text("Dear Ann")
    return "0/README.txt"


def link_out(folder: Path) -> str:
    outside = folder.parent / "outside"
    save(slice_dataset(FLAT[0], (0, 0, 0)), outside)
    (folder / "0" / "link").symlink_to(outside)
    return "0/link"


def folder_out(folder: Path) -> str:
    (folder / "1" / "etc").symlink_to("/etc")
    return "1/etc"


def link_inside(folder: Path) -> str:
    (folder / "0" / "link").symlink_to(folder / "findings.csv")
    return "0/link"


def loop(folder: Path) -> str:
    (folder / "0" / "loop").symlink_to(folder)
    return "0/loop"


def device(folder: Path) -> str:
    (folder / "zero").symlink_to("/dev/zero")
    return "zero"


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return "pipe"


def copy(folder: Path) -> str:
    source = min(path for path in (folder / "0" / "study0").iterdir())
    shutil.copy(source, folder / "0" / "study0" / "z")
    return "0/study0/z"


FILES: dict[str, tuple[Callable[[Path], str], str]] = {
    "text": (text_file, "it is not a DICOM file"),
    "link out": (link_out, "it is a link that leads out of the folder"),
    "folder out": (folder_out, "it is a link that leads out of the folder"),
    "link inside": (link_inside, "it is a link, a pipe or a device"),
    "loop": (loop, "it is a link, a pipe or a device"),
    "device": (device, "it is a link that leads out of the folder"),
    "pipe": (pipe, "it is a link, a pipe or a device"),
    "copy": (copy, "it is a copy of another file"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_set_aside_and_all_others_load(folder: Path, name: str) -> None:
    expected = series_values(open_cohort(folder, IMAGES))
    damage, why = FILES[name]
    what = damage(folder)
    cohort, apart = opened(folder)
    assert apart == [SetAside(what, why)]
    assert series_values(cohort) == expected


def test_hidden_files_are_passed_over(folder: Path) -> None:
    (folder / ".DS_Store").touch()
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").touch()
    assert opened(folder)[1] == []


def rewritten(number: int, edit: Edit) -> Callable[[Path], object]:
    """Slice `number` (1..3) of series 0 is written anew after `edit`."""

    def damage(folder: Path) -> None:
        import pydicom

        for path in (folder / "0" / "study0").iterdir():
            ds = pydicom.dcmread(path)
            if ds.InstanceNumber == number:
                edit(ds)
                ds.save_as(path, enforce_file_format=True)

    return damage


def changed(**values: object) -> Edit:
    def edit(ds: Dataset) -> None:
        for name, value in values.items():
            setattr(ds, name, value)

    return edit


def lose_middle(folder: Path) -> None:
    rewritten(2, changed(Modality="MR"))(folder)


def longer(folder: Path) -> None:
    """Series 0 with seven slices, of which the fifth is a file that ends early."""
    shutil.rmtree(folder / "0" / "study0")
    files = write_series(
        folder / "0" / "study0", np.full((7, 20, 24), -900.0), series=uid(9, 0), patient="P000"
    )
    files[4].write_bytes(files[4].read_bytes()[:-10])


SERIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing slice": (longer, "its series has missing slices"),
    "uneven": (
        rewritten(2, changed(ImagePositionPatient=[0, 0, 1.2])),
        "its series has slices at uneven distances",
    ),
    "one place": (
        rewritten(2, changed(ImagePositionPatient=[0, 0, 2])),
        "its series has two slices at one place",
    ),
    "mixed patients": (
        rewritten(2, changed(PatientID="P001")),
        "its series has slices of several patients",
    ),
    "orientations": (
        rewritten(2, changed(ImageOrientationPatient=list(SAGITTAL))),
        "its series has slices of several orientations",
    ),
    "spacings": (
        rewritten(2, changed(PixelSpacing=[1, 1.1])),
        "its series has slices of several pixel spacings",
    ),
    "sizes": (
        rewritten(2, changed(Rows=10, Columns=48)),
        "its series has slices of several sizes",
    ),
    "no series": (
        lambda folder: shutil.rmtree(folder / "0" / "study0"),
        "its series is not among the usable files",
    ),
    "no patient": (
        lambda folder: [rewritten(n, changed(PatientID=""))(folder) for n in (1, 2, 3)],
        "it has no patient id, nor have its files",
    ),
}


@pytest.mark.parametrize("name", SERIES)
def test_the_finding_of_a_damaged_series_is_set_aside_and_all_others_load(
    folder: Path, name: str
) -> None:
    damage, why = SERIES[name]
    damage(folder)
    cohort, apart = opened(folder)
    assert [one for one in apart if "findings" in one.what] == [SetAside("findings.csv row 2", why)]
    assert sorted(series_values(cohort)) == list(range(1, 16))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (f"{uid(9, 0)},500,0,0,nodule", "its place is outside of its series"),
        (f"{uid(9, 0)},0,0,2.6,nodule", "its place is outside of its series"),
        (f"{uid(8)},0,0,0,nodule", "its series is not among the usable files"),
        (f"{uid(9, 1)},,,,nodule", "it is a copy of another row"),
    ],
)
def test_a_finding_that_has_no_patch_is_set_aside(folder: Path, row: str, why: str) -> None:
    rows = [f"{uid(9, n)},,,,{IMAGES.classes[n % 2]}" for n in range(16)]
    write_findings(folder, "series_uid,x,y,z,label", *rows, row)
    cohort, apart = opened(folder)
    assert apart == [SetAside("findings.csv row 18", why)]
    assert sorted(series_values(cohort)) == list(range(16))


def test_a_single_slice_has_no_neighbours_and_only_its_own_plane(folder: Path) -> None:
    single = FLAT[:1]
    write_series(folder / "a", single, series=uid(7), patient="P001")
    write_series(folder / "b", single, series=uid(8), patient="P001", orientation=SAGITTAL)
    with (folder / "findings.csv").open("a") as file:
        file.write(f"{uid(7)},nodule\n{uid(8)},nodule\n")
    _, apart = opened(folder)
    why = "its series has one slice, and that is not axial"
    assert apart == [SetAside("findings.csv row 19", why)]
    ct = CtPatches(size_mm=16, slices=3, slice_distance_mm=1)
    cohort, apart = opened(folder, IMAGES.model_copy(update={"ct": ct, "channels": 3}))
    why = "its series has one slice, and the study needs its neighbours too"
    assert {one.what for one in apart} == {f"findings.csv row {n}" for n in range(4, 20)}
    assert {one.reason for one in apart} == {why}
    assert cohort.training.pixels.shape[-1] == 3


def test_beyond_the_last_slice_the_plane_of_the_finding_comes_again(tmp_path: Path) -> None:
    hu = np.stack([np.full((20, 24), value) for value in (-900.0, -600, -300)])
    write_series(tmp_path, hu)
    write_findings(
        tmp_path,
        "series_uid,x,y,z,label",
        f"{uid(1)},12,10,0,nodule",
        f"{uid(1)},12,10,1,non-nodule",
    )
    ct = CtPatches(size_mm=16, slices=3, slice_distance_mm=1)
    found = open_cohort(tmp_path, TRAINS.model_copy(update={"ct": ct, "channels": 3})).training
    middle = np.rint(hu_of(found.pixels)[:, 8, 8])
    assert middle.tolist() == [[-900, -900, -600], [-900, -600, -300]]


def test_outside_of_the_image_is_air(tmp_path: Path) -> None:
    write_series(tmp_path, FLAT)
    write_findings(
        tmp_path, "series_uid,x,y,z,label", f"{uid(1)},0,0,1,nodule", f"{uid(1)},9,9,1,non-nodule"
    )
    found = np.rint(hu_of(open_cohort(tmp_path, TRAINS).training.pixels[0, ..., 0]))
    assert (found[7:, 7:] == -500).all()  # to the edge of the outermost pixels
    assert (found[:7] == -1000).all()
    assert (found[:, :7] == -1000).all()


# --- what ends it


def rows_of(*rows: str) -> Callable[[Path], object]:
    return lambda folder: write_findings(folder, *rows)


S = uid(9, 0)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (rows_of("series_uid,class"), ["'label'", "'series_uid', 'class'"]),
        (rows_of("series_uid,label,label"), ["'label'", "found 2"]),
        (rows_of("series_uid,file,label"), ["one of series_uid and file"]),
        (rows_of("series_uid,x,y,label"), ["give a place in one way"]),
        (rows_of("series_uid,row,column,label"), ["give a place in one way"]),
        (rows_of("file,row,column,slice,label"), ["give a place in one way"]),
        (rows_of("file,row,column,x,y,z,label"), ["give a place in one way"]),
        (rows_of(""), ["an empty file"]),
        (rows_of("series_uid,label"), ["expected findings in usable CT series, found none"]),
        (rows_of("series_uid,label", f"{S},benign"), ["row 2", "non-nodule, nodule", "'benign'"]),
        (rows_of("series_uid,label", ",nodule"), ["row 2", "expected a series or a file"]),
        (rows_of("series_uid,label", f"{S}"), ["row 2", "fewer"]),
        (rows_of("series_uid,label", f'"{S},nodule'), ["comma-separated"]),
        (rows_of("series_uid,x,y,z,label", f"{S},1,2,,nodule"), ["row 2", "'1', '2', ''"]),
        (rows_of("series_uid,x,y,z,label", f"{S},1,2,nan,nodule"), ["row 2", "expected numbers"]),
        (
            rows_of("series_uid,row,column,slice,label", f"{S},1,2,2.7,nodule"),
            ["row 2", "a whole number in slice", "'2.7'"],
        ),
        (rows_of("series_uid,label", f"{S},nodule"), ["usable ones of nodule only"]),
        (
            rows_of("series_uid,label", f"{uid(8)},nodule"),
            ["found none", "1 files and findings", "not among the usable files"],
        ),
        (
            rows_of(
                "series_uid,x,y,z,label,patient_id",
                f"{S},9,9,1,nodule,A",
                f"{S},8,9,1,non-nodule,B",
            ),
            ["row 3", "one patient", "row 2"],
        ),
        (
            lambda folder: (folder / "findings.csv").write_bytes(b"series_uid,label\nM\xfcller,x"),
            ["UTF-8"],
        ),
        (
            lambda folder: os.truncate(folder / "findings.csv", (64 << 20) + 1),
            ["at most 64 MB"],
        ),
    ],
)
def test_refused_in_one_sentence(
    folder: Path, damage: Callable[[Path], object], words: list[str]
) -> None:
    damage(folder)
    text = refusal(folder)
    for word in words:
        assert word in text, text


def test_findings_that_are_a_pipe_or_a_link_out(folder: Path) -> None:
    (folder / "findings.csv").unlink()
    os.mkfifo(folder / "findings.csv")
    assert "regular" in refusal(folder)
    (folder / "findings.csv").unlink()
    (folder / "findings.csv").symlink_to("/etc/passwd")
    assert "leads out" in refusal(folder)


def test_too_many_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_FILES", 19)
    assert "at most 19 files" in refusal(folder)


def test_progress_is_told(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    open_cohort(folder, IMAGES, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 20 + 16) for n in range(1, 37)]


# --- what is not kept (THREATS.md T13, T15)

PHI = "Zyxwvut"  # in every name, date, number and comment of a patient, and in private elements


def full_of_names(ds: Dataset) -> None:
    """Some 300 elements that no reader needs."""
    for keyword in ("PatientName", "PatientAddress", "OtherPatientNames", "ReferringPhysicianName"):
        setattr(ds, keyword, f"{PHI}^{keyword}")
    ds.StudyDescription = ds.PatientComments = ds.InstitutionName = f"{PHI} Hospital"
    ds.AccessionNumber = ds.StationName = PHI
    ds.add_new(0x00100030, "DA", PHI)  # the birth date is none: pydicom would warn and quote it
    ds.file_meta.SourceApplicationEntityTitle = PHI
    ds.preamble = PHI.encode().ljust(128, b"\0")
    ds.PatientID = f"{PHI}-{ds.PatientID}"
    nested = Dataset()
    nested.PatientName = f"{PHI}^Nested"
    ds.RequestAttributesSequence = [nested]
    for group in (0x0009, 0x0019, 0x0021, 0x0029, 0x0045):
        block = ds.private_block(group, f"{PHI} {group}", create=True)
        for n in range(60):
            block.add_new(n, "LO", f"{PHI} private {group} {n}")


def held(needle: str) -> set[str]:
    """What live objects hold the text, as text or bytes; said without it, to be held by none."""
    gc.collect()
    return {
        f"{type(holder).__name__}: {str(part).replace(needle, '<>')[:200]}"
        for holder in gc.get_objects()
        for part in gc.get_referents(holder)
        if (type(part) is str and needle in part)
        or (type(part) is bytes and needle.encode() in part)
    }


def names_of_a_patient(tmp_path: Path) -> Path:
    for n in range(4):
        ds = slice_dataset(FLAT[0], (0, 0, 0), series=uid(n), patient=f"{n // 2}")
        full_of_names(ds)
        assert len(ds) > 300
        ds.save_as(tmp_path / f"{n}", enforce_file_format=True)
    (tmp_path / PHI).touch()
    rows = (f"{uid(n)},{IMAGES.classes[n % 2]}" for n in range(4))
    write_findings(tmp_path, "series_uid,label", *rows)
    return tmp_path


def test_nothing_of_a_header_lives_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    names_of_a_patient(tmp_path)
    caplog.set_level(logging.DEBUG)
    here = held(PHI)  # this module's own constants
    cohort = open_cohort(tmp_path, TRAINS)
    assert len(cohort.training) == 2
    assert held(PHI) - here == set()
    assert PHI.encode() not in pickle.dumps(cohort)
    assert uid(1).encode() not in pickle.dumps(cohort)
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_of_a_read_header_only_the_allowed_is_there(tmp_path: Path) -> None:
    names_of_a_patient(tmp_path)
    here = held(PHI)
    one = read_slice(tmp_path / "0")
    assert one.patient_id == f"{PHI}-0"
    assert pickle.dumps(one).count(PHI.encode()) == 1  # the patient id, to group and to split
    assert held(PHI) - here == {"CtSlice: <>-0"}  # so what is held is found
