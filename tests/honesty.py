"""Detectors: each one fails when the privacy mechanism does not do what the accountant assumes.

The unit tests call them on the engine as it is; tests/integration/test_mutations.py breaks the
engine on purpose and expects them to fail. So they call the engine through its modules, where it
can be broken, and judge by what comes out.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from client import evidence, training
from client.data import ImagePatients
from client.ledger import Spend
from client.policy import SitePolicy
from client.privacy import accounting, budget, engine, randomness
from common.histogram import score_histogram
from common.judging.binary import HISTOGRAM_BINS
from common.metrics import Scores
from common.model_spec import model_of
from common.protocol import StudyProtocol, parse_protocol
from tests.golden import exact_epsilon
from tests.hospital import LIMITS

SEED = 20260104
LEVEL = 1e-6  # of the chi-square tests: how often a true engine would be called wrong
DELTA = 1e-5

CLIP, RATE, NOMINAL, NOISE = 0.4, 0.5, 100, 1.5

STUDY = """
study = "honesty"
rounds = {rounds}
images = {{ classes = ["a", "b"], size = 16, mean = 0.0, std = 1.0 }}
model = {{ initial-model = "random" }}
training = {{ steps-per-round = 1, learning-rate = 1.0, sampling-rate = {rate}, views-per-patient = 2, \
flips-and-rotations = false }}
privacy = {{ max-grad-norm = 0.4, delta = 1e-5 }}
evaluation = {{ flips-and-rotations = false }}
participation = {{ quorum = 1 }}
hospitals = [{{ name = "north", nominal-patients = 100 }}]
"""


def study(rate: float = RATE, rounds: int = 3) -> StudyProtocol:
    return parse_protocol(STUDY.format(rate=rate, rounds=rounds))


def variance_is(values: NDArray[np.float64], sigma: float) -> bool:
    """Whether normal `values` with mean 0 can have standard deviation `sigma`: chi-square, two-sided."""
    statistic = float(np.square(values / sigma).sum())
    low, high = stats.chi2.ppf([LEVEL / 2, 1 - LEVEL / 2], values.size)
    return bool(low < statistic < high)


def accepts_only(values: NDArray[np.float64], sigma: float) -> None:
    """Standard deviation `sigma` is accepted, two thirds and three halves of it are rejected."""
    print(f"seed {SEED}")
    assert variance_is(values, sigma)
    assert not variance_is(values, sigma * 2 / 3)
    assert not variance_is(values, sigma * 3 / 2)


def equal_patients(count: int) -> ImagePatients:
    """`count` patients with the same two images, so loud that every gradient is clipped."""
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (2, 16, 16, 1), dtype=np.uint8)
    return ImagePatients(
        pixels=np.concatenate([pixels] * count),
        labels=np.zeros(2 * count, np.int64),
        offsets=np.arange(0, 2 * count + 1, 2),
        mean=0.0,
        std=0.01,
    )


def released(
    patients: ImagePatients, noise: float, steps: int = 1, rate: float = RATE, stream: str = ""
) -> NDArray[np.float64]:
    """What `steps` steps of training add to the weights, times the public denominator."""
    protocol = study(rate)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = model_of(protocol)
    before = _flat(model)
    spend = Spend(noise, rate, steps)
    random = randomness.RandomStream.for_tests(SEED, stream)
    training.train(model, patients, protocol, NOMINAL, spend, random)
    change: NDArray[np.float64] = (_flat(model) - before).numpy() * rate * NOMINAL
    return change


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in model.parameters()])


def noise_has_the_size_that_is_accounted() -> None:
    """One step on one patient: 60,000 weights whose noise is sigma x C; the patient is lost in it."""
    accepts_only(released(equal_patients(1), NOISE), NOISE * CLIP)


def every_step_has_noise_of_its_own() -> None:
    """Four steps add their variances: noise that is used again would add up to four times as much."""
    accepts_only(released(equal_patients(1), NOISE, steps=4), 2 * NOISE * CLIP)


def noise_is_normal_and_independent() -> None:
    """Between the weights of a step, and from one step to the next."""
    parameters = [nn.Parameter(torch.zeros(20_000)) for _ in range(2)]
    step = engine.NoisyStep(
        torch.optim.SGD(parameters, lr=1.0),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        denominator=1.0,
        stream=randomness.RandomStream.for_tests(SEED, "independent"),
    )
    taken = [np.zeros((2, 20_000))]
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        step.step()
        step.zero_grad()
        taken.append(np.stack([p.detach().double().numpy() for p in parameters]))
    print(f"seed {SEED}")
    noise = np.diff(np.stack(taken), axis=0).reshape(4, -1)
    error = 5 / math.sqrt(noise.size)  # five standard errors
    assert abs(noise.mean()) < error
    assert abs(stats.skew(noise, axis=None)) < error * math.sqrt(6)
    assert abs(stats.kurtosis(noise, axis=None)) < error * math.sqrt(24)
    for row in range(4):
        for other in range(row):
            assert stats.pearsonr(noise[row], noise[other]).pvalue > 1e-5
        assert stats.pearsonr(noise[row][1:], noise[row][:-1]).pvalue > 1e-5


def one_patient_moves_the_sum_by_the_clip_norm() -> None:
    """Whatever the patient, and this one wants more."""
    norm = float(np.linalg.norm(released(equal_patients(1), 0.0, rate=1.0)))
    assert 0.999 * CLIP <= norm <= CLIP * (1 + 1e-5)


def rate_and_denominator_are_public() -> None:
    """Three times as many patients as are public are drawn three times as often, and count as much.

    The released sum in units of C is the number of drawn patients, since they are all equal.
    """
    cohort = 3 * NOMINAL
    print(f"seed {SEED}")
    drawn = float(np.linalg.norm(released(equal_patients(cohort), 0.0))) / CLIP
    assert abs(drawn - RATE * cohort) < 5 * math.sqrt(cohort * RATE * (1 - RATE))


class _WithABrokenPatient(ImagePatients):
    """The last patient's images are not finite, as after a fault in a file or in a crafted model."""

    __slots__ = ()

    def views(self, indices: NDArray[np.int64]) -> Tensor:
        images = ImagePatients.views(self, indices)
        images[torch.from_numpy(indices >= self.of(len(self) - 1).start)] = math.nan
        return images


def a_broken_patient_contributes_nothing() -> None:
    whole = equal_patients(3)
    columns = {
        name: getattr(whole, name) for name in ("pixels", "labels", "offsets", "mean", "std")
    }
    found = released(_WithABrokenPatient(**columns), 0.0, rate=1.0)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, released(equal_patients(2), 0.0, rate=1.0), atol=1e-5)


def noise_comes_from_the_operating_system() -> None:
    """Without a seed two streams for one purpose have nothing in common; with one they are the same."""

    def values(seed: int | None) -> NDArray[np.float64]:
        return randomness.RandomStream.of(seed, "study", "north", 1).normal(1000)

    first, second = values(None), values(None)
    assert not set(first.tolist()) & set(second.tolist())
    assert stats.pearsonr(first, second).pvalue > 1e-6
    assert values(7).tolist() == values(7).tolist()


def a_seed_needs_a_rehearsal() -> None:
    fields: dict[str, Any] = {
        "hospital": "north",
        "data": "/data",
        "state": "/state",
        "approved_studies": [],
        "max_epsilon": 8.0,
        "limits": LIMITS,
        "noise_seed": 1,
    }
    assert SitePolicy.model_validate(fields | {"rehearsal": True}).noise_seed == 1
    with pytest.raises(ValueError, match="noise-seed"):
        SitePolicy.model_validate(fields)


def a_histogram_is_noised_before_it_leaves() -> None:
    """On all of its cells, and each time anew."""
    scores = Scores(
        score=np.linspace(0.01, 0.99, 40), label=np.arange(40) % 2, patient=np.arange(40)
    )
    exact = np.asarray(score_histogram(scores, HISTOGRAM_BINS))
    stream = randomness.RandomStream.for_tests(SEED, "histogram")
    spend = Spend(3.0, 1.0, 1)
    noise = [np.asarray(evidence.noised(exact, spend, stream)) - exact for _ in range(200)]
    accepts_only(np.stack(noise), 3.0)


def epsilon_is_that_of_the_golden_table() -> None:
    """Never below the truth, by either accountant, and at most 0.5 % above it."""
    for row in exact_epsilon.table():
        spends = [Spend(*mechanism) for mechanism in row.mechanisms]
        found = accounting.epsilon_of(spends, row.delta)
        rounding = 1e-9 * row.low
        assert row.low - rounding <= found.second.value <= found.value <= row.high * 1.005, row


def rounds_are_one_account() -> None:
    """Fifty rounds of two steps, a new process after each, cost what a hundred steps cost."""
    known: list[Spend] = []
    for _ in range(50):
        accounting._epsilon.cache_clear()
        known.append(Spend(8.0, 1.0, 2))
        so_far = accounting.epsilon_of(known, DELTA).value
        truth = exact_epsilon.gaussian(8.0, 2 * len(known), DELTA)
        assert truth <= so_far <= truth * 1.005 + 2e-4
    accounting._epsilon.cache_clear()
    assert so_far == accounting.epsilon_of([Spend(8.0, 1.0, 100)], DELTA).value


def a_study_costs_what_its_protocol_promises() -> None:
    """All that a study's requests spend, by the closed form; every step at q = 1."""
    protocol = study(rate=1.0, rounds=5)
    noise = budget.protocol_noise(protocol)
    last = protocol.rounds + 1
    spends = [budget.spends_of(protocol, r, noise, training=r < last) for r in range(1, last + 1)]
    for account in budget.ACCOUNTS:
        spent = [s[account] for s in spends if account in s]
        assert {s.sampling_rate for s in spent} == {1.0}
        squares = sum(s.steps / s.noise_multiplier**2 for s in spent)
        cost = exact_epsilon.gaussian(1 / math.sqrt(squares), 1, DELTA)
        assert 0.99 * 8.0 <= cost <= 8.0


DETECTORS: tuple[Callable[[], None], ...] = (
    noise_has_the_size_that_is_accounted,
    every_step_has_noise_of_its_own,
    noise_is_normal_and_independent,
    one_patient_moves_the_sum_by_the_clip_norm,
    rate_and_denominator_are_public,
    a_broken_patient_contributes_nothing,
    noise_comes_from_the_operating_system,
    a_seed_needs_a_rehearsal,
    a_histogram_is_noised_before_it_leaves,
    epsilon_is_that_of_the_golden_table,
    rounds_are_one_account,
    a_study_costs_what_its_protocol_promises,
)
