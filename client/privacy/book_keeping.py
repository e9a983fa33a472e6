"""Clipped per-patient gradient sums at about the price of an ordinary training step.

One forward pass, one backward pass for the activations only, then for every layer the cheaper of
a Gram norm and per-patient gradients (`layer_rules`), then one weighted weight gradient. The sum
is added to `.grad`; noise and accounting stay Opacus' (`engine.NoisyStep`).

Which patient contributes what is the table of `engine.PatientClipper`.

Rounding. Norms are sums of float32 squares, pairwise, and the sum is made from the very numbers
whose norm was taken, so one contribution exceeds C by no more than 1e-5 C. A Gram norm is not of
the very numbers: where a layer's positions cancel, its rounding error, and that of the
weight gradient, can exceed the norm itself (a crafted model can bring this about). A patient
for whom (sum of |input| |g|)^2 in any layer exceeds 100 max(|g|^2, C^2) is therefore computed
alone, with all gradients written out. Adding the contributions up rounds once more, by about
1e-7 of the sum.

Between two calls the model is as it was: layers are given a recording `forward` for the length of
one call, and lose it however the call ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from client.policy import Precision
from client.privacy.engine import (
    PatientShape,
    add_to_gradients,
    clip_factors,
    clippable,
    gradients_aside,
    view_losses,
)
from client.privacy.layer_rules import RULES, Rule
from client.privacy.patient_gradients import Gram, Record
from client.privacy.precision import low_precision, products
from common.errors import ModelError
from common.tasks.task import Loss

# Honest networks stay below 90 of a layer's own norm, and far below of the whole.
CANCELLATION_LIMIT = 100.0

# On CPU, patients x views x positions (pixels, steps) of one chunk: enough that calls cost little, few
# enough to stay in the cache. 32 pixels are fastest with 128 views, 64 pixels with 32 (docs/benchmarks.md).
CHUNK_PIXELS = 2**17


class BookKeepingClipper:
    """A `PatientClipper` for models whose trainable layers have a rule in `layer_rules`.

    Frozen parameters, whole layers or single ones, get no gradient, and no work is done below the
    lowest trainable layer. ModelError names the first layer for which there is no exact rule, a
    parameter that two layers share, and (in the first call) a layer that is called twice in one
    forward pass or whose parameter is used outside its layer: their squared norms do not add up.

    `precision` is that of the activations and their gradients; weight gradients, norms and sums are
    float32 in any case, so that it changes the direction of a contribution and never its bound.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        max_grad_norm: float,
        shape: PatientShape,
        precision: Precision = "float32",
    ) -> None:
        self.model = model
        self.loss = clippable(loss)
        self.max_grad_norm = max_grad_norm
        self.precision = precision
        self.patients_per_chunk = max(1, CHUNK_PIXELS // (shape.views * prod(shape.view[1:])))
        self._layers = recorded_layers(model)
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def add_clipped_sum(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> None:
        sums = self._clipped_sums(inputs, labels, weights, rows_only=False)
        add_to_gradients(list(sums), list(sums.values()))

    def _clipped_sums(
        self, inputs: Tensor, labels: Tensor, weights: Tensor, *, rows_only: bool
    ) -> dict[Tensor, Tensor]:
        """The clipped sum for every parameter that the model used."""
        record = Record(views=weights.shape[1], rows_only=rows_only)
        with gradients_aside(list(self._parameters.values())), products(self.precision):
            with self._recording(record, len(inputs)), low_precision(self.precision, inputs.device):
                loss = view_losses(self.loss, self.model, inputs, labels, weights)
            loss.backward()  # type: ignore[no-untyped-call]
            self._check_used_inside_layers()
        with torch.no_grad(), products("float32"):
            squared = torch.stack([g.squared_norms() for g in record.gradients]).sum(0)
            finite = torch.isfinite(squared)
            doubtful = finite & self._doubtful(record, squared)
            keep = finite & ~doubtful
            # One wait for the GPU a chunk: both answers travel together.
            all_kept, any_doubtful = torch.stack([keep.all(), doubtful.any()]).tolist()
            kept = None if all_kept else keep
            factors = clip_factors(squared.clamp(min=0), self.max_grad_norm)
            factors = factors if kept is None else factors[kept]
            sums = {g.parameter: g.weighted_sum(factors, kept) for g in record.gradients}
        if any_doubtful:
            del record
            views = weights.shape[1]
            for patient in doubtful.nonzero().flatten().tolist():
                rows = slice(patient * views, (patient + 1) * views)
                alone = self._clipped_sums(
                    inputs[rows], labels[rows], weights[patient : patient + 1], rows_only=True
                )
                for parameter, clipped in alone.items():
                    sums[parameter] += clipped
        return sums

    def _doubtful(self, record: Record, squared: Tensor) -> Tensor:
        """Whose Gram norms cancel so much that rounding could show; (U,) booleans."""
        limit = CANCELLATION_LIMIT * squared.clamp(min=self.max_grad_norm**2)
        doubtful = torch.zeros_like(squared, dtype=torch.bool)
        for gradient in record.gradients:
            if isinstance(gradient, Gram):
                doubtful |= gradient.magnitude > limit
        return doubtful

    @contextmanager
    def _recording(self, record: Record, views: int) -> Iterator[None]:
        """Every trained layer runs by its rule inside, once."""
        called = set()

        def recording(name: str, layer: nn.Module, rule: Rule) -> None:
            def forward(input: Tensor) -> Tensor:
                if name in called:
                    raise ModelError(
                        f"expected every trained layer once in a forward pass, found '{name}' twice; "
                        f'use a layer of its own for each place, or engine = "opacus"'
                    )
                called.add(name)
                if len(input) != views:
                    raise ModelError(
                        f"expected the {views} views on the first axis of every layer's input, found "
                        f"{len(input)} rows at '{name}'; do not fold other axes into the first"
                    )
                return rule(layer, input, record)

            layer.forward = forward

        try:
            for name, (layer, rule) in self._layers.items():
                recording(name, layer, rule)
            yield
        finally:
            for layer, _ in self._layers.values():
                layer.__dict__.pop("forward", None)

    def _check_used_inside_layers(self) -> None:
        """Layers run with cut-off weights: a gradient here came around them and was not clipped."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                raise ModelError(
                    f"expected the parameter '{name}' inside its own layer only, found it used "
                    f"elsewhere in the forward pass; freeze it or rewrite the model"
                )


def recorded_layers(model: nn.Module) -> dict[str, tuple[nn.Module, Rule]]:
    """The layers of `model` with trainable parameters and their rules, by qualified name."""
    owner: dict[Tensor, str] = {}
    layers = {}
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):  # frozen or not
            raise ModelError(
                f"expected layers that look at every image by itself, found '{name}' "
                f"({type(layer).__name__}), which mixes the patients of a batch; use GroupNorm"
            )
        trainable = {n: p for n, p in layer.named_parameters(recurse=False) if p.requires_grad}
        if not trainable:
            continue
        rule, kind = RULES.get(type(layer)), type(layer).__name__
        if rule is None or not trainable.keys() <= {"weight", "bias"} or "forward" in vars(layer):
            known = ", ".join(sorted(t.__name__ for t in RULES))
            raise ModelError(
                f"expected trainable parameters in plain layers of the kinds {known}, found the "
                f"layer '{name}' ({kind}), for which there is no exact per-patient rule; freeze it"
            )
        if isinstance(layer, nn.Embedding) and (
            layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse
        ):
            raise ModelError(
                f"expected an embedding without max_norm, scale_grad_by_freq and sparse, found "
                f"one of them in the layer '{name}'; they mix patients or have no exact rule"
            )
        for parameter in trainable.values():
            if parameter in owner:
                raise ModelError(
                    f"expected every trainable parameter in one layer, found that '{name}' and "
                    f"'{owner[parameter]}' share one; give each its own, or freeze them"
                )
            owner[parameter] = name
        layers[name] = (layer, rule)
    return layers
