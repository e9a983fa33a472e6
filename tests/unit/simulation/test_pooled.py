"""The pooled baseline: all patients in one place, as one hospital that really held them would train."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.data import ImagePatients
from client.data.image_folder import open_cohort
from client.policy import load_policy
from common.tasks.nodule_classification.study import NoduleStudy
from common.weights import load_weights
from server.beginning import INITIAL_MODEL
from simulation.hospitals import from_phantoms, settle, with_roster
from simulation.live import Silent
from simulation.pooled import EverybodysVault
from simulation.rehearsal import POOLED, Rehearsal, in_order
from simulation.results import gather
from simulation.summary_json import as_json

SmallStudy = Callable[..., NoduleStudy]


def patients(counts: list[int], dtype: type, value: int) -> ImagePatients:
    total = sum(counts)
    return ImagePatients(
        pixels=np.full((total, 4, 4, 1), value, dtype),
        labels=np.arange(total) % 2,
        offsets=np.cumsum([0, *counts], dtype=np.int64),
        mean=0.4,
        std=0.25,
    )


def test_patients_stay_patients_and_bright_stays_bright() -> None:
    eight, sixteen = patients([2, 1], np.uint8, 51), patients([3], np.uint16, 13107)
    both = ImagePatients.together([eight, sixteen])
    assert both.offsets.tolist() == [0, 2, 3, 6]
    assert both.labels.tolist() == [0, 1, 0, 0, 1, 0]
    views = both.views(np.arange(6)).numpy()
    np.testing.assert_allclose(views, (0.2 - 0.4) / 0.25, rtol=1e-6)  # a fifth of the full range
    assert ImagePatients.together([eight, eight]).pixels.dtype == np.uint8
    assert len(ImagePatients.together([eight, eight])) == 4


def merged(data: dict[str, Path], folder: Path) -> Path:
    """One folder of all hospitals' images, a sub-folder for each."""
    rows = []
    for hospital, of in data.items():
        shutil.copytree(of, folder / hospital)
        with (folder / hospital / "manifest.csv").open(newline="") as file:
            rows += [
                [f"{hospital}/{row['image']}", row["label"], row["patient_id"]]
                for row in csv.DictReader(file)
            ]
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "label", "patient_id"], *rows])
    return folder


@pytest.mark.slow
def test_it_is_the_model_of_a_hospital_that_held_all_patients(
    tmp_path: Path, small_study: SmallStudy
) -> None:
    """Noise and all: same seed, same study of one. No validation, whose noise comes from the same stream."""
    protocol = small_study(north=6, west=4)
    nobody = protocol.images.model_copy(update={"validation_fraction": 1e-9})
    protocol = protocol.model_copy(update={"images": nobody, "rounds": 2})
    data = from_phantoms(protocol, tmp_path / "hospitals", seed=3)
    sites = settle(protocol, tmp_path / "hospitals", data, device="cpu", noise_seed=5)
    rehearsal = Rehearsal(protocol, tmp_path, sites)
    rehearsal.carry_out(Silent(), resume=False)
    found = rehearsal.pooled(Silent())

    one = with_roster(protocol, {POOLED: 10})
    place = tmp_path / "one-place"
    folder = {POOLED: merged(data, place / "data")}
    site = settle(one, place / "hospitals", folder, device="cpu", noise_seed=5)
    start = in_order(load_weights(tmp_path / INITIAL_MODEL), protocol)
    Rehearsal(one, place, site).carry_out(Silent(), resume=False, initial=start)
    expected = load_file(place / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    again = rehearsal.pooled(Silent())  # done once, then read
    assert all(np.array_equal(found[name], again[name]) for name in found)


@pytest.mark.slow
def test_a_rehearsal_tells_it_beside_the_others(tmp_path: Path, small_study: SmallStudy) -> None:
    protocol = small_study(north=6, west=4)
    data = from_phantoms(protocol, tmp_path / "hospitals", seed=3)
    sites = settle(protocol, tmp_path / "hospitals", data, device="cpu", noise_seed=5)
    rehearsal = Rehearsal(protocol, tmp_path, sites)
    outcome = rehearsal.carry_out(Silent(), resume=False)
    scores = rehearsal.scores_of(rehearsal.pooled(Silent()))
    facts = gather(rehearsal, outcome, {}, scores)
    assert facts.pooled_baseline is not None
    summary = as_json(tmp_path, facts)
    assert summary["pooled_baseline"]["auroc"] == facts.pooled_baseline.discrimination
    assert {h["pooled_baseline_auroc"] for h in summary["hospitals"].values()} == set(
        facts.pooled_baseline.own.values()
    )
    without = gather(rehearsal, outcome, {})
    assert without.pooled_baseline is None

    policy = load_policy(sites["north"])
    cohorts = [open_cohort(data[name], protocol.images) for name in ("north", "west")]
    everybody = EverybodysVault(policy, cohorts).cohort(protocol)
    assert len(everybody.training) == sum(len(cohort.training) for cohort in cohorts)
    assert len(everybody.validation) == 0
