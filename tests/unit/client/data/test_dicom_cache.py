"""Patches that are kept: the second opening decodes nothing, and a changed folder is read anew."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client.data import Cohort, ImagePatients, SetAside, cache, ct_folder
from client.data.image_folder import open_cohort
from common.tasks.nodule_classification.study import CtPatches, Images
from tests.unit.client.data.making_dicom import (
    IMAGES,
    hospital,
    save,
    slice_dataset,
    uid,
    write_findings,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = hospital(tmp_path_factory.mktemp("made"))
    (folder / "README").write_text("not a slice")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Copied with the times of change, as a hospital that was not touched."""
    return Path(shutil.copytree(made, tmp_path / "hospital"))


def same(one: Cohort[ImagePatients], other: Cohort[ImagePatients]) -> None:
    for a, b in ((one.training, other.training), (one.validation, other.validation)):
        np.testing.assert_array_equal(a.pixels, b.pixels)
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.offsets, b.offsets)
        assert a.series is not None
        assert b.series is not None
        np.testing.assert_array_equal(a.series, b.series)
        np.testing.assert_array_equal(a.finding, b.finding)
        np.testing.assert_array_equal(
            a.views(np.arange(len(a.labels))), b.views(np.arange(len(b.labels)))
        )


def reads(folder: Path, kept: Path, images: Images = IMAGES) -> int:
    """How many files and findings an opening goes through."""
    told: list[int] = []
    open_cohort(folder, images, cache=kept, progress=lambda done, _: told.append(done))
    return len(told)


def test_the_second_opening_reads_no_slice_and_is_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "state" / "patches"
    plain: list[SetAside] = []
    first = open_cohort(folder, IMAGES, set_aside=plain)
    same(open_cohort(folder, IMAGES, cache=kept), first)
    monkeypatch.setattr(ct_folder, "scan", lambda *_: pytest.fail("it was scanned"))
    second = open_cohort(folder, IMAGES, cache=kept)
    same(second, first)
    assert plain == [SetAside("README", "it is not a DICOM file")]
    with pytest.raises(ValueError, match="read-only"):
        second.training.pixels[0] = 0


def test_who_asks_what_is_set_aside_is_told_however_often(folder: Path, tmp_path: Path) -> None:
    """Names of files are kept nowhere, so all is read again."""
    for _ in range(2):
        apart: list[SetAside] = []
        open_cohort(folder, IMAGES, cache=tmp_path / "patches", set_aside=apart)
        assert apart == [SetAside("README", "it is not a DICOM file")]
    assert not any(b"README" in file.read_bytes() for file in (tmp_path / "patches").iterdir())


def test_what_is_kept_is_for_its_owner_alone_and_names_no_patient(
    folder: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "state" / "patches"
    old = os.umask(0)
    try:
        open_cohort(folder, IMAGES, cache=kept)
    finally:
        os.umask(old)
    assert kept.stat().st_mode & 0o777 == 0o700
    files = sorted(kept.iterdir())
    assert [path.suffix for path in files] == [".json", ".npy"]
    for path in files:
        assert path.stat().st_mode & 0o777 == 0o600
        assert not re.search(rb"P00\d|1\.2\.3", path.read_bytes())


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file more": lambda folder: (folder / "0" / "notes").touch(),
    "a file less": lambda folder: (folder / "README").unlink(),
    "a file changed": lambda folder: (folder / "README").write_text("still not"),
    "a file touched": lambda folder: os.utime(folder / "README", ns=(1, 1)),
    "a file renamed": lambda folder: (folder / "README").rename(folder / "0" / "README"),
    "a finding less": lambda folder: (folder / "findings.csv").write_text(
        (folder / "findings.csv").read_text().rpartition("\n1.2.3")[0] + "\n"
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_folder_is_read_anew(folder: Path, tmp_path: Path, name: str) -> None:
    kept = tmp_path / "patches"
    assert reads(folder, kept) > 0
    assert reads(folder, kept) == 0
    CHANGES[name](folder)
    assert reads(folder, kept) > 0
    assert reads(folder, kept) == 0


def test_other_constants_of_the_study_have_patches_of_their_own(
    folder: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "patches"
    wider = IMAGES.model_copy(update={"ct": CtPatches(size_mm=16, hu_high=600)})
    for images in (IMAGES, wider, IMAGES.model_copy(update={"validation_fraction": 0.5})):
        assert reads(folder, kept, images) > 0
    assert reads(folder, kept, IMAGES) == reads(folder, kept, wider) == 0


def test_a_decoder_that_is_new_reads_the_folder_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setattr(cache, "decodable", lambda _: False)
        assert reads(folder, tmp_path / "patches") > 0
    assert reads(folder, tmp_path / "patches") > 0


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no pixels": (".npy", lambda path: path.unlink()),
    "a pixel": (".npy", lambda path: flip(path, -1)),
    "the header": (".npy", lambda path: flip(path, 0)),
    "cut": (".npy", lambda path: os.truncate(path, path.stat().st_size - 1)),
    "empty": (".npy", lambda path: os.truncate(path, 0)),
    "other pixels": (".npy", lambda path: np.save(path, np.zeros((16, 16, 16, 1), np.uint16))),
    "objects": (".npy", lambda path: np.save(path, np.array([{}] * 16), allow_pickle=True)),
    "no index": (".json", lambda path: path.unlink()),
    "empty index": (".json", lambda path: path.write_text("{}")),
    "no JSON": (".json", lambda path: path.write_text("[[[")),
    "labels": (
        ".json",
        lambda path: path.write_text(path.read_text().replace('"labels":[0,', '"labels":[')),
    ),
    "offsets": (
        ".json",
        lambda path: path.write_text(path.read_text().replace('"offsets":[0,2,', '"offsets":[0,')),
    ),
    "sides": (
        ".json",
        lambda path: path.write_text(re.sub(r'"training":\d+', '"training":99', path.read_text())),
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("a pixel", "offsets") else pytest.param(name, marks=pytest.mark.slow)
        for name in DAMAGES
    ],
)
def test_a_damaged_entry_is_made_anew(folder: Path, tmp_path: Path, name: str) -> None:
    kept = tmp_path / "patches"
    open_cohort(folder, IMAGES, cache=kept)
    suffix, damage = DAMAGES[name]
    (path,) = kept.glob(f"*{suffix}")
    before = path.read_bytes()
    damage(path)
    assert not path.exists() or path.read_bytes() != before
    same(open_cohort(folder, IMAGES, cache=kept), open_cohort(folder, IMAGES))
    assert reads(folder, kept) == 0
    assert path.read_bytes() == before


def test_where_nothing_can_be_written_the_cohort_is_the_same(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    same(open_cohort(folder, IMAGES, cache=tmp_path / "file"), open_cohort(folder, IMAGES))


def test_a_disk_that_fills_up_leaves_no_half_entry(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    expected = open_cohort(folder, IMAGES)
    same(open_cohort(folder, IMAGES, cache=tmp_path / "patches"), expected)
    assert list((tmp_path / "patches").iterdir()) == []


@pytest.mark.slow
def test_old_entries_are_forgotten(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "patches"
    studies = [
        IMAGES.model_copy(update={"ct": CtPatches(size_mm=16, hu_high=400 + n)}) for n in range(10)
    ]
    for images in studies:
        assert reads(folder, kept, images) > 0
    assert len(list(kept.iterdir())) == 16
    assert [reads(folder, kept, images) for images in studies[2:]] == [0] * 8
    assert reads(folder, kept, studies[0]) > 0


MEASURED = """
import sys, time
from pathlib import Path
from client.data.image_folder import open_cohort
from tests.unit.client.data.making_dicom import IMAGES, hospital
folder, small, kept = map(Path, sys.argv[1:])
open_cohort(small, IMAGES)
def peak():
    (line,) = [line for line in Path("/proc/self/status").open() if line.startswith("VmHWM")]
    return int(line.split()[1])
before = peak()
times = []
for _ in range(3):
    started = time.perf_counter()
    cohort = open_cohort(folder, IMAGES, cache=kept)
    times.append(time.perf_counter() - started)
grown = peak() - before
print(len(cohort.training.labels) + len(cohort.validation.labels), grown, times[0], min(times[1:]))
"""


@pytest.mark.slow
def test_two_thousand_slices_in_bounded_memory_and_twenty_times_faster(
    tmp_path: Path, made: Path
) -> None:
    """100 series of 20 slices, 256 x 256: 262 MB of pixels, of which each finding needs some."""
    folder = tmp_path / "hospital"
    rng = np.random.default_rng(20261125)
    plane = np.rint(rng.normal(-700, 100, (256, 256)))
    rows = ["series_uid,x,y,z,label"]
    for series in range(100):
        for n in range(20):
            ds = slice_dataset(
                plane,
                (0, 0, n),
                series=uid(series),
                number=n + 1,
                patient=f"{series // 2}",
            )
            save(ds, folder / f"{series}" / f"{n}")
        rows += [
            f"{uid(series)},{40 + 10 * n},{90 + 7 * n},{2 * n + 1.5},{IMAGES.classes[n % 2]}"
            for n in range(9)
        ]
    write_findings(folder, *rows)
    arguments = [str(folder), str(made), str(tmp_path / "patches")]
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[4],
    )
    count, grown, first, second = map(float, ran.stdout.split())
    print(f"grown {grown / 1024:.1f} MB, {first:.2f} s, then {1000 * second:.1f} ms")
    assert count == 900
    assert grown < 40 * 1024  # KiB; all pixels at once would be 262 MB, as HU 524
    assert first > 20 * second
