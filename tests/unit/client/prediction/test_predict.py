"""`intramural-client predict` on images: its scores, its files, and when it says no."""

import csv
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from client.data.image_folder import open_cohort
from client.prediction import predicting
from client.prediction.results import Prediction, as_csv
from client.prediction.words import Meaning
from client.training import evaluate
from common.models import build_model
from common.protocol import StudyProtocol
from common.weights import parse_weights
from tests.unit.client.prediction.conftest import Said
from tests.unit.client.prediction.making_runs import PHANTOM_IMAGES, write_phantoms, write_run

Predict = Callable[..., Said]
SmallStudy = Callable[..., StudyProtocol]


def test_scores_are_those_of_the_study_s_own_evaluation(
    tmp_path: Path, run: Path, shipped: bytes, predict: Predict, small_study: SmallStudy
) -> None:
    """On 8- and 16-bit images, in a folder that a study could train on."""
    folder = tmp_path / "north"
    made = write_phantoms(folder, 24, seed=3)
    for number in (4, 17):
        path = folder / f"{number:03d}.png"
        deep = np.asarray(Image.open(path)).astype(np.uint16) * 257 + 100
        Image.fromarray(np.minimum(deep, 65535).astype(np.uint16)).save(path)
    classes = PHANTOM_IMAGES.classes
    rows = [f"{n:03d}.png,{classes[label]},P{n:03d}" for n, label in enumerate(made.label.tolist())]
    (folder / "manifest.csv").write_text("\n".join(["image,label,patient_id", *rows]))

    model = build_model("compact-cnn", 1, 2)
    weights = parse_weights(shipped, Path("shipped"))
    model.load_state_dict({name: torch.from_numpy(a) for name, a in weights.items()})
    images = PHANTOM_IMAGES.model_copy(update={"validation_fraction": 1e-9})
    wanted = evaluate(
        model, open_cohort(folder, images).training, small_study(), torch.device("cpu")
    )

    said = predict(run, folder)
    assert said.code == 0, said.text
    found = {one["finding"]: one["score"] for one in said.facts["predictions"]}
    names = [f"{folder}/{n:03d}.png" for n in range(24)]  # patients are sorted as their images are
    assert list(found) == names
    np.testing.assert_allclose([found[name] for name in names], wanted.score, atol=1e-6)
    assert np.ptp(wanted.score) > 0.3  # not all alike, or the order would be held against nothing


def test_files_are_for_their_owner_and_say_which_model(
    tmp_path: Path, run: Path, predict: Predict
) -> None:
    write_phantoms(tmp_path / "images", 3, seed=5)
    said = predict(run, tmp_path / "images" / "001.png", tmp_path / "images" / "000.png")
    assert said.code == 0, said.text
    assert sorted(path.name for path in said.out.iterdir()) == [
        "predictions.csv",
        "predictions.html",
        "predictions.json",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in said.out.iterdir()} == {0o600}
    assert stat.S_IMODE(said.out.stat().st_mode) == 0o700
    card = json.loads((run / "model-card.json").read_text())
    assert said.facts["model"]["weights"] == card["weights"]
    assert (said.facts["model"]["study"], said.facts["model"]["protocol"]) == (
        card["study"],
        card["protocol"],
    )
    assert said.facts["use"] == "research use, not a medical device"
    page = (said.out / "predictions.html").read_text()
    assert card["weights"] in page
    assert "not a medical device" in page
    assert "default-src 'none'" in page
    for fetched in ("<script", "http://", "https://", "<link", "@import", "url("):
        assert fetched not in page
    rows = list(csv.DictReader((said.out / "predictions.csv").read_text().splitlines()))
    for row, fact in zip(rows, said.facts["predictions"], strict=True):
        assert row["finding"] == fact["finding"]
        assert float(row["score"]) == pytest.approx(fact["score"], abs=1e-6)
        assert float(row["probability"]) == pytest.approx(fact["probability"], abs=1e-6)
    assert [Path(row["finding"]).name for row in rows] == ["001.png", "000.png"]
    assert "\r" not in said.text  # no progress bar where nobody sees it
    assert "predicting" not in said.text


def test_a_model_that_nobody_judged_gives_scores(
    tmp_path: Path, shipped: bytes, predict: Predict
) -> None:
    write_phantoms(tmp_path / "images", 1, seed=5)
    said = predict(write_run(tmp_path / "run", shipped, judged=None), tmp_path / "images")
    assert said.code == 0, said.text
    (one,) = said.facts["predictions"]
    assert (one["probability"], one["at-or-above-operating-point"]) == (None, None)
    page = (said.out / "predictions.html").read_text()
    for text in (one["meaning"], page, (said.out / "predictions.csv").read_text()):
        assert "not a probability" in text


def test_a_bad_file_is_set_aside_and_the_others_are_predicted(
    tmp_path: Path, run: Path, predict: Predict
) -> None:
    folder = tmp_path / "images"
    write_phantoms(folder, 2, seed=5)
    grey = Image.fromarray(np.full((40, 40), 90, np.uint8))
    Image.fromarray(np.full((31, 40), 90, np.uint8)).save(folder / "small.png")
    grey.convert("LA").save(folder / "transparent.png")
    (folder / "cut.png").write_bytes((folder / "000.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("nothing to see")
    (folder / "away.png").symlink_to(tmp_path / "elsewhere.png")
    grey.save(tmp_path / "elsewhere.png")
    said = predict(run, folder)
    assert said.code == 0, said.text
    assert "about 2 findings; 5 set aside" in said.text
    reasons = {Path(one["what"]).name: one["reason"] for one in said.facts["set-aside"]}
    assert "at least 32 x 32 pixels" in reasons["small.png"]
    assert "without transparency" in reasons["transparent.png"]
    assert "whole PNG, JPEG or TIFF" in reasons["cut.png"]
    assert "it is no PNG, JPEG, TIFF, DICOM or NIfTI file" in reasons["notes.txt"]
    assert "a link" in reasons["away.png"]
    assert "small.png" in (said.out / "predictions.html").read_text()


def test_nothing_that_can_be_predicted_is_refused_and_writes_nothing(
    tmp_path: Path, run: Path, predict: Predict
) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    said = predict(run, tmp_path / "a.png")
    assert said.code == 2
    assert "E-DATA" in said.text
    assert "(1 set aside, the first because" in said.text
    assert list(said.out.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--at=1,2,3", "--pixel=1,2"], "E-DATA", "found both"),
        (["--at=1,2"], "E-DATA", "expected x,y,z as numbers after --at"),
        (["--at=1,2,nan"], "E-DATA", "expected x,y,z as numbers after --at"),
        (["--pixel=1;2"], "E-DATA", "expected row,column as numbers after --pixel"),
        (["--pixel=3,4"], "E-DATA", "it is an image and taken whole"),
        (["absent.png"], "E-DATA", "expected a file or a folder"),
        (["a" * 300], "E-DATA", "expected a file or a folder"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, run: Path, predict: Predict, options: list[str], code: str, words: str
) -> None:
    write_phantoms(tmp_path / "images", 1, seed=5)
    said = predict(run, tmp_path / "images", *options)
    assert said.code == 2
    assert code in said.text
    assert words in said.text


def test_a_model_without_its_card_is_refused(tmp_path: Path, run: Path, predict: Predict) -> None:
    write_phantoms(tmp_path / "images", 1, seed=5)
    (run / "model-card.json").unlink()
    said = predict(run, tmp_path / "images")
    assert (said.code, "E-MODEL" in said.text) == (2, True)


def test_results_of_two_runs_do_not_mix(tmp_path: Path, run: Path, predict: Predict) -> None:
    write_phantoms(tmp_path / "images", 1, seed=5)
    (tmp_path / "out0").mkdir()
    (tmp_path / "out0" / "overlay-0007.png").write_bytes(b"of another run")
    said = predict(run, tmp_path / "images")
    assert said.code == 2
    assert "expected a new or an empty folder" in said.text


def test_a_name_that_a_spreadsheet_would_compute_is_defused(
    tmp_path: Path, run: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_phantoms(tmp_path, 1, seed=5)
    (tmp_path / "000.png").rename("=HYPERLINK(A1)<b>.png")
    said = predict(run, "=HYPERLINK(A1)<b>.png")
    assert said.code == 0, said.text
    (row,) = csv.reader((said.out / "predictions.csv").read_text().splitlines()[1:])
    assert row[:2] == ["'=HYPERLINK(A1)<b>.png"] * 2
    assert said.facts["predictions"][0]["finding"] == "=HYPERLINK(A1)<b>.png"
    page = (said.out / "predictions.html").read_text()
    assert "<b>" not in page
    assert "=HYPERLINK(A1)&lt;b&gt;.png" in page


def test_no_cell_begins_like_a_formula() -> None:
    """By Python's own reader, over all of OWASP's beginnings."""
    made = [
        Prediction(
            f"{begin}1+1", f"{begin}x", None, 0.5, Meaning(None, None, None, "x"), None, None
        )
        for begin in "=+-@\t\r\n"
    ]
    rows = list(csv.reader(as_csv(made).splitlines(keepends=True)))[1:]
    assert len(rows) == 7
    assert all(row[n].startswith("'") for row in rows for n in (0, 1))


def test_a_long_list_is_predicted_in_parts(
    tmp_path: Path, run: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of three, one of which holds nothing that can be used, give what one part gives."""
    folder = tmp_path / "images"
    write_phantoms(folder, 8, seed=6)
    for number in (1, 3, 4, 5):
        (folder / f"{number:03d}.png").write_bytes(b"")
    whole = predict(run, folder).facts["predictions"]
    monkeypatch.setattr(predicting, "_AT_ONCE", 3)
    parts = predict(run, folder).facts["predictions"]
    assert [one["finding"] for one in parts] == [one["finding"] for one in whole]
    assert [one["score"] for one in parts] == pytest.approx(
        [one["score"] for one in whole], abs=1e-6
    )
    assert len(parts) == 4


def test_a_folder_that_cannot_be_made_is_refused(
    tmp_path: Path, run: Path, predict: Predict
) -> None:
    write_phantoms(tmp_path / "images", 1, seed=5)
    (tmp_path / "out0").write_text("a file is in the way")
    said = predict(run, tmp_path / "images")
    assert said.code == 2
    assert "E-RUN" in said.text
    assert "choose another place" in said.text


@pytest.mark.slow
def test_the_command_leaves_the_network_before_it_looks(tmp_path: Path, run: Path) -> None:
    """In a process of its own, which ends by saying whether it could still reach anybody."""
    write_phantoms(tmp_path / "images", 1, seed=5)
    code = (
        "import sys, resource, logging\n"
        "from client import walls\n"
        "left = []\n"
        "real = walls.leave_network\n"
        "def leave():\n"
        "    left.append('numpy' not in sys.modules)\n"
        "    real()\n"
        "walls.leave_network = leave\n"
        "from client.__main__ import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    print('exit', end.code, 'asked', left, 'network', walls.has_network(),\n"
        "          'core', resource.getrlimit(resource.RLIMIT_CORE)[0] <= 1)\n"
    )
    arguments = ["predict", run, tmp_path / "images", "--out", tmp_path / "out", "--no-overlay"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    last = done.stdout.splitlines()[-1] if done.stdout else done.stderr
    assert "exit 0" in last, done.stderr
    assert "core True" in last
    if "it keeps its network" in done.stderr:
        pytest.skip("this host lets no process leave its network")
    assert "asked [True]" in last or "asked []" in last
    assert "network False" in last
