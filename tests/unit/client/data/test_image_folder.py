"""One hospital's folder: what is read, what is refused and in which words, what is not kept."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.data import Cohort, ImagePatients
from client.data.image_folder import count_patients, open_cohort
from client.readers import hospital_folders
from common.errors import DataError
from common.tasks.nodule_classification.study import Images

SHARED = Path(__file__).resolve().parents[4].parent / "shared" / "data"
LUNA = SHARED / "luna16-train"
IMAGES = Images(classes=("non-nodule", "nodule"), size=16)

real = pytest.mark.skipif(not LUNA.is_dir(), reason="the real folder luna16-train is not here")


def grey(value: int, size: int = 16) -> Image.Image:
    return Image.fromarray(np.full((size, size), value, np.uint8))


def hospital(folder: Path, patients: int = 12, columns: str = "image,label,patient_id") -> Path:
    """A hospital with a manifest: each patient has one image of either class, grey = row."""
    rows = [columns]
    for number in range(2 * patients):
        label = IMAGES.classes[number % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        grey(number).save(folder / label / f"{number}.png")
        rows.append(f"{label}/{number}.png,{label},P{number // 2:03d}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def edit(folder: Path, row: int, line: str) -> None:
    """Row `row` of the manifest, counted as a spreadsheet does, becomes `line`."""
    lines = (folder / "manifest.csv").read_text().splitlines()
    lines[row - 1 : row] = [line]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")


def refusal(folder: Path, pattern: str | None = None, images: Images = IMAGES) -> str:
    with pytest.raises(DataError) as caught:
        open_cohort(folder, images, pattern)
    text = str(caught.value)
    assert "expected" in text, text
    assert "found" in text, text
    return text


# --- what is read


def test_every_image_of_a_patient_is_on_the_patients_side(tmp_path: Path) -> None:
    cohort = open_cohort(hospital(tmp_path), IMAGES)
    seen = []
    for side in (cohort.training, cohort.validation):
        assert side.pixels.shape == (2 * len(side), 16, 16, 1)
        for p in range(len(side)):
            values = side.pixels[side.of(p), 0, 0, 0].tolist()
            assert values[0] // 2 == values[1] // 2
            seen += values
        assert side.labels.tolist() == [v % 2 for v in side.pixels[:, 0, 0, 0].tolist()]
    assert sorted(seen) == list(range(24))
    assert count_patients(tmp_path, IMAGES) == (len(cohort.training), len(cohort.validation))


def test_series_and_nodules_of_a_manifest_become_ordinals(tmp_path: Path) -> None:
    """Image n is of series S<n // 4>, so of two patients; the nodules of P000 are one, twice told."""
    assert open_cohort(hospital(tmp_path / "a"), IMAGES).training.series is None
    folder = hospital(tmp_path / "b", columns="image,label,patient_id,series_uid,nodule_id")
    header, *rows = (folder / "manifest.csv").read_text().splitlines()
    nodules = {0: "-1", 1: "7", 2: "7", 3: "7"}
    told = [f"{row},S{n // 4},{nodules.get(n, '')}" for n, row in enumerate(rows)]
    (folder / "manifest.csv").write_text("\n".join([header, *told]) + "\n")
    cohort = open_cohort(folder, IMAGES)
    for side in (cohort.training, cohort.validation):
        assert side.series is not None
        assert side.finding is not None
        number = side.pixels[:, 0, 0, 0].astype(int)  # the row
        # A series of two patients is two: a patient's images stay together whatever a name says.
        assert {(n // 2, s) for n, s in zip(number, side.series, strict=True)} == {
            (n // 2, s) for n, s in zip(number[::2], side.series[::2], strict=True)
        }
        shared = [f for n, f in zip(number, side.finding, strict=True) if n in (2, 3)]
        assert len(set(shared)) == min(1, len(shared))
        others = [f for n, f in zip(number, side.finding, strict=True) if n not in (2, 3)]
        assert len(set(others)) == len(others)
        assert not set(shared) & set(others)
    edit(folder, 5, f"{rows[3]},,7")  # a row that names no series
    cohort = open_cohort(folder, IMAGES)
    for side in (cohort.training, cohort.validation):
        assert (side.series is None) == (3 in side.pixels[:, 0, 0, 0])


def test_patients_are_in_the_order_of_their_ids_whatever_the_rows(tmp_path: Path) -> None:
    expected = open_cohort(hospital(tmp_path / "a"), IMAGES)
    folder = hospital(tmp_path / "b")
    header, *rows = (folder / "manifest.csv").read_text().splitlines()
    (folder / "manifest.csv").write_text("\n".join([header, *reversed(rows)]))
    found = open_cohort(folder, IMAGES)
    for one, other in (
        (expected.training, found.training),
        (expected.validation, found.validation),
    ):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.offsets, other.offsets)
        first_of_patient = one.pixels[one.offsets[:-1], 0, 0, 0] // 2
        assert (np.diff(first_of_patient.astype(int)) > 0).all()


def test_column_split_overrides_the_hash(tmp_path: Path) -> None:
    hospital(tmp_path, patients=4, columns="image,label,patient_id,split")
    text = (tmp_path / "manifest.csv").read_text()
    for n, side in enumerate(["training", "validation", "validation", "training"]):
        text = text.replace(f",P{n:03d}\n", f",P{n:03d},{side}\n")
    (tmp_path / "manifest.csv").write_text(text)
    cohort = open_cohort(tmp_path, IMAGES)
    # By patient, then path: "nodule/..." before "non-nodule/...".
    assert cohort.training.pixels[:, 0, 0, 0].tolist() == [1, 0, 7, 6]
    assert cohort.validation.pixels[:, 0, 0, 0].tolist() == [3, 2, 5, 4]
    assert count_patients(tmp_path, IMAGES) == (2, 2)


def test_spreadsheet_habits_are_understood(tmp_path: Path) -> None:
    """Byte-order mark, CRLF, blank rows, blanks around values, extra columns in any order."""
    hospital(tmp_path, patients=1)
    rows = ["patient_id,note,label,image", ' A ,x,nodule," nodule/1.png "', ""]
    rows += ["A,y,non-nodule,non-nodule/0.png"]
    (tmp_path / "manifest.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    assert sum(count_patients(tmp_path, _fraction_that_trains())) == 1


def _fraction_that_trains() -> Images:
    return IMAGES.model_copy(update={"validation_fraction": 1e-9})


def test_class_folders_with_the_patient_in_the_file_name(tmp_path: Path) -> None:
    with_manifest = open_cohort(hospital(tmp_path / "a"), IMAGES)
    for number in range(24):
        label = IMAGES.classes[number % 2]
        (tmp_path / "b" / label).mkdir(parents=True, exist_ok=True)
        grey(number).save(tmp_path / "b" / label / f"P{number // 2:03d}_{number}.png")
        (tmp_path / "b" / label / ".DS_Store").touch()
    (tmp_path / "b" / "README.txt").touch()
    found = open_cohort(tmp_path / "b", IMAGES, r"(?P<patient>P\d+)_\d+")
    np.testing.assert_array_equal(found.training.pixels, with_manifest.training.pixels)
    np.testing.assert_array_equal(found.validation.labels, with_manifest.validation.labels)


def test_four_patients_may_have_no_validation_side(tmp_path: Path) -> None:
    cohort = open_cohort(hospital(tmp_path, patients=4), _fraction_that_trains())
    assert len(cohort.training) == 4
    assert len(cohort.validation) == 0
    assert cohort.validation.views(np.empty(0, np.int64)).shape == (0, 1, 16, 16)


def test_a_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    hospital(tmp_path)
    (tmp_path / "nodule/1.png").rename(tmp_path / "kept.png")
    (tmp_path / "nodule/1.png").symlink_to(tmp_path / "kept.png")
    assert sum(count_patients(tmp_path, IMAGES)) == 12
    assert len(open_cohort(tmp_path, IMAGES).training) > 0


@pytest.mark.parametrize("first", [8, 16])
def test_mixed_depths_become_16_bit_exactly(tmp_path: Path, first: int) -> None:
    """The 16-bit image comes before or after the 8-bit ones of its side."""
    hospital(tmp_path)
    images = _fraction_that_trains()
    only_8 = open_cohort(tmp_path, images).training
    at = 0 if first == 16 else 23
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 251
    Image.fromarray(deep).save(tmp_path / IMAGES.classes[at % 2] / f"{at}.png")
    mixed = open_cohort(tmp_path, images).training
    assert mixed.pixels.dtype == np.uint16
    assert mixed.scale == 65535
    is_deep = np.array([np.array_equal(image[:, :, 0], deep) for image in mixed.pixels])
    assert is_deep.sum() == 1
    others = np.flatnonzero(~is_deep)
    np.testing.assert_array_equal(
        mixed.views(others).numpy(), only_8.views(others).numpy()
    )  # bit for bit: v / 255 = 257 v / 65535


# --- what is refused


Break = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(
            lambda f: edit(f, 1, "image,label,patient"),
            ["manifest.csv", "'patient_id'", "'image', 'label', 'patient'"],
            id="missing column",
        ),
        pytest.param(
            lambda f: edit(f, 1, "image,label,patient_id,label"),
            ["'label'", "found 2"],
            id="column twice",
        ),
        pytest.param(
            lambda f: (f / "manifest.csv").write_text(""), ["empty file"], id="empty manifest"
        ),
        pytest.param(
            lambda f: (f / "manifest.csv").write_text("image,label,patient_id\n"),
            ["expected images, found none"],
            id="header only",
        ),
        pytest.param(
            lambda f: edit(f, 4, "nodule/1.png,nodule"), ["row 4", "fewer"], id="short row"
        ),
        pytest.param(
            lambda f: edit(f, 4, "a,b,nodule/1.png,nodule,P"), ["row 4", "more"], id="long row"
        ),
        pytest.param(
            lambda f: edit(f, 4, '"nodule/1.png,nodule,P'), ["comma-separated"], id="open quote"
        ),
        pytest.param(
            lambda f: edit(f, 4, "x" * 200_000 + ",nodule,P"), ["comma-separated"], id="huge value"
        ),
        pytest.param(
            lambda f: (f / "manifest.csv").write_bytes(b"image,label,patient_id\nM\xfcller,a,b\n"),
            ["UTF-8"],
            id="latin-1 manifest",
        ),
        pytest.param(
            lambda f: edit(f, 5, "nodule/3.png,benign,P001"),
            ["row 5", "non-nodule, nodule", "'benign'"],
            id="unknown class",
        ),
        pytest.param(
            lambda f: edit(f, 5, "nodule/3.png,nodule,  "), ["row 5", "patient id"], id="no patient"
        ),
        pytest.param(
            lambda f: edit(f, 5, "nodule/1.png,nodule,P009"),
            ["row 5", "row 3", "once"],
            id="image twice",
        ),
        pytest.param(
            lambda f: edit(f, 5, "nodule/nowhere.png,nodule,P"),
            ["row 5", "nodule/nowhere.png", "No such file"],
            id="no such image",
        ),
        pytest.param(
            lambda f: edit(f, 5, "nodule/\0.png,nodule,P"), ["row 5", "null byte"], id="null byte"
        ),
        pytest.param(
            lambda f: edit(f, 5, f"{'n' * 5000}.png,nodule,P"),
            ["row 5", "too long"],
            id="long name",
        ),
        pytest.param(lambda f: edit(f, 5, ",nodule,P"), ["row 5", "relative"], id="no image name"),
        pytest.param(
            lambda f: edit(f, 5, "/etc/passwd,nodule,P"), ["row 5", "/etc/passwd"], id="absolute"
        ),
        pytest.param(
            lambda f: edit(f, 5, "nodule/../../x.png,nodule,P"), ["row 5", "'..'"], id="dots"
        ),
        pytest.param(lambda f: edit(f, 5, "nodule,nodule,P"), ["row 5", "regular"], id="a folder"),
        pytest.param(
            lambda f: (f / "nodule/3.png").write_text("not an image"),
            ["row 5", "3.png", "whole PNG, JPEG or TIFF"],
            id="not an image",
        ),
        pytest.param(
            lambda f: (f / "nodule/3.png").write_bytes(b""), ["row 5", "3.png"], id="empty image"
        ),
        pytest.param(
            lambda f: grey(3, size=15).save(f / "nodule/3.png"),
            ["row 5", "15 x 15", "fit = 'resize'"],
            id="too small",
        ),
        pytest.param(
            lambda f: Image.new("L", (8001, 8000)).save(f / "nodule/3.png"),
            ["row 5", "25 megapixels", "8001 x 8000"],
            id="too large",
        ),
        pytest.param(
            lambda f: Image.new("1", (10_000, 10_000)).save(f / "nodule/3.png"),
            ["row 5", "25 megapixels"],
            id="bomb warning",
        ),
        pytest.param(
            lambda f: Image.new("1", (20_000, 20_000)).save(f / "nodule/3.png"),
            ["row 5", "25 megapixels"],
            id="bomb error",
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_refused_with_file_and_row(tmp_path: Path, damage: Break, words: list[str]) -> None:
    damage(hospital(tmp_path))
    text = refusal(tmp_path)
    for word in words:
        assert word in text


@pytest.mark.filterwarnings("default")
def test_too_large_is_refused_where_pillow_only_warns(tmp_path: Path) -> None:
    hospital(tmp_path)
    Image.new("1", (10_000, 10_000)).save(tmp_path / "nodule/3.png")
    with pytest.warns(Image.DecompressionBombWarning):
        assert "25 megapixels" in refusal(tmp_path)


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    hospital(tmp_path)
    (tmp_path / "nodule/3.png").unlink()
    os.mkfifo(tmp_path / "nodule/3.png")
    text = refusal(tmp_path)
    assert "row 5" in text
    assert "regular file" in text


@pytest.mark.parametrize("name", ["nodule/3.png", "manifest.csv"])
def test_a_link_that_leads_out(tmp_path: Path, name: str) -> None:
    folder = hospital(tmp_path / "ours")
    theirs = hospital(tmp_path / "theirs")
    (folder / name).unlink()
    (folder / name).symlink_to(theirs / name)
    assert "leads out" in refusal(folder)


def test_a_link_to_a_folder_outside(tmp_path: Path) -> None:
    folder = hospital(tmp_path / "ours")
    theirs = hospital(tmp_path / "theirs")
    (folder / "x").symlink_to(theirs / "nodule")
    edit(folder, 5, "x/3.png,nodule,P001")
    text = refusal(folder)
    assert "leads out" in text
    assert "row 5" in text


@pytest.mark.parametrize("name", ["nodule/3.png", "manifest.csv"])
def test_a_link_that_leads_to_itself(tmp_path: Path, name: str) -> None:
    hospital(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / name)
    assert "symbolic links" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_manifest_that_is_no_file(tmp_path: Path, kind: str) -> None:
    (os.mkfifo if kind == "pipe" else os.mkdir)(tmp_path / "manifest.csv")
    assert "regular file" in refusal(tmp_path)


def test_the_same_image_by_a_link(tmp_path: Path) -> None:
    hospital(tmp_path)
    (tmp_path / "again.png").symlink_to(tmp_path / "nodule/1.png")
    edit(tmp_path, 5, "again.png,nodule,P009")
    assert "once" in refusal(tmp_path)


def test_a_patient_on_both_sides(tmp_path: Path) -> None:
    hospital(tmp_path, patients=2, columns="image,label,patient_id,split")
    rows = (tmp_path / "manifest.csv").read_text().splitlines()
    sides = ["", ",training", ",training", ",validation", ",training"]
    (tmp_path / "manifest.csv").write_text("\n".join(map(str.__add__, rows, sides)))
    text = refusal(tmp_path)
    assert "row 5" in text
    assert "row 4" in text
    assert "P001" not in text


@pytest.mark.parametrize("value", ["", "test", "Training"])
def test_column_split_knows_two_words(tmp_path: Path, value: str) -> None:
    hospital(tmp_path, columns="image,label,patient_id,split")
    edit(tmp_path, 2, f"nodule/1.png,nodule,P000,{value}")
    text = refusal(tmp_path)
    assert "training or validation" in text
    assert "row 2" in text


def test_one_class_only(tmp_path: Path) -> None:
    hospital(tmp_path)
    lines = (tmp_path / "manifest.csv").read_text().splitlines()
    kept = [line for line in lines if "non-nodule" not in line]
    (tmp_path / "manifest.csv").write_text("\n".join(kept))
    assert "found only nodule" in refusal(tmp_path)


def test_no_training_patient(tmp_path: Path) -> None:
    all_for_validation = IMAGES.model_copy(update={"validation_fraction": 1 - 1e-9})
    text = refusal(hospital(tmp_path), images=all_for_validation)
    assert "at least one training patient" in text
    with pytest.raises(DataError, match="at least one training patient"):
        count_patients(tmp_path, all_for_validation)


def test_no_folder(tmp_path: Path) -> None:
    assert "nowhere" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "found the file" in refusal(tmp_path / "file")


@pytest.mark.parametrize("name", [".", "manifest.csv", "nodule", "nodule/3.png"])
def test_without_permission(tmp_path: Path, name: str) -> None:
    hospital(tmp_path)
    (tmp_path / name).chmod(0)
    try:
        if os.access(tmp_path / name, os.R_OK):
            pytest.skip("this user (root?) may read everything")
        assert "ermission" in refusal(tmp_path)
    finally:
        (tmp_path / name).chmod(0o700)


def test_no_manifest_and_no_pattern(tmp_path: Path) -> None:
    (hospital(tmp_path) / "manifest.csv").unlink()
    text = refusal(tmp_path)
    assert "image, label, patient_id" in text
    assert "patient_id_pattern" in text


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(?P<patient>", "regular expression"),
        (r"(\d+)", "(?P<patient>...)"),
        (r"(?P<patient>\d)", "whole stem"),  # 10.png: the first digit alone is another patient
        (r"(?P<patient>x)?\d+", "a patient in it"),
    ],
)
def test_patterns_that_name_no_patient(tmp_path: Path, pattern: str, words: str) -> None:
    (hospital(tmp_path) / "manifest.csv").unlink()
    assert words in refusal(tmp_path, pattern)


def test_class_folders_hold_images_of_known_classes_only(tmp_path: Path) -> None:
    (hospital(tmp_path) / "manifest.csv").unlink()
    (tmp_path / "nodule" / "scan.dcm").touch()
    assert "scan.dcm" in refusal(tmp_path, r"(?P<patient>\d+)")
    (tmp_path / "nodule" / "scan.dcm").unlink()
    (tmp_path / "old").mkdir()
    text = refusal(tmp_path, r"(?P<patient>\d+)")
    assert "'old'" in text
    assert "non-nodule, nodule" in text


def test_empty_class_folders(tmp_path: Path) -> None:
    for label in IMAGES.classes:
        (tmp_path / label).mkdir()
    assert "expected images, found none" in refusal(tmp_path, r"(?P<patient>\d+)")


# --- what is not kept


def test_no_name_is_reachable_from_the_cohort(tmp_path: Path) -> None:
    name = "Canary-Weatherwax"
    folder = tmp_path / name
    lines = ["image,label,patient_id,note"]
    for number in range(20):
        label = IMAGES.classes[number % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16), number, np.uint8)).save(
            folder / label / f"{name}-{number}.png"
        )
        lines.append(f"{label}/{name}-{number}.png,{label},{name} {number // 2},{name}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    cohort = open_cohort(folder, IMAGES)
    pickled = pickle.dumps(cohort)
    for canary in (name, "Weatherwax", str(tmp_path), "manifest", ".png"):
        for encoding in ("utf-8", "utf-16-le", "utf-32-le"):
            assert canary.encode(encoding) not in pickled
    restored: Cohort[ImagePatients] = pickle.loads(pickled)  # noqa: S301 - our own bytes
    np.testing.assert_array_equal(restored.training.pixels, cohort.training.pixels)


# --- a rehearsal's hospitals


def test_hospital_folders(tmp_path: Path) -> None:
    hospital(tmp_path / "siemens")
    (hospital(tmp_path / "ge") / "manifest.csv").unlink()
    (tmp_path / "notes").mkdir()
    (tmp_path / ".cache" / "x").mkdir(parents=True)
    (tmp_path / "README.md").touch()
    found = hospital_folders("nodule-classification", tmp_path)
    assert list(found) == ["ge", "siemens"]
    assert found["ge"].samefile(tmp_path / "ge")


def test_no_hospital_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="sub-folder for each hospital"):
        hospital_folders("nodule-classification", tmp_path)
    with pytest.raises(DataError, match="none that can be opened"):
        hospital_folders("nodule-classification", tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["GE", "st. mary", "-x", "ü"])
def test_hospital_folders_have_hospital_names(tmp_path: Path, name: str) -> None:
    hospital(tmp_path / name)
    with pytest.raises(DataError, match="rename it"):
        hospital_folders("nodule-classification", tmp_path)


# --- the real images


@pytest.mark.slow
@real
def test_real_counts_are_the_published_ones() -> None:
    images = Images(classes=("non-nodule", "nodule"), size=32)
    published = {  # patients, patches, nodules
        "ge": (530, 4904, 764),
        "philips": (58, 557, 113),
        "siemens": (120, 1074, 194),
        "toshiba": (4, 46, 9),
    }
    found = {}
    for name, folder in hospital_folders("nodule-classification", LUNA).items():
        cohort = open_cohort(folder, images)
        sides = (cohort.training, cohort.validation)
        assert count_patients(folder, images) == (len(sides[0]), len(sides[1]))
        found[name] = (
            sum(len(side) for side in sides),
            sum(len(side.pixels) for side in sides),
            sum(int(side.labels.sum()) for side in sides),
        )
    assert found == published


@real
def test_real_patients_are_on_one_side_by_an_independent_reading() -> None:
    """Every patch of the manifest, found again by its pixels, is where its patient is."""
    images = Images(classes=("non-nodule", "nodule"), size=40)
    cohort = open_cohort(LUNA / "siemens", images)
    of_pixels: dict[bytes, set[str]] = {}
    for line in (LUNA / "siemens" / "manifest.csv").read_text().splitlines()[1:]:
        image, _, patient, *_ = line.split(",")
        with Image.open(LUNA / "siemens" / image) as opened:
            cropped = np.asarray(opened)[5:45, 5:45].tobytes()
        of_pixels.setdefault(cropped, set()).add(patient)
    patients: list[set[str]] = []
    for side in (cohort.training, cohort.validation):
        ids = [
            set.intersection(*(of_pixels[image.tobytes()] for image in side.pixels[side.of(p)]))
            for p in range(len(side))
        ]
        assert all(len(one) == 1 for one in ids)  # one patient owns all of them, and only one
        patients.append(set[str]().union(*ids))
    assert patients[0].isdisjoint(patients[1])
    assert len(patients[0] | patients[1]) == 120


@real
def test_a_real_jpeg_cut_in_the_middle(tmp_path: Path) -> None:
    hospital(tmp_path)
    whole = sorted((LUNA / "toshiba" / "nodule").glob("*.jpg"))[0].read_bytes()
    (tmp_path / "nodule/3.jpg").write_bytes(whole[: len(whole) // 2])
    edit(tmp_path, 5, "nodule/3.jpg,nodule,P001")
    text = refusal(tmp_path)
    assert "row 5" in text
    assert "3.jpg" in text


@pytest.mark.slow
@real
def test_a_real_image_below_the_crop_is_named() -> None:
    """One patch of ge is 50 x 47, at the edge of its scan."""
    text = refusal(LUNA / "ge", images=Images(classes=("non-nodule", "nodule"), size=50))
    assert "50 x 47" in text
    assert "fit = 'resize'" in text
