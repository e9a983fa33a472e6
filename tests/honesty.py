"""Detectors: each one fails when the privacy mechanism does not do what the accountant assumes.

The unit tests call them on the engine as it is; tests/integration/test_mutations.py breaks the
engine on purpose and expects them to fail. So they call the engine through its modules, where it
can be broken, and judge by what comes out.
"""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from client import evidence, training
from client.data import ImagePatients, Patients
from client.data.record_patients import RecordPatients
from client.ledger import Spend
from client.policy import Engine, SitePolicy
from client.privacy import accounting, budget, engine, randomness
from common.histogram import score_histogram
from common.judging.binary import HISTOGRAM_BINS
from common.metrics import Scores
from common.model_spec import model_of
from common.protocol import StudyProtocol, parse_protocol
from common.tasks import USUAL, judge_of, task_of
from tests.golden import exact_epsilon
from tests.hospital import LIMITS
from tests.tasks import changed, small

SEED = 20260104
LEVEL = 1e-6  # of the chi-square tests: how often a true engine would be called wrong
DELTA = 1e-5

RATE, NOMINAL, NOISE = 0.5, 100, 1.5

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


# The other tasks with a model of a thousand weights, so that one step says how large the noise is.
LARGE: dict[str, dict[str, Any]] = {
    "risk": {"model": {"name": "mlp", "hidden": 200}},
    "survival": {"model": {"name": "discrete-time", "hidden": 150}},
    "sequence": {"model": {"hidden": 24}},
    "summary": {
        "records": {
            "columns": [{"name": f"x{n}", "kind": "number", "range": [0, 1]} for n in range(1_000)]
        },
        "privacy": {"max-grad-norm": 63.3},
    },
}
# Models of the other tasks for one step that is exact, by the engines that clip them.
SMALL: dict[str, list[dict[str, Any]]] = {
    "risk": [{"name": "logistic-regression"}, {"name": "linear-svm"}, LARGE["risk"]["model"]],
    "summary": [{"name": "mean"}],  # no gradient of a quantile is ever clipped
    "survival": [
        {"name": "proportional-hazards"},
        {"name": "discrete-time"},
        LARGE["survival"]["model"],
    ],
}


def study(rate: float = RATE, rounds: int = 3, task: str = USUAL, **tables: Any) -> StudyProtocol:
    """Two views a patient where the task has several; where all take part in every step, `rate` is 1."""
    if task == USUAL:
        return parse_protocol(STUDY.format(rate=rate, rounds=rounds))
    usual = small(task, rounds=rounds, north=NOMINAL)
    training: dict[str, Any] = {} if task == "survival" else {"views-per-patient": 2}
    if usual.training.sampling_rate < 1:
        training |= {"learning-rate": 1.0, "steps-per-round": 1, "sampling-rate": rate}
    own = LARGE[task] | tables
    privacy = {"max-grad-norm": 0.4} | own.get("privacy", {})
    return changed(usual, **{**own, "privacy": privacy, "training": training})


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


def equal_patients(count: int, task: str = USUAL) -> Patients:
    """`count` patients with the same two views, or one, so loud that every gradient is clipped."""
    generator = np.random.default_rng(1)
    if task != USUAL:
        protocol = study(task=task)
        views, kind = protocol.training.views_per_patient, task_of(protocol)
        values = 5 * generator.standard_normal((views, *kind.view_shape(protocol)))
        labels = kind.some_labels(protocol, 8)[-views:].numpy()
        if labels.shape == values.shape:  # a record that is its own label
            labels = values.astype(np.float32)
        return RecordPatients(
            values=np.concatenate([values.astype(np.float32)] * count),
            labels=np.concatenate([labels] * count),
            offsets=np.arange(0, views * count + 1, views),
        )
    pixels = generator.integers(0, 256, (2, 16, 16, 1), dtype=np.uint8)
    return ImagePatients(
        pixels=np.concatenate([pixels] * count),
        labels=np.zeros(2 * count, np.int64),
        offsets=np.arange(0, 2 * count + 1, 2),
        mean=0.0,
        std=0.01,
    )


def released(
    patients: Patients,
    noise: float,
    protocol: StudyProtocol,
    steps: int = 1,
    stream: str = "",
    engine: Engine = "book-keeping",
) -> NDArray[np.float64]:
    """What `steps` steps of training add to the weights, times the public denominator."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = model_of(protocol)
    before, rate = _flat(model), protocol.training.sampling_rate
    spend = Spend(noise, rate, steps)
    random = randomness.RandomStream.for_tests(SEED, stream)
    computed = training.Execution(engine=engine)
    training.train(model, patients, protocol, NOMINAL, spend, random, computed)
    change: NDArray[np.float64] = (_flat(model) - before).numpy() * rate * NOMINAL
    return change


def clip_of(protocol: StudyProtocol) -> float:
    return protocol.privacy.max_grad_norm


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in model.parameters()])


def noise_has_the_size_that_is_accounted(task: str = USUAL) -> None:
    """One step on one patient: all weights, whose noise is sigma x C; the patient is lost in it."""
    protocol = study(task=task)
    found = released(equal_patients(1, task), NOISE, protocol)
    accepts_only(found, NOISE * clip_of(protocol))


def every_step_has_noise_of_its_own(task: str = USUAL) -> None:
    """Four steps add their variances: noise that is used again would add up to four times as much."""
    protocol = study(task=task)
    found = released(equal_patients(1, task), NOISE, protocol, steps=4)
    accepts_only(found, 2 * NOISE * clip_of(protocol))


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


def one_patient_moves_the_sum_by_the_clip_norm(
    task: str = USUAL, engine: Engine = "book-keeping", **tables: Any
) -> None:
    """Whatever the patient, and this one wants more."""
    protocol = study(rate=1.0, task=task, **tables)
    norm = float(np.linalg.norm(released(equal_patients(1, task), 0.0, protocol, engine=engine)))
    assert 0.999 * clip_of(protocol) <= norm <= clip_of(protocol) * (1 + 1e-5)


def rate_and_denominator_are_public(task: str = USUAL) -> None:
    """Three times as many patients as are public are drawn three times as often, and count as much.

    The released sum in units of C is the number of drawn patients, since they are all equal.
    """
    protocol, cohort = study(task=task), 3 * NOMINAL
    rate = protocol.training.sampling_rate
    print(f"seed {SEED}")
    change = released(equal_patients(cohort, task), 0.0, protocol)
    drawn = float(np.linalg.norm(change)) / clip_of(protocol)
    rounding = 1e-4 * cohort
    assert abs(drawn - rate * cohort) < 5 * math.sqrt(cohort * rate * (1 - rate)) + rounding


def with_a_broken_patient(whole: Patients) -> Patients:
    """The last patient's views are not finite, as after a fault in a file or in a crafted model.

    Nor are his labels, where they are measured.
    """
    kind: Any = type(whole)

    class Broken(kind):  # type: ignore[misc]
        __slots__ = ()

        def views(self, indices: NDArray[np.int64]) -> Tensor:
            views: Tensor = kind.views(self, indices)
            views[torch.from_numpy(indices >= self.of(len(self) - 1).start)] = math.nan
            return views

    columns = {column.name: getattr(whole, column.name) for column in fields(kind)}
    if np.issubdtype(whole.labels.dtype, np.floating):
        columns["labels"] = whole.labels.copy()
        columns["labels"][whole.of(len(whole) - 1)] = math.nan
    broken: Patients = Broken(**columns)
    return broken


def a_broken_patient_contributes_nothing(task: str = USUAL) -> None:
    protocol = study(rate=1.0, task=task)
    found = released(with_a_broken_patient(equal_patients(3, task)), 0.0, protocol)
    assert np.isfinite(found).all()
    whole = released(equal_patients(2, task), 0.0, protocol)
    np.testing.assert_allclose(found, whole, atol=1e-5 * max(1.0, clip_of(protocol)))


def one_patient_moves_the_histogram_by_one_at_most(task: str = USUAL) -> None:
    """However many views a patient has, under any model and with any labels."""
    protocol, generator = study(task=task), np.random.default_rng(SEED)
    judge, kind = judge_of(protocol), task_of(protocol)
    most = protocol.training.views_per_patient
    patient = np.repeat(np.arange(30), generator.integers(1, most + 1, 30))
    views = torch.from_numpy(
        generator.standard_normal((len(patient), *kind.view_shape(protocol))).astype(np.float32)
    )
    labels = generator.permutation(kind.some_labels(protocol, len(patient)).numpy())
    with torch.no_grad():
        said = kind.predict(protocol, model_of(protocol).eval(), views).double().numpy()

    def histogram(kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        scores = judge.scores(protocol, said[kept], labels[kept], patient[kept], {})
        return judge.histogram(protocol, scores)

    whole = histogram(patient >= 0)
    moves = [np.linalg.norm(whole - histogram(patient != gone)) for gone in range(30)]
    assert 0.5 < max(moves) <= 1 + 1e-9


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


def a_study_costs_what_its_protocol_promises(task: str = USUAL) -> None:
    """All that a study's requests spend, by the closed form; every step at q = 1."""
    protocol = study(rate=1.0, rounds=5, task=task)
    noise = budget.protocol_noise(protocol)
    last = protocol.rounds + 1
    spends = [budget.spends_of(protocol, r, noise, training=r < last) for r in range(1, last + 1)]
    for account in budget.ACCOUNTS:
        spent = [s[account] for s in spends if account in s]
        if account == "validation" and not protocol.evaluations:
            assert spent == []
            continue
        assert {s.sampling_rate for s in spent} == {1.0}
        squares = sum(s.steps / s.noise_multiplier**2 for s in spent)
        cost = exact_epsilon.gaussian(1 / math.sqrt(squares), 1, DELTA)
        assert 0.99 * 8.0 <= cost <= 8.0


# What may differ from one task to the next: its model, its loss, its patients, its histogram.
OF_A_TASK: tuple[Callable[[str], None], ...] = (
    noise_has_the_size_that_is_accounted,
    every_step_has_noise_of_its_own,
    one_patient_moves_the_sum_by_the_clip_norm,
    rate_and_denominator_are_public,
    a_broken_patient_contributes_nothing,
    one_patient_moves_the_histogram_by_one_at_most,
    a_study_costs_what_its_protocol_promises,
)


def applies(detector: Callable[..., None], task: str) -> bool:
    """Whether there is something to detect in such a study."""
    judged = detector is not one_patient_moves_the_histogram_by_one_at_most
    return judged or small(task).evaluations > 0


DETECTORS: tuple[Callable[[], None], ...] = (
    noise_has_the_size_that_is_accounted,
    every_step_has_noise_of_its_own,
    noise_is_normal_and_independent,
    one_patient_moves_the_sum_by_the_clip_norm,
    rate_and_denominator_are_public,
    a_broken_patient_contributes_nothing,
    one_patient_moves_the_histogram_by_one_at_most,
    noise_comes_from_the_operating_system,
    a_seed_needs_a_rehearsal,
    a_histogram_is_noised_before_it_leaves,
    epsilon_is_that_of_the_golden_table,
    rounds_are_one_account,
    a_study_costs_what_its_protocol_promises,
)
