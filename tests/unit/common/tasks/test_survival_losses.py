"""Survival losses and models against naive loops, lifelines and scikit-survival."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter
from numpy.typing import NDArray
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv
from torch import Tensor, nn

from client.privacy.book_keeping import BookKeepingClipper, recorded_layers
from client.privacy.engine import PatientShape
from common.errors import ProtocolError
from common.tasks.survival.losses import (
    cox_breslow,
    cox_efron,
    discrete_time,
    proportional_hazards,
)
from common.tasks.survival.models import (
    MODEL_NAMES,
    build_model,
    loss_of,
    predicted_risk,
    predicted_survival,
)
from common.tasks.survival.study import WITHOUT_BASELINE, ModelName
from tests.tasks import changed, small

EDGES = (0.5, 1.0, 2.0, 4.0)
COEFFICIENTS = np.array([0.8, -0.5, 0.3])


def patients(
    n: int, seed: int = 3, *, grid: float = 0.25
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Records (n, 3), times up to 5 rounded up to `grid`, so that many are tied, and events."""
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    died = rng.exponential(2 / np.exp(x @ COEFFICIENTS))
    seen = rng.uniform(0.5, 5, size=n)
    time = np.ceil(np.minimum(died, seen) / grid) * grid
    return x, time, died <= seen


def labels_of(time: NDArray[np.float64], event: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.stack([time, event], 1)).double()


def fitted(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    groups: list[tuple[NDArray[np.float64], Tensor]],
) -> nn.Module:
    """`model` at the least sum of `loss` over `groups`, each of which is a batch of its own."""
    model = model.double()
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )
    n = sum(len(x) for x, _ in groups)

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = [loss(model(torch.from_numpy(x)), labels).sum() for x, labels in groups]
        total = torch.stack(losses).sum() / n
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return model


def coefficients(model: nn.Module) -> NDArray[np.float64]:
    """The weights of the one layer that sees the records, (3,)."""
    (weights,) = (p for p in model.parameters() if p.shape == (1, 3))
    found: NDArray[np.float64] = weights.detach().double().numpy()[0]
    return found


def naive_partial_likelihood(score: Tensor, labels: Tensor, *, efron: bool) -> Tensor:
    """The sum over event times, as the papers write it."""
    time, event = labels.T
    total = score.new_zeros(())
    for t in time[event == 1].unique():
        at_risk, dead = score[time >= t].exp().sum(), score[(time == t) & (event == 1)]
        for number in range(len(dead)):
            share = number / len(dead) if efron else 0.0
            total = total + (at_risk - share * dead.exp().sum()).log() - dead[number]
    return total


def naive_hazards(outputs: Tensor, labels: Tensor, edges: Tensor, *, discrete: bool) -> Tensor:
    losses = []
    for row, (time, event) in zip(outputs, labels, strict=True):
        loss, begin = row.new_zeros(()), 0.0
        for output, end in zip(row, edges.tolist(), strict=True):
            here = bool(event) and (begin < time <= end or (begin == 0 and time == 0))
            share = min(max((float(time) - begin) / (end - begin), 0.0), 1.0)
            if not discrete:
                loss = loss + share * output.exp() - (output if here else 0)
            elif here:
                loss = loss - output.sigmoid().log()
            elif share >= 0.5:
                loss = loss - (1 - output.sigmoid()).log()
            if here:
                break
            begin = end
        losses.append(loss)
    return torch.stack(losses)


@pytest.mark.parametrize("efron", [False, True])
def test_partial_likelihood_and_gradient_are_those_of_a_loop(efron: bool) -> None:
    _, time, event = patients(60)
    score = torch.randn(60, 1, dtype=torch.float64, requires_grad=True)
    labels = labels_of(time, event)
    losses = (cox_efron if efron else cox_breslow)(score, labels)
    expected = naive_partial_likelihood(score[:, 0], labels, efron=efron)
    assert (losses[labels[:, 1] == 0] == 0).all()
    torch.testing.assert_close(losses.sum(), expected)
    torch.testing.assert_close(
        torch.autograd.grad(losses.sum(), score), torch.autograd.grad(expected, score)
    )


@pytest.mark.parametrize("loss", [cox_breslow, cox_efron])
def test_partial_likelihood_stays_finite(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    far = torch.tensor([[-300.0], [0.0], [300.0]], requires_grad=True)
    labels = torch.tensor([[2.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    losses = loss(far, labels)
    (gradient,) = torch.autograd.grad(losses.sum(), far)
    assert torch.isfinite(losses).all()
    assert torch.isfinite(gradient).all()
    nobody = loss(far, torch.tensor([[2.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    assert (nobody == 0).all()


@pytest.mark.parametrize("discrete", [False, True])
def test_hazard_losses_and_gradients_are_those_of_a_loop(discrete: bool) -> None:
    _, time, event = patients(60, grid=0.1)
    time[:4], event[:4] = [0.0, 0.0, 9.0, 9.0], [False, True, False, True]
    outputs = torch.randn(60, 4, dtype=torch.float64, requires_grad=True)
    labels, edges = labels_of(time, event), torch.tensor(EDGES).double()
    losses = (discrete_time if discrete else proportional_hazards)(outputs, labels, edges)
    expected = naive_hazards(outputs, labels, edges, discrete=discrete)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(
        torch.autograd.grad(losses.sum(), outputs), torch.autograd.grad(expected.sum(), outputs)
    )


@pytest.mark.parametrize("name", [name for name in MODEL_NAMES if name not in WITHOUT_BASELINE])
def test_a_patients_loss_does_not_depend_on_the_others(name: ModelName) -> None:
    """What the privacy of these losses rests on, and what Cox's does not have."""
    x, time, event = patients(20)
    records, labels = torch.from_numpy(x).float(), labels_of(time, event).float()
    outputs = build_model(name, 3, len(EDGES))(records)
    together = loss_of(name, EDGES)(outputs, labels)
    alone = [loss_of(name, EDGES)(outputs[i : i + 1], labels[i : i + 1]) for i in range(20)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert not loss_of(name, EDGES).mixes_patients
    cox = build_model("cox-efron", 3, len(EDGES))(records)
    assert loss_of("cox-efron", EDGES).mixes_patients
    assert (loss_of("cox-efron", EDGES)(cox[:1], labels[:1]) == 0).all()


@pytest.mark.parametrize(
    ("name", "hidden"),
    [("proportional-hazards", None), ("discrete-time", None), ("discrete-time", 5)],
)
def test_the_engine_clips_each_patients_whole_gradient(name: ModelName, hidden: int | None) -> None:
    """The sum that is noised has sensitivity C: every patient adds a gradient of at most C, no more."""
    x, time, event = patients(12)
    records, labels = torch.from_numpy(x).float(), labels_of(time, event).float()
    model, loss, clip = build_model(name, 3, len(EDGES), hidden), loss_of(name, EDGES), 0.8
    generator = torch.Generator().manual_seed(2)  # so that some patients are clipped, and not all
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    shape = PatientShape(1, (3,), lambda n: labels[:n])
    BookKeepingClipper(model, loss, clip, shape).add_clipped_sum(records, labels, torch.ones(12, 1))
    expected = [torch.zeros_like(parameter) for parameter in model.parameters()]
    clipped = 0
    for i in range(12):
        own = loss(model(records[i : i + 1]), labels[i : i + 1]).sum()
        gradient = torch.autograd.grad(own, list(model.parameters()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradient))
        clipped += norm > clip
        for total, g in zip(expected, gradient, strict=True):
            total += g * min(1.0, clip / norm)
    assert 0 < clipped < 12
    for parameter, total in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, total, rtol=1e-4, atol=1e-5)


def test_efron_agrees_with_lifelines_also_by_hospital() -> None:
    x, time, event = patients(300)
    hospital = np.arange(300) % 3
    table = pd.DataFrame(x, columns=["a", "b", "c"]).assign(time=time, event=event, h=hospital)
    for strata in (None, ["h"]):
        columns = table if strata else table.drop(columns="h")
        expected = CoxPHFitter().fit(columns, "time", "event", strata=strata).params_.to_numpy()
        each = hospital if strata else np.zeros(300)
        groups = [(x[each == h], labels_of(time, event)[each == h]) for h in np.unique(each)]
        model = fitted(build_model("cox-efron", 3, 4), loss_of("cox-efron", EDGES), groups)
        found = coefficients(model)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_breslow_agrees_with_scikit_survival_and_so_does_poisson_on_the_grid() -> None:
    """With an edge at every time the baseline is profiled out to Breslow's (Whitehead 1980)."""
    x, time, event = patients(300)
    expected = CoxPHSurvivalAnalysis(ties="breslow").fit(x, Surv.from_arrays(event, time)).coef_
    groups = [(x, labels_of(time, event))]
    cox = fitted(build_model("cox-breslow", 3, 4), loss_of("cox-breslow", EDGES), groups)
    np.testing.assert_allclose(coefficients(cox), expected, atol=1e-4)
    edges = tuple(np.unique(time[event]))
    name: ModelName = "proportional-hazards"
    poisson = fitted(build_model(name, 3, len(edges)), loss_of(name, edges), groups)
    np.testing.assert_allclose(coefficients(poisson), expected, atol=1e-3)


def test_the_baseline_alone_is_events_per_exposure() -> None:
    """The closed form of a piecewise-exponential time (Laird and Olivier 1981)."""
    _, time, event = patients(200, grid=0.01)
    name: ModelName = "proportional-hazards"
    groups = [(np.zeros((200, 3)), labels_of(time, event))]
    model = fitted(build_model(name, 3, 4), loss_of(name, EDGES), groups)
    found = predicted_survival(name, model(torch.zeros(1, 3).double()))[0].detach().numpy()
    hazard, expected = 0.0, []
    for begin, end in pairwise((0.0, *EDGES)):
        events = (event & (time > begin) & (time <= end)).sum()
        hazard += (end - begin) * events / np.clip(time - begin, 0, end - begin).sum()
        expected.append(math.exp(-hazard))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("hidden", [None, 6])
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_models_predict_and_every_parameter_can_be_clipped(
    name: ModelName, hidden: int | None
) -> None:
    if hidden is not None and name != "discrete-time":
        with pytest.raises(ValueError, match="hidden layer"):
            build_model(name, 3, 4, hidden)
        return
    model = build_model(name, 3, 4, hidden)
    layers = [layer for layer, _ in recorded_layers(model).values()]
    held = {id(p) for layer in layers for p in layer.parameters(recurse=False)}
    assert held == {id(p) for p in model.parameters()}
    outputs = model(torch.randn(5, 3))
    risk = predicted_risk(name, outputs)
    torch.testing.assert_close(risk, torch.full((5,), 0.5), atol=1e-5, rtol=0)  # before training
    if name in WITHOUT_BASELINE:
        with pytest.raises(ValueError, match="no baseline"):
            predicted_survival(name, outputs)
        higher = predicted_risk(name, torch.tensor([[-40.0], [-1.0], [0.0], [2.0]]))
        assert (higher.diff() > 0).all()
        return
    wild = torch.randn(50, 4) * 20
    survival = predicted_survival(name, wild)
    assert survival.shape == (50, 4)
    assert (survival.diff(dim=1) <= 0).all()
    assert ((survival >= 0) & (survival <= 1)).all()
    torch.testing.assert_close(predicted_risk(name, wild), 1 - survival[:, -1])


def test_survival_of_known_hazards() -> None:
    outputs = torch.tensor([[0.1, 0.2]]).log()
    found = predicted_survival("proportional-hazards", outputs)[0].tolist()
    assert found == pytest.approx([math.exp(-0.1), math.exp(-0.3)])
    odds = torch.logit(torch.tensor([[0.1, 0.2]]))
    assert predicted_survival("discrete-time", odds)[0].tolist() == pytest.approx([0.9, 0.72])


@pytest.mark.parametrize("edges", [[200, 100], [999999.99, 999999.991], [1e-60, 1]])
def test_edges_rise_in_the_numbers_that_are_computed_with(edges: list[float]) -> None:
    """As float32: in an empty interval a patient's share would be 0/0."""
    with pytest.raises(ProtocolError, match=r"survival\.edges must rise"):
        changed(small("survival"), survival={"edges": [float(edge) for edge in edges]})


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="known are cox-breslow"):
        build_model("forest", 3, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        build_model("cox-efron", 0, 4)
