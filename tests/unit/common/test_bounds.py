"""The bounds on an update's norm, against torch's SGD: noise alone, and patients who all pull one way."""

from math import inf, sqrt
from typing import Any

import numpy as np
import pytest
import torch

from common.bounds import largest_norm, noise_norm
from common.tasks.nodule_classification.study import NoduleStudy

NOMINAL, SIGMA, VALUES = 40, 1.5, 20_000


def study(**changes: Any) -> NoduleStudy:
    training = {"steps-per-round": 12, "learning-rate": 0.3, "sampling-rate": 0.25}
    aggregation = {}
    if mu := changes.pop("mu", None):
        aggregation = {"strategy": "fedprox", "proximal-mu": mu}
    mechanism = changes.pop("mechanism", "dp-sgd")
    return NoduleStudy.model_validate(
        {
            "study": "a-study",
            "rounds": 3,
            "images": {"classes": ["no", "yes"], "size": 16},
            "training": {**training, **changes},
            "privacy": {"max-grad-norm": 2.5, "mechanism": mechanism},
            "aggregation": aggregation,
            "participation": {"quorum": 1},
            "hospitals": [{"name": "north", "nominal-patients": NOMINAL}],
        }
    )


def update(protocol: NoduleStudy, steps: list[np.ndarray[Any, Any]]) -> float:
    """Norm of what torch's own SGD makes of these sums, one a step, with FedProx' term."""
    training = protocol.training
    weight = torch.nn.Parameter(torch.zeros(steps[0].size, dtype=torch.float64))
    sgd = torch.optim.SGD([weight], lr=training.learning_rate, momentum=training.momentum)
    for step in steps:
        mu = protocol.aggregation.proximal_mu or 0.0
        denominator = training.sampling_rate * NOMINAL
        weight.grad = torch.from_numpy(step) / denominator + mu * weight.detach()
        sgd.step()
    return float(weight.detach().norm())


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one step": {"steps-per-round": 1},
    "momentum": {"momentum": 0.9},
    "fedprox": {"mu": 2.0},  # it takes back more than half of each step by the next
    "both": {"momentum": 0.5, "mu": 0.7},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_noise_has_the_expected_norm(settings: dict[str, Any]) -> None:
    """To 4 % of one update of 20,000 values, where theory has less than 2 %; a third off is seen."""
    protocol, rng = study(**settings), np.random.default_rng(1)
    steps = protocol.training.steps_per_round
    noise = [rng.normal(0, SIGMA * 2.5, VALUES) for _ in range(steps)]
    found = update(protocol, noise)
    expected = noise_norm(protocol, NOMINAL, SIGMA, VALUES)
    assert found == pytest.approx(expected, rel=0.04)
    assert found != pytest.approx(2 / 3 * expected, rel=0.04)
    assert found < largest_norm(protocol, NOMINAL, SIGMA, VALUES)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_no_honest_update_is_larger(settings: dict[str, Any]) -> None:
    """Ten times the nominal patients are drawn at every step, all clipped and of one mind, and noise."""
    protocol, rng = study(**settings), np.random.default_rng(2)
    drawn = 10 * protocol.training.sampling_rate * NOMINAL
    pull = np.zeros(VALUES)
    pull[0] = drawn * 2.5
    steps = protocol.training.steps_per_round
    found = update(protocol, [pull + rng.normal(0, SIGMA * 2.5, VALUES) for _ in range(steps)])
    bound = largest_norm(protocol, NOMINAL, SIGMA, VALUES)
    assert found < bound
    assert found > bound / 3  # a bound that a clipped patient cannot come near says nothing


def test_a_small_hospital_may_draw_more_than_usual_by_chance() -> None:
    """Of 10 patients at rate 0.01, three in one step: rare, and honest."""
    protocol = study(**{"steps-per-round": 1, "sampling-rate": 0.01})
    pull = 3 * 2.5 * 0.3 / (0.01 * 10)
    assert largest_norm(protocol, 10, 1e-9, 100) > pull


def test_without_privacy_there_is_no_bound_and_no_noise() -> None:
    protocol = study(mechanism="none")
    assert largest_norm(protocol, NOMINAL, 0.0, VALUES) == inf
    assert noise_norm(protocol, NOMINAL, 0.0, VALUES) == 0.0


def test_the_bounds_are_formulas_that_a_person_can_check() -> None:
    """lr C sqrt(T d) sigma / (q n), and ten times lr C T with what chance and six deviations add."""
    protocol = study()
    noise = 0.3 * 2.5 * sqrt(12 * VALUES) * SIGMA / 10
    assert noise_norm(protocol, NOMINAL, SIGMA, VALUES) == pytest.approx(noise)
    bound = (10 + 20 / 10) * 0.3 * 2.5 * 12 + (1 + 6 / sqrt(VALUES)) * noise
    assert largest_norm(protocol, NOMINAL, SIGMA, VALUES) == pytest.approx(bound)


def test_a_proximal_term_that_diverges_has_no_bound() -> None:
    protocol = study(**{"mu": 1e200, "learning-rate": 1e3})
    assert largest_norm(protocol, NOMINAL, SIGMA, VALUES) == inf
