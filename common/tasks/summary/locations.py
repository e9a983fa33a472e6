"""One number for each column, and the losses that a mean and a quantile make smallest."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Locations(nn.Module):
    """The same D numbers for every record; all 0 at first."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        # A layer on the constant 1, for which the per-patient clipper has an exact rule.
        self.numbers = nn.Linear(1, columns, bias=False)
        nn.init.zeros_(self.numbers.weight)

    def forward(self, records: Tensor) -> Tensor:
        """(N, D) for records (N, D)."""
        # As `records`: PyTorch warns of a hook on a module whose input needs no gradient.
        ones = torch.ones_like(records[:, :1], requires_grad=records.requires_grad)
        found: Tensor = self.numbers(ones)
        return found


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    """(N,) half the squared distance, smallest at the mean: a step of 1 over all records goes there."""
    return (outputs - labels).square().sum(1) / 2


def pinball(outputs: Tensor, labels: Tensor, level: float) -> Tensor:
    """(N,) smallest at the quantile `level` (Koenker and Bassett 1978, Econometrica 46:33)."""
    below = labels - outputs
    return (level * F.relu(below) + (1 - level) * F.relu(-below)).sum(1)
