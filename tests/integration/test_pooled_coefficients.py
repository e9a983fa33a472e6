"""With noise off and one local step a round, a federation finds what a library finds on pooled data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.optimize import linprog
from sklearn.linear_model import LogisticRegression
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from client.data import Patients
from client.policy import load_policy
from client.readers import open_cohort
from common.protocol import StudyProtocol, parse_protocol
from simulation.hospitals import from_phantoms, settle
from simulation.live import Silent
from simulation.rehearsal import Rehearsal
from tests.tasks import RECORDS

pytestmark = pytest.mark.slow

TOLERANCE = 1e-3
COHORTS = {"north": 300, "west": 120}
EDGES = [50, 100, 150, 200, 300, 400, 600, 800]

Floats = NDArray[np.float64]


def study(task: str, model: str, rounds: int, rate: float, more: str) -> StudyProtocol:
    roster = ", ".join(f'{{ name = "{n}", nominal-patients = {c} }}' for n, c in COHORTS.items())
    return parse_protocol(
        f"""
        study = "pooled"
        task = "{task}"
        rounds = {rounds}
        hospitals = [{roster}]
        model.name = "{model}"
        training = {{ steps-per-round = 1, learning-rate = {rate}, sampling-rate = 1.0 }}
        evaluation.every = {rounds}
        privacy.mechanism = "none"
        participation = {{ quorum = 2, deadline-seconds = 60 }}
        [aggregation]
        strategy = "fedavgm"
        weights = "cohort"
        server-momentum = 0.7
        server-learning-rate = 1.0
        {more}
        {RECORDS}
        """
    )


def on_the_edges(table: Path) -> None:
    """Times rounded up to the next edge; whoever is seen beyond the last is seen to it."""
    records = pd.read_csv(table)
    place = np.searchsorted(EDGES, records["time"].to_numpy())
    records.loc[place == len(EDGES), "event"] = 0
    records["time"] = np.array(EDGES)[np.minimum(place, len(EDGES) - 1)]
    records.to_csv(table, index=False)


def federated(
    protocol: StudyProtocol, folder: Path, change: Callable[[Path], None] = lambda _: None
) -> tuple[dict[str, Any], list[Patients]]:
    """The final weights, and each hospital's training patients."""
    data = from_phantoms(protocol, folder / "hospitals", seed=3)
    for hospital in data.values():
        change(hospital / "records.csv")
    sites = settle(protocol, folder / "hospitals", data, device="cpu", noise_seed=None)
    outcome = Rehearsal(protocol, folder, sites).carry_out(Silent(), resume=False)
    assert outcome.stopped == "finished"
    cohorts = [
        open_cohort(protocol, load_policy(site), state=None).training for site in sites.values()
    ]
    assert [len(cohort) for cohort in cohorts] == list(COHORTS.values())
    return load_file(folder / "model.safetensors"), cohorts


def pooled(cohorts: list[Patients]) -> tuple[Floats, Floats]:
    """(inputs (N, D), labels (N, ...)) of all hospitals together."""
    inputs = [cohort.views(np.arange(len(cohort.labels))).numpy() for cohort in cohorts]
    labels = np.concatenate([cohort.labels for cohort in cohorts])
    return np.concatenate(inputs).astype(np.float64), labels


def test_logistic_regression_is_scikit_learns(tmp_path: Path) -> None:
    more = '[records]\nclasses = ["no", "yes"]'
    weights, cohorts = federated(study("risk", "logistic-regression", 70, 3.0, more), tmp_path)
    inputs, labels = pooled(cohorts)
    wanted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(inputs, labels)
    np.testing.assert_allclose(weights["weight"], wanted.coef_, atol=TOLERANCE)
    np.testing.assert_allclose(weights["bias"], wanted.intercept_, atol=TOLERANCE)
    assert np.abs(wanted.coef_).max() > 0.5  # there was something to find


def test_a_support_vector_machine_reaches_the_linear_programs_hinge_loss(tmp_path: Path) -> None:
    """Where its minimum is flat, weights of many machines are as good: the loss is what is compared."""
    more = 'ema = 0.9\n[records]\nclasses = ["no", "yes"]'
    weights, cohorts = federated(study("risk", "linear-svm", 70, 3.0, more), tmp_path)
    inputs, labels = pooled(cohorts)
    rows, columns = inputs.shape
    signed = (2 * labels - 1)[:, None] * np.hstack([inputs, np.ones((rows, 1))])
    best = linprog(
        np.concatenate([np.zeros(columns + 1), np.full(rows, 1 / rows)]),
        A_ub=-np.hstack([signed, np.eye(rows)]),
        b_ub=-np.ones(rows),
        bounds=[(None, None)] * (columns + 1) + [(0, None)] * rows,
    )
    found = np.concatenate([weights["weight"][0], weights["bias"]])
    loss = np.maximum(0, 1 - signed @ found).mean()
    print(f"hinge loss {loss:.5f}, at best {best.fun:.5f}")
    assert best.fun <= loss <= best.fun + 2 * TOLERANCE
    assert best.fun < 0.8  # 1 where nothing is told apart


def test_cox_is_lifelines_with_a_baseline_for_each_hospital(tmp_path: Path) -> None:
    """A batch's risk sets are a hospital's own, so the pooled model is the stratified one."""
    more = f"[survival]\nedges = {EDGES}\n[records]"
    weights, cohorts = federated(study("survival", "cox-efron", 70, 2.0, more), tmp_path)
    inputs, labels = pooled(cohorts)
    table = pd.DataFrame(inputs, columns=[f"x{n}" for n in range(inputs.shape[1])])
    table["time"], table["event"] = labels.T.astype(np.float64)
    table["hospital"] = np.repeat(list(COHORTS), list(COHORTS.values()))
    fitted = CoxPHFitter(baseline_estimation_method="breslow").fit(
        table, "time", "event", strata=["hospital"], fit_options={"precision": 1e-9}
    )
    np.testing.assert_allclose(weights["weight"][0], fitted.params_.to_numpy(), atol=TOLERANCE)
    assert np.abs(fitted.params_).max() > 0.5


def test_proportional_hazards_are_coxs_with_breslows_ties(tmp_path: Path) -> None:
    """Where every time is an edge; one baseline for all hospitals, so that there are no strata."""
    more = f"[survival]\nedges = {EDGES}\n[records]"
    protocol = study("survival", "proportional-hazards", 70, 2.0, more)
    weights, cohorts = federated(protocol, tmp_path, on_the_edges)
    inputs, labels = pooled(cohorts)
    fitted = CoxPHSurvivalAnalysis(ties="breslow", tol=1e-12).fit(
        inputs, Surv.from_arrays(labels[:, 1] == 1, labels[:, 0])
    )
    np.testing.assert_allclose(weights["predictor.weight"][0], fitted.coef_, atol=TOLERANCE)
