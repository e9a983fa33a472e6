"""Per-patient gradients into one noised optimizer step.

The privacy unit is the patient. A step sees U drawn patients with V views each (images, flips and
rotations), laid out patient by patient; a padded view has weight 0. For every patient the gradient
of the *sum* of the weighted view losses is clipped to L2 norm C; the clipped gradients are summed,
N(0, (sigma C)^2) is added once a step, and the result is divided by the public denominator.

`PatientClipper` is the seam between engines: whatever adds the clipped sum of a chunk to the
parameters' `.grad`. `BookKeepingClipper` (book_keeping.py) is the one that hospitals use,
`HooksClipper` the reference; noise and step stay in `NoisyStep`.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizerFastGradientClipping
from torch import Tensor, nn

from client.privacy.precision import products
from client.privacy.randomness import RandomStream
from common.errors import ModelError
from common.tasks.task import Loss

# Per-view gradients of one chunk are all in memory at once: views x weights x 4 bytes. Small chunks
# stay in the cache: 24 MB took 0.96 s where 192 MB took 1.65 s (docs/benchmarks.md).
CHUNK_BYTES = 24 * 1024**2


@dataclass(frozen=True)
class PatientShape:
    """What every patient looks like to the model: V views of shape `view`, public constants.

    `labels(n)` makes labels of n views of nobody, as the study's loss takes them.
    """

    views: int
    view: tuple[int, ...]
    labels: Callable[[int], Tensor]

    def synthetic(self, patients: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, labels and weights of `patients` patients of noise from a public seed."""
        generator = torch.Generator().manual_seed(0)
        n = patients * self.views
        inputs = torch.randn(n, *self.view, generator=generator)
        weights = torch.full((patients, self.views), 1 / self.views)
        return inputs.to(device), self.labels(n).to(device), weights.to(device)


class PatientClipper(Protocol):
    """Adds the clipped gradient sum of one chunk of whole patients to `.grad` of the parameters.

    What a patient with gradient g contributes, clip norm C > 0; tests hold both engines to it:

        gradient of the patient              contribution
        norm at most C (or zero)             g
        norm above C                         g C / |g|
        NaN or infinite anywhere             exactly zero; the others' are what they were
        |g|^2 above float32's 3.4e38         exactly zero
        views of weight 0                    as without them, unless their own gradient is NaN
        nobody's gradient is finite          exactly zero in all
        an empty draw                        is the caller's: no chunk, and the sum stays zero

    One contribution exceeds C by rounding of at most 1e-5 C. Adding the contributions up rounds
    again, by about 1e-7 of the sum.
    """

    model: nn.Module
    patients_per_chunk: int

    def add_clipped_sum(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> None:
        """`inputs` (U*V, ...), `labels` (U*V, ...) as the loss takes them, `weights` (U, V) float32, U >= 1.

        All or nothing: after an exception `.grad` is what it was, and the chunk can be repeated.
        """


def view_losses(
    loss: Loss, model: nn.Module, inputs: Tensor, labels: Tensor, weights: Tensor
) -> Tensor:
    """Sum over all views of weight x loss: a patient's share is its views' weighted sum."""
    return (loss(model(inputs), labels) * weights.flatten()).sum()


@contextmanager
def gradients_aside(parameters: list[nn.Parameter]) -> Iterator[None]:
    """`.grad` is None at the start; what it was before comes back at the end, however that comes."""
    kept = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in zip(parameters, kept, strict=True):
            parameter.grad = gradient


def add_to_gradients(parameters: Sequence[Tensor], sums: Sequence[Tensor]) -> None:
    """In place where there is something already, so that no allocation can fail half way."""
    for parameter, clipped in zip(parameters, sums, strict=True):
        if parameter.grad is None:
            parameter.grad = clipped
        else:
            parameter.grad.add_(clipped)


def clippable(loss: Loss) -> Loss:
    """`loss`, unless it mixes patients: then no clipping bounds what one of them changes. ModelError."""
    if loss.mixes_patients:
        raise ModelError(
            "expected a loss that is a sum over patients and found one that compares them within a "
            "batch; under differential privacy take a model whose loss is separable, or a rehearsal "
            'with mechanism = "none"'
        )
    return loss


def clip_factors(squared_norms: Tensor, max_grad_norm: float) -> Tensor:
    """min(1, C / norm) of every patient, (U,). The floor only keeps 0 from being divided by."""
    return (max_grad_norm / squared_norms.sqrt().clamp(min=1e-12)).clamp(max=1.0)


class HooksClipper:
    """Opacus' per-sample gradient hooks, summed over a patient's views before clipping.

    Exact for every layer that Opacus has a rule for; it holds one gradient per view in memory.
    A patient whose gradient is not finite contributes exactly zero (one NaN image would otherwise
    destroy the model, and show that this patient is there).
    """

    def __init__(self, model: nn.Module, loss: Loss, max_grad_norm: float, views: int) -> None:
        self.model = model
        self.loss = clippable(loss)
        self.max_grad_norm = max_grad_norm
        self._hooked = GradSampleModule(model, loss_reduction="sum", strict=True)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        bytes_per_view = 4 * sum(p.numel() for p in self._parameters)
        self.patients_per_chunk = max(1, CHUNK_BYTES // (bytes_per_view * views))

    def add_clipped_sum(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> None:
        patients, views = weights.shape
        try:
            # backward() fires the hooks and also fills .grad with the unclipped sum, which is dropped.
            with gradients_aside(self._parameters), products("float32"):
                # PyTorch warns of a full backward hook on a module none of whose inputs needs a gradient.
                inputs = inputs.detach().requires_grad_()
                loss = view_losses(self.loss, self._hooked, inputs, labels, weights)
                loss.backward()  # type: ignore[no-untyped-call]
            per_patient: list[Tensor] = [
                parameter.grad_sample.view(patients, views, -1).sum(1)  # type: ignore[attr-defined]
                for parameter in self._parameters
            ]
        finally:
            self._forget_pass()
        squared = torch.stack([g.square().sum(1) for g in per_patient]).sum(0)
        factors = clip_factors(squared, self.max_grad_norm)
        finite = torch.isfinite(squared)
        if not bool(finite.all()):
            # 0 x NaN is NaN: the gradients themselves have to go, not only their factor.
            per_patient = [g[finite] for g in per_patient]
            factors = factors[finite]
        sums = [
            (factors @ gradient).view_as(parameter)
            for parameter, gradient in zip(self._parameters, per_patient, strict=True)
        ]
        add_to_gradients(self._parameters, sums)

    def _forget_pass(self) -> None:
        """What a pass that was broken off leaves in Opacus' hooks would be added to the next one."""
        for module in self.model.modules():
            vars(module).pop("activations", None)
            vars(module).pop("max_batch_len", None)  # the next chunk may be a shorter one
        for parameter in self._parameters:
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter._forward_counter = 0  # type: ignore[attr-defined]
            vars(parameter).pop("_current_grad_sample", None)


class PlainSum:
    """No clipping: the same units, sums and denominators without differential privacy."""

    def __init__(self, model: nn.Module, loss: Loss, views: int) -> None:
        self.model = model
        self.loss = loss
        # A loss that mixes patients is one of the whole draw.
        self.patients_per_chunk = sys.maxsize if loss.mixes_patients else max(1, 128 // views)
        self._parameters = [p for p in model.parameters() if p.requires_grad]

    def add_clipped_sum(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> None:
        with products("float32"):
            loss = view_losses(self.loss, self.model, inputs, labels, weights)
            sums = torch.autograd.grad(
                loss, self._parameters, allow_unused=True, materialize_grads=True
            )
        add_to_gradients(self._parameters, sums)


class NoisyStep(DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Opacus' optimizer for gradients that arrive clipped and summed, with noise from `stream`.

    Accumulation, the place of the noise and the public denominator stay Opacus'. Only the source of
    the noise is replaced, since Opacus' own is PyTorch's generator, which can be predicted.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        denominator: float,
        stream: RandomStream,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=denominator,
            loss_reduction="mean",
        )
        self._stream = stream

    def add_noise(self) -> None:
        std, threads = self.noise_multiplier * self.max_grad_norm, torch.get_num_threads()
        for parameter in self.params:
            noise = torch.zeros_like(parameter)
            if std > 0:
                values = torch.from_numpy(self._stream.normal(parameter.numel(), threads) * std)
                noise = values.to(parameter).view_as(parameter)
            parameter.grad = parameter.summed_grad + noise
