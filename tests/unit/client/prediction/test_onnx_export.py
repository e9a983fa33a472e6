"""`intramural-client export-onnx`: the scores of `predict`, in a file that names no machine."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import Result
from safetensors.torch import save
from typer.testing import CliRunner

from client.__main__ import app
from client.prediction import onnx_export
from client.prediction.model import load_model
from common.models import build_model
from common.tasks.nodule_classification.card import ModelCard
from common.tasks.nodule_classification.study import ImageModel, Images
from tests.unit.client.prediction.making_runs import write_run

pytestmark = pytest.mark.slow  # torch's exporter takes seconds

SEED = 20_261_128
Export = Callable[[Path], Result]


@pytest.fixture
def export(tmp_path: Path) -> Export:
    def call(run: Path) -> Result:
        arguments = ["export-onnx", str(run), str(tmp_path / "model.onnx")]
        return CliRunner(env={"COLUMNS": "2000"}).invoke(app, arguments)

    return call


def check_scores(file: Path, run: Path) -> None:
    """ONNX Runtime's scores of `file` are those of `predict` with `run`, for batches of any size."""
    model, session = load_model(run), onnxruntime.InferenceSession(file)
    size, channels = model.card.images.size, model.card.images.channels
    for batch in (1, 3, 7):
        rng = np.random.default_rng([SEED, batch])
        stored = rng.integers(0, 65536, (batch, size, size, channels), np.uint16)
        given = np.moveaxis(stored / 65535, -1, 1).astype(np.float32)
        (found,) = session.run(["score"], {"images": given})
        np.testing.assert_allclose(found, model.scores(stored), atol=1e-4)


@pytest.mark.parametrize(("name", "channels"), [("resnet18", 1), ("resnet18-frozen-affine", 3)])
def test_other_programs_get_the_scores_of_predict(
    tmp_path: Path, export: Export, name: str, channels: int
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        weights = save(build_model(name, channels, 2).state_dict())
    images = Images.model_validate(
        {"classes": ("a", "b"), "size": 32, "channels": channels, "mean": 0.4, "std": 0.25}
    )
    run = write_run(tmp_path / "run", weights, images, ImageModel.model_validate({"name": name}))
    said = export(run)
    assert said.exit_code == 0, said.output
    check_scores(tmp_path / "model.onnx", run)


def test_the_file_has_the_card_and_nothing_of_this_machine(
    tmp_path: Path, run: Path, export: Export, repository: Path
) -> None:
    assert export(run).exit_code == 0
    check_scores(tmp_path / "model.onnx", run)
    data = (tmp_path / "model.onnx").read_bytes()
    onnx.checker.check_model(data, full_check=True)
    facts = {one.key: one.value for one in onnx.load_from_string(data).metadata_props}
    card = ModelCard.model_validate_json((run / "model-card.json").read_bytes(), by_name=False)
    assert ModelCard.model_validate_json(facts["intramural.card"], by_name=False) == card
    assert facts["intramural.weights"] == card.weights
    assert facts["intramural.use"] == "research use, not a medical device"
    assert float(facts["intramural.temperature"]) == 1.5
    for place in (str(repository), str(tmp_path), "site-packages", ".py"):
        assert place.encode() not in data
    assert (tmp_path / "model.onnx").stat().st_mode & 0o777 == 0o600


def test_a_file_that_disagrees_is_not_written(
    tmp_path: Path, run: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph's normalisation is falsified after it was traced."""
    forget = onnx_export._forget_where

    def falsify(proto: onnx.ModelProto) -> None:
        forget(proto)
        weights = {one.name: one for one in proto.graph.initializer}
        bias = next(one for name, one in weights.items() if name.endswith("classifier.bias"))
        changed = onnx.numpy_helper.to_array(bias) + np.array([0, 0.01], np.float32)
        bias.CopyFrom(onnx.numpy_helper.from_array(changed, bias.name))

    monkeypatch.setattr(onnx_export, "_forget_where", falsify)
    said = export(run)
    assert said.exit_code == 2
    assert "E-MODEL" in said.output
    assert "nothing was written" in said.output
    assert not (tmp_path / "model.onnx").exists()


def test_without_the_library_the_extra_is_named(
    tmp_path: Path, run: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    said = export(run)
    assert said.exit_code == 2
    assert "install intramural[exchange]" in said.output
    assert not (tmp_path / "model.onnx").exists()
