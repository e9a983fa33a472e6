"""A whole study in process: real ServerApp, real ClientApp, real vaults, messages through bytes."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from opacus.accountants import PRVAccountant
from safetensors.numpy import load_file

from client.ledger import Ledger
from client.policy import load_policy
from client.privacy.accounting import epsilon_of
from client.privacy.budget import protocol_noise
from client.vault import Vault
from common.errors import RunError
from common.protocol import StudyProtocol
from server.app import Run
from server.rounds import Outcome
from simulation import backends
from simulation.backends import run_local
from simulation.hospitals import from_phantoms, settle
from simulation.live import Silent
from simulation.rehearsal import Rehearsal
from simulation.results import gather, write_files
from simulation.summary_json import as_json
from tests.tasks import small

pytestmark = pytest.mark.slow

SmallStudy = Callable[..., StudyProtocol]


def spent_at_north(rehearsal: Rehearsal) -> float:
    return epsilon_of(rehearsal.spends()["north"], rehearsal.protocol.privacy.delta).value


def rehearse(protocol: StudyProtocol, folder: Path, seed: int | None = 5) -> Rehearsal:
    data = from_phantoms(protocol, folder / "hospitals", seed=3)
    sites = settle(protocol, folder / "hospitals", data, device="cpu", noise_seed=seed)
    return Rehearsal(protocol, folder, sites)


def test_a_study_runs_to_its_end_and_its_results_are_whole(
    tmp_path: Path, small_study: SmallStudy
) -> None:
    protocol = small_study(north=10, west=4)
    rehearsal = rehearse(protocol, tmp_path)
    outcome = rehearsal.carry_out(Silent(), resume=False)
    assert outcome.stopped == "finished"
    assert [record.round for record in outcome.state.records] == [1, 2, 3]
    facts = gather(rehearsal, outcome, {})
    summary = write_files(rehearsal, facts)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["rounds"] == 3
    assert summary["stopped"] == "finished"
    assert summary["test_mode_noise"] is True
    for hospital in ("north", "west"):
        figures = summary["hospitals"][hospital]
        assert 7.9 < figures["epsilon"] <= 8.0
        assert figures["delta"] == 1e-5
    for name in ("report.html", "rounds.jsonl", "model.safetensors"):
        assert (tmp_path / name).stat().st_size > 0
    statement = (tmp_path / "privacy-statement.md").read_text()
    assert "TEST MODE: NOTHING HERE IS PRIVATE" in statement
    stated = json.loads((tmp_path / "privacy-statement.json").read_text())
    assert stated["rehearsal"] is True
    for hospital in stated["hospitals"]:
        (study,) = hospital["studies"]
        epsilon = summary["hospitals"][hospital["hospital"]]["epsilon"]
        assert study["accounts"]["training"]["epsilon"] == epsilon
        assert (study["requests_reserved"], study["requests_answered"]) == (4, 4)
    final = load_file(tmp_path / "model.safetensors")
    first = load_file(tmp_path / "initial-model.safetensors")
    assert all(np.isfinite(a).all() for a in final.values())
    assert any(not np.array_equal(final[name], first[name]) for name in final)


def test_the_ledger_says_what_one_accountant_says_of_all_steps(
    tmp_path: Path, small_study: SmallStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when every hospital's process is new in every round (Flower's Opacus example fails this)."""
    protocol = small_study(north=6)
    monkeypatch.setattr(backends, "vault_of", backends.vault_of.__wrapped__)
    rehearsal = rehearse(protocol, tmp_path)
    rehearsal.carry_out(Silent(), resume=False)
    sigma = protocol_noise(protocol)["training"]
    accountant = PRVAccountant()
    for _ in range(protocol.rounds * protocol.training.steps_per_round):
        accountant.step(noise_multiplier=sigma, sample_rate=protocol.training.sampling_rate)
    expected = accountant.get_epsilon(delta=protocol.privacy.delta)
    assert spent_at_north(rehearsal) == pytest.approx(expected, rel=0.01)
    with Ledger.open(load_policy(rehearsal.sites["north"]).state) as ledger:
        assert len(ledger.spends("training")) == protocol.rounds
        assert len(ledger.spends("validation")) == protocol.rounds + 1


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    tmp_path: Path, small_study: SmallStudy
) -> None:
    protocol = small_study(north=6, west=4)
    models = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        rehearse(protocol, tmp_path / name, seed).carry_out(Silent(), resume=False)
        models.append((tmp_path / name / "model.safetensors").read_bytes())
    assert models[0] == models[1]
    assert models[0] != models[2]


@pytest.mark.slow
def test_a_hospital_that_is_lost_on_the_way_is_missing_and_the_quorum_decides(
    tmp_path: Path, small_study: SmallStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(rehearsal: Rehearsal) -> Outcome:
        asked = [0]

        def transport(node: int, reply: bytes) -> bytes | None:
            asked[0] += node == 3
            return None if node == 3 and asked[0] > 2 else reply  # hello and round 1 arrive

        def run(run_: Run, sites: list[Path], vault: Callable[[Path], Vault]) -> None:
            run_local(run_, sites, transport=transport, vault=vault)

        monkeypatch.setattr("simulation.rehearsal.run_local", run)
        return rehearsal.carry_out(Silent(), resume=False)

    def with_deadline(protocol: StudyProtocol) -> StudyProtocol:
        short = protocol.participation.model_copy(update={"deadline_seconds": 4.0})
        changed = protocol.model_copy(update={"participation": short, "rounds": 2})
        protocol_noise(changed)  # calibrated once, so that it is not part of a round
        return changed

    enough = with_deadline(small_study(north=6, west=4, quorum=1))
    outcome = lossy(rehearse(enough, tmp_path / "enough"))
    assert outcome.stopped == "finished"
    assert [record.missing for record in outcome.state.records] == [[], ["west"]]

    too_few = with_deadline(small_study(north=6, west=4, quorum=2))
    rehearsal = rehearse(too_few, tmp_path / "too-few")
    outcome = lossy(rehearsal)
    assert outcome.stopped == "quorum-missed"
    assert outcome.state.round == 1
    assert outcome.last is not None
    assert outcome.last.missing == ["west"]
    assert as_json(tmp_path, gather(rehearsal, outcome, {}))["stopped"] == "quorum-missed"


def test_a_rehearser_is_told_why_hospitals_cannot_use_their_data(tmp_path: Path) -> None:
    rehearsal = rehearse(small("risk"), tmp_path)
    table = tmp_path / "hospitals/west/data/records.csv"
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header.replace("age", "years"), *rows]))
    outcome = rehearsal.carry_out(Silent(), resume=False)
    assert outcome.stopped == "quorum-missed"
    assert outcome.last is not None
    assert outcome.last.refused == {"west": "E-DATA"}
    (said,) = rehearsal.unreadable(outcome.last.refused)
    assert said.startswith("west: records.csv: expected the columns patient_id, ")
    assert " columns without age; " in said


def test_without_privacy_the_epsilon_is_not_a_number_that_looks_good(
    tmp_path: Path, small_study: SmallStudy
) -> None:
    rehearsal = rehearse(small_study(north=6, mechanism="none"), tmp_path)
    outcome = rehearsal.carry_out(Silent(), resume=False)
    assert math.isinf(spent_at_north(rehearsal))
    summary = as_json(tmp_path, gather(rehearsal, outcome, {}))
    assert summary["hospitals"]["north"]["epsilon"] is None


def test_a_finished_run_is_not_overwritten(tmp_path: Path, small_study: SmallStudy) -> None:
    rehearsal = rehearse(small_study(north=6), tmp_path)
    rehearsal.carry_out(Silent(), resume=False)
    with pytest.raises(RunError, match="--resume"):
        rehearsal.carry_out(Silent(), resume=False)


def test_local_only_models_start_where_the_study_starts(
    tmp_path: Path, small_study: SmallStudy
) -> None:
    """A hospital alone with the same seed and a roster of one is what `alone` trains."""
    rehearsal = rehearse(small_study(north=6, west=4), tmp_path)
    rehearsal.carry_out(Silent(), resume=False)
    model = rehearsal.alone("north", Silent())
    start = load_file(tmp_path / "initial-model.safetensors")
    alone_start = load_file(tmp_path / "local-only" / "north" / "initial-model.safetensors")
    assert model.keys() == start.keys()
    assert all(np.array_equal(start[name], alone_start[name]) for name in start)
    assert rehearsal.alone("north", Silent()).keys() == model.keys()  # done once, then read
    assert spent_at_north(rehearsal) <= 8.0  # the what-if spends from a ledger of its own


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what Ray leaves open is not ours to close
def test_both_backends_give_the_same_model_without_noise(
    tmp_path: Path, small_study: SmallStudy
) -> None:
    protocol = small_study(north=6, west=4, mechanism="none")
    local = rehearse(protocol, tmp_path / "local")
    local.carry_out(Silent(), resume=False)
    ray = rehearse(protocol, tmp_path / "ray")
    on_ray = Rehearsal(protocol, ray.folder, ray.sites, backend="ray")
    outcome = on_ray.carry_out(Silent(), resume=False)
    assert outcome.stopped == "finished"
    expected = load_file(tmp_path / "local" / "model.safetensors")
    found = load_file(tmp_path / "ray" / "model.safetensors")
    for name in expected:
        assert np.array_equal(expected[name], found[name]), name
