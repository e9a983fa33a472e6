"""The data report as a page: what it shows, what it never says, and the real data in it."""

import hashlib
import os
import re
import tracemalloc
from base64 import b32encode
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.data import Cohort, ImagePatients, SetAside
from client.data.survey import Survey, survey
from client.inspection.duplicates import alike
from client.inspection.measures import measure
from client.inspection.pseudonym import SALT, LocalIds
from client.inspection.report import data_verdict
from common.errors import HospitalError, RunError
from common.tasks.nodule_classification.study import NoduleStudy
from tests.hospital import policy_of
from tests.studies import nodule_study
from tests.unit.client.data.making_dicom import uid, write_findings
from tests.unit.client.inspection.making_folders import (
    CT_PROTOCOL,
    PROTOCOL,
    ImageFolder,
    SeriesFolder,
)

SHARED = Path(__file__).resolve().parents[4].parent / "shared" / "data"
REAL = SHARED / "ct-dicom"
LUNG = nodule_study((files("common") / "examples" / "lung-nodules.toml").read_text())


def page_of(
    tmp_path: Path,
    surveyed: Survey | None,
    protocol: NoduleStudy,
    apart: list[SetAside],
) -> tuple[str, str]:
    """The verdict's word and the page."""
    state, path = tmp_path / "state", tmp_path / "data-report.html"
    state.mkdir(exist_ok=True)
    verdict = data_verdict(policy_of(state), protocol, surveyed, apart, path)
    assert path.stat().st_mode & 0o777 == 0o600
    return verdict.word, path.read_text()


def text_of(page: str) -> str:
    return re.sub(r"<[^>]+>", " ", page)


def fetches(page: str) -> list[str]:
    """All that a browser would load: by src, href, url() and @import, but data in the page itself."""
    found = re.findall(
        r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)|(@import|<script)""", page
    )
    return [part for parts in found for part in parts if part and not part.startswith("data:")]


# --- the page


def test_the_page_of_series_names_scanners_and_no_patient(tmp_path: Path) -> None:
    folder = SeriesFolder.clean(tmp_path / "series")
    folder.headers[0]["StudyInstanceUID"] = folder.headers[2]["StudyInstanceUID"]
    folder.rows.append(f"{uid(9, 0)},900,900,0,nodule,")
    (folder.root / "0").mkdir(parents=True)
    (folder.root / "0" / "notes <b>of Jane.txt").write_text("no image")
    apart: list[SetAside] = []
    word, page = page_of(tmp_path, folder.survey(apart), CT_PROTOCOL, apart)
    text = text_of(page)
    assert word == "unfit"
    assert "✖ Unfit" in text
    for said in ("Maker One", "B30f", "1.25", "2019", "Hounsfield", "Cramér's V 0.00"):
        assert said in page, said
    assert "it is not a DICOM file" in text
    assert "0/notes &lt;b&gt;of Jane.txt" in page
    assert "findings.csv row 50" in text
    for secret in ("Doe^Jane", str(tmp_path), uid(9, 0), uid(7, 1), "20190304"):
        assert secret not in page, secret
    assert fetches(page) == []
    assert "default-src 'none'" in page
    assert "stays in the hospital" in text
    for patient in ("Doe^Jane-000", "Doe^Jane-001"):
        assert LocalIds(tmp_path / "state").of(patient) in text


def test_the_page_of_images_shows_what_is_twice_by_local_id_and_row(tmp_path: Path) -> None:
    folder = ImageFolder.clean(tmp_path / "images")
    folder.add(folder.pixels[0], 1, folder.patient(5))
    word, page = page_of(tmp_path, folder.survey(), CT_PROTOCOL, [])
    assert word == "unfit"
    assert "Hounsfield" not in page  # no PNG says what its grey stands for
    text = text_of(page)
    assert "manifest.csv row 2" in text
    assert "manifest.csv row 162" in text
    assert LocalIds(tmp_path / "state").of(folder.patient(5)) in text
    assert "Doe^Jane" not in page
    assert str(tmp_path) not in page
    assert len(re.findall("24 of (?:non-)?nodule, chosen at random", text)) == 2
    assert fetches(page) == []


def test_a_class_that_looks_like_a_formula_has_its_name_on_the_page(tmp_path: Path) -> None:
    """matplotlib takes what stands between two dollar signs for TeX."""
    odd = PROTOCOL.model_copy(
        update={"images": PROTOCOL.images.model_copy(update={"classes": ("$a^^$", "<b>")})}
    )
    folder = ImageFolder.clean(tmp_path / "images")
    _, page = page_of(tmp_path, folder.survey(), odd, [])
    assert "$a^^$" in text_of(page)
    assert "&lt;b&gt;" in page


def test_of_one_class_no_link_is_said(tmp_path: Path) -> None:
    folder = ImageFolder.clean(tmp_path / "images")
    for row in folder.rows:
        row[1] = "nodule"
    folder.rows[0][0] = "0.tif"
    text = text_of(page_of(tmp_path, folder.survey(), PROTOCOL, [])[1])
    assert "One class only: it says nothing of the class." in text


def test_a_folder_that_cannot_be_opened_still_says_what_is_set_aside(tmp_path: Path) -> None:
    apart = [SetAside("a/1", "its header is damaged"), SetAside("a/2", "its header is damaged")]
    word, page = page_of(tmp_path, None, PROTOCOL, apart)
    assert word == "unfit"
    assert "cannot be opened" in text_of(page)
    assert re.search(r"its header is damaged\s+2\s+a/1\s*,\s+a/2", text_of(page))


def test_a_name_that_is_no_text_does_not_stop_the_page(tmp_path: Path) -> None:
    apart = [SetAside("a/\udcff", "its header is damaged")]
    assert "a/?" in page_of(tmp_path, None, PROTOCOL, apart)[1]


def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "report.html"
    with pytest.raises(RunError, match="expected to write the data report"):
        data_verdict(policy_of(tmp_path), PROTOCOL, None, [], path)


# --- local ids


def hmac_by_hand(key: bytes, text: bytes) -> bytes:
    """RFC 2104, section 2, with SHA-256."""
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + text).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).digest()


def test_a_local_id_is_the_same_in_every_report_and_another_at_another_hospital(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here, there = LocalIds(tmp_path / "a"), LocalIds(tmp_path / "b")
    salt = tmp_path / "a" / SALT
    assert salt.stat().st_mode & 0o777 == 0o600
    assert here.of("Doe^Jane") == LocalIds(tmp_path / "a").of("Doe^Jane")
    assert here.of("Doe^Jane") not in (here.of("Doe^John"), there.of("Doe^Jane"))
    by_hand = b32encode(hmac_by_hand(salt.read_bytes(), b"Doe^Jane")).decode().lower()[:8]
    assert here.of("Doe^Jane") == by_hand
    assert len({here.of(f"patient {n}") for n in range(5_000)}) == 5_000
    assert here.of("\udcff")  # an id out of a file name that is no text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_salt_that_root_makes_is_the_vaults(tmp_path: Path) -> None:
    os.chown(tmp_path, 12_345, -1)
    LocalIds(tmp_path)
    found = (tmp_path / SALT).stat()
    assert (found.st_uid, found.st_mode & 0o777) == (12_345, 0o600)


@pytest.mark.parametrize("spoil", ["short", "folder", "absent"])
def test_a_salt_that_is_none_is_refused(tmp_path: Path, spoil: str) -> None:
    if spoil == "short":
        (tmp_path / SALT).write_bytes(b"1234")
    elif spoil == "folder":
        (tmp_path / SALT).mkdir()
    with pytest.raises(HospitalError, match="expected"):
        LocalIds(tmp_path if spoil != "absent" else tmp_path / "nowhere")


# --- real data


@pytest.mark.slow
def test_real_patches_of_one_scanner_are_fit(tmp_path: Path, luna: Path) -> None:
    surveyed = survey(luna / "philips", LUNG.images, None, cache=None, set_aside=[])
    word, page = page_of(tmp_path, surveyed, LUNG, [])
    assert word == "fit", text_of(page)[:2000]
    assert "557 images of 58 patients" in page
    assert "LIDC" not in page
    assert "1.3.6.1.4" not in page
    assert len(page) < 600_000


def test_a_real_hospital_of_four_patients_is_fit_with_warnings(tmp_path: Path, luna: Path) -> None:
    surveyed = survey(luna / "toshiba", LUNG.images, None, cache=None, set_aside=[])
    word, page = page_of(tmp_path, surveyed, LUNG, [])
    assert word == "fit with warnings"
    assert "3 training patients with images of nodule" in page
    assert "too few patients to say" in page


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real folder ct-dicom is not here")
def test_real_dicom_slices_say_their_scanners(tmp_path: Path) -> None:
    folder = tmp_path / "ct"
    rows = []
    for n, file in enumerate(sorted(REAL.glob("*/*.dcm"))):
        name = f"{n}.dcm"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(file.read_bytes())
        rows += [
            f"{name},{230 + 40 * k},{150 + 10 * k},{CT_PROTOCOL.images.classes[k]}" for k in (0, 1)
        ]
    write_findings(folder, "file,row,column,label", *rows)
    apart: list[SetAside] = []
    surveyed = survey(folder, CT_PROTOCOL.images, None, cache=None, set_aside=apart)
    word, page = page_of(tmp_path, surveyed, CT_PROTOCOL, apart)
    assert apart == []
    assert word == "fit with warnings", text_of(page)[:1500]
    for said in ("GE MEDICAL SYSTEMS LightSpeed VCT", "TOSHIBA Aquilion ONE", "FC17", "STANDARD"):
        assert said in page
    assert "fewer" not in page
    assert not re.search(r"A0\d{5}", page)


# --- size


@pytest.mark.slow
def test_five_thousand_patches_take_a_bounded_memory(tmp_path: Path) -> None:
    """As they lie mapped on the disk: 40 MB of pixels, which as float32 at once would be 80."""
    rng = np.random.default_rng(2)
    count, patients = 5_000, 500
    pixels = np.lib.format.open_memmap(
        tmp_path / "pixels.npy", mode="w+", dtype=np.uint16, shape=(count, 64, 64, 1)
    )
    for n in range(count):
        pixels[n] = rng.integers(0, 65536, (64, 64, 1), np.uint16)
    pixels[4_990] = pixels[10]
    labels = np.arange(count) % 2
    offsets = np.arange(0, count + 1, count // patients)
    side = ImagePatients(pixels, labels, offsets, 0.5, 0.25)
    empty = ImagePatients(pixels[:0], labels[:0], np.zeros(1, np.int64), 0.5, 0.25)
    none = (None,) * count
    surveyed = Survey(
        cohort=Cohort(side, empty),
        patient_ids=tuple(f"{n // 10:04d}" for n in range(count)),
        rows=none,
        series=none,
        studies=none,
        places=np.full((count, 3), np.nan),
        facts={},
        refusal=None,
    )
    tracemalloc.start()
    found = alike(surveyed, measure(surveyed))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"peak {peak / 1e6:.0f} MB")
    assert [one.images for one in found] == [(10, 4_990)]
    assert peak < 75e6


def test_a_picture_on_the_page_is_the_images_pixels(tmp_path: Path) -> None:
    """The montage's tiles are the patches themselves: their mean grey, read back from the page."""
    folder = ImageFolder.clean(tmp_path / "images")
    surveyed = folder.survey()
    page = page_of(tmp_path, surveyed, PROTOCOL, [])[1]
    (tmp_path / "sheet.png").write_bytes(_png(page, "Random images of nodule"))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"), np.float64)
    assert sheet.shape == (2 * 75 - 3, 12 * 75 - 3)
    tiles = [sheet[r * 75 : r * 75 + 72, c * 75 : c * 75 + 72] for r in (0, 1) for c in range(12)]
    means = [float(one.mean()) for one in folder.pixels[1::2]]  # every other one is a nodule
    for tile in tiles:
        assert min(abs(tile.mean() - mean) for mean in means) < 1.0
    assert len({round(float(tile.mean()), 1) for tile in tiles}) > 20


def _png(page: str, alternative: str) -> bytes:
    from base64 import b64decode

    found = re.search(rf'alt="{alternative}" src="data:image/png;base64,([^"]+)"', page)
    assert found is not None
    return b64decode(found[1])
