"""The verdict on a hospital's images: a clean folder is fit, and each planted defect is named.

The folder is made of phantoms (seed in making_folders.py); what is expected is what was planted.
"""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.data.split import is_validation_patient
from client.data.survey import FILE_FORMAT, survey
from client.inspection.counts import Count
from client.inspection.shortcuts import shortcut
from tests.unit.client.data.making_dicom import uid
from tests.unit.client.inspection.making_folders import (
    PATIENTS,
    PROTOCOL,
    ImageFolder,
    judged,
    only,
    reasons,
)


@pytest.fixture
def images(tmp_path: Path) -> ImageFolder:
    return ImageFolder.clean(tmp_path / "images")


def test_clean_images_are_fit(images: ImageFolder) -> None:
    found, verdict = judged(images.survey())
    assert (verdict.word, verdict.reasons) == ("fit", ())
    whole = found.sides[-1]
    assert (whole.images, whole.patients, whole.different) == ((80, 80), (PATIENTS,) * 2, PATIENTS)
    assert found.phantom.auroc is not None
    assert 0.35 < found.phantom.auroc < 0.65  # phantoms against phantoms: a guess


def test_an_image_under_two_patients_is_unfit(images: ImageFolder) -> None:
    images.add(images.pixels[0], 0, images.patient(5))
    found, verdict = judged(images.survey())
    severity, said = only(reasons(verdict))
    assert severity == "unfit"
    assert said.startswith("2 images have the same pixels as one of another patient")
    assert found.alike[0].patients == 2
    assert {found.survey.patient_ids[n] for n in found.alike[0].images} == {
        images.patient(0),
        images.patient(5),
    }


@pytest.mark.parametrize(
    "again",
    [
        lambda grey: np.clip(grey.astype(np.int64) * 0.8 + 20, 0, 255).astype(np.uint8),
        lambda grey: np.clip(grey + np.random.default_rng(3).normal(0, 3, grey.shape), 0, 255),
    ],
    ids=["relit", "stored anew"],
)
def test_nearly_one_image_on_both_sides_is_named(
    images: ImageFolder, again: Callable[[np.ndarray], np.ndarray]
) -> None:
    images.column = "split"
    for n, row in enumerate(images.rows):
        row.append("validation" if n % 20 < 4 else "training")
    bright = int(np.argmax([one.std() for one in images.pixels[:4]]))  # noise of 3 is little there
    images.add(again(images.pixels[bright]).astype(np.uint8), bright % 2, images.patient(2))
    images.rows[-1].append("training")
    found, verdict = judged(images.survey())
    severity, said = only(reasons(verdict))
    assert severity == "warning"
    assert "2 images are nearly one of another patient, and on both sides of the split" in said
    assert [one.kind for one in found.alike] == ["nearly the same pixels"]


@pytest.mark.parametrize(("many", "severity"), [(1, "warning"), (5, "unfit")])
def test_two_labels_for_the_same_pixels(images: ImageFolder, many: int, severity: str) -> None:
    """One patient's image under both labels: 10 of 165 images with two labels are above a twentieth."""
    for n in range(many):
        images.add(images.pixels[4 * n], 1, images.patient(n))
    _, verdict = judged(images.survey())
    found = only(reasons(verdict))
    assert found[0] == severity
    assert found[1].startswith(f"{2 * many} images have two labels")


def test_a_copy_of_the_same_patient_and_label_is_a_warning(images: ImageFolder) -> None:
    images.add(images.pixels[0], 0, images.patient(0))
    severity, said = only(reasons(judged(images.survey())[1]))
    assert severity == "warning"
    assert said.startswith("2 images have a copy among those of the same patient")


def test_a_patient_on_both_sides_is_unfit(images: ImageFolder) -> None:
    images.column = "split"
    for n, row in enumerate(images.rows):
        row.append("validation" if n % 20 < 4 else "training")
    images.rows[0][3], images.rows[21][3] = "training", "training"
    surveyed = images.survey()
    assert surveyed.refusal is not None
    found, verdict = judged(surveyed)
    severity, said = only(reasons(verdict))
    assert severity == "unfit"
    assert said.startswith("2 patients on both sides of the split")
    assert found.leaks.both_sides == (images.patient(0), images.patient(5))


def test_a_series_of_two_patient_ids_is_unfit(images: ImageFolder) -> None:
    images.column = "series_uid"
    for n, row in enumerate(images.rows):
        row.append(uid(5, n // 4 if n != 3 else 7))
    found, verdict = judged(images.survey())
    severity, said = only(reasons(verdict))
    assert severity == "unfit"
    assert "share a series or study (1 group)" in said
    assert found.leaks.one_study == ((images.patient(0), images.patient(7)),)


def test_ids_that_are_spelled_in_two_ways_are_named(images: ImageFolder) -> None:
    for row in images.rows[:2]:
        row[2] = "doe jane-0"
    found, verdict = judged(images.survey())
    severity, said = only(reasons(verdict))
    assert severity == "warning"
    assert "differ only in case, leading zeros or separators" in said
    assert found.leaks.alike == (("Doe^Jane-000", "doe jane-0"),)


def test_a_class_that_is_told_by_the_file_format(images: ImageFolder) -> None:
    for row in images.rows:
        if row[1] == "nodule":
            row[0] = row[0].replace("png", "tif")
    severity, said = only(reasons(judged(images.survey())[1]))
    assert severity == "unfit"
    assert "the file format tells the class (Cramér's V 1.00)" in said
    assert "'PNG' has only non-nodule; 'TIFF' has only nodule" in said


def test_a_file_whose_name_says_no_format_is_not_stated(images: ImageFolder) -> None:
    surveyed = images.survey()
    (images.root / "0.png").rename(images.root / "0.dat")
    manifest = images.root / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("0.png,", "0.dat,", 1))
    again = survey(images.root, PROTOCOL.images, None, cache=None, set_aside=[])
    assert set(surveyed.facts[FILE_FORMAT]) == {"PNG"}
    assert set(again.facts[FILE_FORMAT]) == {"PNG", None}


def test_two_thousand_patients_cost_a_link_little_memory() -> None:
    counts = [Count(kind, (500, 500), (500, 500), 1_000) for kind in "ab"]
    tracemalloc.start()
    link = shortcut(counts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"peak {peak / 1e6:.0f} MB")
    assert link is not None
    assert link.strength == 0
    assert peak < 10e6


def test_images_that_show_nothing(images: ImageFolder) -> None:
    images.pixels[0] = np.full((32, 32), 77, np.uint8)
    images.pixels[5] = np.where(np.arange(1024).reshape(32, 32) < 40, images.pixels[5], 0)
    found, verdict = judged(images.survey())
    severity, said = only(reasons(verdict))
    assert severity == "warning"
    assert said.startswith("2 images with nothing to see (1 constant, 1 quite black or white)")
    assert (len(found.constant), len(found.clipped)) == (1, 1)
    for n in range(40):
        images.pixels[n] = np.full((32, 32), n, np.uint8)
    assert ("unfit", "40 images") in [(s, t[:9]) for s, t in reasons(judged(images.survey())[1])]


def test_a_patient_with_very_many_images(images: ImageFolder) -> None:
    rng = np.random.default_rng(5)
    for n in range(40):
        images.add(
            np.roll(images.pixels[n], rng.integers(3, 29, 2), (0, 1)), n % 2, images.patient(0)
        )
    severity, said = only(reasons(judged(images.survey())[1]))
    assert severity == "warning"
    assert said.startswith("1 patient with 44 images at most, where 4 are usual")


def test_a_rare_class_of_few_patients(images: ImageFolder) -> None:
    """All nodules but those of the first ten patients are taken out, then all but four."""

    def keep(nodules: int) -> list[str]:
        kept = [n for n, row in enumerate(images.rows) if row[1] == "non-nodule"]
        kept += [n for n, row in enumerate(images.rows) if row[1] == "nodule"][:nodules]
        images.rows, images.pixels = (
            [images.rows[n] for n in kept],
            [images.pixels[n] for n in kept],
        )
        return [text for _, text in reasons(judged(images.survey())[1])]

    training = sum(not is_validation_patient(images.patient(n), 0.2) for n in range(10))
    assert 1 < training < 10
    said = keep(20)
    assert only([("", text) for text in said if "training" in text])[1].startswith(
        f"{training} training patients with images of nodule"
    )
    assert not any("% of the images" in text for text in said)
    assert any(text.startswith("4.8% of the images are of nodule") for text in keep(4))  # 4 of 84


def test_a_missing_class_is_unfit(images: ImageFolder) -> None:
    keep = [n for n, row in enumerate(images.rows) if row[1] == "non-nodule"]
    images.rows, images.pixels = [images.rows[n] for n in keep], [images.pixels[n] for n in keep]
    assert ("unfit", "there is no image of nodule; add the class") in reasons(
        judged(images.survey())[1]
    )


def test_without_a_training_patient_it_is_unfit(images: ImageFolder) -> None:
    images.column = "split"
    for row in images.rows:
        row.append("validation")
    found = reasons(judged(images.survey())[1])
    assert [said for severity, said in found if severity == "unfit"] == [
        f"no training patient has an image of {name}; add patients"
        for name in ("non-nodule", "nodule")
    ]


def test_inverted_images_are_unlike_the_phantom(images: ImageFolder) -> None:
    images.pixels = [255 - one for one in images.pixels]
    severity, said = only(reasons(judged(images.survey())[1]))
    assert severity == "warning"
    assert "unlike lung CT as the initial model knows it in mean" in said


def test_near_pairs_are_those_of_a_naive_loop_over_all_pairs(images: ImageFolder) -> None:
    rng = np.random.default_rng(8)
    for n in range(0, 40, 3):
        noise = rng.normal(0, rng.uniform(1, 25), (32, 32))
        images.add(np.clip(images.pixels[n] + noise, 0, 255).astype(np.uint8), n % 2, "another")
    surveyed = images.survey()
    found, _ = judged(surveyed)
    flat = surveyed.grey(np.arange(len(surveyed))).reshape(len(surveyed), -1)
    correlation = np.asarray(np.corrcoef(flat))
    naive = {
        (one, other)
        for one in range(len(flat))
        for other in range(one + 1, len(flat))
        if correlation[one, other] >= 0.99
    }
    assert {one.images for one in found.alike} == naive
    assert 3 < len(naive) < 14  # some of the noises hide an image, and some do not


def test_a_picture_of_another_depth_is_the_same_picture(images: ImageFolder) -> None:
    """8 bits of training and the same in 16 bits of validation."""
    images.column = "split"
    for n, row in enumerate(images.rows):
        row.append("validation" if n % 20 < 4 else "training")
    surveyed = images.survey()
    wide = images.pixels[4].astype(np.uint16) * 257
    Image.fromarray(wide).save(images.root / "0.png")
    again = type(images)(images.root, images.rows, images.pixels, column="split")
    again.pixels[0] = wide
    found, _ = judged(again.survey())
    assert surveyed.cohort.validation.pixels.dtype == np.uint8
    assert found.survey.cohort.validation.pixels.dtype == np.uint16
    assert [(one.kind, one.both_sides) for one in found.alike] == [("same pixels", True)]
