"""Every layer rule against a loop over patients in float64, what is refused, and what rounding can do."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from client.privacy import book_keeping, convolution, patient_gradients
from client.privacy.book_keeping import BookKeepingClipper
from client.privacy.patient_gradients import Gram, Record
from common.errors import ModelError
from common.models import build_model
from common.resnet import FrozenAffine
from tests.shapes import CROSS_ENTROPY, image_shape

DP = settings(max_examples=30, deadline=None, derandomize=True)
ANY = image_shape(views=1, channels=1, size=16)  # only chunk sizes depend on it

Batch = tuple[Tensor, Tensor, Tensor]


class Read(nn.Module):
    """Two logits from features of any shape, by a fixed projection without parameters."""

    def forward(self, features: Tensor) -> Tensor:
        flat = torch.tanh(features.flatten(1))
        generator = torch.Generator().manual_seed(flat.shape[1])
        projection = torch.randn(flat.shape[1], 2, generator=generator, dtype=torch.float32)
        logits: Tensor = flat @ projection.to(flat.dtype) / flat.shape[1] ** 0.5
        return logits


def batch_of(inputs: Tensor, views: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    patients = len(inputs) // views
    weights = torch.rand(patients, views, generator=generator)
    weights[:, 1:][torch.rand(patients, views - 1, generator=generator) < 0.3] = 0
    return inputs, torch.randint(0, 2, (len(inputs),), generator=generator), weights


def random_inputs(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def patient_gradients_of(model: nn.Module, batch: Batch) -> list[Tensor]:
    """One backward pass a patient, in float64."""
    model = copy.deepcopy(model).double()
    inputs, labels, weights = batch
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    parameters = [p for p in model.parameters() if p.requires_grad]
    views, result = weights.shape[1], []
    for patient, row in enumerate(weights.double()):
        at = slice(patient * views, (patient + 1) * views)
        losses = F.cross_entropy(model(inputs[at]), labels[at], reduction="none")
        gradients = torch.autograd.grad((losses * row).sum(), parameters)
        result.append(torch.cat([g.flatten() for g in gradients]))
    return result


def clipped(gradients: list[Tensor], norm: float) -> Tensor:
    return torch.stack([g * min(1.0, norm / max(float(g.norm()), 1e-30)) for g in gradients]).sum(0)


def engine_sum(model: nn.Module, batch: Batch, norm: float) -> Tensor:
    model = copy.deepcopy(model)
    BookKeepingClipper(model, CROSS_ENTROPY, norm, ANY).add_clipped_sum(*batch)
    return summed(model)


def summed(model: nn.Module) -> Tensor:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained]
    )


def assert_exact(model: nn.Module, batch: Batch, share: float = 0.7) -> None:
    """Equal to the loop at a clip norm that binds for some patients and not for others."""
    gradients = patient_gradients_of(model, batch)
    norms = sorted(float(g.norm()) for g in gradients)
    norm = max(share * norms[len(norms) // 2], 1e-3)
    expected = clipped(gradients, norm)
    difference = float((engine_sum(model, batch, norm).double() - expected).norm())
    assert difference <= 1e-5 * float(expected.norm())


FORMS = ("cheaper", "gram", "rows", "unfolded")


def choose(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Has every layer computed in one form, whatever it costs; "unfolded" are the rows of a GPU."""
    if form == "unfolded":  # and a patient or two at once
        monkeypatch.setitem(convolution.ROWS, "cpu", convolution.unfolded_rows)
        monkeypatch.setattr(convolution, "UNFOLDED_AT_ONCE", 4_000)
    if form != "cheaper":
        cost = math.inf if form == "gram" else 0
        monkeypatch.setattr(patient_gradients, "GRAM_COST_PER_WEIGHT", cost)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@DP
@given(data=st.data())
@pytest.mark.parametrize("form", FORMS)
def test_convolutions_of_every_geometry(form: str, data: st.DataObject) -> None:
    draw: Callable[..., Any] = data.draw
    groups = draw(st.sampled_from([1, 2, 4]))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    kind = draw(st.sampled_from(["number", "number", "pair", "same", "valid"]))
    padding = {
        "number": draw(st.integers(0, 2)),
        "pair": (draw(st.integers(0, 2)), draw(st.integers(0, 1))),
    }.get(kind, kind)
    stride = 1 if kind == "same" else draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    layer_seed, views = draw(st.integers(0, 99)), draw(st.integers(1, 5))
    with torch.random.fork_rng():
        torch.manual_seed(layer_seed)
        layer = nn.Conv2d(
            4,
            4 * draw(st.integers(1, 2)),
            kernel,
            stride=stride,
            padding=padding,
            dilation=draw(st.sampled_from([1, 1, 2])),
            groups=groups,
            bias=draw(st.booleans()),
            padding_mode=draw(st.sampled_from(["zeros", "zeros", "reflect", "circular"])),
        )
        model = nn.Sequential(nn.Conv2d(2, 4, 1), layer, Read())
    patients = draw(st.integers(1, 3))
    inputs = random_inputs(layer_seed, patients * views, 2, 9, 8)
    with pytest.MonkeyPatch.context() as patch:
        choose(patch, form)
        assert_exact(model, batch_of(inputs, views, layer_seed))


def sequence_model() -> nn.Module:
    """Tokens, normalisation and a linear layer that positions share."""
    return nn.Sequential(
        nn.Embedding(12, 6, padding_idx=3),
        nn.LayerNorm(6),
        nn.Linear(6, 5),
        nn.GELU(),
        nn.LayerNorm([7, 5], bias=False),
        nn.Linear(5, 3, bias=False),
        Read(),
    )


def image_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.GroupNorm(1, 6),
        nn.Linear(6, 2),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], Tensor]]] = {
    "sequence": (
        sequence_model,
        lambda n, seed: torch.randint(0, 12, (n, 7), generator=torch.Generator().manual_seed(seed)),
    ),
    "image": (image_model, lambda n, seed: random_inputs(seed, n, 1, 12, 12)),
    "compact-cnn": (
        lambda: build_model("compact-cnn", 1, 2),
        lambda n, seed: random_inputs(seed, n, 1, 16, 16),
    ),
}


@DP
@given(
    name=st.sampled_from(sorted(MODELS)),
    form=st.sampled_from(FORMS),
    patients=st.integers(1, 5),
    views=st.integers(1, 5),
    share=st.sampled_from([0.01, 0.7, 10.0]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_any_set_of_frozen_parameters(
    name: str,
    form: str,
    patients: int,
    views: int,
    share: float,
    seed: int,
    data: st.DataObject,
) -> None:
    make, inputs = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
    parameters = list(model.parameters())
    trained = data.draw(st.sets(st.sampled_from(range(len(parameters))), min_size=1))
    for index, parameter in enumerate(parameters):
        parameter.requires_grad_(index in trained)
    with pytest.MonkeyPatch.context() as patch:
        choose(patch, form)
        assert_exact(model, batch_of(inputs(patients * views, seed), views, seed), share)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "views", "size"),
    [("resnet18", 1, 64), ("resnet18", 3, 32), ("resnet18-frozen-affine", 2, 32)],
)
def test_resnet18(name: str, views: int, size: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = build_model(name, 1, 2)
    for layer in model.modules():  # folded BatchNorms keep the size of the activations in hand
        if isinstance(layer, FrozenAffine):
            layer.scale.fill_(0.5)
    assert_exact(model, batch_of(random_inputs(3, 3 * views, 1, size, size), views, 3))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """The records of every pass, in order."""
    made: list[Record] = []

    def record(**settings: Any) -> Record:
        made.append(Record(**settings))
        return made[-1]

    monkeypatch.setattr(book_keeping, "Record", record)
    return made


def test_a_network_has_layers_of_both_forms(recorded: list[Record]) -> None:
    """So that the comparisons above are with the engine as it runs."""
    model = build_model("resnet18", 1, 2)
    engine_sum(model, batch_of(random_inputs(0, 2, 1, 64, 64), 1, 0), 1.0)
    forms = [isinstance(g, Gram) for g in recorded[0].gradients if g.parameter.dim() > 1]
    assert 0 < sum(forms) < len(forms) == 21


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Names of the operations that are run, with what convolutions were asked to compute."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.convolutions: list[list[bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.convolutions.append(args[-1])
        return func(*args, **(kwargs or {}))


def test_no_weight_gradient_is_computed_twice_and_none_for_the_lowest_input() -> None:
    model = build_model("compact-cnn", 1, 2)
    clipper = BookKeepingClipper(model, CROSS_ENTROPY, 1.0, ANY)
    with Calls() as calls:
        clipper.add_clipped_sum(*batch_of(random_inputs(0, 4, 1, 32, 32), 2, 0))
    inputs, weights, biases = (sum(mask[i] for mask in calls.convolutions) for i in range(3))
    assert (inputs, weights, biases) == (3, 4, 0)


def test_nothing_is_done_below_the_lowest_trainable_layer() -> None:
    model = build_model("compact-cnn", 1, 2)
    for parameter in list(model.parameters())[:-2]:
        parameter.requires_grad_(False)
    clipper = BookKeepingClipper(model, CROSS_ENTROPY, 1.0, ANY)
    with Calls() as calls:
        clipper.add_clipped_sum(*batch_of(random_inputs(0, 4, 1, 16, 16), 2, 0))
    assert calls.convolutions == []


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(torch.relu(self.layer(x)))
        return result


class Tied(nn.Module):
    """The embedding's weights once more as the output layer, around its module."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.tokens(x).mean(1) @ self.tokens.weight.T
        return logits


class Folded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x.reshape(-1, 2)).reshape(len(x), 2, 2).sum(1)
        return result


class Quadratic(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) ** 2


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def sharing() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), r"'1' \(BatchNorm2d\)"),
        (
            nn.Sequential(nn.BatchNorm2d(2).requires_grad_(False), nn.Conv2d(2, 2, 1)),
            r"'0' \(Batch",
        ),
        (nn.Sequential(nn.Linear(4, 2), Scale()), r"'1' \(Scale\)"),
        (nn.ModuleDict({"head": Quadratic(4, 2)}), r"'head' \(Quadratic\)"),
        (nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2)}), r"'attention' \(Multihead"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)), "Linear"),
        (nn.Sequential(nn.Embedding(4, 2, max_norm=1.0)), "max_norm.*'0'"),
        (nn.Sequential(nn.Embedding(4, 2, scale_grad_by_freq=True)), "scale_grad_by_freq.*'0'"),
        (sharing(), "'1' and '0' share"),
    ],
)
def test_a_model_without_exact_rules_is_refused_by_name(model: nn.Module, found: str) -> None:
    with pytest.raises(ModelError, match=found):
        BookKeepingClipper(model, CROSS_ENTROPY, 1.0, ANY)


@pytest.mark.parametrize(
    ("model", "inputs", "found"),
    [
        (Twice(), torch.ones(2, 4), "'layer' twice"),
        (Tied(), torch.ones(2, 5, dtype=torch.int64), "'tokens.weight'.*elsewhere"),
        (Folded(), torch.ones(2, 4), "2 views.*4 rows at 'layer'"),
    ],
)
def test_what_only_a_forward_pass_shows_is_refused_too(
    model: nn.Module, inputs: Tensor, found: str
) -> None:
    clipper = BookKeepingClipper(model, CROSS_ENTROPY, 1.0, ANY)
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ModelError, match=found):
        clipper.add_clipped_sum(inputs, labels, torch.ones(2, 1))
    assert all(p.grad is None for p in model.parameters())
    assert all("forward" not in vars(layer) for layer in model.modules())


class Overwriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(x)
        logits: Tensor = self.second(features)
        features.detach().mul_(2)
        return logits


def test_an_overwritten_input_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="without operations in place"):
        engine_sum(Overwriting(), batch_of(torch.ones(2, 4), 1, 0), 1.0)


def test_the_model_is_as_it_was_after_a_call() -> None:
    model = build_model("compact-cnn", 1, 2)
    images = random_inputs(1, 4, 1, 16, 16)
    before, state = model(images), copy.deepcopy(model.state_dict())
    BookKeepingClipper(model, CROSS_ENTROPY, 1.0, ANY).add_clipped_sum(*batch_of(images, 2, 1))
    assert torch.equal(model(images), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all("forward" not in vars(layer) for layer in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    for parameter in model.parameters():
        parameter.grad = None
    model(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@DP
@given(
    name=st.sampled_from(sorted(MODELS)),
    form=st.sampled_from(FORMS),
    views=st.integers(1, 4),
    norm=st.sampled_from([1e-3, 1.0, 1e3]),
    loud=st.sampled_from([1.0, 100.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_no_contribution_is_longer_than_the_clip_norm(
    name: str, form: str, views: int, norm: float, loud: float, seed: int
) -> None:
    make, inputs = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
    given_inputs = inputs(views, seed)
    if given_inputs.is_floating_point():
        given_inputs = given_inputs * loud
    batch = batch_of(given_inputs, views, seed)
    with pytest.MonkeyPatch.context() as patch:
        choose(patch, form)
        assert float(engine_sum(model, batch, norm).double().norm()) <= norm * (1 + 1e-5)


class Cancelling(nn.Module):
    """Positions with the same large input and output gradients that add up to almost nothing."""

    def __init__(self, level: float, seed: int) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8, bias=False)
        self.level = level
        pattern = random_inputs(seed, 16, 8)
        self.register_buffer("pattern", pattern - pattern.mean(0))

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(self.level + x[:, None, :].expand(-1, 16, -1))
        pattern: Tensor = self.get_buffer("pattern")
        first = (out * pattern * self.level).sum((1, 2))
        first = first - first.detach()  # a loss that does not saturate
        return torch.stack([first, torch.zeros_like(first)], 1)


@pytest.mark.parametrize("level", [1e3, 1e6, 1e9])
def test_a_crafted_model_gains_nothing_from_rounding(
    level: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where positions cancel, the rounding of a Gram norm may well have it negative, that is zero."""
    choose(monkeypatch, "gram")
    norm, models = 1e-3, [Cancelling(level, seed) for seed in range(8)]

    def longest(patients: int) -> float:
        batch = torch.zeros(patients, 8), torch.zeros(patients).long(), torch.ones(patients, 1)
        return max(float(engine_sum(model, batch, norm).double().norm()) for model in models)

    assert longest(1) <= norm * (1 + 1e-5)
    assert longest(3) <= 3 * norm * (1 + 1e-5)
    monkeypatch.setattr(book_keeping, "CANCELLATION_LIMIT", math.inf)
    assert longest(1) > 100 * norm  # what the engine does not trust is in fact not to be trusted
