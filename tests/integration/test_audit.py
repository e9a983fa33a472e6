"""The audit passes on the product as it is, and fails for every bug that is planted in it.

Which part finds which bug is the table in `simulation/audit/__init__.py`, misses included.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom
from torch import nn
from typer.testing import CliRunner

from client import training
from client.data import ImagePatients
from client.privacy import engine
from client.privacy.randomness import RandomStream
from client.privacy.sampling import Draw, poisson_draw
from common.protocol import StudyProtocol
from common.tasks.nodule_classification.study import NoduleStudy
from simulation import audit
from simulation.__main__ import EXIT_AUDIT_FAILED, app
from simulation.audit import canaries, inversion, mechanism
from simulation.audit.canaries import audit_canaries
from simulation.audit.inversion import CANDIDATES, TRIALS, _Attack, most_named
from simulation.audit.mechanism import LEVEL, audit_noise, audit_sampling, audit_sensitivity
from simulation.audit.throwaway import Subject
from tests.integration.test_mutations import (
    _Careless,
    a_seed_where_there_is_none,
    clip_norm_doubled,
    noise_calibrated_for_one_round,
    noise_halved,
    noise_uniform_instead_of_normal,
    noise_used_again_in_the_next_step,
    true_train,
)
from tests.shapes import CROSS_ENTROPY

pytestmark = pytest.mark.slow

Patch = pytest.MonkeyPatch
MakeStudy = Callable[..., NoduleStudy]

NOISE, SENSITIVITY, SAMPLING, CANARIES = "noise", "sensitivity", "sampling", "canaries"


def _steps_without_noise(patch: Patch, quiet: Callable[[engine.NoisyStep, int], bool]) -> None:
    count = [0]

    class Step(engine.NoisyStep):
        noise_multiplier: float

        def add_noise(self) -> None:
            true = self.noise_multiplier
            count[0] += 1
            self.noise_multiplier = 0.0 if quiet(self, count[0]) else true
            super().add_noise()
            self.noise_multiplier = true

    patch.setattr(training, "NoisyStep", Step)


def noise_missing_in_one_of_eight_steps(patch: Patch) -> None:
    _steps_without_noise(patch, lambda _, number: number % 8 == 0)


def no_noise_where_a_patient_was_drawn(patch: Patch) -> None:
    _steps_without_noise(patch, lambda step, _: any(bool(p.summed_grad.any()) for p in step.params))


def no_clipping(patch: Patch) -> None:
    def clipper(model: nn.Module, protocol: StudyProtocol, *_: Any) -> engine.PatientClipper:
        return engine.PlainSum(model, CROSS_ENTROPY, protocol.training.views_per_patient)

    patch.setattr(training, "make_clipper", clipper)


def _careless(patch: Patch, *, by_view: bool) -> None:
    def clipper(model: nn.Module, protocol: StudyProtocol, *_: Any) -> engine.PatientClipper:
        return _Careless(model, protocol, by_view=by_view)

    patch.setattr(training, "make_clipper", clipper)
    patch.setattr(canaries, "CANARIES", (800, 800))  # fewer: it takes one patient at a time
    patch.setattr(mechanism, "_COHORTS", (50, 150))


def clipped_by_image(patch: Patch) -> None:
    _careless(patch, by_view=True)


def a_broken_image_not_zeroed(patch: Patch) -> None:
    _careless(patch, by_view=False)


def everybody_is_drawn(patch: Patch) -> None:
    def draw(patients: ImagePatients, _: float, *rest: Any) -> Draw:
        return poisson_draw(patients, 1.0, *rest)

    patch.setattr(training, "poisson_draw", draw)


def draws_of_a_fixed_size(patch: Patch) -> None:
    def draw(patients: ImagePatients, rate: float, views: int, stream: RandomStream) -> Draw:
        everybody = poisson_draw(patients, 1.0, views, stream)
        kept = np.argsort(stream.uniform(len(patients)))[: round(rate * len(patients))]
        return Draw(everybody.views[kept], everybody.weights[kept])

    patch.setattr(training, "poisson_draw", draw)


def denominator_from_the_private_cohort(patch: Patch) -> None:
    def train(
        model: nn.Module, patients: ImagePatients, protocol: StudyProtocol, _: int, *rest: Any
    ) -> None:
        true_train(model, patients, protocol, len(patients), *rest)

    patch.setattr(training, "train", train)


@dataclass(frozen=True)
class Bug:
    """A planted bug, exactly the parts that find it, and its line in the audit's own table."""

    apply: Callable[[Patch], None]
    found_by: frozenset[str]
    line: str


BUGS = [
    Bug(apply, frozenset(parts), line)
    for apply, parts, line in (
        (noise_halved, {NOISE, CANARIES}, "noise halved"),
        (noise_missing_in_one_of_eight_steps, {NOISE}, "noise missing in one of eight steps"),
        (no_noise_where_a_patient_was_drawn, {CANARIES}, "no noise where a patient was drawn"),
        (noise_used_again_in_the_next_step, {NOISE}, "the same noise in every step"),
        (a_seed_where_there_is_none, {NOISE}, "noise from a seed"),
        (noise_uniform_instead_of_normal, {NOISE}, "uniform noise"),
        (no_clipping, {SENSITIVITY, SAMPLING, CANARIES}, "no clipping"),
        (clip_norm_doubled, {SENSITIVITY, SAMPLING, CANARIES}, "clipping norm doubled"),
        (clipped_by_image, {SENSITIVITY, SAMPLING, CANARIES}, "clipped by image, not by patient"),
        (a_broken_image_not_zeroed, {SENSITIVITY}, "a broken image not zeroed"),
        (everybody_is_drawn, {SAMPLING, CANARIES}, "everybody drawn, q ignored"),
        (draws_of_a_fixed_size, {SAMPLING}, "draws of a fixed size"),
        (denominator_from_the_private_cohort, {NOISE, SAMPLING}, "denominator from the private cohort"),
        (noise_calibrated_for_one_round, {CANARIES}, "noise calibrated for one round"),
    )
]  # fmt: skip


def failed_parts(subject: Subject) -> set[str]:
    """The parts of the audit but the pictures that do not hold."""
    checks = [*audit_noise(subject), *audit_sensitivity(subject), *audit_sampling(subject)]
    checks += audit_canaries(subject)[1]
    for check in checks:
        print(check)
    return {check.part for check in checks if not check.held}


@pytest.fixture
def study(small_study: MakeStudy) -> NoduleStudy:
    """Eight steps at a rate of 0.5, at epsilon 8."""
    return small_study(north=100).model_copy(update={"rounds": 4})


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.apply.__name__)
def test_a_planted_bug_is_found(bug: Bug, study: NoduleStudy, monkeypatch: Patch) -> None:
    bug.apply(monkeypatch)
    assert failed_parts(Subject.of(study, no_dp=False)) == bug.found_by


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.apply.__name__)
def test_the_table_of_planted_bugs_says_so(bug: Bug) -> None:
    lines = [line.strip() for line in (audit.__doc__ or "").splitlines()]
    (row,) = [line.removeprefix(bug.line) for line in lines if line.startswith(bug.line + " ")]
    parts = (NOISE, SENSITIVITY, SAMPLING, CANARIES)
    told = dict(zip(parts, row.split(), strict=False))
    assert {part for part, word in told.items() if word == "found"} == bug.found_by


@pytest.mark.parametrize(
    ("bug", "found"),
    [
        (no_noise_where_a_patient_was_drawn, True),
        (no_clipping, True),
        (noise_halved, False),
    ],
)
def test_naming_patients_finds_only_what_is_grossly_wrong(
    bug: Callable[[Patch], None], found: bool, study: NoduleStudy, monkeypatch: Patch
) -> None:
    subject = Subject(study, 2.07, 2.07)  # of the shipped protocol
    bug(monkeypatch)
    named = _Attack(subject).named(subject)
    print(named)
    assert bool(named > binom.isf(LEVEL, TRIALS, most_named(CANDIDATES, 2.07))) is found


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["audit", *arguments])
    return done.exit_code, done.output


@pytest.fixture
def quick(monkeypatch: Patch, study: NoduleStudy, tmp_path: Path) -> Path:
    """A protocol file of a small study, and an attack that is shorter and still sees something."""
    monkeypatch.setattr(inversion, "_ITERATIONS", 150)
    monkeypatch.setattr(inversion, "TRIALS", 40)
    path = tmp_path / "protocol.toml"
    path.write_text(study.to_toml())
    return path


def test_the_command_passes_on_the_product_as_it_is(quick: Path, tmp_path: Path) -> None:
    code, said = run("--protocol", str(quick), "--out", str(tmp_path / "out"), "--json")
    assert code == 0, said
    found = json.loads(said.splitlines()[-1])
    assert found == json.loads((tmp_path / "out" / "audit.json").read_text())
    assert found["passed"] is True
    assert "no proof" in found["note"]
    assert {check["part"] for check in found["checks"]} == {
        NOISE, SENSITIVITY, SAMPLING, CANARIES, "inversion",
    }  # fmt: skip
    assert found["canaries"]["epsilon_lower_bound_95"] <= found["claim"]["epsilon"] == 8.0
    assert max(found["inversion"]["ssim_with_dp"]) < 0.2
    assert max(found["inversion"]["ssim_without_dp"]) > 0.5
    html = (tmp_path / "out" / "audit.html").read_text()
    assert html.count("data:image/png;base64,") == 3 * inversion.PICTURES
    assert "A pass is no proof" in html


def test_the_command_fails_loudly_without_privacy(quick: Path, tmp_path: Path) -> None:
    code, said = run("--protocol", str(quick), "--out", str(tmp_path / "out"), "--no-dp")
    assert code == EXIT_AUDIT_FAILED == 4
    assert "AUDIT FAILED" in said
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert found["passed"] is False
    assert found["dp_switched_off"] is True
    failed = {check["part"] for check in found["checks"] if not check["held"]}
    assert failed == {NOISE, SENSITIVITY, SAMPLING, CANARIES, "inversion"}
    assert "FAILED: " in (tmp_path / "out" / "audit.html").read_text()


def test_a_study_without_a_claim_is_refused(tmp_path: Path, small_study: MakeStudy) -> None:
    path = tmp_path / "protocol.toml"
    path.write_text(small_study(mechanism="none").to_toml())
    code, said = run("--protocol", str(path), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "E-PROTOCOL" in said
    assert not (tmp_path / "out").exists()
