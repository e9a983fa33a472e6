"""The engine broken on purpose: every mutation must turn named detectors red.

A test of privacy that has never failed proves little. Each mutation is a mistake that somebody has
made, here or elsewhere; the detectors are those that the unit tests run on the true engine.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client import evidence, training
from client.data import ImagePatients
from client.ledger import Spend
from client.policy import SitePolicy
from client.privacy import accounting, budget, engine, randomness
from client.privacy.engine import NoisyStep
from client.privacy.sampling import Draw, poisson_draw
from common.judging.binary import Binary
from common.judging.survival import Survival
from common.messages import Histogram
from common.protocol import StudyProtocol
from common.tasks import USUAL, loss_of
from tests import honesty
from tests.golden import exact_epsilon
from tests.tasks import TASKS

Patch = pytest.MonkeyPatch
true_train, true_clipper, true_plan = training.train, training.make_clipper, budget._plan


def noise_halved(patch: Patch) -> None:
    _scaled_noise(patch, lambda _: 0.5)


def noise_over_the_root_of_the_batch(patch: Patch) -> None:
    """As if the mean over the batch were noised with sigma C / sqrt(B)."""
    _scaled_noise(patch, lambda step: 1 / math.sqrt(step.expected_batch_size))


def _scaled_noise(patch: Patch, factor: Callable[[NoisyStep], float]) -> None:
    class Step(NoisyStep):
        noise_multiplier: float

        def add_noise(self) -> None:
            true = self.noise_multiplier
            self.noise_multiplier = true * factor(self)
            super().add_noise()
            self.noise_multiplier = true

    patch.setattr(engine, "NoisyStep", Step)
    patch.setattr(training, "NoisyStep", Step)


def noise_used_again_in_the_next_step(patch: Patch) -> None:
    true = randomness.RandomStream.normal
    kept: dict[tuple[int, int], NDArray[np.float64]] = {}
    place = [0]

    class Step(NoisyStep):
        def add_noise(self) -> None:
            place[0] = 0
            super().add_noise()

    def normal(self: randomness.RandomStream, count: int, *_: int) -> NDArray[np.float64]:
        place[0] += 1
        return kept.setdefault((place[0], count), true(self, count))

    patch.setattr(randomness.RandomStream, "normal", normal)
    patch.setattr(engine, "NoisyStep", Step)
    patch.setattr(training, "NoisyStep", Step)


def noise_the_same_for_all_weights(patch: Patch) -> None:
    true = randomness.RandomStream.normal
    patch.setattr(
        randomness.RandomStream, "normal", lambda self, count, *_: np.full(count, true(self, 1)[0])
    )


def noise_uniform_instead_of_normal(patch: Patch) -> None:
    def normal(self: randomness.RandomStream, count: int, *_: int) -> NDArray[np.float64]:
        return (self.uniform(count) - 0.5) * math.sqrt(12)

    patch.setattr(randomness.RandomStream, "normal", normal)


def clip_norm_doubled(patch: Patch) -> None:
    def clipper(model: nn.Module, protocol: StudyProtocol, *rest: Any) -> engine.PatientClipper:
        doubled = {"max_grad_norm": 2 * protocol.privacy.max_grad_norm}
        privacy = protocol.privacy.model_copy(update=doubled)
        return true_clipper(model, protocol.model_copy(update={"privacy": privacy}), *rest)

    patch.setattr(training, "make_clipper", clipper)


class _Careless:
    """Clips each patient by a loop, and takes a gradient that is not finite for a gradient."""

    patients_per_chunk = 8

    def __init__(
        self, model: nn.Module, protocol: StudyProtocol, *_: Any, by_view: bool = False
    ) -> None:
        self.model, self.loss, self.by_view = model, loss_of(protocol), by_view
        self.norm = protocol.privacy.max_grad_norm

    def add_clipped_sum(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> None:
        views = weights.shape[1]
        for patient, own in enumerate(weights):
            units: Iterable[slice] = [slice(0, views)]
            if self.by_view:
                units = [slice(view, view + 1) for view in range(views)]
            for unit in units:
                rows = slice(patient * views + unit.start, patient * views + unit.stop)
                loss = engine.view_losses(
                    self.loss, self.model, inputs[rows], labels[rows], own[None, unit]
                )
                gradients = torch.autograd.grad(loss, list(self.model.parameters()))
                norm = torch.cat([g.flatten() for g in gradients]).norm()
                factor = (self.norm / norm).clamp(max=1.0)
                for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
                    assert parameter.grad is not None
                    parameter.grad += factor * gradient


def a_broken_patient_not_zeroed(patch: Patch) -> None:
    patch.setattr(training, "make_clipper", _Careless)


def clipped_by_view_and_not_by_patient(patch: Patch) -> None:
    patch.setattr(training, "make_clipper", partial(_Careless, by_view=True))


def rate_from_the_private_cohort(patch: Patch) -> None:
    """A batch of a fixed expected size, as Opacus' data loader makes it from the length of the data."""

    def draw(patients: ImagePatients, rate: float, *rest: Any) -> Draw:
        return poisson_draw(patients, min(1.0, rate * honesty.NOMINAL / len(patients)), *rest)

    patch.setattr(training, "poisson_draw", draw)


def denominator_from_the_private_cohort(patch: Patch) -> None:
    def train(
        model: nn.Module, patients: ImagePatients, protocol: StudyProtocol, _: int, *rest: Any
    ) -> None:
        true_train(model, patients, protocol, len(patients), *rest)

    patch.setattr(training, "train", train)


def a_seed_where_there_is_none(patch: Patch) -> None:
    def of(seed: int | None, *purpose: str | int) -> randomness.RandomStream:
        return randomness.RandomStream.for_tests(seed or 0, *purpose)

    patch.setattr(randomness.RandomStream, "of", of)


def a_seed_in_earnest(patch: Patch) -> None:
    def validate(fields: dict[str, Any]) -> SitePolicy:
        return SitePolicy.model_construct(**fields)

    patch.setattr(SitePolicy, "model_validate", validate)


def a_histogram_without_noise(patch: Patch) -> None:
    def exact(histogram: NDArray[np.float64], *_: object) -> Histogram:
        negatives, positives = histogram.tolist()
        return tuple(negatives), tuple(positives)

    patch.setattr(evidence, "noised", exact)


def a_histogram_of_twice_the_patients(patch: Patch) -> None:
    for judge in (Binary, Survival):
        true = judge.histogram

        def twice(self: Any, *rest: Any, true: Any = true) -> Any:
            return 2 * true(self, *rest)

        patch.setattr(judge, "histogram", twice)


def epsilon_by_gdp(patch: Patch) -> None:
    """The central limit theorem, which is below the truth (PRIVACY.md section 3)."""

    def gdp(history: accounting.History, delta: float) -> accounting.Epsilon:
        mu = math.sqrt(sum(q * q * n * math.expm1(s**-2) for s, q, n in history))
        value = exact_epsilon.gaussian(1 / mu, 1, delta)
        return accounting.Epsilon(value, delta, "GDP", accounting.Bound("GDP", value))

    gdp.cache_clear = lambda: None  # type: ignore[attr-defined]
    patch.setattr(accounting, "_epsilon", gdp)


def a_fresh_accountant_each_round(patch: Patch) -> None:
    """What Flower's Opacus example does: 1.162 for ever, where 2.274 is true after five rounds."""
    true = accounting.history_of

    def last(spends: Iterable[Spend]) -> accounting.History:
        return true(list(spends)[-1:])

    patch.setattr(accounting, "history_of", last)


def epsilon_added_up_without_delta(patch: Patch) -> None:
    """The sum of the rounds' epsilons, each at the whole delta: not composed at all."""
    true = accounting.epsilon_of

    def summed(spends: Iterable[Spend], delta: float) -> accounting.Epsilon:
        each = [true([spend], delta) for spend in spends]
        total = sum(epsilon.value for epsilon in each)
        return accounting.Epsilon(total, delta, "sum", accounting.Bound("sum", total))

    patch.setattr(accounting, "epsilon_of", summed)


def noise_calibrated_for_one_round(patch: Patch) -> None:
    def plan(protocol: StudyProtocol, account: Any, noise: float) -> Spend:
        whole = true_plan(protocol, account, noise)
        return Spend(noise, whole.sampling_rate, max(1, whole.steps // protocol.rounds))

    patch.setattr(budget, "_plan", plan)


@dataclass(frozen=True)
class Mutation:
    apply: Callable[[Patch], None]
    caught_by: tuple[Callable[..., None], ...]


MUTATIONS = [
    Mutation(
        noise_halved,
        (honesty.noise_has_the_size_that_is_accounted, honesty.every_step_has_noise_of_its_own),
    ),
    Mutation(
        noise_over_the_root_of_the_batch,
        (honesty.noise_has_the_size_that_is_accounted, honesty.every_step_has_noise_of_its_own),
    ),
    Mutation(
        noise_used_again_in_the_next_step,
        (honesty.every_step_has_noise_of_its_own, honesty.noise_is_normal_and_independent),
    ),
    Mutation(
        noise_the_same_for_all_weights,
        (honesty.noise_is_normal_and_independent, honesty.noise_has_the_size_that_is_accounted),
    ),
    Mutation(noise_uniform_instead_of_normal, (honesty.noise_is_normal_and_independent,)),
    Mutation(clip_norm_doubled, (honesty.one_patient_moves_the_sum_by_the_clip_norm,)),
    Mutation(
        clipped_by_view_and_not_by_patient, (honesty.one_patient_moves_the_sum_by_the_clip_norm,)
    ),
    Mutation(a_broken_patient_not_zeroed, (honesty.a_broken_patient_contributes_nothing,)),
    Mutation(rate_from_the_private_cohort, (honesty.rate_and_denominator_are_public,)),
    Mutation(denominator_from_the_private_cohort, (honesty.rate_and_denominator_are_public,)),
    Mutation(a_seed_where_there_is_none, (honesty.noise_comes_from_the_operating_system,)),
    Mutation(a_seed_in_earnest, (honesty.a_seed_needs_a_rehearsal,)),
    Mutation(a_histogram_without_noise, (honesty.a_histogram_is_noised_before_it_leaves,)),
    Mutation(
        a_histogram_of_twice_the_patients,
        (honesty.one_patient_moves_the_histogram_by_one_at_most,),
    ),
    Mutation(epsilon_by_gdp, (honesty.epsilon_is_that_of_the_golden_table,)),
    Mutation(a_fresh_accountant_each_round, (honesty.rounds_are_one_account,)),
    Mutation(epsilon_added_up_without_delta, (honesty.rounds_are_one_account,)),
    Mutation(noise_calibrated_for_one_round, (honesty.a_study_costs_what_its_protocol_promises,)),
]


@pytest.mark.parametrize(
    ("mutation", "detector"),
    [(mutation, detector) for mutation in MUTATIONS for detector in mutation.caught_by],
    ids=lambda part: part.apply.__name__ if isinstance(part, Mutation) else part.__name__,
)
def test_a_mutation_turns_its_detectors_red(
    mutation: Mutation, detector: Callable[[], None], monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        mutation.apply(patch)
        # AssertionError, and DID NOT RAISE of pytest.raises: not an error of the mutation's own.
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            detector()


IN_A_TASK = [
    (task, mutation, detector)
    for task in TASKS
    for mutation in MUTATIONS
    for detector in mutation.caught_by
    if task != USUAL and detector in honesty.OF_A_TASK and honesty.applies(detector, task)
    # With one view for each patient it is the same.
    if (task, mutation.apply) != ("survival", clipped_by_view_and_not_by_patient)
    # One number for each array, which can be of any size where there are few arrays.
    if mutation.apply is not noise_the_same_for_all_weights
]


@pytest.mark.parametrize(
    ("task", "mutation", "detector"),
    IN_A_TASK,
    ids=[f"{task}-{m.apply.__name__}-{detector.__name__}" for task, m, detector in IN_A_TASK],
)
def test_a_mutation_turns_its_detectors_red_in_every_task(
    task: str, mutation: Mutation, detector: Callable[[str], None], monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        mutation.apply(patch)
        with pytest.raises(AssertionError):
            detector(task)


def test_every_detector_has_a_mutation_that_it_catches() -> None:
    caught = {detector for mutation in MUTATIONS for detector in mutation.caught_by}
    assert caught == set(honesty.DETECTORS)
