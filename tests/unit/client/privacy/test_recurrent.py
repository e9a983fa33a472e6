"""Clipping of a GRU's patients against a loop over single patients with torch's own `nn.GRU`."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.layers.dp_rnn import RNNLinear
from torch import Tensor, nn
from torch.nn import functional as F

from client.privacy.engine import CHUNK_BYTES, HooksClipper, PatientShape
from client.privacy.recurrent import is_recurrent, recurrent_clipper, step_by_step
from common.errors import ModelError
from common.losses import cross_entropy
from common.models import build_model
from common.sequence_model import GRUClassifier
from common.tasks.task import Loss

LOSS = Loss(cross_entropy)
FEATURES, STEPS = 6, 7


class TwoLayers(nn.Module):
    """A deeper network in which time is the first axis, as `nn.GRU` has it by default."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh())
        self.gru = nn.GRU(5, 4, num_layers=2)
        self.head = nn.Linear(4, 2)

    def forward(self, series: Tensor) -> Tensor:
        outputs, _ = self.gru(self.inner(series).transpose(0, 1))
        logits: Tensor = self.head(outputs.mean(0))
        return logits


MODELS: dict[str, Callable[[], nn.Module]] = {
    "study": lambda: GRUClassifier(FEATURES, hidden=5),
    "two-layers": TwoLayers,
}


def model_of(name: str, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MODELS[name]()


def batch_of(patients: int, views: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(patients * views, STEPS, FEATURES, generator=generator)
    labels = torch.randint(0, 2, (patients * views,), generator=generator)
    drawn = torch.randint(1, views + 1, (patients, 1), generator=generator)
    weights = (torch.arange(views) < drawn).float() / drawn
    return inputs, labels, weights


def clipper_of(model: nn.Module, norm: float, views: int, steps: int = STEPS) -> HooksClipper:
    shape = PatientShape(views, (steps, FEATURES), lambda count: torch.arange(count) % 2)
    return recurrent_clipper(model, LOSS, norm, shape)


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([gradient.detach().flatten().double() for gradient in gradients])


def naive(model: nn.Module, inputs: Tensor, labels: Tensor, weights: Tensor) -> list[Tensor]:
    """Each patient's gradient, one view at a time, by autograd through `nn.GRU` itself."""
    views = weights.shape[1]
    result = []
    for patient in range(len(weights)):
        loss = torch.zeros(())
        for view in range(views):
            at = patient * views + view
            one = F.cross_entropy(model(inputs[at : at + 1]), labels[at : at + 1])
            loss = loss + weights[patient, view] * one
        result.append(flat(list(torch.autograd.grad(loss, list(model.parameters())))))
    return result


def clipped(gradient: Tensor, norm: float) -> Tensor:
    return gradient * min(1.0, norm / max(float(gradient.norm()), 1e-30))


def found_for(
    model: nn.Module, inputs: Tensor, labels: Tensor, weights: Tensor, norm: float, chunk: int = 99
) -> Tensor:
    """What the clipper adds to the parameters of `model` itself, chunk by chunk."""
    clipper = clipper_of(model, norm, weights.shape[1])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    views = weights.shape[1]
    for first in range(0, len(weights), chunk):
        rows = slice(first * views, (first + chunk) * views)
        clipper.add_clipped_sum(inputs[rows], labels[rows], weights[first : first + chunk])
    return flat([p.grad for p in model.parameters() if p.grad is not None])


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(MODELS)),
    patients=st.integers(1, 6),
    views=st.integers(1, 3),
    norm=st.sampled_from([1e-3, 0.1, 1.0, 1e4]),
    chunk=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_clipped_sum_equals_a_loop_over_patients(
    name: str, patients: int, views: int, norm: float, chunk: int, seed: int
) -> None:
    model, batch = model_of(name, seed), batch_of(patients, views, seed)
    expected = torch.stack([clipped(g, norm) for g in naive(model, *batch)]).sum(0)
    assert_near(found_for(model, *batch, norm, chunk), expected)


def test_the_clip_norm_binds() -> None:
    model, batch = model_of("study", 1), batch_of(1, 2, 1)
    own = float(naive(model, *batch)[0].norm())
    assert float(found_for(model, *batch, own / 10).norm()) == pytest.approx(own / 10, rel=1e-5)


@pytest.mark.parametrize("case", ["small", "huge", "overflow", "empty", "padded", "nan", "all-nan"])
@pytest.mark.parametrize("views", [1, 3])
def test_the_table_of_contributions(case: str, views: int) -> None:
    """Every line of `PatientClipper`'s table."""
    model, (inputs, labels, weights) = model_of("study", 11), batch_of(3, views, 11)
    weights = torch.full_like(weights, 1 / views)
    norm = 0.5 * min(float(g.norm()) for g in naive(model, inputs, labels, weights))
    kept = [0, 1, 2]
    if case == "small":
        norm = 1e4
    if case in ("huge", "overflow"):  # patient 1 has a gradient of about 1e9, or one beyond float32
        weights[1] *= 1e9 if case == "huge" else 1e30
        kept = [0, 2] if case == "overflow" else kept
    if case == "empty":
        weights[1] = 0
    if case == "padded":
        weights[:, 0], weights[:, 1:] = 1, 0
        inputs.view(3, views, STEPS, FEATURES)[:, 1:] = 1e4
    if case == "nan":
        inputs[views, -1, 0] = math.nan
        kept = [0, 2]
    if case == "all-nan":
        inputs[:, 0, 0] = math.nan
        kept = []
    found = found_for(model, inputs, labels, weights, norm)
    one_by_one = naive(model, inputs, labels, weights)
    if case == "empty":
        assert float(one_by_one[1].norm()) == 0
    expected = [clipped(one_by_one[patient], norm) for patient in kept]
    if kept:
        assert_near(found, torch.stack(expected).sum(0))
    else:
        assert torch.equal(found, torch.zeros_like(found))


def test_the_same_parameters_under_the_same_names() -> None:
    """Nothing is copied: a step on one model is a step of the other, and every bit stays."""
    model = model_of("two-layers", 3)
    before = copy.deepcopy(model.state_dict())
    twin = step_by_step(model)
    own, shared = dict(model.named_parameters()), dict(twin.named_parameters())
    assert own.keys() == shared.keys()
    assert all(own[name] is shared[name] for name in own)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)

    inputs = torch.randn(4, STEPS, FEATURES, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert all(torch.equal(model.state_dict()[name], 1.5 * before[name]) for name in before)
    torch.testing.assert_close(model(inputs), twin(inputs))
    untouched = TwoLayers()
    untouched.load_state_dict(model.state_dict())  # nn.GRU's names alone, strictly
    torch.testing.assert_close(untouched(inputs), twin(inputs))


def test_frozen_recurrence_trains_the_head_alone() -> None:
    model, batch = model_of("study", 5), batch_of(4, 1, 5)
    assert isinstance(model, GRUClassifier)
    model.gru.requires_grad_(False)
    clipper_of(model, 0.1, 1).add_clipped_sum(*batch)
    assert [name for name, p in model.named_parameters() if p.grad is not None] == [
        "classifier.weight",
        "classifier.bias",
    ]


def test_a_chunk_that_failed_can_be_repeated_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opacus remembers the length of a batch on the layer; a shorter one must not meet it."""
    model, (inputs, labels, weights) = model_of("study", 13), batch_of(4, 2, 13)
    norm = 0.1
    expected = torch.stack([clipped(g, norm) for g in naive(model, inputs, labels, weights)]).sum(0)
    clipper = clipper_of(model, norm, 2)
    samplers = clipper._hooked.GRAD_SAMPLERS
    rule, calls = samplers[RNNLinear], iter(range(1000))

    def fails_in_the_middle(*arguments: object) -> object:
        if next(calls) == 5:
            raise torch.OutOfMemoryError("no memory left")
        return rule(*arguments)

    monkeypatch.setitem(samplers, RNNLinear, fails_in_the_middle)
    with pytest.raises(torch.OutOfMemoryError):
        clipper.add_clipped_sum(inputs, labels, weights)
    assert all(parameter.grad is None for parameter in model.parameters())
    for half in (slice(0, 2), slice(2, 4)):
        rows = slice(2 * half.start, 2 * half.stop)
        clipper.add_clipped_sum(inputs[rows], labels[rows], weights[half])
    assert_near(flat([p.grad for p in model.parameters() if p.grad is not None]), expected)


@pytest.mark.parametrize("views", [1, 4])
@pytest.mark.parametrize("steps", [2, 300])
def test_a_chunk_stays_within_its_memory(views: int, steps: int) -> None:
    """Its gradients, and what autograd keeps of its steps, counted in a pass over a few patients."""
    model = GRUClassifier(FEATURES, hidden=32)
    clipper = clipper_of(model, 1.0, views, steps)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        return kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)

    inputs = torch.zeros(4 * views, steps, FEATURES, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = clipper.model(inputs)
    assert outputs.requires_grad
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    states = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 4
    gradients = 4 * views * sum(p.numel() for p in model.parameters())
    taken = clipper.patients_per_chunk * (states + gradients)
    assert CHUNK_BYTES / 4 < taken <= CHUNK_BYTES


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(3, 4),
        nn.GRU(3, 4, bidirectional=True),
        nn.GRU(3, 4, bias=False),
        nn.GRU(3, 4, num_layers=2, dropout=0.1),
    ],
)
def test_a_layer_without_an_exact_counterpart_is_refused(layer: nn.Module) -> None:
    with pytest.raises(ModelError, match="expected a GRU in one direction"):
        step_by_step(nn.Sequential(layer))


def test_which_models_are_recurrent() -> None:
    assert is_recurrent(GRUClassifier(3))
    assert not is_recurrent(build_model("compact-cnn", 1, 2))
