"""Where round 1 starts: determined by the protocol, from public data, or a refusal that says why."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from common.arrays import Arrays, check
from common.errors import RunError
from common.model_spec import model_spec
from common.models import MODEL_NAMES, build_model
from common.protocol import StudyProtocol
from server import initial
from server.initial import initial_arrays

pytestmark = pytest.mark.slow

torch.set_num_threads(1)

MakeStudy = Callable[..., StudyProtocol]


def bits(arrays: Arrays) -> list[tuple[str, bytes]]:
    return [(name, array.tobytes()) for name, array in arrays.items()]


@pytest.fixture
def study(make_study: MakeStudy) -> MakeStudy:
    """A study with this model and start; other arguments are the protocol's."""

    def make(name: str, start: str | Path, **more: Any) -> StudyProtocol:
        return make_study(model={"name": name, "initial-model": str(start)}, **more)

    return make


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_random_weights_are_determined_by_the_studys_digest(name: str, study: MakeStudy) -> None:
    protocol = study(name, "random")
    found = initial_arrays(protocol)
    check(found, model_spec(protocol))
    torch.manual_seed(1)
    assert bits(initial_arrays(protocol)) == bits(found)
    other = initial_arrays(study(name, "random", rounds=4))
    assert list(other) == list(found)
    assert bits(other) != bits(found)


def test_random_weights_are_those_that_torch_would_draw(study: MakeStudy) -> None:
    """Neither zero nor constant: the spread of every convolution is the built model's."""
    found = initial_arrays(study("compact-cnn", "random"))
    torch.manual_seed(0)
    for name, tensor in build_model("compact-cnn", 1, 2).state_dict().items():
        if tensor.numel() > 1000:
            assert np.std(found[name]) == pytest.approx(float(tensor.std()), rel=0.2)


def batch_norm_state(seed: int = 0) -> tuple[nn.Module, dict[str, Tensor]]:
    """Torchvision's ResNet18 with every weight and running statistic random, as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = resnet18(weights=None)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                channels = module.num_features
                module.weight.data = torch.rand(channels) + 0.5
                module.bias.data = 0.1 * torch.randn(channels)
                module.running_mean = 0.1 * torch.randn(channels)
                module.running_var = torch.rand(channels) + 0.5
    return model.eval(), {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """The model of `batch_norm_state`, and its state as a file."""
    model, state = batch_norm_state()
    path = tmp_path_factory.mktemp("torchvision") / "resnet18.safetensors"
    save_tensors(state, path)
    return model, path


def test_torchs_global_generator_is_not_moved(
    study: MakeStudy, theirs: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initial, "_download", lambda: dict(theirs[0].state_dict()))
    before = torch.get_rng_state()
    batch_norm_state()
    assert torch.equal(torch.get_rng_state(), before)  # the test's own helper does not
    initial_arrays(study("compact-cnn", "random"))
    initial_arrays(study("resnet18-frozen-affine", theirs[1]))
    initial_arrays(study("resnet18-frozen-affine", "imagenet"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("start", ["imagenet", "file"])
def test_a_folded_models_new_classifier_is_determined_by_the_digest(
    start: str, study: MakeStudy, theirs: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initial, "_download", lambda: dict(theirs[0].state_dict()))
    name = "resnet18-frozen-affine"
    where = theirs[1] if start == "file" else start
    torch.manual_seed(1)
    found = initial_arrays(study(name, where))
    torch.manual_seed(2)
    assert bits(initial_arrays(study(name, where))) == bits(found)
    other = initial_arrays(study(name, where, rounds=4))
    differing = [n for n in found if found[n].tobytes() != other[n].tobytes()]
    assert differing == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_file_of_our_own_model_is_taken_as_it_is(
    name: str, study: MakeStudy, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    arrays = initial_arrays(study(name, "random", study="elsewhere"))
    save_file(arrays, path)
    protocol = study(name, path)
    assert bits(initial_arrays(protocol)) == bits(arrays)  # order too, which the file does not keep


@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_of_torchvisions_model_keeps_its_features(
    channels: int, study: MakeStudy, theirs: tuple[nn.Module, Path]
) -> None:
    model, path = theirs
    images = {"size": 64, "channels": channels}
    protocol = study("resnet18-frozen-affine", path, images=images)
    found = initial_arrays(protocol)
    check(found, model_spec(protocol))
    ours = build_model("resnet18-frozen-affine", channels, 2)
    ours.load_state_dict({name: torch.from_numpy(array) for name, array in found.items()})
    generator = torch.Generator().manual_seed(5)
    batch = torch.randn(2, channels, 64, 64, generator=generator)
    kept: dict[str, Tensor] = {}
    for name, network, inputs in (
        ("ours", ours, batch),
        ("theirs", model, batch.expand(-1, 3, -1, -1)),
    ):
        head = network.get_submodule("fc").register_forward_pre_hook(
            lambda _, args, name=name: kept.update({name: args[0]})
        )
        with torch.no_grad():
            network(inputs)
        head.remove()
    assert kept["theirs"].std() > 0.01
    torch.testing.assert_close(kept["ours"], kept["theirs"], rtol=1e-3, atol=1e-4)


def write_ours(path: Path, change: Callable[[Arrays], Any]) -> Path:
    model = build_model("compact-cnn", 1, 2)
    arrays: Arrays = {name: t.detach().numpy() for name, t in model.state_dict().items()}
    save_file(change(arrays), path)
    return path


def half(path: Path, dtype: torch.dtype) -> Path:
    state = build_model("compact-cnn", 1, 2).state_dict()
    save_tensors({name: tensor.to(dtype) for name, tensor in state.items()}, path)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


WRONG_FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda p: p, "cannot read"),
    "a folder": (folder, "cannot read"),
    "empty": (lambda p: written(p, b""), "cannot read"),
    "rubbish": (lambda p: written(p, b"\xff" * 100), "cannot read"),
    "a pickle": (lambda p: written(p, b"\x80\x04\x95" + b"." * 60), "cannot read"),
    "no arrays": (lambda p: write_ours(p, lambda _: {}), "missing"),
    "one missing": (lambda p: write_ours(p, lambda a: dict(list(a.items())[1:])), "missing"),
    "one more": (lambda p: write_ours(p, lambda a: {**a, "extra": a["classifier.bias"]}), "extra"),
    "another shape": (
        lambda p: write_ours(p, lambda a: {**a, "classifier.bias": np.zeros(3, np.float32)}),
        "classifier.bias",
    ),
    "NaN": (
        lambda p: write_ours(p, lambda a: {**a, "classifier.bias": np.full(2, np.nan, np.float32)}),
        "not finite",
    ),
    "float64": (lambda p: half(p, torch.float64), "float64"),
    "float16": (lambda p: half(p, torch.float16), "float16"),
    "bfloat16": (lambda p: half(p, torch.bfloat16), "float32"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_is_refused_with_its_reason(
    case: str, study: MakeStudy, tmp_path: Path
) -> None:
    make, words = WRONG_FILES[case]
    path = make(tmp_path / "model.safetensors")
    with pytest.raises(RunError) as caught:
        initial_arrays(study("compact-cnn", path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_batch_norm_weights_are_not_taken_for_group_norm_weights(
    study: MakeStudy, tmp_path: Path
) -> None:
    """Every name and shape of our resnet18 is in the file; its statistics would be lost unsaid."""
    _, state = batch_norm_state()
    state |= {"fc.weight": torch.zeros(2, 512), "fc.bias": torch.zeros(2)}
    path = tmp_path / "model.safetensors"
    save_tensors(state, path)
    with pytest.raises(RunError, match=r"unexpected \['bn1\."):
        initial_arrays(study("resnet18", path, images={"size": 32, "channels": 3}))


@pytest.mark.parametrize("change", ["missing", "narrow"])
def test_a_batch_norm_file_that_does_not_fit_is_refused(
    change: str, study: MakeStudy, tmp_path: Path
) -> None:
    _, state = batch_norm_state()
    if change == "missing":
        del state["layer3.0.bn1.running_var"]
    else:
        state["layer4.1.conv2.weight"] = torch.zeros(512, 256, 3, 3)
    path = tmp_path / "model.safetensors"
    save_tensors(state, path)
    with pytest.raises(RunError, match=r"layer3\.0\.bn1|layer4\.1\.conv2") as caught:
        initial_arrays(study("resnet18-frozen-affine", path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("error", [URLError("no network"), RuntimeError("invalid hash value")])
def test_a_failed_download_says_what_to_do(
    error: Exception, study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def fail(_: object, **options: object) -> None:
        asked.update(options)
        raise error

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fail)
    with pytest.raises(RunError, match=r"safetensors .* model.initial-model"):
        initial_arrays(study("resnet18-frozen-affine", "imagenet"))
    assert asked == {"check_hash": True, "weights_only": True}  # a pickle from the network


def test_phantom_weights_are_the_shipped_ones(study: MakeStudy) -> None:
    shipped = files("common") / "pretrained" / "compact-cnn-32px.safetensors"
    if not shipped.is_file():
        pytest.skip("the shipped weights are not in this tree yet (common/pretrained)")
    protocol = study("compact-cnn", "phantom", images={"size": 32})
    found = initial_arrays(protocol)
    check(found, model_spec(protocol))
    again = initial_arrays(study("compact-cnn", "phantom", images={"size": 32}, rounds=4))
    assert bits(again) == bits(found)  # of any study
    untrained = initial_arrays(study("compact-cnn", "random", images={"size": 32}))
    assert not set(bits(found)) & {b for b in bits(untrained) if b[0].endswith("0.weight")}


@pytest.mark.parametrize("error", [ValueError("changed"), FileNotFoundError("gone")])
def test_shipped_weights_that_are_not_the_described_ones_are_refused(
    error: Exception, study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(initial, "shipped_initial", fail)
    with pytest.raises(RunError, match="shipped pre-trained model"):
        initial_arrays(study("compact-cnn", "phantom", images={"size": 32}))


def test_a_model_that_is_not_shipped_is_pre_trained_here(
    study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the study's own random weights, in place, telling how far it is."""
    protocol = study("compact-cnn", "phantom", images={"size": 48, "channels": 3})
    told: list[float] = []

    def train(model: nn.Module, *, progress: Callable[[float], None], **options: int) -> None:
        assert options == {"size": 48, "channels": 3, "seed": 0}
        with torch.no_grad():
            model.get_parameter("classifier.bias").fill_(7.0)
        progress(1.0)

    monkeypatch.setattr(initial, "shipped_initial", lambda *_: None)
    monkeypatch.setattr(initial, "pretrain", train)
    found = initial_arrays(protocol, told.append)
    assert (found["classifier.bias"] == 7.0).all()
    assert told == [1.0]
