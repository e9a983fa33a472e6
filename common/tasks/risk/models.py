"""Models of encoded records (N, D) with one output (N, 1): the logit, or margin, of the positive class."""

from torch import nn


def build_model(name: str, inputs: int, hidden: int | None) -> nn.Module:
    """A new model on the CPU, in training mode; see `RiskModel` for the names and first weights."""
    if name == "mlp":
        assert hidden is not None  # noqa: S101  the protocol has seen to it
        return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1))
    linear = nn.Linear(inputs, 1)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
