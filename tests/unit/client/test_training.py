"""Local training: public constants only, exact scores kept whole, arrays in the study's order."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client import training
from client.data import ImagePatients
from client.ledger import Spend
from client.privacy.book_keeping import BookKeepingClipper
from client.privacy.engine import HooksClipper, NoisyStep, PlainSum
from client.privacy.randomness import RandomStream
from client.privacy.sampling import poisson_draw
from client.training import (
    HERE,
    Execution,
    evaluate,
    load_model,
    make_clipper,
    proximal_term,
    train,
    trained_arrays,
)
from common import arrays, messages
from common.arrays import Arrays
from common.judging.binary import HISTOGRAM_BINS
from common.model_spec import model_spec, update_spec
from common.models import build_model
from common.tasks.nodule_classification.study import NoduleStudy

MakeStudy = Callable[..., NoduleStudy]
CPU = torch.device("cpu")
SPEND = Spend(1.0, 0.5, 2)
OPACUS = Execution(engine="opacus")


def patients_with(counts: list[int], seed: int = 0) -> ImagePatients:
    generator = np.random.default_rng(seed)
    total = sum(counts)
    return ImagePatients(
        pixels=generator.integers(0, 256, (total, 16, 16, 1), dtype=np.uint8),
        labels=np.arange(total) % 2,
        offsets=np.cumsum([0, *counts], dtype=np.int64),
        mean=0.4,
        std=0.25,
    )


def initial(study: NoduleStudy) -> Arrays:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build_model(study.model.name, study.images.channels, 2)
    return {name: value.numpy() for name, value in model.state_dict().items()}


def trained(
    study: NoduleStudy,
    patients: ImagePatients,
    stream: RandomStream,
    spend: Spend = SPEND,
    execution: Execution = HERE,
) -> Arrays:
    model = load_model(study, initial(study), CPU)
    train(model, patients, study, 10, spend, stream, execution)
    return trained_arrays(model)


def with_settings(study: NoduleStudy, section: str, **changes: Any) -> NoduleStudy:
    part = getattr(study, section).model_copy(update=changes)
    return study.model_copy(update={section: part})


def once(study: NoduleStudy) -> NoduleStudy:
    return with_settings(study, "evaluation", flips_and_rotations=False)


def turned(study: NoduleStudy) -> NoduleStudy:
    return with_settings(study, "evaluation", flips_and_rotations=True)


def test_proximal_term_is_mu_times_the_way_from_the_received_model() -> None:
    parameters = [nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([5.0]))]
    add = proximal_term(parameters, 0.25)
    with torch.no_grad():
        parameters[0].add_(torch.tensor([4.0, -8.0]))
    parameters[0].grad = torch.tensor([1.0, 1.0])
    add(torch.optim.SGD(parameters, lr=1.0))
    assert parameters[0].grad.tolist() == [2.0, -1.0]
    assert parameters[1].grad is None


def test_fedprox_adds_its_term_after_noise_and_division(small_study: MakeStudy) -> None:
    """Two steps: the second has mu (w1 - w0) in its gradient, undivided, and the same noise."""
    plain = with_settings(small_study(), "training", learning_rate=1.0)
    proximal = with_settings(plain, "aggregation", strategy="fedprox", proximal_mu=0.5)
    nobody = Spend(1.0, 1e-12, 2)  # draws nobody, so a step is its noise
    plain, proximal = (with_settings(p, "training", sampling_rate=1e-9) for p in (plain, proximal))
    start = initial(plain)["classifier.bias"]
    cohort = patients_with([1, 2])
    one, without, added = (
        trained(study, cohort, RandomStream.for_tests(3), spend)["classifier.bias"] - start
        for study, spend in ((plain, Spend(1.0, 1e-12, 1)), (plain, nobody), (proximal, nobody))
    )
    assert np.all(one != 0)
    np.testing.assert_allclose(added, without - 0.5 * one, rtol=1e-5)


class _Logits(nn.Module):
    """Answers with what each image's first pixel says."""

    def forward(self, images: Tensor) -> Tensor:
        first = images[:, 0, 0, 0]
        return torch.stack([torch.zeros_like(first), torch.log(first)], dim=1)


def test_a_score_that_is_not_finite_becomes_a_half(small_study: MakeStudy) -> None:
    cohort = patients_with([2, 1, 1])
    pixels = np.zeros((4, 16, 16, 1), np.uint8)
    pixels[:, 0, 0, 0] = [255, 0, 51, 204]
    own = ImagePatients(pixels, cohort.labels, cohort.offsets, mean=0.2, std=0.2)
    # pixel values 4, -1, 0 and 3: odds x to 1, the logarithm of -1 is NaN
    scores = evaluate(_Logits(), own, once(small_study()), CPU)
    np.testing.assert_allclose(scores.score, [0.8, 0.5, 0.0, 0.75], atol=1e-6)
    assert scores.patient.tolist() == [0, 0, 1, 2]


def test_a_score_is_the_mean_over_the_eight_turned_copies(small_study: MakeStudy) -> None:
    """Turned by numpy before it becomes a cohort, each copy scored alone, and averaged here."""
    study, cohort = small_study(), patients_with([3, 1, 2])
    model = load_model(study, initial(study), CPU)
    copies = []
    for mirrored in (False, True):
        for quarters in range(4):
            pixels = np.rot90(cohort.pixels, quarters, axes=(1, 2))
            pixels = pixels[:, :, ::-1] if mirrored else pixels
            other = dataclasses.replace(cohort, pixels=np.ascontiguousarray(pixels))
            copies.append(evaluate(model, other, once(study), CPU).score)
    scores = evaluate(model, cohort, turned(study), CPU)
    np.testing.assert_allclose(scores.score, np.mean(copies, axis=0), atol=1e-6)
    assert scores.label.tolist() == cohort.labels.tolist()
    assert scores.patient.tolist() == [0, 0, 0, 1, 2, 2]
    np.testing.assert_array_equal(evaluate(model, cohort, once(study), CPU).score, copies[0])
    # It does matter: the copies' scores differ, and so does their mean from the first.
    assert np.ptp(copies, axis=0).min() > 1e-5
    # A symmetrical question has a symmetrical answer.
    np.testing.assert_allclose(
        evaluate(model, other, turned(study), CPU).score, scores.score, atol=1e-6
    )


def test_probabilities_are_averaged_and_not_logits(small_study: MakeStudy) -> None:
    """By hand: a single bright corner is first in two of the eight copies, a dark pixel in six."""
    pixels = np.full((1, 16, 16, 1), 51, np.uint8)
    pixels[0, 0, 0, 0] = 204
    own = ImagePatients(pixels, np.array([1]), np.array([0, 1]), mean=0.0, std=0.2)
    # 0.8 / 0.2 is odds of 4 to 1, 0.2 / 0.2 of 1 to 1
    found = evaluate(_Logits(), own, turned(small_study()), CPU).score
    np.testing.assert_allclose(found, [(2 * 0.8 + 6 * 0.5) / 8], atol=1e-6)


@pytest.mark.parametrize("name", ["compact-cnn", "resnet18-frozen-affine"])
@pytest.mark.parametrize("trainable", ["all", "norm-and-head", "head"])
def test_a_loaded_model_is_frozen_as_the_protocol_says(
    small_study: MakeStudy, name: str, trainable: str
) -> None:
    study = with_settings(small_study(), "model", name=name, trainable=trainable)
    received = initial(study)
    model = load_model(study, received, CPU)
    assert arrays.digest(received) == arrays.digest(
        {key: value.numpy() for key, value in model.state_dict().items()}
    )
    learns = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert learns == list(update_spec(study)) == list(trained_arrays(model))


def test_scores_do_not_depend_on_the_batch(
    small_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, cohort = small_study(), patients_with([3, 4, 2])
    model = load_model(study, initial(study), CPU)
    for asked in (once(study), turned(study)):
        monkeypatch.setattr(training, "EVALUATION_BATCH", 512)
        whole = evaluate(model, cohort, asked, CPU).score
        monkeypatch.setattr(training, "EVALUATION_BATCH", 2)
        found = evaluate(model, cohort, asked, CPU).score
        np.testing.assert_allclose(found, whole, atol=1e-6)
        assert len(evaluate(model, patients_with([]), asked, CPU).score) == 0


def test_scores_carry_series_and_findings_where_patients_do(small_study: MakeStudy) -> None:
    study = once(small_study())
    cohort = patients_with([3, 2])
    assert evaluate(_Logits(), cohort, study, CPU).series is None
    series, finding = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 2, 3, 3])
    placed = dataclasses.replace(cohort, series=series, finding=finding)
    scores = evaluate(_Logits(), placed, study, CPU)
    np.testing.assert_array_equal(scores.series, series)
    np.testing.assert_array_equal(scores.finding, finding)
    with pytest.raises(ValueError, match="ordinals"):
        dataclasses.replace(cohort, series=series[:3], finding=finding)


class _Spy(NoisyStep):
    seen: list[tuple[float, ...]] = []  # noqa: RUF012  what every test begins by emptying
    steps = 0

    def __init__(self, optimizer: torch.optim.Optimizer, **constants: Any) -> None:
        super().__init__(optimizer, **constants)
        names = ("noise_multiplier", "max_grad_norm", "denominator")
        type(self).seen.append(tuple(constants[name] for name in names))

    def add_noise(self) -> None:
        type(self).steps += 1
        super().add_noise()


@pytest.mark.parametrize("size", [1, 2, 9, 10, 11, 40])
def test_the_number_of_patients_changes_no_public_constant(
    small_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    rates: list[float] = []
    draw = poisson_draw

    def spied(patients: ImagePatients, rate: float, views: int, stream: RandomStream) -> Any:
        rates.append(rate)
        return draw(patients, rate, views, stream)

    monkeypatch.setattr(_Spy, "seen", [])
    monkeypatch.setattr(_Spy, "steps", 0)
    monkeypatch.setattr(training, "NoisyStep", _Spy)
    monkeypatch.setattr(training, "poisson_draw", spied)
    study = small_study(north=10)
    values = trained(study, patients_with([1 + i % 3 for i in range(size)]), RandomStream.fresh())
    assert _Spy.seen == [(1.0, 1.0, 5.0)]  # 0.5 x 10 nominal patients, whatever the size
    assert rates == [0.5, 0.5]
    assert _Spy.steps == 2
    reply = messages.TrainReply(
        study="0" * 64,
        round=1,
        request="0" * 64,
        ledger_head="0" * 64,
        previous_head=None,
        policy="0" * 64,
        suppressed=False,
        histogram=((0.0,) * HISTOGRAM_BINS,) * 2,
        histogram_noise=1.0,
        noise_multiplier=1.0,
        arrays=arrays.difference(values, initial(study)),
    )
    arrays.check(reply.arrays, update_spec(study))


def test_empty_draws_are_steps_of_pure_noise(small_study: MakeStudy) -> None:
    study = with_settings(small_study(), "training", sampling_rate=1e-9, learning_rate=1.0)
    start, seed = initial(study), 5
    print(f"seed {seed}")
    moved = trained(study, patients_with([2, 2]), RandomStream.for_tests(seed))
    change = np.concatenate([(moved[name] - start[name]).ravel() for name in moved])
    expected = np.sqrt(2) * 1.0 / (1e-9 * 10)  # two steps, sigma C / denominator each
    assert change.std() == pytest.approx(expected, rel=0.02)


def test_the_same_stream_trains_the_same_model_and_a_fresh_one_another(
    small_study: MakeStudy,
) -> None:
    study, cohort = small_study(), patients_with([2, 1, 3, 2])
    one, two = (trained(study, cohort, RandomStream.for_tests(4, "x")) for _ in range(2))
    assert arrays.digest(one) == arrays.digest(two)
    other = trained(study, cohort, RandomStream.fresh())
    assert all(not np.array_equal(one[name], other[name]) for name in one)


def test_no_private_step_without_clipping(small_study: MakeStudy) -> None:
    model = build_model("compact-cnn", 1, 2)
    assert isinstance(make_clipper(model, small_study(mechanism="none")), PlainSum)
    assert isinstance(make_clipper(model, small_study(mechanism="none"), OPACUS), PlainSum)
    study = with_settings(small_study(), "privacy", max_grad_norm=0.7)
    ours = make_clipper(model, study)
    assert isinstance(ours, BookKeepingClipper)
    theirs = make_clipper(build_model("compact-cnn", 1, 2), study, OPACUS)
    assert isinstance(theirs, HooksClipper)
    assert ours.max_grad_norm == theirs.max_grad_norm == 0.7


@pytest.mark.parametrize(
    "execution", [Execution(engine="opacus"), Execution(max_views_per_chunk=2), Execution()]
)
def test_how_a_hospital_computes_changes_rounding_only(
    small_study: MakeStudy, execution: Execution
) -> None:
    """The same draws, flips and noise, whatever the engine and however a draw is divided."""
    study, cohort = small_study(), patients_with([2, 1, 3, 2, 1, 1, 2])
    found = trained(study, cohort, RandomStream.for_tests(6, "x"), execution=execution)
    expected = trained(study, cohort, RandomStream.for_tests(6, "x"))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["compact-cnn", "resnet18-frozen-affine"])
def test_trained_arrays_have_names_shapes_and_order_of_the_update(
    small_study: MakeStudy, name: str
) -> None:
    study = with_settings(small_study(), "model", name=name)
    model = load_model(study, initial(study), CPU)
    found = trained_arrays(model)
    assert [(key, value.shape) for key, value in found.items()] == list(update_spec(study).items())
    assert (set(found) == set(model_spec(study))) == (name == "compact-cnn")
    arrays.check(found, update_spec(study))


def test_a_model_is_a_copy_of_the_received_arrays(small_study: MakeStudy) -> None:
    study = small_study()
    received = initial(study)
    before = arrays.digest(received)
    model = load_model(study, received, CPU)
    train(model, patients_with([2, 2]), study, 10, SPEND, RandomStream.fresh())
    assert arrays.digest(received) == before
