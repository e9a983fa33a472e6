"""The models against torchvision's, and their hooked gradients against a loop."""

from typing import get_args

import pytest
import torch
import torchvision
from opacus import GradSampleModule
from torch import nn
from torch.nn import functional as F

from common.models import (
    MODEL_NAMES,
    CompactCNN,
    build_model,
    freeze,
)
from common.protocol import Trainable
from common.resnet import FrozenAffine, fold_imagenet, group_norm, resnet18


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _batch_norm_resnet18() -> nn.Module:
    """Torchvision's ResNet18 in evaluation mode, with running statistics that are not trivial."""
    model: nn.Module = torchvision.models.resnet18(num_classes=5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 32, 50])
def test_logits_for_any_size(name: str, channels: int, size: int) -> None:
    logits = build_model(name, channels, 3)(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()


def test_unknown_model_and_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="'vgg'; known are compact-cnn, resnet18, resnet18-frozen"):
        build_model("vgg", 1, 2)
    with pytest.raises(ValueError, match="at least 1 channel and 2 classes"):
        build_model("compact-cnn", 0, 2)
    with pytest.raises(ValueError, match="at least 1 channel and 2 classes"):
        build_model("compact-cnn", 1, 1)


@pytest.mark.parametrize("shape", [(2, 1, 15, 32), (1, 32, 32)])
def test_images_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 16 pixels a side"):
        CompactCNN()(torch.zeros(shape))


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_nothing_is_computed_in_place(name: str) -> None:
    model = build_model(name, 1, 2)
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    images = torch.randn(2, 1, 32, 32)
    kept = images.clone()
    outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for module in model.modules():
        if not list(module.children()) and not isinstance(module, nn.Identity):
            module.register_forward_hook(lambda _m, _i, out: outputs.append((out, out.clone())))
    model(images)
    assert torch.equal(images, kept)
    # An in-place layer later on would have overwritten what an earlier one gave out.
    assert all(torch.equal(out, copy) for out, copy in outputs)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_one_image_does_not_reach_anothers_logits(name: str) -> None:
    model = build_model(name, 1, 2)
    images = torch.randn(3, 1, 32, 32)
    other = torch.cat([images[:1], 5 * torch.randn(2, 1, 32, 32)])
    torch.testing.assert_close(model(images)[0], model(other)[0], rtol=1e-4, atol=1e-5)


def test_weights_are_as_many_as_counted_by_hand() -> None:
    convolutions = 9 * (1 * 16 + 16 * 32 + 32 * 64 + 64 * 64)
    normalisation = 2 * (16 + 32 + 64 + 64)
    classifier = 64 * 2 + 2
    counted = sum(p.numel() for p in CompactCNN().parameters())
    assert counted == convolutions + normalisation + classifier


def test_resnet18_is_torchvisions_with_group_norm() -> None:
    theirs = torchvision.models.resnet18(
        num_classes=2, norm_layer=lambda channels: nn.GroupNorm(32, channels)
    )
    ours = resnet18(3, 2, group_norm)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images))


def test_resnet18_starts_from_torchvisions_spread() -> None:
    theirs = torchvision.models.resnet18().state_dict()
    ours = resnet18(1, 2, group_norm).state_dict()
    for name in ("conv1.weight", "layer2.0.conv1.weight", "layer4.1.conv2.weight"):
        assert float(ours[name].std()) == pytest.approx(float(theirs[name].std()), rel=0.05)


@pytest.mark.parametrize("channels", [1, 3])
def test_folded_model_equals_batch_norm_in_evaluation_mode(channels: int) -> None:
    theirs = _batch_norm_resnet18()
    ours = resnet18(channels, 5, FrozenAffine)
    ours.load_state_dict(fold_imagenet(theirs.state_dict(), channels=channels, classes=5))
    assert isinstance(theirs.fc, nn.Linear)
    assert isinstance(ours.fc, nn.Linear)
    ours.fc.load_state_dict(theirs.fc.state_dict())
    images = torch.randn(3, channels, 64, 64)
    # A grey image is what the three-channel network sees three times.
    expected = theirs(images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4)


def test_folding_makes_a_new_classifier_and_leaves_its_input_alone() -> None:
    state = _batch_norm_resnet18().state_dict()
    before = {name: array.clone() for name, array in state.items()}
    folded = fold_imagenet(state, channels=3, classes=2)
    assert folded["fc.weight"].shape == (2, 512)
    folded["conv1.weight"].zero_()
    assert all(torch.equal(state[name], array) for name, array in before.items())


def test_folding_names_what_does_not_fit() -> None:
    state = dict(_batch_norm_resnet18().state_dict())
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        fold_imagenet(state, channels=2, classes=2)
    narrow = {**state, "layer1.0.conv1.weight": torch.zeros(64, 32, 3, 3)}
    with pytest.raises(ValueError, match=r"layer1\.0\.conv1\.weight should have shape"):
        fold_imagenet(narrow, channels=1, classes=2)
    del state["layer3.1.bn2.running_var"]
    with pytest.raises(ValueError, match=r"layer3\.1\.bn2\.running_var.* is missing"):
        fold_imagenet(state, channels=1, classes=2)


def test_frozen_affine_is_not_trained() -> None:
    model = build_model("resnet18-frozen-affine", 1, 2)
    trained = {name for name, _ in model.named_parameters()}
    assert not any("scale" in name or "shift" in name for name in trained)
    assert "bn1.scale" in model.state_dict()


# --- what is trained, written out by hand ------------------------------------------------------

_LAYERS = {
    "compact-cnn": {
        "convolutions": ["features.0", "features.4", "features.8", "features.12"],
        "norms": ["features.1", "features.5", "features.9", "features.13"],
        "head": ["classifier"],
    },
    "resnet18": {
        "convolutions": [
            "conv1",
            *(f"layer{i}.{b}.conv{c}" for i in (1, 2, 3, 4) for b in (0, 1) for c in (1, 2)),
            *(f"layer{i}.0.downsample.0" for i in (2, 3, 4)),
        ],
        "norms": [
            "bn1",
            *(f"layer{i}.{b}.bn{c}" for i in (1, 2, 3, 4) for b in (0, 1) for c in (1, 2)),
            *(f"layer{i}.0.downsample.1" for i in (2, 3, 4)),
        ],
        "head": ["fc"],
    },
}


def _expected(name: str, trainable: str) -> set[str]:
    """Names of the parameters that are trained; convolutions have no bias here."""
    layers = _LAYERS[name.removesuffix("-frozen-affine")]
    trained = {f"{head}.{kind}" for head in layers["head"] for kind in ("weight", "bias")}
    if trainable != "head" and name != "resnet18-frozen-affine":  # whose norms are never trained
        trained |= {f"{norm}.{kind}" for norm in layers["norms"] for kind in ("weight", "bias")}
    if trainable == "all":
        trained |= {f"{convolution}.weight" for convolution in layers["convolutions"]}
    return trained


_EXPECTED_WEIGHTS = {
    # counted by hand: a norm has two numbers a channel, a head features x classes + classes
    ("compact-cnn", "norm-and-head"): 2 * (16 + 32 + 64 + 64) + 64 * 2 + 2,
    ("compact-cnn", "head"): 64 * 2 + 2,
    ("resnet18", "norm-and-head"): 2 * (64 * 5 + 128 * 5 + 256 * 5 + 512 * 5) + 512 * 2 + 2,
    ("resnet18", "head"): 512 * 2 + 2,
    ("resnet18-frozen-affine", "norm-and-head"): 512 * 2 + 2,
    ("resnet18-frozen-affine", "head"): 512 * 2 + 2,
}


@pytest.mark.parametrize("trainable", get_args(Trainable))
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_exactly_what_is_named_gets_a_gradient_and_no_step_moves_the_rest(
    name: str, trainable: Trainable
) -> None:
    model = build_model(name, 1, 2)
    assert freeze(model, trainable) is model
    before = {n: t.clone() for n, t in model.state_dict().items()}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == _expected(name, trainable)
    if trainable == "all":
        assert trained == {n for n, _ in model.named_parameters()}
    else:
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert count == _EXPECTED_WEIGHTS[name, trainable]
    images, labels = torch.randn(4, 1, 32, 32), torch.tensor([0, 1, 1, 0])
    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    assert {n for n, p in model.named_parameters() if p.grad is not None} == trained
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert _expected(name, "head") <= moved <= trained


@pytest.mark.parametrize("trainable", get_args(Trainable))
def test_freezing_changes_no_value_and_no_logit(trainable: Trainable) -> None:
    model = build_model("compact-cnn", 1, 2)
    images = torch.randn(2, 1, 32, 32)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    logits = model(images)
    freeze(model, trainable)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert torch.equal(model(images), logits)


def test_the_head_is_the_last_linear_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4), nn.Linear(4, 4), nn.ReLU())
    found = [n for n, p in freeze(model, "head").named_parameters() if p.requires_grad]
    assert found == ["2.weight", "2.bias"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_hooked_gradients_equal_a_loop_over_images(name: str) -> None:
    images, labels = torch.randn(3, 1, 32, 32), torch.tensor([0, 1, 1])
    model = build_model(name, 1, 2)
    if name == "resnet18-frozen-affine":
        # Unnormalised random weights let activations grow; smaller ones keep float32 exact enough.
        for array in (b for n, b in model.named_buffers() if n.endswith("scale")):
            array.fill_(0.5)
    loop: list[dict[str, torch.Tensor]] = []
    for image, label in zip(images, labels, strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()  # type: ignore[no-untyped-call]
        loop.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    model.zero_grad()
    hooked = GradSampleModule(model, strict=True, loss_reduction="sum")
    F.cross_entropy(hooked(images), labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
    for parameter_name, parameter in model.named_parameters():
        expected = torch.stack([gradients[parameter_name] for gradients in loop])
        difference = (getattr(parameter, "grad_sample") - expected).norm()  # noqa: B009 - Opacus adds it
        assert difference <= 1e-4 * expected.norm() + 1e-7, parameter_name
