"""Fed-Heart-Disease with its published split, from the published files to the judged model.

The figure is the share of right answers at a score of 0.5 on a hospital's test patients, averaged over
the four hospitals, as FLamby reports it; the mean of five seeds. docs/benchmarks.md says how the
settings were chosen: within the training rows.
"""

import csv
from pathlib import Path
from statistics import fmean, stdev
from typing import TypeVar

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from client.policy import load_policy
from client.readers import open_cohort
from client.training import load_model
from common.protocol import Section, StudyProtocol, load_protocol
from common.tabular.schema import Column
from common.tasks import task_of
from common.tasks.risk.study import RiskStudy
from simulation.convert.heart import ECG, OUTCOMES, PAIN, SUGAR
from simulation.hospitals import from_folder, settle
from simulation.live import Silent
from simulation.prepare import EXAMPLES
from simulation.rehearsal import Rehearsal
from tests.published import with_published_split

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEEDS = (1, 2, 3, 4, 5)
NOBODY_DRAWS = SEEDS[:1]  # without noise, and with every patient in every step, all seeds are alike
S = TypeVar("S", bound=Section)

KEPT = ("patient_id", "disease")
DUMMIES = {"chest_pain": PAIN[1:], "resting_ecg": ECG[1:], "fasting_sugar": SUGAR[1:]}
FEATURES = (
    "age",
    "male",
    "resting_pressure",
    "cholesterol",
    "max_heart_rate",
    "exercise_angina",
    "st_depression",
    *(f"{name} {category}" for name, categories in DUMMIES.items() for category in categories),
)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with train/ and test/ of the four hospitals."""
    return with_published_split("heart", "fed-heart-disease", tmp_path_factory.mktemp("heart"))


@pytest.fixture(scope="module")
def z_scores(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `hospitals` with the published preprocessing: every column by its mean and deviation here.

    Those are of each hospital's own training patients. They leave no hospital, but the model depends
    on them, and nobody charges for that.
    """
    out = tmp_path_factory.mktemp("z-scores")
    for train in (hospitals / "train").iterdir():
        fitted = _columns(train)
        for side in ("train", "test"):
            columns = _columns(hospitals / side / train.name)
            table = [columns[name] for name in KEPT]
            table += [_z(columns[name], fitted[name]) for name in FEATURES]
            (folder := out / side / train.name).mkdir(parents=True)
            with (folder / "records.csv").open("w", newline="") as file:
                csv.writer(file).writerows([[*KEPT, *FEATURES], *zip(*table, strict=True)])
    return out


def _columns(folder: Path) -> dict[str, list[str]]:
    """The columns of a converted table, with a dummy for each category but the first."""
    with (folder / "records.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name, categories in DUMMIES.items():
            row |= {
                f"{name} {category}": str(int(row[name] == category)) for category in categories
            }
    return {name: [row[name] for row in rows] for name in (*KEPT, *FEATURES)}


def _z(column: list[str], training: list[str]) -> list[str]:
    values, fitted = np.array(column, np.float64), np.array(training, np.float64)
    spread = fitted.std(ddof=1)
    return list(map(str, (values - fitted.mean()) / (spread or 1.0)))


def benchmark(epsilon: float | None) -> RiskStudy:
    """The shipped example with nobody held out: its patients to judge on are the test rows.

    None is without differential privacy. There is then no noise that would weigh on a small hospital's
    update, and all have the same weight, as in the figure; the steps were chosen for that.
    """
    study = load_protocol(EXAMPLES / "heart.toml")
    assert isinstance(study, RiskStudy)
    changes: dict[str, object] = {"records": _with(study.records, validation_fraction=0.0)}
    if epsilon is None:
        changes["privacy"] = _with(study.privacy, mechanism="none")
        changes["aggregation"] = _with(study.aggregation, weights="uniform", max_share=None)
        training = _with(study.training, steps_per_round=5, learning_rate=0.03, momentum=0.9)
        changes |= {"training": training, "without_dp": None}
    else:
        changes["privacy"] = _with(study.privacy, epsilon=epsilon)
    return _with(study, **changes)


def benchmark_of_z_scores(epsilon: float | None) -> RiskStudy:
    """`benchmark` for columns of z-scores, with the settings that were chosen for them."""
    study = benchmark(epsilon)
    columns = tuple(
        Column(name=name, kind="number", range=(-10.0, 10.0), outside="clip", center=0.0, scale=1.0)
        for name in FEATURES
    )
    steps, rate = (3, 0.1) if epsilon is None else (1, 0.2)  # chosen like the others
    return _with(
        study,
        rounds=12 if epsilon is None else 8,
        records=_with(study.records, columns=columns),
        training=_with(study.training, steps_per_round=steps, learning_rate=rate, momentum=0.0),
        aggregation=_with(study.aggregation, weights="uniform", max_share=None),
    )


def _with(section: S, **changes: object) -> S:
    """`section` with these fields, checked as if it had been read so."""
    changed = section.model_copy(update=changes)
    return type(section).model_validate(changed.model_dump())


def accuracies(study: StudyProtocol, data: Path, folder: Path, seed: int) -> dict[str, float]:
    """Of the federation's final model, on each hospital's test patients."""
    study, training = from_folder(study, data / "train")
    sites = settle(study, folder / "hospitals", training, device="cpu", noise_seed=seed)
    outcome = Rehearsal(study, folder, sites).carry_out(Silent(), resume=False)
    assert outcome.stopped == "finished"
    model = load_model(study, load_file(folder / "model.safetensors"), torch.device("cpu"))
    found = {}
    for name, site in sites.items():
        held = load_policy(site).model_copy(update={"data": data / "test" / name})
        patients = open_cohort(study, held, state=None).training
        with torch.no_grad():
            inputs = patients.views(np.arange(len(patients)))
            scores = task_of(study).predict(study, model.eval(), inputs)[:, 0].numpy()
        found[name] = float(((scores > 0.5) == patients.labels).mean())
    return found


def mean_accuracy(study: StudyProtocol, data: Path, folder: Path) -> float:
    """The mean over hospitals and seeds; what stands in docs/benchmarks.md is printed."""
    seeds = NOBODY_DRAWS if study.privacy.mechanism == "none" else SEEDS
    runs = [accuracies(study, data, folder / str(seed), seed) for seed in seeds]
    means = [fmean(run.values()) for run in runs]
    spread = stdev(means) if len(means) > 1 else 0.0
    of_each = {name: round(fmean(run[name] for run in runs), 3) for name in runs[0]}
    print(f"{fmean(means):.3f} (sd {spread:.3f}) {[round(m, 3) for m in means]} {of_each}")
    return fmean(means)


def test_sizes_and_classes_are_the_published_ones(hospitals: Path) -> None:
    sizes = {
        folder.name: [
            len(_columns(hospitals / side / folder.name)["disease"]) for side in ("train", "test")
        ]
        for folder in (hospitals / "train").iterdir()
    }
    assert sizes == {
        "cleveland": [199, 104],
        "hungary": [172, 89],
        "switzerland": [30, 16],
        "long-beach": [85, 45],
    }
    ill = _columns(hospitals / "train/switzerland")["disease"].count(OUTCOMES[1])
    assert ill == 30  # one healthy patient in 46, and in the test rows


# epsilon (None: without differential privacy) and the least mean of five seeds. The noise is drawn from the
# seed and the study's digest, so whoever changes the example draws anew. Over 600 draws of five seeds
# 1 in 15 was below 0.70 at epsilon 0.1, and 1 in 50 below 0.725 with z-scores at epsilon 1.
@pytest.mark.parametrize(("epsilon", "least"), [(None, 0.81), (1.0, 0.78), (0.1, 0.70)])
def test_public_ranges(
    hospitals: Path, tmp_path: Path, epsilon: float | None, least: float
) -> None:
    assert mean_accuracy(benchmark(epsilon), hospitals, tmp_path) >= least


@pytest.mark.parametrize(("epsilon", "least"), [(None, 0.74), (1.0, 0.725)])
def test_published_z_scores(
    z_scores: Path, tmp_path: Path, epsilon: float | None, least: float
) -> None:
    assert mean_accuracy(benchmark_of_z_scores(epsilon), z_scores, tmp_path) >= least
