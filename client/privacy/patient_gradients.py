"""The two forms of a layer's per-patient gradients, and how they are caught in backward.

N = U*V views lie patient by patient, U patients of V views each; T is the number of positions in
the output of one view (pixels, tokens), g the gradient of the layer's output.

* `Rows`: every patient's gradient itself, one row each, U x weights numbers;
* `Gram`: only its squared norm, as <A, B> with the T V x T V Gram matrices A of the inputs and
  B of g ("ghost norm": Goodfellow 2015, arXiv 1510.01799; for convolutions Bu, Mao and Xu 2022,
  arXiv 2205.10683). Input and g are kept, and the clipped sum is one ordinary weight gradient of
  the g that are scaled by the patients' clip factors (book-keeping: Bu et al. 2023, arXiv 2210.00038).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeGuard

import torch
from torch import Tensor

from client.privacy.precision import products

# A Gram norm pays while its multiply-adds stay below this many a weight. Measured on CPU: writing
# one gradient a patient costs that much more than the weight gradient that is needed in any case.
GRAM_COST_PER_WEIGHT = 12

# Squares of numbers below 1e-19 lose digits in float32; with rows of at most 1e8 on the other side
# what is lost stays far below any clip norm. Where a row is longer, the Gram norm is not trusted.
LONGEST_SQUARED_ROW = 1e16


@dataclass
class Rows:
    """The gradients of `parameter`, (U, ...): one row a patient."""

    parameter: Tensor
    rows: Tensor

    def squared_norms(self) -> Tensor:
        # Not `vector_norm` or a matrix product: over a million values they are off by 1e-5 and more.
        return self.rows.flatten(1).square().sum(1)

    def weighted_sum(self, factors: Tensor, keep: Tensor | None) -> Tensor:
        """Sum of factor x gradient over the patients `keep` (all if None); `factors` are theirs."""
        rows = self.rows.flatten(1)
        kept = rows if keep is None else rows[keep]
        return (factors @ kept).view_as(self.parameter)


@dataclass
class Gram:
    """Squared norms (U,) of the gradients of `parameter`, and what their sum is made from.

    `magnitude` (U,) is (sum over positions of |input| |g|)^2: the rounding error of `squared`, and
    of the squared weight gradient, is of the order of 1e-7 of it.
    """

    parameter: Tensor
    squared: Tensor
    magnitude: Tensor
    inputs: Tensor
    outputs: Tensor  # g, (N, ...)
    weight_gradient: Callable[[Tensor, Tensor], Tensor]

    def squared_norms(self) -> Tensor:
        return self.squared

    def weighted_sum(self, factors: Tensor, keep: Tensor | None) -> Tensor:
        inputs, outputs = self.inputs, self.outputs
        views = len(outputs) // len(self.squared)
        if keep is not None:  # 0 x NaN is NaN: a patient is taken out, not multiplied by 0
            rows = keep.repeat_interleave(views)
            inputs, outputs = inputs[rows], outputs[rows]
        scale = factors.repeat_interleave(views).view(-1, *[1] * (outputs.dim() - 1))
        return self.weight_gradient(inputs, outputs * scale).view_as(self.parameter)


@dataclass
class Record:
    """What one forward and backward pass leaves behind: a form for every trainable parameter."""

    views: int
    rows_only: bool = False
    gradients: list[Rows | Gram] = field(default_factory=list)

    def add_rows(self, parameter: Tensor, by_view: Tensor) -> None:
        """From gradients by view, (N, ...)."""
        rows = by_view.float().reshape(-1, self.views, parameter.numel()).sum(1)
        self.gradients.append(Rows(parameter, rows))

    def prefers_gram(self, multiply_adds: int, weights: int) -> bool:
        return not self.rows_only and multiply_adds < GRAM_COST_PER_WEIGHT * weights

    def add_gram(
        self,
        parameter: Tensor,
        a: Tensor,
        b: Tensor,
        tensors: tuple[Tensor, Tensor],
        weight_gradient: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        """From Gram matrices `a` and `b`, (U * groups, T V, T V), and `tensors` = (input, g)."""
        patients = len(tensors[1]) // self.views
        own = a.diagonal(dim1=1, dim2=2), b.diagonal(dim1=1, dim2=2)
        longest = torch.stack([d.reshape(patients, -1).amax(1) for d in own]).amax(0)
        magnitude = (own[0] * own[1]).sqrt().reshape(patients, -1).sum(1).square()
        magnitude = magnitude.masked_fill(longest > LONGEST_SQUARED_ROW, torch.inf)
        squared = (a * b).reshape(patients, -1).sum(1)
        self.gradients.append(Gram(parameter, squared, magnitude, *tensors, weight_gradient))


def cut_off(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.detach()


def trained(parameter: Tensor | None) -> TypeGuard[Tensor]:
    return parameter is not None and parameter.requires_grad


def at_backward(output: Tensor, take: Callable[[Tensor], None]) -> Tensor:
    """`output`, whose gradient is given to `take` once it is known.

    Where nothing below is trained, `output` becomes the end of backward: no input gradient is
    computed for the lowest trainable layer, and nothing at all below it.
    """

    def exactly(gradient: Tensor) -> None:
        with products("float32"):
            take(gradient)

    if output.requires_grad:
        output.register_hook(exactly)  # type: ignore[no-untyped-call]
        return output
    return leaf_at_backward(output, exactly)


def leaf_at_backward(leaf: Tensor, take: Callable[[Tensor], None]) -> Tensor:
    """`leaf`, whose gradient is given to `take` and then forgotten."""

    def take_and_forget(leaf: Tensor) -> None:
        gradient, leaf.grad = leaf.grad, None
        if gradient is not None:
            take(gradient)

    leaf.requires_grad_()
    leaf.register_post_accumulate_grad_hook(take_and_forget)  # type: ignore[no-untyped-call]
    return leaf


def unchanged(inputs: Tensor) -> Callable[[], Tensor]:
    """Gives `inputs` back in float32; RuntimeError if something was computed in place since."""
    version, kept = inputs._version, inputs.detach()

    def get() -> Tensor:
        if inputs._version != version:
            raise RuntimeError(
                "expected the input of a layer as it was in the forward pass, found it overwritten; "
                "build the model without operations in place"
            )
        return kept.float()

    return get
