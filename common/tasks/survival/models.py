"""Models of survival by name, and what they predict.

    name                  outputs (N, ...)                             trained under DP
    cox-breslow           (N, 1) log hazard ratios, no baseline        no: mixes patients
    cox-efron             the same, other ties                         no
    proportional-hazards  (N, K) log cumulative hazards by interval    yes
    discrete-time         (N, K) log odds of the hazards by interval   yes

Inputs are (N, D) float32, encoded by public rules to about -1..1. Every parameter lives in an
`nn.Linear`, for which the per-patient clipper has an exact rule. Convex models start at zero
weights, and every baseline where half of all patients have the event before the last edge: no
constant of anyone's data.
"""

from functools import partial
from math import exp, log
from typing import get_args

import torch
from torch import Tensor, nn

from common.tasks.survival.losses import (
    cox_breslow,
    cox_efron,
    discrete_time,
    proportional_hazards,
)
from common.tasks.survival.study import WITHOUT_BASELINE, ModelName
from common.tasks.task import Loss

MODEL_NAMES: tuple[ModelName, ...] = get_args(ModelName)


class LinearHazards(nn.Module):
    """One linear predictor for all intervals and a baseline for each: a_k + b x, (N, K)."""

    def __init__(self, inputs: int, baseline: Tensor) -> None:
        super().__init__()
        self.predictor = nn.Linear(inputs, 1, bias=False)
        # A layer on the constant 1: its weights are the baseline, and are clipped like any others.
        self.baseline = nn.Linear(1, len(baseline), bias=False)
        with torch.no_grad():
            self.predictor.weight.zero_()
            self.baseline.weight.copy_(baseline[:, None])

    def forward(self, records: Tensor) -> Tensor:
        """Outputs (N, K) of records (N, D)."""
        # As `records`: PyTorch warns of a hook on a module whose input needs no gradient.
        ones = torch.ones_like(records[:, :1], requires_grad=records.requires_grad)
        hazards: Tensor = self.predictor(records) + self.baseline(ones)
        return hazards


class HazardNetwork(nn.Sequential):
    """A hidden layer, then hazards for each interval of their own: not proportional, (N, K)."""

    def __init__(self, inputs: int, hidden: int, baseline: Tensor) -> None:
        last = nn.Linear(hidden, len(baseline))
        with torch.no_grad():
            last.weight.zero_()
            last.bias.copy_(baseline)
        super().__init__(nn.Linear(inputs, hidden), nn.ReLU(), last)


def build_model(
    name: ModelName, inputs: int, intervals: int, hidden: int | None = None
) -> nn.Module:
    """A new model on the CPU, in training mode, for D = `inputs` encoded columns and K `intervals`.

    `hidden` is the width of the hidden layer of "discrete-time", whose first weights come from
    torch's global generator; without it the model is linear with proportional odds.

    Raises:
        ValueError: an unknown name, a number below 1, or `hidden` for a linear model.
    """
    if name not in MODEL_NAMES:
        raise ValueError(f"unknown model {name!r}; known are {', '.join(MODEL_NAMES)}")
    if min(inputs, intervals, hidden or 1) < 1:
        raise ValueError(
            f"a survival model needs at least 1 input, interval and hidden unit, found {inputs}, "
            f"{intervals} and {hidden}"
        )
    if hidden is not None and name != "discrete-time":
        raise ValueError(f"a hidden layer is for 'discrete-time', found one for '{name}'")
    if name in WITHOUT_BASELINE:
        cox = nn.Linear(inputs, 1, bias=False)  # Cox's model has no intercept
        nn.init.zeros_(cox.weight)
        return cox
    each = log(2) / intervals
    start = log(each) if name == "proportional-hazards" else log(exp(each) - 1)
    baseline = torch.full((intervals,), start)
    if hidden is not None:
        return HazardNetwork(inputs, hidden, baseline)
    return LinearHazards(inputs, baseline)


def loss_of(name: ModelName, edges: tuple[float, ...]) -> Loss:
    """The loss that trains the model `name`, with the study's `edges` (K,), rising, above 0."""
    if name in WITHOUT_BASELINE:
        return Loss(cox_efron if name == "cox-efron" else cox_breslow, mixes_patients=True)
    loss = proportional_hazards if name == "proportional-hazards" else discrete_time
    return Loss(partial(loss, edges=torch.tensor(edges, dtype=torch.float32)))


def predicted_survival(name: ModelName, outputs: Tensor) -> Tensor:
    """The probability of no event up to each edge, (N, K), 0..1 and never rising.

    Raises:
        ValueError: for Cox's models, which have no baseline.
    """
    if name in WITHOUT_BASELINE:
        raise ValueError(f"the model '{name}' has no baseline hazard, so it predicts no survival")
    if name == "proportional-hazards":
        return torch.exp(-outputs.exp().cumsum(1))
    return torch.exp(nn.functional.logsigmoid(-outputs).cumsum(1))


def predicted_risk(name: ModelName, outputs: Tensor) -> Tensor:
    """One number for each patient, (N,), 0..1: the probability of an event before the last edge.

    Cox's models rank only: theirs is the hazard ratio h to a patient whose inputs are all 0 as
    h / (1 + h), which rises with h, is 1/2 for that patient, and is no probability.
    """
    if name in WITHOUT_BASELINE:
        return torch.sigmoid(outputs[:, 0])
    return 1 - predicted_survival(name, outputs)[:, -1]
