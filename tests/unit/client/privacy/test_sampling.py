"""Patients are drawn independently, with their own images only; turned images stay the same images."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from client.data import ImagePatients
from client.privacy.randomness import RandomStream
from client.privacy.sampling import Draw, poisson_draw
from common.tasks.nodule_classification import TASK
from common.tasks.nodule_classification.study import NoduleStudy

SEED = 20260102
MakeStudy = Callable[..., NoduleStudy]


def patients_with(counts: list[int]) -> ImagePatients:
    """One patient for each number of images in `counts`."""
    total = sum(counts)
    return ImagePatients(
        pixels=np.zeros((total, 2, 2, 1), np.uint8),
        labels=np.zeros(total, np.int64),
        offsets=np.cumsum([0, *counts], dtype=np.int64),
        mean=0.5,
        std=0.25,
    )


def drawn_patients(patients: ImagePatients, draw: Draw) -> list[int]:
    return [int(patients.patient_of_view[row[0]]) for row in draw.views]


class _Counting(RandomStream):
    def __init__(self) -> None:
        super().__init__(bytes(32))
        self.asked: list[int] = []

    def uniform(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        self.asked.append(count)
        return np.full(count, 0.5)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.85])
def test_each_patient_is_drawn_at_the_rate_and_independently(rate: float) -> None:
    print(f"seed {SEED}")
    cohort, steps = patients_with([1, 4, 2, 1, 3, 9]), 4000
    stream = RandomStream.for_tests(SEED, "poisson", str(rate))
    seen = np.zeros((steps, len(cohort)), bool)
    for step in range(steps):
        drawn = drawn_patients(cohort, poisson_draw(cohort, rate, 3, stream))
        assert len(set(drawn)) == len(drawn)
        seen[step, drawn] = True
    deviation = (seen.sum(0) - steps * rate) / np.sqrt(steps * rate * (1 - rate))
    assert stats.chi2.sf(np.square(deviation).sum(), len(cohort)) > 1e-4
    for a in range(len(cohort)):  # each pair of patients, and each patient from step to step
        for one, other in [(seen[:, a], seen[:, b]) for b in range(a)] + [
            (seen[1:, a], seen[:-1, a])
        ]:
            table = [[np.sum((one == i) & (other == j)) for j in (0, 1)] for i in (0, 1)]
            assert stats.chi2_contingency(table).pvalue > 1e-5
    sizes = np.bincount(seen.sum(1), minlength=len(cohort) + 1)
    expected = steps * stats.binom.pmf(np.arange(len(cohort) + 1), len(cohort), rate)
    common = expected >= 5  # a batch of fixed size fails here
    chi = np.square(sizes - expected)[common] / expected[common]
    assert stats.chi2.sf(chi.sum(), common.sum() - 1) > 1e-4


def test_a_tiny_rate_draws_nobody_most_of_the_time() -> None:
    print(f"seed {SEED}")
    stream = RandomStream.for_tests(SEED, "tiny")
    draws = [poisson_draw(patients_with([2] * 10), 0.001, 3, stream) for _ in range(300)]
    empty = [draw for draw in draws if len(draw.views) == 0]
    assert len(empty) > 280
    assert (
        {draw.views.shape for draw in empty} == {draw.weights.shape for draw in empty} == {(0, 3)}
    )


def test_rate_one_draws_everybody() -> None:
    draw = poisson_draw(patients_with([1, 2, 3]), 1.0, 2, RandomStream.fresh())
    assert drawn_patients(patients_with([1, 2, 3]), draw) == [0, 1, 2]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    views=st.integers(1, 6),
    seed=st.integers(0, 2**32),
)
def test_a_patients_views_are_own_images_without_repetition(
    counts: list[int], views: int, seed: int
) -> None:
    cohort = patients_with(counts)
    draw = poisson_draw(cohort, 0.7, views, RandomStream.for_tests(seed))
    assert draw.views.shape == draw.weights.shape == (len(draw.views), views)
    assert draw.weights.dtype == np.float32
    for images, weights in zip(draw.views, draw.weights, strict=True):
        # Padding included: 0 x NaN is NaN, so another's image reaches a gradient in spite of weight 0.
        (owner,) = set(cohort.patient_of_view[images].tolist())
        counted = images[weights > 0]
        assert len(counted) == len(set(counted.tolist())) == min(views, counts[owner])
        assert weights.sum() == pytest.approx(1.0, abs=1e-6)
        assert set(weights.tolist()) <= {0.0, float(np.float32(1 / len(counted)))}


def test_every_image_of_a_patient_is_chosen_equally_often() -> None:
    print(f"seed {SEED}")
    cohort, stream = patients_with([3, 5]), RandomStream.for_tests(SEED, "images")
    draws = [poisson_draw(cohort, 1.0, 2, stream).views[1] for _ in range(3000)]
    assert stats.chisquare(np.bincount(np.ravel(draws), minlength=8)[3:]).pvalue > 1e-4


def test_views_depend_on_the_patient_alone() -> None:
    """Only the first question, one number a patient, knows how many patients there are."""
    for others in ([], [7], [1] * 40):
        stream = _Counting()
        poisson_draw(patients_with([4, *others]), 1.0, 3, stream)
        assert stream.asked == [1 + len(others), 4, *others]


def test_turned_images_are_the_eight_symmetries_and_each_occurs(small_study: MakeStudy) -> None:
    print(f"seed {SEED}")
    image = np.arange(2 * 5 * 5, dtype=np.float32).reshape(2, 5, 5)
    turns = [np.rot90(image, k, (1, 2)) for k in range(4)]
    eight = [turned.copy().tobytes() for turned in turns + [t[:, ::-1] for t in turns]]
    assert len(set(eight)) == 8
    images = torch.from_numpy(np.stack([image] * 4000))
    before = images.clone()
    stream = RandomStream.for_tests(SEED, "turn")
    turned = TASK.augmented(small_study(), images, stream.uniform).numpy()
    counts = [sum(one.tobytes() == symmetry for one in turned) for symmetry in eight]
    assert sum(counts) == 4000
    assert stats.chisquare(counts).pvalue > 1e-4
    assert torch.equal(images, before)


def test_each_image_is_turned_in_its_own_place(small_study: MakeStudy) -> None:
    study, uniform = small_study(), RandomStream.fresh().uniform
    images = torch.arange(9.0)[:, None, None, None].expand(9, 1, 4, 4)
    assert torch.equal(TASK.augmented(study, images, uniform), images)
    assert TASK.augmented(study, images[:0], uniform).shape == (0, 1, 4, 4)


def test_nothing_is_drawn_where_the_protocol_turns_nothing(small_study: MakeStudy) -> None:
    study, stream = small_study(), _Counting()
    still = study.training.model_copy(update={"flips_and_rotations": False})
    images = torch.arange(32.0).reshape(2, 1, 4, 4)
    for training, asked in ((study.training, [2]), (still, [2])):
        found = TASK.augmented(
            study.model_copy(update={"training": training}), images, stream.uniform
        )
        assert torch.equal(found, images) is (training is still)
        assert stream.asked == asked
