"""The exact tests of the audit: each accepts what is right, and rejects what is wrong."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from client.data import ImagePatients
from common.errors import ProtocolError
from common.tasks.nodule_classification.study import NoduleStudy
from simulation.audit import mechanism
from simulation.audit.throwaway import (
    CanaryTable,
    Subject,
    canaries,
    canary_scores,
    canary_study,
    phantom_patients,
    released,
    released_sum,
)

SEED = 20261125
SIGMA = 1.3
MakeStudy = Callable[..., NoduleStudy]


def noise(scale: float = 1.0) -> NDArray[np.float64]:
    print(f"seed {SEED}")
    values: NDArray[np.float64] = np.random.default_rng(SEED).normal(size=(2, 4, 5_000)) * scale
    return values


@pytest.mark.parametrize(("scale", "held"), [(1.0, True), (2 / 3, False), (1.5, False), (0, False)])
def test_only_sigma_is_accepted(scale: float, held: bool) -> None:
    assert mechanism._size(noise(scale), SIGMA).held is held


def test_a_test_of_the_noise_that_could_not_reject_does_not_hold() -> None:
    assert not mechanism._size(noise()[:, :, :2], SIGMA).held


def test_noise_that_is_not_a_number_does_not_hold() -> None:
    broken = noise()
    broken[0, 0, 0] = np.nan
    steps = broken.reshape(8, -1)
    assert not mechanism._size(broken, SIGMA).held
    assert not mechanism._each_step(steps, SIGMA).held
    assert not mechanism._shape(broken).held
    assert not mechanism._apart(steps).held


def test_every_step_is_looked_at() -> None:
    steps = noise().reshape(8, -1)
    assert mechanism._each_step(steps, SIGMA).held
    steps[5] *= 0.8
    assert not mechanism._each_step(steps, SIGMA).held


def test_the_shape_is_looked_at() -> None:
    print(f"seed {SEED}")
    uniform = np.random.default_rng(SEED).uniform(-(3**0.5), 3**0.5, (2, 4, 5_000))
    assert mechanism._shape(noise()).held
    assert mechanism._size(uniform, SIGMA).held
    assert not mechanism._shape(uniform).held


@pytest.mark.parametrize("pair", [(0, 1), (2, 7)])
def test_steps_must_be_independent(pair: tuple[int, int]) -> None:
    steps = noise().reshape(8, -1)
    assert mechanism._apart(steps).held
    steps[pair[1]] = (steps[pair[0]] + 3 * steps[pair[1]]) / 10**0.5
    assert not mechanism._apart(steps).held


def test_draws_must_vary_as_independent_ones_do() -> None:
    print(f"seed {SEED}")
    random = np.random.default_rng(SEED)
    poisson = [random.binomial(n, 0.3, 20) for n in mechanism._COHORTS]
    fixed = [np.full(20, round(0.3 * n)) for n in mechanism._COHORTS]
    all_or_nobody = [n * random.binomial(1, 0.3, 20) for n in mechanism._COHORTS]
    held = [mechanism._spread(counts, 0.3).held for counts in (poisson, fixed, all_or_nobody)]
    assert held == [True, False, False]
    everybody = [np.full(20, n) for n in mechanism._COHORTS]
    assert mechanism._spread(everybody, 1.0).held
    assert not mechanism._spread(poisson, 1.0).held


def test_a_canary_moves_its_own_row_by_one_when_it_is_drawn(small_study: MakeStudy) -> None:
    subject = Subject(small_study(), sigma=1.0, noise=1.0)
    study = canary_study(subject, 10, 6)
    cohort = canaries(np.array([1, 4, 299]), study.training.views_per_patient)
    steps = canary_scores(released(CanaryTable(300, 1.0), cohort, study, 0.0, 6))
    assert steps.shape == (6, 300)
    assert np.all(np.isclose(steps, 0, atol=1e-5) | np.isclose(steps, 1, atol=1e-5))
    assert set(np.flatnonzero(steps.sum(0) > 0.5).tolist()) <= {1, 4, 299}


def test_rounds_add_up(small_study: MakeStudy) -> None:
    """At rate 1 everybody is in every step: the sum of three rounds is the number of their steps."""
    protocol = small_study()
    fields = {"sampling_rate": 1.0}
    protocol = protocol.model_copy(update={"training": protocol.training.model_copy(update=fields)})
    study = canary_study(Subject(protocol, 1.0, 1.0), 5, 6)
    cohort = canaries(np.array([0, 2]), study.training.views_per_patient)
    total = canary_scores(released_sum(CanaryTable(3, 1.0), cohort, study, 0.0, [2, 3, 1]))
    np.testing.assert_allclose(total, [6, 0, 6], atol=1e-4)


def test_phantom_patients_fit_the_studys_images(small_study: MakeStudy) -> None:
    images = small_study().images.model_copy(update={"channels": 3})
    made = phantom_patients(images, 5, 2, seed=1)
    assert isinstance(made, ImagePatients)
    assert (len(made), made.pixels.shape) == (5, (10, 16, 16, 3))
    assert np.array_equal(made.pixels[..., 0], made.pixels[..., 2])


def test_without_a_claim_there_is_nothing_to_audit(small_study: MakeStudy) -> None:
    with pytest.raises(ProtocolError, match="needs a claim"):
        Subject.of(small_study(mechanism="none"), no_dp=False)
