"""The shipped study of vital signs, made small: learnt together without privacy, and trained with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from sklearn.metrics import roc_auc_score

import common
from client.ledger import Ledger
from client.policy import load_policy
from client.privacy.accounting import epsilon_of
from client.privacy.engine import HooksClipper
from client.readers import hospital_folders, reader_of
from client.readers.reader import Opening
from client.training import load_model, make_clipper
from common.documents import tables_of
from common.model_spec import model_of, model_spec
from common.phantom_vitals import WARDS, phantom_stays
from common.protocol import parse_protocol
from common.sequences.encoding import encode
from common.tasks.sequence.study import SequenceStudy
from common.weights import load_weights
from simulation.hospitals import from_folder, from_phantoms, settle
from simulation.live import Silent
from simulation.rehearsal import Rehearsal
from simulation.results import gather, write_files

EXAMPLE = Path(common.__file__).parent / "examples" / "vital-signs.toml"
SEED = 20061


def study(*, private: bool, rounds: int, **cohorts: int) -> SequenceStudy:
    """The example with other rounds and hospitals, without privacy as `--no-dp` runs it."""
    fields: dict[str, Any] = tables_of(EXAMPLE.read_text())
    fields |= {
        "rounds": rounds,
        "participation": {"quorum": len(cohorts)},
        "hospitals": [{"name": n, "nominal-patients": c} for n, c in cohorts.items()],
    }
    if not private:
        fields["privacy"]["mechanism"] = "none"
        fields["training"] = fields["without-dp"]
    protocol = parse_protocol(tomli_w.dumps(fields))
    assert isinstance(protocol, SequenceStudy)
    return protocol


def rehearsed(protocol: SequenceStudy, folder: Path) -> Rehearsal:
    data = from_phantoms(protocol, folder / "hospitals", seed=SEED)
    sites = settle(protocol, folder / "hospitals", data, device="cpu", noise_seed=SEED)
    return Rehearsal(protocol, folder, sites)


def auroc_elsewhere(protocol: SequenceStudy, weights: Path) -> float:
    """On patients of all four wards who are at no hospital of the study."""
    model = load_model(protocol, load_weights(weights), torch.device("cpu")).eval()
    labels, scores = [], []
    for number, ward in enumerate(WARDS.values()):
        stays = phantom_stays(300, seed=9000 + number, ward=ward)
        series = encode(
            300, stays.stay, stays.time, stays.variable, stays.value, protocol.sequences
        )
        with torch.no_grad():
            scores.append(model(torch.from_numpy(series)).softmax(1)[:, 1].numpy())
        labels.append(stays.label)
    return float(roc_auc_score(np.concatenate(labels), np.concatenate(scores)))


@pytest.mark.slow
def test_hospitals_learn_together(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    protocol = study(private=False, rounds=3, north=160, east=120)
    rehearsal = rehearsed(protocol, tmp_path)
    assert rehearsal.carry_out(Silent(), resume=False).stopped == "finished"
    before = auroc_elsewhere(protocol, tmp_path / "initial-model.safetensors")
    after = auroc_elsewhere(protocol, tmp_path / "model.safetensors")
    print(f"AUROC {before:.3f} -> {after:.3f}")
    assert after > max(0.8, before + 0.05)


@pytest.mark.slow
def test_a_private_study_runs_to_its_report(tmp_path: Path) -> None:
    """Ledger, statement, card and report know nothing of series, and have all that they need."""
    print(f"seed {SEED}")
    protocol = study(private=True, rounds=2, north=40, east=30)
    rehearsal = rehearsed(protocol, tmp_path)
    outcome = rehearsal.carry_out(Silent(), resume=False)
    assert outcome.stopped == "finished"
    summary = write_files(rehearsal, gather(rehearsal, outcome, {}))
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    final, first = (load_weights(tmp_path / f"{n}.safetensors") for n in ("model", "initial-model"))
    assert set(final) == set(model_spec(protocol))  # nn.GRU's names, not Opacus'
    assert all(not np.array_equal(final[name], first[name]) for name in final)
    for name in ("north", "east"):
        with Ledger.open(load_policy(rehearsal.sites[name]).state) as ledger:
            spends = ledger.spends("training")
        assert len(spends) == 2
        assert 7.9 < epsilon_of(spends, protocol.privacy.delta).value <= 8
        assert summary["hospitals"][name]["epsilon"] <= 8
    page = (tmp_path / "report.html").read_text()
    assert "deteriorated" in page
    assert "to the ward" in page


def test_the_model_is_trained_through_opacus_whatever_the_site_chose() -> None:
    protocol = study(private=True, rounds=1, north=10)
    clipper = make_clipper(model_of(protocol), protocol)
    assert isinstance(clipper, HooksClipper)


def test_phantoms_of_a_study_whose_files_say_the_side(tmp_path: Path) -> None:
    protocol = study(private=True, rounds=1, north=40)
    said = protocol.model_copy(
        update={
            "sequences": protocol.sequences.model_copy(update={"split": "side", "stay": "stay"})
        }
    )
    reader = reader_of("sequence")
    counts = [
        reader.count_patients(one, Opening(from_phantoms(one, tmp_path / name, seed=SEED)["north"]))
        for name, one in (("hashed", protocol), ("said", said))
    ]
    assert counts[0] == counts[1]
    assert counts[0][1] > 0


def test_a_folder_of_hospitals_is_found_and_counted(tmp_path: Path) -> None:
    """As `--data` finds them: with the numbers of training patients as nominal cohorts."""
    protocol = study(private=True, rounds=1, north=12, east=7)
    data = from_phantoms(protocol, tmp_path, seed=SEED)
    root = tmp_path / "data"
    root.mkdir()
    for name, folder in data.items():
        folder.rename(root / f"{name}-hospital")
    assert sorted(hospital_folders("sequence", root)) == ["east-hospital", "north-hospital"]
    found, folders = from_folder(protocol, root)
    assert {h.name: h.nominal_patients for h in found.hospitals} == {
        "north-hospital": 12,
        "east-hospital": 7,
    }
    reader = reader_of("sequence")
    counted = reader.count_patients(protocol, Opening(folders["north-hospital"]))
    assert counted[0] == 12
    assert not reader.holds_data(root)
