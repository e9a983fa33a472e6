"""Per-patient gradients into one noised optimizer step.

The privacy unit is the patient. A step sees U drawn patients with V views each (images, flips and
rotations), laid out patient by patient; a padded view has weight 0. For every patient the gradient
of the *sum* of the weighted view losses is clipped to L2 norm C; the clipped gradients are summed,
N(0, (sigma C)^2) is added once a step, and the result is divided by the public denominator.

`PatientClipper` is the seam for faster engines: whatever adds the clipped sum of a chunk to the
parameters' `.grad` can take the place of `HooksClipper`; noise and step stay in `NoisyStep`.
"""

from typing import Protocol

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizerFastGradientClipping
from torch import Tensor, nn
from torch.nn import functional as F

from client.privacy.randomness import RandomStream

# Per-view gradients of one chunk are all in memory at once: views x weights x 4 bytes. Small chunks
# stay in the cache: 24 MB took 0.96 s where 192 MB took 1.65 s (docs/benchmarks.md).
CHUNK_BYTES = 24 * 1024**2


class PatientClipper(Protocol):
    """Adds the clipped gradient sum of one chunk of whole patients to `.grad` of the parameters."""

    model: nn.Module
    patients_per_chunk: int

    def add_clipped_sum(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> None:
        """`inputs` (U*V, C, H, W), `labels` (U*V,) int64, `weights` (U, V) float32, U >= 1."""


def view_losses(model: nn.Module, inputs: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Sum over all views of weight x cross-entropy: a patient's share is its views' weighted sum."""
    losses: Tensor = F.cross_entropy(model(inputs), labels, reduction="none")
    return (losses * weights.flatten()).sum()


class HooksClipper:
    """Opacus' per-sample gradient hooks, summed over a patient's views before clipping.

    Exact for every layer that Opacus has a rule for; it holds one gradient per view in memory.
    A patient whose gradient is not finite contributes exactly zero (one NaN image would otherwise
    destroy the model, and show that this patient is there).
    """

    def __init__(self, model: nn.Module, max_grad_norm: float, views: int) -> None:
        self.model = model
        self.max_grad_norm = max_grad_norm
        self._hooked = GradSampleModule(model, loss_reduction="sum", strict=True)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        bytes_per_view = 4 * sum(p.numel() for p in self._parameters)
        self.patients_per_chunk = max(1, CHUNK_BYTES // (bytes_per_view * views))

    def add_clipped_sum(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> None:
        patients, views = weights.shape
        # backward() fires the hooks and also fills .grad with the unclipped sum, which is dropped.
        sums = [parameter.grad for parameter in self._parameters]
        self.model.zero_grad(set_to_none=True)
        # PyTorch warns of a full backward hook on a module none of whose inputs needs a gradient.
        inputs.requires_grad_()
        view_losses(self._hooked, inputs, labels, weights).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            per_patient = []
            for parameter in self._parameters:
                sample: Tensor = parameter.grad_sample  # type: ignore[attr-defined]
                per_patient.append(sample.view(patients, views, -1).sum(1))
                parameter.grad_sample = None  # type: ignore[attr-defined]
            squared = torch.stack([g.square().sum(1) for g in per_patient]).sum(0)
            norm = squared.sqrt()
            factor = (self.max_grad_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
            finite = torch.isfinite(norm)
            if not bool(finite.all()):
                # 0 x NaN is NaN: the gradients themselves have to go, not only their factor.
                per_patient = [g[finite] for g in per_patient]
                factor = factor[finite]
            for parameter, gradient, earlier in zip(
                self._parameters, per_patient, sums, strict=True
            ):
                clipped = (factor @ gradient).view_as(parameter)
                parameter.grad = clipped if earlier is None else earlier + clipped


class PlainSum:
    """No clipping: the same units, sums and denominators without differential privacy."""

    def __init__(self, model: nn.Module, views: int) -> None:
        self.model = model
        self.patients_per_chunk = max(1, 128 // views)

    def add_clipped_sum(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> None:
        view_losses(self.model, inputs, labels, weights).backward()  # type: ignore[no-untyped-call]


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
        std = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noise = torch.zeros_like(parameter)
            if std > 0:
                values = torch.from_numpy(self._stream.normal(parameter.numel()) * std)
                noise = values.to(parameter).view_as(parameter)
            parameter.grad = parameter.summed_grad + noise
