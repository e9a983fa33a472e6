"""`intramural-client predict` on CT: findings.csv, --at and --pixel, and what of a CT cannot be used."""

from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from client.data import SetAside
from client.data.image_folder import open_cohort
from client.data.unlabelled import Place, unlabelled
from client.prediction.model import load_model
from client.training import evaluate
from common.protocol import StudyProtocol
from common.tasks.nodule_classification.study import CtPatches, Images
from tests.conftest import SHARED_DATA
from tests.unit.client.data.making_dicom import uid, write_findings, write_series
from tests.unit.client.prediction.conftest import Said
from tests.unit.client.prediction.making_runs import PHANTOM_IMAGES, write_run

Predict = Callable[..., Said]
SmallStudy = Callable[..., StudyProtocol]

SEED = 20_261_126
SPACING = (0.8, 0.7)


def write_lung(folder: Path, series: int, slices: int = 6) -> list[Path]:
    """A series of noise with a bright ball about row 30, column 25 of slice 3."""
    rng = np.random.default_rng([SEED, series])
    at = np.stack(np.meshgrid(range(slices), range(60), range(56), indexing="ij"), axis=-1)
    ball = np.linalg.norm(at - np.array([2, 30, 25]), axis=-1) < 4 + series
    hu = np.where(ball, 40.0, -850 + rng.normal(0, 40, ball.shape))
    return write_series(
        folder, np.rint(hu), series=uid(7, series), patient=f"P{series}", spacing=SPACING
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four series with findings of both classes, in mm."""
    rows = ["series_uid,x,y,z,label,patient_id"]
    for series in range(4):
        write_lung(tmp_path / "north" / f"s{series}", series)
        for n, (row, column) in enumerate(((30, 25), (14, 40))):
            x, y = column * SPACING[1], row * SPACING[0]
            label = PHANTOM_IMAGES.classes[1 - n]
            rows.append(f"{uid(7, series)},{x:.3f},{y:.3f},2.25,{label},P{series}")
    write_findings(tmp_path / "north", *rows)
    return tmp_path / "north"


def scores(said: Said) -> list[float]:
    assert said.code == 0, said.text
    return [one["score"] for one in said.facts["predictions"]]


def reason(said: Said) -> str:
    assert said.code == 2, said.text
    return said.text


def test_scores_are_those_of_the_study_s_own_evaluation(
    folder: Path, run: Path, predict: Predict, small_study: SmallStudy
) -> None:
    images = PHANTOM_IMAGES.model_copy(update={"validation_fraction": 1e-9})
    cohort = open_cohort(folder, images).training  # sorted by patient, series and row, as listed
    network = load_model(run).network
    wanted = evaluate(network, cohort, small_study(), torch.device("cpu")).score
    np.testing.assert_allclose(scores(predict(run, folder)), wanted, atol=1e-6)
    assert np.ptp(wanted) > 0.1


def test_neither_label_nor_patient_is_needed(folder: Path, run: Path, predict: Predict) -> None:
    wanted = scores(predict(run, folder))
    lines = (folder / "findings.csv").read_text().splitlines()
    write_findings(folder, *(",".join(line.split(",")[:4]) for line in lines))
    assert scores(predict(run, folder)) == wanted
    write_findings(folder, *(lines[:1] + [line.replace("nodule", "unknown") for line in lines[1:]]))
    assert scores(predict(run, folder)) == wanted


def test_files_with_at_are_the_finding_of_their_series(
    folder: Path, run: Path, predict: Predict
) -> None:
    wanted = scores(predict(run, folder))[:2]
    files = sorted((folder / "s0").iterdir())
    for (row, column), score in zip(((30, 25), (14, 40)), wanted, strict=True):
        at = f"--at={column * SPACING[1]:.3f},{row * SPACING[0]:.3f},2.25"
        said = predict(run, *files, at)
        assert scores(said) == [pytest.approx(score, abs=1e-6)]
        assert said.facts["predictions"][0]["of"] == uid(7, 0)
        assert scores(predict(run, folder / "s0", at)) == [pytest.approx(score, abs=1e-6)]


def test_pixel_means_the_middle_of_a_pixel_of_each_file(
    folder: Path, run: Path, predict: Predict
) -> None:
    files = sorted((folder / "s1").iterdir())
    by_pixel = predict(run, *files, "--pixel=30,25")
    places = [one["mm"] for one in by_pixel.facts["predictions"]]
    assert sorted(z for _, _, z in places) == [0, 1, 2, 3, 4, 5]
    assert {(x, y) for x, y, _ in places} == {(25 * SPACING[1], 30 * SPACING[0])}
    middle = places.index([25 * SPACING[1], 30 * SPACING[0], 2.0])
    by_place = predict(run, *files, f"--at={25 * SPACING[1]},{30 * SPACING[0]},2")
    assert scores(by_place) == [pytest.approx(scores(by_pixel)[middle], abs=1e-6)]


def test_a_nifti_volume_is_looked_at_in_mm(tmp_path: Path, run: Path, predict: Predict) -> None:
    """The same field in both formats, at the same place of the patient."""
    files = write_lung(tmp_path / "dicom", 2)
    rng = np.random.default_rng([SEED, 2])
    at = np.stack(np.meshgrid(range(6), range(60), range(56), indexing="ij"), axis=-1)
    ball = np.linalg.norm(at - np.array([2, 30, 25]), axis=-1) < 6
    hu = np.rint(np.where(ball, 40.0, -850 + rng.normal(0, 40, ball.shape)))
    to_ras = np.diag([-SPACING[1], -SPACING[0], 1.0, 1])
    image = nibabel.Nifti1Image(hu.T.astype("int16"), to_ras)  # type: ignore[no-untyped-call]
    nibabel.save(image, tmp_path / "a.nii.gz")
    place = "--at=17.5,24,2.25"
    wanted = scores(predict(run, *files, place))
    assert scores(predict(run, tmp_path / "a.nii.gz", place)) == [
        pytest.approx(wanted[0], abs=1e-6)
    ]
    assert "a.nii.gz" not in {one.resolve().name for one in Path("/proc/self/fd").iterdir()}
    said = reason(predict(run, tmp_path / "a.nii.gz", "--pixel=30,25"))
    assert "a place in pixels is not enough for a volume; give x, y and z" in said


def test_a_ct_without_a_place_is_refused(folder: Path, run: Path, predict: Predict) -> None:
    assert "a CT needs the place of its finding" in reason(predict(run, folder / "s0"))


def test_a_place_outside_of_the_series_is_refused(
    folder: Path, run: Path, predict: Predict
) -> None:
    said = reason(predict(run, folder / "s0", "--at=0,0,900"))
    assert "outside of its series" in said


@pytest.mark.parametrize("what", ["", "s0"])
def test_a_model_of_a_study_without_ct_is_refused(
    tmp_path: Path, folder: Path, shipped: bytes, predict: Predict, what: str
) -> None:
    flat = PHANTOM_IMAGES.model_copy(update={"ct": None})
    run = write_run(tmp_path / "flat", shipped, flat)
    options = ["--at=1,2,3"] if what else []
    assert "the model is not of a study of CT patches" in reason(
        predict(run, folder / what, *options)
    )


def test_one_slice_is_not_enough_where_the_study_has_neighbours(folder: Path) -> None:
    ct = CtPatches(size_mm=22.4, slices=3, slice_distance_mm=1.0)
    images = Images(classes=("a", "b"), size=32, channels=3, ct=ct)
    apart: list[SetAside] = []
    files = sorted((folder / "s0").iterdir())

    def patches(files: list[Path]) -> Iterator[tuple[int, ...]]:
        place = Place("pixel", (30.0, 25.0))
        for one in unlabelled(files, images, place, lambda _done: None, apart):
            yield one.patch().shape

    assert list(patches(files)) == [(32, 32, 3)] * 6
    with pytest.raises(Exception, match="the study needs its neighbours too"):
        list(patches(files[:1]))


def test_what_of_a_folder_is_damaged_is_set_aside(
    folder: Path, run: Path, predict: Predict
) -> None:
    whole = scores(predict(run, folder))
    damaged = folder / "s3" / "0017"  # the third of six slices
    damaged.write_bytes(damaged.read_bytes()[:300])
    said = predict(run, folder)
    assert scores(said) == pytest.approx(whole[:6], abs=1e-6)  # the others have a gap
    apart = {one["what"]: one["reason"] for one in said.facts["set-aside"]}
    assert len(apart) == 3
    assert apart[f"{folder}/s3/{damaged.name}"].startswith("it")


def test_findings_that_cannot_be_read_are_set_aside(
    folder: Path, run: Path, predict: Predict
) -> None:
    write_findings(folder, "series_uid,row", "1.2,3")
    assert "give a place in one way" in reason(predict(run, folder))


def test_real_slices_go_through_with_a_pixel(run: Path, predict: Predict) -> None:
    """GE and Toshiba, of ten patients: all are used, and most differ."""
    real = SHARED_DATA / "ct-dicom"
    if not real.is_dir():
        pytest.skip("the real CT slices are not on this machine")
    files = sorted(real.glob("*/*.dcm"))
    said = predict(run, *files, "--pixel=255,200")
    found = scores(said)
    assert len(found) == len(files)
    assert said.facts["set-aside"] == []
    assert len({round(score, 6) for score in found}) > len(files) // 2
