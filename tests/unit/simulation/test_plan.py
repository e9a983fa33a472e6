"""The plan's numbers are the accountant's and the vault's; its words follow from them."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.ledger import Ledger, Spend
from client.policy import Permit
from client.privacy.accounting import epsilon_of
from client.privacy.budget import protocol_noise, study_noise
from common.protocol import StudyProtocol, load_protocol, parse_protocol
from server.strategy import public_weights
from simulation import plan as planning
from simulation.__main__ import app
from simulation.plan import MOST_ROUNDS_COMPUTED, Outlook, _rounds, plan_of, rehearsed
from simulation.prepare import FIRST_RUN, LUNG_NODULES

pytestmark = pytest.mark.slow

MakeStudy = Callable[..., StudyProtocol]


def run(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    return done.exit_code, done.stdout, done.stderr


def changed(study: StudyProtocol, old: str, new: str) -> StudyProtocol:
    text = study.to_toml()
    assert old in text
    return parse_protocol(text.replace(old, new))


def test_noise_is_what_a_hospital_will_use(tmp_path: Path, small_study: MakeStudy) -> None:
    study = small_study(north=30, west=4)
    plan = plan_of(study)
    Ledger.create(tmp_path)
    with Ledger.open(tmp_path) as ledger:
        noise = study_noise(study, ledger, Permit(100.0))
    assert (plan.noise_multiplier, plan.validation_noise) == (
        noise["training"],
        noise["validation"],
    )
    assert (plan.sampling_rate, plan.steps, plan.evaluations) == (0.5, 6, 4)


def test_epsilon_after_each_round_is_the_accountants(small_study: MakeStudy) -> None:
    study = small_study(north=30)
    plan = plan_of(study)
    sigma = protocol_noise(study)["training"]
    one_by_one = [epsilon_of([Spend(sigma, 0.5, 2)] * r, 1e-5).value for r in (1, 2, 3)]
    assert plan.epsilon == tuple(zip((1, 2, 3), one_by_one, strict=True))
    assert 0.997 * 8 <= plan.epsilon[-1][1] <= 8


@pytest.mark.parametrize("rounds", [1, 2, MOST_ROUNDS_COMPUTED, 21, 50, 100_000])
def test_rounds_are_all_or_evenly_spread(rounds: int) -> None:
    chosen = _rounds(rounds)
    assert (chosen[0], chosen[-1]) == (1, rounds)
    assert len(set(chosen)) == len(chosen) == min(rounds, MOST_ROUNDS_COMPUTED)
    gaps = {b - a for a, b in itertools.pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_signal_to_noise_is_that_of_the_released_sums(small_study: MakeStudy) -> None:
    """By a simulation of the definition: n patients who always pull by C along one axis."""
    study = small_study(north=30)
    plan = plan_of(study)
    seed = 20260105
    print(f"seed {seed}")
    random, sigma, clip = np.random.default_rng(seed), plan.noise_multiplier, 0.7
    assert sigma is not None
    shape = (40_000, plan.steps)
    drawn = clip * random.binomial(30, plan.sampling_rate, shape).sum(1)
    noise = sigma * clip * random.standard_normal(shape).sum(1)
    measured = drawn.mean() / noise.std()
    assert plan.hospitals[0].cohort_signal_to_noise == pytest.approx(measured, rel=0.02)
    assert plan.patient_signal_to_noise == pytest.approx(measured / 30, rel=0.02)


def test_weights_are_those_of_the_aggregation() -> None:
    study = load_protocol(LUNG_NODULES)
    weights = public_weights(study, dict.fromkeys(study.hospital_names, 2.0))
    for hospital in plan_of(study).hospitals:
        assert hospital.weight == pytest.approx(weights[hospital.name] / sum(weights.values()))
    assert sum(h.weight for h in plan_of(study).hospitals) == pytest.approx(1.0)


def test_a_cohort_too_small_to_matter_is_told_so(small_study: MakeStudy) -> None:
    large, small = plan_of(small_study(north=500, west=3)).hospitals
    assert (large.gives, small.gives) == (True, False)
    assert large.remarks == ()
    assert "too small to matter" in small.remarks[0]
    assert "0.004 % of the average" in small.remarks[0]
    assert any("about 1 validation patients" in remark for remark in small.remarks)


def test_a_lone_hospital_in_the_noise_is_told_so(small_study: MakeStudy) -> None:
    study = changed(small_study(west=4), "\nepsilon = 8.0", "\nepsilon = 0.5")
    (west,) = plan_of(study).hospitals
    assert west.weight == 1.0
    assert not west.gives
    assert "even if all 4 patients agree" in west.remarks[0]


def test_a_promise_that_is_weak_is_called_weak(small_study: MakeStudy) -> None:
    study = changed(small_study(north=2000), "\nepsilon = 8.0", "\nepsilon = 20.0")
    plan = plan_of(study)
    assert any("weak promise" in remark for remark in plan.remarks)
    (north,) = plan.hospitals
    assert "hundredth of 1 / 2000" in north.remarks[0]
    assert "2.0%" in north.remarks[0]


def test_without_dp_nothing_is_promised(small_study: MakeStudy) -> None:
    plan = plan_of(small_study(mechanism="none", north=30, west=10))
    assert plan.noise_multiplier is None
    assert plan.epsilon == ()
    assert "NO differential privacy" in plan.remarks[0]
    assert [h.weight for h in plan.hospitals] == [0.75, 0.25]


def test_a_folder_that_does_not_fit_the_protocol_is_named(small_study: MakeStudy) -> None:
    study = small_study(north=100, west=100)
    north, west = plan_of(study, {"north": 95, "west": 30}).hospitals
    assert north.remarks == ()
    assert "the folder has 30 training patients and the protocol says 100" in west.remarks[0]


def test_the_command_prints_a_plan_and_trains_nothing(tmp_path: Path) -> None:
    code, said, _ = run("plan", FIRST_RUN, "--no-rehearsal")
    assert code == 0
    sigma = protocol_noise(load_protocol(FIRST_RUN))["training"]
    assert f"noise multiplier {sigma:.3f} on training patients" in said
    assert "7.98 after round 10" in said
    assert "61.64 %" in said
    assert "the noise moves the model by 5.1 in all" in said
    assert "standard error of about 0.25" in said
    assert "on phantom patients" not in said  # no rehearsal
    assert not list(tmp_path.iterdir())


def test_the_plan_as_json_has_every_round() -> None:
    code, said, to_a_person = run("plan", FIRST_RUN, "--no-rehearsal", "--json")
    assert code == 0
    plan = json.loads(said)
    assert [number for number, _ in plan["epsilon"]] == list(range(1, 11))
    assert [h["name"] for h in plan["hospitals"]] == ["north", "east", "south", "west"]
    assert plan["digest"] == load_protocol(FIRST_RUN).digest
    assert "north" in to_a_person


def test_a_plan_shows_the_band_of_its_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "rehearsed", lambda _: Outlook(3, 0.81, 0.86, 0.79))
    code, said, to_a_person = run("plan", FIRST_RUN, "--json")
    assert code == 0
    assert "0.810 to 0.860 in 3 rehearsals" in to_a_person
    assert json.loads(said)["outlook"] == {"seeds": 3, "low": 0.81, "high": 0.86, "before": 0.79}


def test_what_cannot_be_planned_is_refused_in_one_sentence(tmp_path: Path) -> None:
    code, said, _ = run("plan", tmp_path / "absent.toml", "--no-rehearsal")
    assert code == 2
    assert said.startswith("E-PROTOCOL: ")
    assert said.count("\n") == 1


def test_options_of_a_rehearsal_are_not_lost_before_a_subcommand() -> None:
    code, _, said = run("--rounds", "3", "plan", FIRST_RUN)
    assert code == 2
    assert "--rounds belongs to a rehearsal" in said


@pytest.mark.slow
def test_a_rehearsal_on_phantoms_gives_a_band(small_study: MakeStudy) -> None:
    study = changed(small_study(north=20, west=8), "size = 16", "size = 32")
    outlook = rehearsed(study)
    assert outlook.seeds == 3
    assert 0.0 < outlook.low <= outlook.high <= 1.0
    assert 0.0 < outlook.before < 1.0
