"""Simulated hospitals: phantoms as image folders, rosters, policies and ledgers."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.data.image_folder import count_patients, open_cohort
from client.ledger import Account, Ledger, Spend
from client.policy import load_policy
from common.errors import DataError, RunError
from common.tasks.nodule_classification.study import NoduleStudy
from simulation.hospitals import from_folder, from_phantoms, many, settle, with_roster

SmallStudy = Callable[..., NoduleStudy]


def test_a_phantom_hospital_has_just_its_nominal_training_patients(
    tmp_path: Path, small_study: SmallStudy
) -> None:
    protocol = small_study(north=13, west=5)
    folders = from_phantoms(protocol, tmp_path, seed=1)
    for hospital in protocol.hospitals:
        training, _ = count_patients(folders[hospital.name], protocol.images)
        assert training == hospital.nominal_patients
        cohort = open_cohort(folders[hospital.name], protocol.images)
        assert set(cohort.training.labels.tolist()) == {0, 1}


def test_phantom_hospitals_repeat_by_seed_and_differ_by_hospital(
    tmp_path: Path, small_study: SmallStudy
) -> None:
    protocol = small_study(north=5, west=5)

    def first_image(name: str, seed: int, hospital: str) -> np.ndarray:
        folder = from_phantoms(protocol, tmp_path / name, seed)[hospital]
        return np.asarray(Image.open(folder / "00000.png"))

    north = first_image("a", 1, "north")
    assert np.array_equal(north, first_image("b", 1, "north"))
    assert not np.array_equal(north, first_image("a", 1, "west"))
    assert not np.array_equal(north, first_image("c", 2, "north"))


def test_a_data_folder_makes_the_roster_and_a_protocol_that_names_it_is_kept(
    tmp_path: Path, small_study: SmallStudy
) -> None:
    protocol = small_study(north=9, west=5)
    folders = from_phantoms(protocol, tmp_path / "made", seed=1)
    root = tmp_path / "data"
    root.mkdir()
    for name, folder in folders.items():
        (root / f"site-{name}").symlink_to(folder)
    adapted, found = from_folder(protocol, root)
    assert adapted.hospital_names == ("site-north", "site-west")
    assert [h.nominal_patients for h in adapted.hospitals] == [9, 5]
    assert adapted.participation.quorum == 1
    assert set(found) == {"site-north", "site-west"}
    named = with_roster(protocol, {"site-north": 100, "site-west": 50})
    assert from_folder(named, root)[0] is named


def test_many_hospitals_take_the_sizes_of_the_roster_in_turn(small_study: SmallStudy) -> None:
    protocol = many(small_study(north=9, west=5), 5)
    assert [h.nominal_patients for h in protocol.hospitals] == [9, 5, 9, 5, 9]
    assert len(set(protocol.hospital_names)) == 5


def test_a_settled_hospital_keeps_its_ledger_and_refuses_other_options(
    tmp_path: Path, small_study: SmallStudy
) -> None:
    protocol = small_study(north=5)
    data = {"north": tmp_path}
    (site,) = settle(protocol, tmp_path, data, device="cpu", noise_seed=1).values()
    policy = load_policy(site)
    assert policy.approved_studies == (protocol.digest,)
    assert policy.rehearsal
    with Ledger.open(policy.state) as ledger:
        spends: dict[Account, Spend] = {"training": Spend(1.5, 0.25, 8)}
        ledger.reserve("0" * 64, protocol.digest, 1, spends, {"validation-fraction": 0.2})
        ledger.seal("0" * 64, b"kept", "e" * 64)
    settle(protocol, tmp_path, data, device="cpu", noise_seed=1)
    with Ledger.open(policy.state) as ledger:
        assert ledger.sealed_reply("0" * 64) == b"kept"
    with pytest.raises(RunError, match="other options"):
        settle(protocol, tmp_path, data, device="cpu", noise_seed=2)


def test_class_folders_are_read_where_the_pattern_finds_the_patient(
    tmp_path: Path, small_study: SmallStudy
) -> None:
    protocol = small_study(north=9)
    made = from_phantoms(protocol, tmp_path / "made", seed=1)["north"]
    root = tmp_path / "data" / "north"
    with (made / "manifest.csv").open() as file:
        for number, row in enumerate(csv.DictReader(file)):
            (root / row["label"]).mkdir(parents=True, exist_ok=True)
            name = f"{row['patient_id']}_{number}.png"
            shutil.copy(made / row["image"], root / row["label"] / name)
    with pytest.raises(DataError, match="pattern"):
        from_folder(with_roster(protocol, {"other": 1}), root.parent)
    pattern = r"(?P<patient>.+)_\d+"
    adapted, data = from_folder(with_roster(protocol, {"other": 1}), root.parent, pattern)
    assert [h.nominal_patients for h in adapted.hospitals] == [9]
    (site,) = settle(
        adapted, tmp_path, data, device="cpu", noise_seed=1, patient_id_pattern=pattern
    ).values()
    policy = load_policy(site)
    cohort = open_cohort(policy.data, protocol.images, policy.patient_id_pattern)
    assert len(cohort.training) == 9
