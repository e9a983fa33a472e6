"""A summary from end to end: means and quantiles as numpy has them, noised as stated, charged as any."""

import tomllib
from dataclasses import asdict
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch

from client.data import Patients
from client.ledger import Ledger, Spend
from client.policy import load_policy
from client.privacy.accounting import epsilon_of
from client.privacy.randomness import RandomStream
from client.readers import reader_of
from client.readers.reader import Opening
from client.training import load_model, train, trained_arrays
from common.arrays import difference
from common.model_spec import model_spec
from common.tabular.schema import Records
from common.tasks.summary.study import NUMBERS, SummaryStudy
from server.deployed_facts import gather as gather_deployed
from server.deployed_facts import write_deployed_report
from server.facts import HospitalFacts, ReportFacts, RoundFacts
from server.home import Outcome as Ended
from server.rounds import Outcome
from server.sections.summary import PART, Figure, figures, noise_of
from server.strategy import public_weights
from simulation.hospitals import settle
from simulation.live import Silent
from simulation.rehearsal import Rehearsal
from simulation.results import gather, write_files
from tests.summaries import AGE, BMI, SEX, SIZES, summary_study, together, write_hospitals

ALL = (AGE, SEX, BMI)


def rehearse(study: SummaryStudy, folder: Path, run: str = "run") -> tuple[Rehearsal, Outcome]:
    """With fresh noise, on the tables below `folder`/data."""
    data = {name: folder / "data" / name for name in study.hospital_names}
    sites = settle(study, folder / run, data, device="cpu", noise_seed=None)
    rehearsal = Rehearsal(study, folder / run, sites)
    outcome = rehearsal.carry_out(Silent(), resume=False)
    assert outcome.stopped == "finished"
    assert not any(record.refused for record in (*outcome.state.records, outcome.last))
    return rehearsal, outcome


def said(study: SummaryStudy, facts: ReportFacts) -> dict[str, Figure]:
    numbers = facts.result[NUMBERS].ravel().tolist()
    return {one.name: one for one in figures(study.records.columns, numbers, noise_of(facts))}


def cohorts(study: SummaryStudy, root: Path) -> dict[str, Patients]:
    return {
        name: reader_of("summary").open_cohort(study, Opening(root / name)).training
        for name in study.hospital_names
    }


def numbers_of(
    study: SummaryStudy, patients: dict[str, Patients], sigma: dict[str, float], seed: int
) -> np.ndarray:
    """The model's numbers after all rounds, each hospital with its own noise."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in model_spec(study).items()}
    for number in range(1, study.rounds + 1):
        updates = {}
        for name, own in patients.items():
            model = load_model(study, arrays, torch.device("cpu"))
            nominal = study.hospital(name).nominal_patients
            stream = RandomStream.for_tests(seed, name, number)
            train(model, own, study, nominal, Spend(sigma[name], 1.0, 1), stream)
            updates[name] = difference(trained_arrays(model), arrays)
        weights = public_weights(study, sigma)
        mean = sum(weights[name] * own[NUMBERS] for name, own in updates.items())
        arrays = {NUMBERS: (arrays[NUMBERS] + mean / sum(weights.values())).astype(np.float32)}
    return arrays[NUMBERS].ravel()


# --- without noise


def test_without_noise_the_figures_are_numpys_of_all_patients_together(tmp_path: Path) -> None:
    written = write_hospitals(tmp_path / "data", seed=1)
    study = summary_study(*ALL)
    rehearsal, outcome = rehearse(study, tmp_path)
    facts = gather(rehearsal, outcome, {})
    found = said(study, facts)
    sex, bmi = together(written, "sex"), together(written, "bmi")
    exact = {
        "age": np.mean([float(cell) for cell in together(written, "age")]),
        "sex = f": np.mean([cell == "f" for cell in sex]),
        "sex = m": np.mean([cell == "m" for cell in sex]),
        "sex = x": np.mean([cell == "x" for cell in sex]),
        "bmi": np.mean([float(cell) for cell in bmi if cell]),
        "bmi missing": np.mean([not cell for cell in bmi]),
    }
    assert {name: one.value for name, one in found.items()} == pytest.approx(exact, rel=1e-5)
    assert {one.error for one in found.values()} == {0}
    sections = PART.sections(facts)
    assert "no constants for a study on patients" in sections["For the protocol of the next study"]
    assert "no noise" in sections["Mean of each column"]


@pytest.mark.parametrize("level", [0.25, 0.5])
def test_without_noise_a_quantile_is_numpys_after_some_steps(tmp_path: Path, level: float) -> None:
    sizes = {"north": 700, "west": 400}
    written = write_hospitals(tmp_path, 2, sizes)
    study = summary_study(
        AGE,
        rounds=40,
        more=f'model = {{ name = "quantile", level = {level} }}\ntraining = {{ learning-rate = 0.3 }}',
        sizes=sizes,
    )
    found = numbers_of(study, cohorts(study, tmp_path), dict.fromkeys(sizes, 0.0), 0)
    exact = np.quantile([float(cell) for cell in together(written, "age")], level)
    assert found == pytest.approx([(exact - 60) / 40], abs=1e-3)


def test_a_cohort_that_is_not_as_agreed_comes_nearer_with_each_round(tmp_path: Path) -> None:
    written = write_hospitals(tmp_path / "data", seed=3)
    exact = np.mean([float(cell) for cell in together(written, "age")])
    agreed = {name: round(1.2 * size) for name, size in SIZES.items()}  # nobody has so many
    missed = []
    for rounds in (1, 3):
        study = summary_study(AGE, rounds=rounds, sizes=agreed)
        rehearsal, outcome = rehearse(study, tmp_path, run=f"run-{rounds}")
        value = said(study, gather(rehearsal, outcome, {}))["age"].value
        assert value is not None
        missed.append((value - exact) / (60 - exact))
    # A sixth of the agreed is not there: a sixth of the way to the middle of the range is left.
    assert missed == pytest.approx([1 / 6, 1 / 6**3], rel=0.02)


# --- with noise


def stated(study: SummaryStudy, sigma: dict[str, float]) -> float:
    hospitals = [
        HospitalFacts(h.name, h.nominal_patients, noise_multiplier=sigma[h.name])
        for h in study.hospitals
    ]
    last = RoundFacts(round=1, seconds=1.0, answered=study.hospital_names)
    return noise_of(
        ReportFacts(study, "deployment", "finished", (last,), tuple(hospitals), noise_seeded=False)
    )


def test_the_noise_of_a_mean_is_as_stated(tmp_path: Path) -> None:
    """Hospitals of different sizes and with different noise; 2/3 and 3/2 of it would be told apart."""
    write_hospitals(tmp_path, seed=4)
    study = summary_study(*ALL, privacy='mechanism = "dp-sgd", max-grad-norm = 1.7320509')
    patients, sigma = cohorts(study, tmp_path), {"north": 1.0, "west": 2.0, "east": 4.0}
    exact = numbers_of(study, patients, dict.fromkeys(sigma, 0.0), 0)
    off = np.array([numbers_of(study, patients, sigma, seed) - exact for seed in range(60)])
    found = float(np.sqrt((off**2).mean()) / stated(study, sigma))
    print(f"seeds 0 to 59: {off.size} values, root mean square {found:.3f} of what is stated")
    assert 0.87 < found < 1.13  # three standard errors of 300 values


def test_the_noise_of_a_quantile_is_at_most_as_stated(tmp_path: Path) -> None:
    write_hospitals(tmp_path, seed=5)
    study = summary_study(
        AGE,
        privacy='mechanism = "dp-sgd", max-grad-norm = 0.5',
        rounds=12,
        more='model = { name = "quantile", level = 0.5 }\ntraining = { learning-rate = 0.2 }',
    )
    patients, sigma = cohorts(study, tmp_path), dict.fromkeys(SIZES, 6.0)
    exact = numbers_of(study, patients, dict.fromkeys(sigma, 0.0), 0)
    off = np.array([numbers_of(study, patients, sigma, seed) - exact for seed in range(8)])
    found = float(np.sqrt((off**2).mean()) / stated(study, sigma))
    print(f"seeds 0 to 7: root mean square {found:.3f} of what is stated at most")
    assert 0.1 < found < 1.0


@pytest.mark.slow
def test_a_summary_is_charged_and_becomes_constants_of_the_next_study(tmp_path: Path) -> None:
    written = write_hospitals(tmp_path / "data", seed=6)
    study = summary_study(
        *ALL, rounds=2, privacy='mechanism = "dp-sgd", max-grad-norm = 3.4641017, epsilon = 4.0'
    )
    rehearsal, outcome = rehearse(study, tmp_path)
    facts = gather(rehearsal, outcome, {})
    for name, spends in rehearsal.spends().items():
        with Ledger.read(load_policy(rehearsal.sites[name]).state) as ledger:
            assert ledger.spends("validation") == []
        assert [(spend.sampling_rate, spend.steps) for spend in spends] == [(1.0, 1)] * 2
        assert 3.9 < epsilon_of(spends, study.privacy.delta).value <= 4.0

    found = said(study, facts)
    exact = np.mean([float(cell) for cell in together(written, "age")])
    assert found["age"].value is not None
    assert 0 < abs(found["age"].value - exact) < 5 * found["age"].error  # one in a million beyond

    summary = write_files(rehearsal, facts)
    assert summary["hospitals"]["north"]["validation_epsilon"] is None
    ended = Ended(outcome.stopped, outcome.last.round, asdict(outcome.last))
    (rehearsal.folder / "protocol.toml").write_text(study.to_toml())
    ended.save(rehearsal.folder)
    deployed = gather_deployed(study, list(outcome.state.records), ended)
    assert (deployed.closing, len(deployed.heard)) == (
        None,
        2,
    )  # nothing was asked after the rounds
    report = write_deployed_report(rehearsal.folder).read_text()
    assert "Mean of each column" in report
    text = unescape(report.partition("<pre>")[2].partition("</pre>")[0])
    following = Records.model_validate(tomllib.loads(text)["records"], by_name=False)
    age, sex, bmi = following.columns
    assert age.center == pytest.approx(found["age"].value, abs=found["age"].error / 10)
    assert (sex.center, bmi.center is not None) == (None, True)
    assert age.mapping == (age.center, 40.0)
