"""The protocol of a summary: what cannot be a mean or a quantile, or would be another one, is refused."""

from itertools import product
from math import sqrt

import numpy as np
import pytest
import torch

from common.errors import ProtocolError
from common.protocol import parse_protocol
from common.tabular.encoding import encode
from common.tasks import bins_of, loss_of, releases
from common.tasks.summary import TASK
from common.tasks.summary.study import SummaryStudy
from tests.summaries import AGE, BMI, SEX, summary_study

DP = 'mechanism = "dp-sgd", max-grad-norm = {norm}'
MEDIAN = 'model = { name = "quantile", level = 0.5 }'


def refusal(*columns: str, **options: object) -> str:
    with pytest.raises(ProtocolError) as caught:
        summary_study(*columns, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_study_reads_back_and_judges_nothing() -> None:
    study = summary_study(AGE, SEX, BMI, privacy=DP.format(norm=1.7320508))
    assert parse_protocol(study.to_toml()) == study
    assert (study.evaluations, bins_of(study), releases(study)) == (0, 0, ())
    assert not any(study.evaluates(number) for number in range(1, study.rounds + 2))


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ((AGE + ", center = 50",), {}, "has a center or scale, which a summary is to find"),
        ((AGE + ', missing = "middle"',), {}, "counts what is missing as the middle"),
        ((SEX,), {"more": MEDIAN}, "column 'sex' has no quantile"),
        ((BMI,), {"more": MEDIAN}, "column 'bmi' has no quantile"),
        (
            (AGE,),
            {"more": 'model = { name = "mean", level = 0.5 }'},
            "model.level is for 'quantile'",
        ),
        ((AGE,), {"more": 'model = { name = "quantile" }'}, "model.level is for 'quantile'"),
        ((AGE,), {"more": "training = { learning-rate = 0.5 }"}, "a mean is one step"),
        ((AGE,), {"more": "without-dp = { learning-rate = 0.5 }"}, "a mean is one step"),
        ((AGE,), {"more": "training = { steps-per-round = 2 }"}, "must be 1"),
        ((AGE,), {"more": "training = { sampling-rate = 0.5 }"}, "greater than or equal to 1"),
        ((AGE,), {"more": "training = { momentum = 0.5 }"}, "less than or equal to 0"),
        ((AGE,), {"more": 'aggregation = { weights = "uniform" }'}, "must be 'cohort'"),
        ((AGE,), {"more": 'aggregation = { strategy = "fedadam" }'}, "must be 'fedavg'"),
        ((AGE, BMI), {"privacy": DP.format(norm=1.41)}, "give 1.41421"),
        ((AGE,), {"privacy": DP.format(norm=1.0), "rounds": 2}, "give 2"),
        ((AGE,), {"privacy": DP.format(norm=0.49), "more": MEDIAN}, "give 0.5"),
    ],
)
def test_what_is_refused(columns: tuple[str, ...], options: dict[str, object], said: str) -> None:
    assert said in refusal(*columns, **options)


@pytest.mark.parametrize(
    ("rounds", "more"), [(1, ""), (3, ""), (9, 'model = { name = "quantile", level = 0.9 }')]
)
def test_no_record_is_clipped_at_the_least_norm(rounds: int, more: str) -> None:
    """Every corner of what a record can be, from every corner of what the model can be."""
    columns = (AGE, AGE.replace('"age"', '"height"')) if more else (AGE, SEX, BMI)
    study = summary_study(*columns, rounds=rounds, more=more)
    corners: list[tuple[float, ...]] = [
        (20.0, 100.0) if column.categories is None else (0.0, 1.0, 2.0)
        for column in study.records.columns
    ]
    if not more:
        corners[2] = (10.0, 60.0, np.nan)
    values = torch.from_numpy(encode(np.array(list(product(*corners))), study.records.columns))
    starts = values if rounds > 1 else torch.zeros(1, values.shape[1])
    longest = 0.0
    for start in starts:
        outputs = start.expand_as(values).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(study)(outputs, values).sum(), outputs)
        longest = max(longest, float(gradient.norm(dim=1).max()))
    print(f"longest {longest:.4f} of {study.longest_gradient:.4f}")
    assert longest <= study.longest_gradient + 1e-6
    assert longest >= study.longest_gradient / sqrt(2)  # and not far too long, which costs noise


@pytest.mark.parametrize(("level", "target"), [(None, "mean"), (0.5, "median"), (0.8, "quantile")])
def test_the_loss_is_smallest_at_the_figure(level: float | None, target: str) -> None:
    values = torch.from_numpy(np.random.default_rng(1).normal(size=(501, 1)).astype(np.float32))
    more = "" if level is None else f'model = {{ name = "quantile", level = {level} }}'
    study = summary_study(AGE, more=more)
    grid = torch.linspace(-2, 2, 4001)
    losses = torch.stack([loss_of(study)(place.expand(501, 1), values).mean() for place in grid])
    found = float(grid[losses.argmin()])
    exact = values.mean() if level is None else np.quantile(values.numpy(), level)
    assert found == pytest.approx(float(exact), abs=2e-3), target


def test_the_model_says_the_same_of_every_record_and_starts_in_the_middle() -> None:
    study = summary_study(AGE, SEX, BMI)
    assert isinstance(study, SummaryStudy)
    model = TASK.build(study)
    said = TASK.predict(study, model, torch.randn(7, 5))
    assert said.shape == (7, 5)
    assert not said.any()
    assert TASK.purpose(study) == "to state the mean of each of 3 columns of patients' records"
