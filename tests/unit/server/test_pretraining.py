"""Pre-training in miniature, and the weights that ship."""

import csv
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.metrics import roc_auc_score

from common.models import CompactCNN, build_model
from server import pretraining
from server.pretraining import SHIPPED_NAME, make_shipped, pretrain, shipped_initial

pytestmark = pytest.mark.slow

PRETRAINED = Path(__file__).resolve().parents[3] / "common" / "pretrained"
REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "luna16-train"


@pytest.fixture(autouse=True)
def _few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "_HELD_OUT_PATCHES", 64)


def _model(channels: int = 1) -> CompactCNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return CompactCNN(channels, 2)


def _small(model: torch.nn.Module, channels: int = 1, seed: int = 3) -> float:
    return pretrain(
        model, size=32, channels=channels, seed=seed, patches=128, epochs=1
    ).phantom_auroc


def test_the_weights_are_a_moving_average_written_out() -> None:
    average = torch.tensor(0.0)
    naive = torch.tensor(0.0)
    for step in range(1, 3000):
        weights = torch.tensor(math.sin(step))
        decay = min(0.998, (1 + step) / (10 + step))
        naive = decay * naive + (1 - decay) * weights
        average = pretraining._moved(average, weights, step)
    torch.testing.assert_close(average, naive, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_learns_something_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "_HELD_OUT_PATCHES", 400)
    result = pretrain(
        _model(), size=32, channels=1, seed=0, patches=1000, epochs=4, learning_rate=4e-3
    )
    assert result.phantom_auroc > 0.6
    assert 0 < result.final_loss < 0.69  # below the log 2 of a coin


def test_same_arguments_same_weights_whatever_the_global_generator_does() -> None:
    first, again, other = _model(), _model(), _model()
    torch.manual_seed(5)
    _small(first)
    torch.manual_seed(6)
    _small(again)
    _small(other, seed=4)
    assert all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_three_channels_are_the_grey_patch_three_times() -> None:
    # With a third of the first weights in each channel the two networks are the same function.
    one, three = _model(), _model(3)
    state = one.state_dict()
    state["features.0.weight"] = state["features.0.weight"].repeat(1, 3, 1, 1) / 3
    three.load_state_dict(state)
    grey = torch.rand(4, 32, 32)
    with torch.no_grad():
        inputs = pretraining._inputs(grey, 3)
        torch.testing.assert_close(
            three(inputs), one(pretraining._inputs(grey, 1)), rtol=1e-4, atol=1e-5
        )
    assert 0 <= _small(three, channels=3) <= 1


def test_inputs_are_normalised_with_public_constants() -> None:
    grey = torch.tensor([[[0, 0.4, 1]]])
    assert pretraining._inputs(grey, 1).flatten().tolist() == pytest.approx([-1.6, 0.0, 2.4])


def test_progress_rises_to_one() -> None:
    seen: list[float] = []
    pretrain(_model(), size=32, channels=1, seed=0, patches=64, epochs=2, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)
    assert min(seen) > 0


@pytest.mark.parametrize(("patches", "epochs"), [(31, 1), (32, 0)])
def test_too_little_to_train_on_is_refused(patches: int, epochs: int) -> None:
    with pytest.raises(ValueError, match="at least one batch of 32 patches and one epoch"):
        pretrain(_model(), size=32, channels=1, seed=0, patches=patches, epochs=epochs)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights made as the shipped ones are, in miniature."""
    monkeypatch.setitem(pretraining._SHIPPED, "patches", 64)
    monkeypatch.setitem(pretraining._SHIPPED, "epochs", 1)
    make_shipped(tmp_path)
    return tmp_path


def test_made_weights_are_described_and_read_back(made: Path) -> None:
    description = json.loads((made / f"{SHIPPED_NAME}.json").read_text())
    data = (made / f"{SHIPPED_NAME}.safetensors").read_bytes()
    assert description["sha256"] == hashlib.sha256(data).hexdigest()
    assert (description["patches"], description["epochs"]) == (64, 1)
    arrays = shipped_initial("compact-cnn", 32, 1, folder=made)
    assert arrays is not None
    model = build_model("compact-cnn", 1, 2)
    assert list(arrays) == list(model.state_dict())
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})


def test_changed_weights_are_refused_with_both_digests(made: Path) -> None:
    path = made / f"{SHIPPED_NAME}.safetensors"
    described = hashlib.sha256(path.read_bytes()).hexdigest()
    arrays = load_file(path)
    arrays["classifier.bias"] = arrays["classifier.bias"] + np.float32(1)
    save_file(arrays, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=rf"expected the SHA-256 {described}, found {found}"):
        shipped_initial("compact-cnn", 32, 1, folder=made)


@pytest.mark.parametrize(
    ("name", "size", "channels"), [("resnet18", 32, 1), ("compact-cnn", 64, 1), ("compact-cnn", 32, 3)]
)  # fmt: skip
def test_other_models_have_no_shipped_weights(name: str, size: int, channels: int) -> None:
    assert shipped_initial(name, size, channels) is None


def test_shipped_weights_fit_the_model_and_are_small() -> None:
    arrays = shipped_initial("compact-cnn", 32, 1)
    assert arrays is not None
    expected = build_model("compact-cnn", 1, 2).state_dict()
    assert list(arrays) == list(expected)
    assert all(arrays[name].shape == tuple(expected[name].shape) for name in expected)
    assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays.values())
    assert (PRETRAINED / f"{SHIPPED_NAME}.safetensors").stat().st_size < 2_000_000


def test_shipped_description_is_of_these_settings() -> None:
    description = json.loads((PRETRAINED / f"{SHIPPED_NAME}.json").read_text())
    for key, value in pretraining._SHIPPED.items():
        assert description[key] == value, f"{key} changed: make the shipped weights again"
    assert description["command"] == "intramural-server pretrain --out common/pretrained"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real LUNA16 patches are not on this machine")
def test_shipped_weights_tell_real_nodules_that_they_never_saw() -> None:
    grey, label = [], []
    for site in ("siemens", "philips", "toshiba"):
        with (REAL / site / "manifest.csv").open() as lines:
            for row in csv.DictReader(lines):
                with Image.open(REAL / site / row["image"]) as image:
                    grey.append(np.array(image.convert("L"))[9:41, 9:41])
                label.append(row["label"] == "nodule")
    arrays = shipped_initial("compact-cnn", 32, 1)
    assert arrays is not None
    model = build_model("compact-cnn", 1, 2)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    scores = pretraining._scores(model, torch.from_numpy(np.stack(grey)).float() / 255, 1)
    assert roc_auc_score(label, scores.numpy()) > 0.915
