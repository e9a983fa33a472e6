"""Both engines against a loop over patients written here; noise of the right size, once a step."""

import copy
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from client.privacy.book_keeping import BookKeepingClipper
from client.privacy.engine import (
    HooksClipper,
    NoisyStep,
    PatientClipper,
    PlainSum,
)
from client.privacy.randomness import RandomStream
from common.models import build_model
from tests.shapes import CROSS_ENTROPY, image_shape

SEED = 20260103
ENGINES = ("book-keeping", "opacus")
DP = settings(max_examples=25, deadline=None, derandomize=True)


def tiny_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, bias=False),
        nn.Flatten(),
        nn.Linear(75, 2),
    )


def model_of(name: str, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return tiny_model() if name == "tiny" else build_model(name, 1, 2)


@dataclass
class Batch:
    """U patients with V views each, some of them padded."""

    inputs: Tensor
    labels: Tensor
    weights: Tensor

    @classmethod
    def random(cls, patients: int, views: int, seed: int) -> "Batch":
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(patients * views, 1, 16, 16, generator=generator)
        labels = torch.randint(0, 2, (patients * views,), generator=generator)
        weights = torch.zeros(patients, views)
        for row in range(patients):
            own = int(torch.randint(1, views + 1, (1,), generator=generator))
            weights[row, :own] = 1.0 / own
        return cls(inputs, labels, weights)

    def patients(self, rows: list[int] | slice) -> "Batch":
        views = self.weights.shape[1]
        index = torch.arange(len(self.inputs)).view(-1, views)[rows].flatten()
        return Batch(self.inputs[index], self.labels[index], self.weights[rows])

    def with_image(self, patient: int, image: Tensor) -> "Batch":
        inputs = self.inputs.clone()
        inputs[patient * self.weights.shape[1]] = image
        return Batch(inputs, self.labels, self.weights)


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([gradient.detach().flatten().double() for gradient in gradients])


def naive_gradients(model: nn.Module, batch: Batch) -> list[Tensor]:
    """Each patient's gradient of the weighted sum of view losses, one patient and view at a time."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    views = batch.weights.shape[1]
    result = []
    for patient in range(len(batch.weights)):
        loss = torch.zeros(())
        for view in range(views):
            at = patient * views + view
            logits = model(batch.inputs[at : at + 1].detach())
            one = F.cross_entropy(logits, batch.labels[at : at + 1])
            loss = loss + batch.weights[patient, view] * one
        result.append(flat(list(torch.autograd.grad(loss, parameters))))
    return result


def naive_clipped_sum(model: nn.Module, batch: Batch, norm: float) -> Tensor:
    gradients = naive_gradients(model, batch)
    return torch.stack([g * min(1.0, norm / float(g.norm())) for g in gradients]).sum(0)


def add(clipper: PatientClipper, batch: Batch) -> None:
    clipper.add_clipped_sum(batch.inputs.clone(), batch.labels, batch.weights)


def gradient(model: nn.Module) -> Tensor:
    return flat([p.grad for p in model.parameters() if p.requires_grad and p.grad is not None])


def clipper_of(engine: str, model: nn.Module, norm: float, views: int) -> PatientClipper:
    if engine == "opacus":
        return HooksClipper(model, CROSS_ENTROPY, norm, views)
    return BookKeepingClipper(model, CROSS_ENTROPY, norm, image_shape(views, 1, 16))


def clipped_sum(
    engine: str, model: nn.Module, batch: Batch, norm: float, chunks: list[slice] | None = None
) -> Tensor:
    """What the engine adds for `batch`, chunk by chunk, on a copy of `model`."""
    model = copy.deepcopy(model)
    clipper = clipper_of(engine, model, norm, batch.weights.shape[1])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    for chunk in chunks or [slice(None)]:
        add(clipper, batch.patients(chunk))
    return gradient(model)


def assert_near(found: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    assert float((found - expected).norm()) <= relative * float(expected.norm())


def scale_is(noise: Tensor, sigma: float) -> bool:
    """Whether the variance of `noise` fits `sigma` squared: two-sided chi-square, level 1e-6."""
    statistic = float((noise.double() / sigma).square().sum())
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], noise.numel())
    return bool(low < statistic < high)


@DP
@given(
    engine=st.sampled_from(ENGINES),
    name=st.sampled_from(["compact-cnn", "tiny"]),
    patients=st.integers(1, 6),
    views=st.integers(1, 4),
    norm=st.sampled_from([1e-3, 0.1, 1.0, 1e4]),
    chunk=st.integers(1, 6),
    frozen=st.sampled_from([(), (0,), (0, 1, 2)]),
    seed=st.integers(0, 1000),
)
def test_clipped_sum_equals_a_loop_over_patients(
    engine: str,
    name: str,
    patients: int,
    views: int,
    norm: float,
    chunk: int,
    frozen: tuple[int, ...],
    seed: int,
) -> None:
    model, batch = model_of(name, seed), Batch.random(patients, views, seed)
    for index in frozen:
        list(model.parameters())[index].requires_grad_(False)
    chunks = [slice(first, first + chunk) for first in range(0, patients, chunk)]
    found = clipped_sum(engine, model, batch, norm, chunks)
    assert_near(found, naive_clipped_sum(model, batch, norm))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_clip_norm_binds_and_lets_be(engine: str) -> None:
    """What the property above compares is clipped at small norms and untouched at large ones."""
    model, batch = model_of("compact-cnn", 1), Batch.random(1, 3, 1)
    own = float(naive_gradients(model, batch)[0].norm())
    assert float(clipped_sum(engine, model, batch, own / 10).norm()) == pytest.approx(
        own / 10, rel=1e-5
    )
    assert float(clipped_sum(engine, model, batch, own * 10).norm()) == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_patient_is_clipped_once_not_once_a_view(engine: str) -> None:
    """Four views of the same image, each clipped by itself, would add up to four times as much."""
    model, one = model_of("tiny", 3), Batch.random(2, 1, 3)
    inputs, labels = (t.repeat_interleave(4, 0) for t in (one.inputs, one.labels))
    batch = Batch(inputs, labels, torch.full((2, 4), 0.25))
    by_view = Batch(inputs, labels, torch.full((8, 1), 0.25))
    norm = 0.1 * min(float(g.norm()) for g in naive_gradients(model, batch))
    once = clipped_sum(engine, model, batch, norm)
    assert float(once.norm()) <= 2 * norm * (1 + 1e-6)
    assert_near(clipped_sum(engine, model, by_view, norm), 4 * once)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("norm", [0.05, 1.0, 50.0])
def test_with_one_view_a_patient_is_an_opacus_sample(norm: float, engine: str) -> None:
    model, batch = model_of("compact-cnn", 5), Batch.random(6, 1, 5)
    theirs = copy.deepcopy(model)
    hooked = GradSampleModule(theirs, loss_reduction="sum", strict=True)
    optimizer = DPOptimizer(
        torch.optim.SGD(theirs.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=norm,
        expected_batch_size=1,
        loss_reduction="sum",
    )
    inputs = batch.inputs.clone().requires_grad_()
    F.cross_entropy(hooked(inputs), batch.labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
    optimizer.pre_step()
    assert_near(clipped_sum(engine, model, batch, norm), gradient(theirs))


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["compact-cnn", "tiny"])
def test_a_broken_image_silences_its_own_patient_and_no_other(
    name: str, broken: float, engine: str
) -> None:
    model, batch = model_of(name, 7), Batch.random(4, 2, 7)
    image = torch.full((1, 16, 16), broken)
    found = clipped_sum(engine, model, batch.with_image(2, image), 0.5)
    assert_near(found, naive_clipped_sum(model, batch.patients([0, 1, 3]), 0.5))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_of_broken_images_only_is_an_exact_zero(engine: str) -> None:
    model, batch = model_of("compact-cnn", 8), Batch.random(3, 2, 8)
    everything = Batch(torch.full_like(batch.inputs, math.nan), batch.labels, batch.weights)
    found = clipped_sum(engine, model, everything, 1.0)
    assert torch.equal(found, torch.zeros_like(found))


class Scaled(nn.Module):
    """`model` with its logits multiplied: gradients of any size from ordinary images."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images) * self.factor
        return logits


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("case", ["small", "large", "zero", "huge", "overflow", "padded", "alone"])
def test_the_table_of_contributions(engine: str, views: int, case: str) -> None:
    """Every line of `PatientClipper`'s table that the tests around this one do not have."""
    model, batch = model_of("compact-cnn", 11), Batch.random(3, views, 11)
    if case == "alone":
        batch = batch.patients([1])
    own = naive_gradients(model, batch)
    norm = 0.5 * min(float(g.norm()) for g in own)
    if case == "small":
        norm = 2 * max(float(g.norm()) for g in own)
    if case == "zero":
        batch.weights[0] = 0
    if case == "huge":  # norms of about 1e12
        model = Scaled(model, 1e12)
    if case == "overflow":  # squares of more than 3.4e38
        model = Scaled(model, 1e30)
    if case == "padded":  # what a view of weight 0 shows is nobody's business
        batch.weights[:] = 0
        batch.weights[:, 0] = 1
        noise = torch.randn(batch.inputs.shape, generator=torch.Generator().manual_seed(1))
        drop = (batch.weights == 0).flatten()
        other = Batch(
            torch.where(drop[:, None, None, None], noise, batch.inputs), batch.labels, batch.weights
        )
        assert_near(
            clipped_sum(engine, model, other, norm), clipped_sum(engine, model, batch, norm)
        )
    found = clipped_sum(engine, model, batch, norm)
    expected = naive_gradients(model, batch)
    kept = [g * min(1.0, norm / max(float(g.norm()), 1e-30)) for g in expected]
    if case == "overflow":
        finite = [float(g.float().square().sum()) < math.inf for g in expected]
        assert not all(finite)
        kept = [k if f else torch.zeros_like(k) for k, f in zip(kept, finite, strict=True)]
    if case == "zero":
        assert float(kept[0].norm()) == 0
    if case == "small":
        assert all(torch.equal(k, g) for k, g in zip(kept, expected, strict=True))
    assert_near(found, torch.stack(kept).sum(0))


@pytest.mark.parametrize("engine", ENGINES)
def test_another_patient_changes_nobody_elses_contribution(engine: str) -> None:
    model, batch = model_of("compact-cnn", 12), Batch.random(4, 2, 12)
    others = clipped_sum(engine, model, batch.patients([0, 1, 3]), 0.3)
    for image in (torch.randn(1, 16, 16), torch.full((1, 16, 16), 1e4), torch.zeros(1, 16, 16)):
        changed = batch.with_image(2, image)
        alone = clipped_sum(engine, model, changed.patients([2]), 0.3)
        assert_near(clipped_sum(engine, model, changed, 0.3) - alone, others)


class Failing(nn.Module):
    """Runs out of memory in the backward pass as often as it is told to."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.failures = model, 1

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        logits.register_hook(self.fail)  # type: ignore[no-untyped-call]
        return logits

    def fail(self, _: Tensor) -> None:
        if self.failures:
            self.failures -= 1
            raise torch.OutOfMemoryError("no memory left")


@pytest.mark.parametrize("engine", [*ENGINES, "none"])
def test_a_chunk_that_failed_can_be_repeated(engine: str) -> None:
    inner, batch = model_of("tiny", 13), Batch.random(3, 2, 13)
    model = Failing(copy.deepcopy(inner))
    clipper = (
        PlainSum(model, CROSS_ENTROPY, 2) if engine == "none" else clipper_of(engine, model, 0.2, 2)
    )
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(torch.OutOfMemoryError):
        add(clipper, batch)
    assert torch.equal(gradient(model), torch.ones_like(gradient(model)))
    add(clipper, batch)
    once = torch.stack(naive_gradients(inner, batch)).sum(0)
    if engine != "none":
        once = naive_clipped_sum(inner, batch, 0.2)
    assert_near(gradient(model) - 1, once, relative=1e-4)  # a sum near 1 has 1e-7 of absolute error


@pytest.mark.slow
@DP
@given(
    engine=st.sampled_from(ENGINES),
    name=st.sampled_from(["compact-cnn", "tiny"]),
    patients=st.integers(2, 6),
    views=st.integers(1, 3),
    norm=st.sampled_from([1e-3, 0.1, 1.0]),
    broken=st.sampled_from([None, math.nan, 1e30]),
    seed=st.integers(0, 1000),
)
def test_one_patient_moves_the_clipped_sum_by_the_norm_at_most(
    engine: str,
    name: str,
    patients: int,
    views: int,
    norm: float,
    broken: float | None,
    seed: int,
) -> None:
    model, batch = model_of(name, seed), Batch.random(patients, views, seed)
    # Loud images: every gradient is far above the norm, so the bound is reached.
    batch.inputs.mul_(30)
    batch.labels.zero_()
    if broken is not None:
        batch = batch.with_image(0, torch.full((1, 16, 16), broken))
    whole = clipped_sum(engine, model, batch, norm)
    other = Batch.random(1, views, seed + 1)
    for patient in range(patients):
        rest = [p for p in range(patients) if p != patient]
        without = clipped_sum(engine, model, batch.patients(rest), norm)
        assert float((whole - without).norm()) <= norm * (1 + 1e-6)
        there = batch.patients(rest)
        replaced = Batch(
            torch.cat([there.inputs, other.inputs]),
            torch.cat([there.labels, other.labels]),
            torch.cat([there.weights, other.weights]),
        )
        moved = clipped_sum(engine, model, replaced, norm)
        assert float((whole - moved).norm()) <= 2 * norm * (1 + 1e-6)


def test_a_chunk_holds_at_least_one_patient_whatever_the_size() -> None:
    assert (
        HooksClipper(build_model("compact-cnn", 1, 2), CROSS_ENTROPY, 1.0, 10**6).patients_per_chunk
        == 1
    )
    assert PlainSum(tiny_model(), CROSS_ENTROPY, 10**6).patients_per_chunk == 1
    assert clipper_of("book-keeping", tiny_model(), 1.0, 10**6).patients_per_chunk == 1
    assert (
        HooksClipper(build_model("compact-cnn", 1, 2), CROSS_ENTROPY, 1.0, 4).patients_per_chunk > 1
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_layers_get_no_gradient(engine: str) -> None:
    model, batch = model_of("tiny", 2), Batch.random(2, 2, 2)
    weight = next(model.parameters()).requires_grad_(False)
    add(clipper_of(engine, model, 1.0, 2), batch)
    assert weight.grad is None


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_plain_sum_is_autograd(chunk: int) -> None:
    model, batch = model_of("compact-cnn", 9), Batch.random(5, 3, 9)
    clipper = PlainSum(model, CROSS_ENTROPY, 3)
    for first in range(0, 5, chunk):
        add(clipper, batch.patients(slice(first, first + chunk)))
    assert_near(gradient(model), torch.stack(naive_gradients(model, batch)).sum(0))


def one_weight(values: int = 4000) -> nn.Parameter:
    return nn.Parameter(torch.zeros(values))


def noisy(parameter: nn.Parameter, momentum: float = 0.0, **changes: float) -> NoisyStep:
    constants = {"noise_multiplier": 1.5, "max_grad_norm": 0.4, "denominator": 7.5} | changes
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=momentum)
    return NoisyStep(optimizer, **constants, stream=RandomStream.for_tests(SEED, "step"))


def take(step: NoisyStep, parameter: nn.Parameter, summed: Tensor) -> None:
    parameter.grad = summed.clone()
    step.step()
    step.zero_grad()


@pytest.mark.parametrize(("sigma", "norm", "denominator"), [(1.5, 0.4, 7.5), (0.7, 2.0, 0.25)])
def test_noise_has_the_size_that_is_accounted(
    sigma: float, norm: float, denominator: float
) -> None:
    print(f"seed {SEED}")
    parameter = one_weight()
    step = noisy(parameter, noise_multiplier=sigma, max_grad_norm=norm, denominator=denominator)
    summed = torch.linspace(-1, 1, 4000)
    take(step, parameter, summed)
    noise = -parameter.detach() - summed / denominator
    expected = sigma * norm / denominator
    assert scale_is(noise, expected)
    assert not scale_is(noise, expected * 2 / 3)
    assert not scale_is(noise, expected * 3 / 2)
    assert stats.kstest(noise.numpy() / expected, "norm").pvalue > 1e-4


def test_an_empty_draw_is_a_step_of_pure_noise() -> None:
    print(f"seed {SEED}")
    parameter = one_weight()
    take(noisy(parameter), parameter, torch.zeros(4000))
    assert scale_is(parameter.detach(), 1.5 * 0.4 / 7.5)


def test_every_step_has_noise_of_its_own() -> None:
    print(f"seed {SEED}")
    parameter = one_weight()
    step = noisy(parameter)
    take(step, parameter, torch.zeros(4000))
    first = parameter.detach().clone()
    take(step, parameter, torch.zeros(4000))
    second = parameter.detach() - first
    assert scale_is(second, 1.5 * 0.4 / 7.5)  # and what was summed before is not added again
    assert stats.pearsonr(first.numpy(), second.numpy()).pvalue > 1e-4


def test_every_parameter_has_noise_of_its_own() -> None:
    parameters = [one_weight(50), one_weight(50)]
    step = NoisyStep(
        torch.optim.SGD(parameters, lr=1.0),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        denominator=1.0,
        stream=RandomStream.fresh(),
    )
    for parameter in parameters:
        parameter.grad = torch.zeros(50)
    step.step()
    values = torch.cat([parameter.detach() for parameter in parameters]).tolist()
    assert len(set(values)) == 100


def test_without_noise_a_step_is_exact() -> None:
    parameter, summed = one_weight(), torch.linspace(-3, 3, 4000)
    take(noisy(parameter, noise_multiplier=0.0), parameter, summed)
    assert torch.equal(parameter.detach(), -(summed / 7.5))


def test_momentum_is_that_of_sgd() -> None:
    parameter = one_weight(3)
    step = noisy(parameter, momentum=0.5, noise_multiplier=0.0, denominator=1.0)
    for _ in range(3):
        take(step, parameter, torch.ones(3))
    # velocities 1, 1.5 and 1.75
    assert parameter.tolist() == [-4.25] * 3


@pytest.mark.parametrize("engine", ENGINES)
def test_clipping_and_noise_make_the_step_that_the_design_states(engine: str) -> None:
    print(f"seed {SEED}")
    model, batch = model_of("compact-cnn", 4), Batch.random(5, 2, 4)
    expected = naive_clipped_sum(model, batch, 0.3) / 2.5
    before = flat(list(model.parameters()))
    clipper = clipper_of(engine, model, 0.3, 2)
    step = NoisyStep(
        torch.optim.SGD(model.parameters(), lr=1.0),
        noise_multiplier=2.0,
        max_grad_norm=0.3,
        denominator=2.5,
        stream=RandomStream.for_tests(SEED, "whole"),
    )
    add(clipper, batch)
    step.step()
    noise = before - flat(list(model.parameters())) - expected
    for factor, holds in ((1.0, True), (2 / 3, False), (3 / 2, False)):
        assert scale_is(noise, factor * 2.0 * 0.3 / 2.5) == holds
    assert np.isfinite(noise.numpy()).all()
