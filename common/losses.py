"""Losses of two classes, one a view: what clipping by patient takes apart again."""

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """(N,) from logits (N, 2) and labels (N,) int64, 0 or 1."""
    return F.cross_entropy(outputs, labels, reduction="none")


def logistic(outputs: Tensor, labels: Tensor) -> Tensor:
    """(N,) cross-entropy from one logit of the positive class, (N, 1)."""
    return F.binary_cross_entropy_with_logits(
        outputs[:, 0], labels.to(outputs.dtype), reduction="none"
    )


def hinge(outputs: Tensor, labels: Tensor) -> Tensor:
    """(N,) max(0, 1 - y f), y = -1 or 1, from the margin f (N, 1): a linear support vector machine.

    Cortes and Vapnik, Machine Learning 1995, 20:273.
    """
    signs = 2 * labels.to(outputs.dtype) - 1
    return F.relu(1 - signs * outputs[:, 0])
