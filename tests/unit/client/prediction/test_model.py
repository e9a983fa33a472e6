"""A model is taken with its card or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from client.prediction.model import load_model
from common.errors import ModelError
from common.model_card import MODEL_CARD
from common.phantom import phantom_patches, to_grey8
from common.tasks import USUAL
from common.tasks.nodule_classification.study import ImageEvaluation, ImageModel
from tests.tasks import TASKS
from tests.unit.client.prediction.making_runs import PHANTOM_IMAGES, write_run


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(path)
    return str(caught.value)


def test_a_folder_and_its_weights_file_are_the_same_model(run: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 65536, (3, 32, 32, 1), np.uint16)
    of_folder, of_file = load_model(run), load_model(run / "model.safetensors")
    np.testing.assert_array_equal(of_folder.scores(pixels), of_file.scores(pixels))
    assert not of_folder.network.training


def test_no_card_no_model(run: Path) -> None:
    (run / MODEL_CARD).unlink()
    assert "ask the coordinator for model-card.json" in refusal(run)


@pytest.mark.parametrize("task", [name for name in TASKS if name != USUAL])
def test_a_model_of_another_task_is_refused_in_a_sentence(run: Path, task: str) -> None:
    facts = json.loads((run / MODEL_CARD).read_text()) | {"task": task}
    (run / MODEL_CARD).write_text(json.dumps(facts))
    said = refusal(run)
    assert f"found one of '{task}'" in said
    assert "predict and export-onnx are for models that are shown images" in said
    assert "\n" not in said


@pytest.mark.parametrize("text", ["", "{}", '{"study": "x"}', "[1, 2"])
def test_a_malformed_card_is_refused(run: Path, text: str) -> None:
    (run / MODEL_CARD).write_text(text)
    assert "expected a model card" in refusal(run)


def test_a_card_with_an_unknown_fact_is_refused(run: Path) -> None:
    facts = json.loads((run / MODEL_CARD).read_text()) | {"approved-for": "patients"}
    (run / MODEL_CARD).write_text(json.dumps(facts))
    assert "expected a model card" in refusal(run)


@pytest.mark.parametrize("value", [0.0, -1.5])
def test_a_temperature_that_makes_no_probability_is_refused(run: Path, value: float) -> None:
    facts = json.loads((run / MODEL_CARD).read_text())
    facts["judged"]["temperature"]["value"] = value
    (run / MODEL_CARD).write_text(json.dumps(facts))
    assert f"judged.temperature is {value:g} but must be above 0" in refusal(run)


def test_other_weights_than_the_card_names_are_refused(run: Path) -> None:
    arrays = load((run / "model.safetensors").read_bytes())
    arrays["classifier.bias"] = arrays["classifier.bias"] + np.float32(1e-6)
    (run / "model.safetensors").write_bytes(save(arrays))
    assert "found others" in refusal(run)


def test_a_path_that_cannot_be_asked_about_is_no_model(tmp_path: Path) -> None:
    """Too long a name: what a closed folder is to others than root."""
    assert "cannot read it (File name too long)" in refusal(tmp_path / ("a" * 300) / "run")


def test_no_weights_no_model(run: Path) -> None:
    (run / "model.safetensors").unlink()
    assert "cannot read the weights" in refusal(run)


def test_weights_of_another_network_than_the_card_names_are_refused(
    tmp_path: Path, shipped: bytes
) -> None:
    assert "unexpected" in refusal(write_run(tmp_path, shipped, model=ImageModel(name="resnet18")))


def test_weights_for_other_channels_than_the_card_names_are_refused(
    tmp_path: Path, shipped: bytes
) -> None:
    colour = PHANTOM_IMAGES.model_copy(update={"channels": 3})
    assert "has shape" in refusal(write_run(tmp_path, shipped, colour))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, shipped: bytes) -> None:
    arrays = load(shipped)
    arrays["classifier.bias"] = np.array([0, np.nan], np.float32)
    assert "not finite" in refusal(write_run(tmp_path, save(arrays)))


@pytest.mark.parametrize("averaged", [True, False])
def test_the_card_says_whether_a_score_is_the_mean_over_the_symmetries(
    tmp_path: Path, shipped: bytes, averaged: bool
) -> None:
    of = ImageEvaluation(flips_and_rotations=averaged)
    model = load_model(write_run(tmp_path, shipped, evaluation=of))
    pixels = to_grey8(phantom_patches(4, seed=3).hu).numpy()[..., None]
    there, turned = model.scores(pixels), model.scores(np.rot90(pixels, axes=(1, 2)).copy())
    assert np.allclose(there, turned, atol=1e-6) is averaged
