"""`intramural-client evaluate`: the hospital's own look, from what its vault kept, and for it alone."""

import json
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner

from client.__main__ import app
from client.approval import APPROVED, approve
from client.evaluation import JSON, PAGE
from client.evidence import keep_scores, kept_scores, scores_file
from client.looks.survival import look
from client.policy import Limits
from common.judging.binary import Binary
from common.metrics import Scores
from common.protocol import StudyProtocol
from common.survival.scores import SurvivalScores
from common.tasks import USUAL, judge_of, task_named
from common.tasks.nodule_classification.study import NoduleStudy
from tests.phantom_patients import scores as phantom_scores
from tests.tasks import TASKS, small

pytestmark = pytest.mark.slow  # seconds together

SEED = 20_261_125
JUDGED = tuple(task for task in TASKS if task_named(task).judge is not None)

# Words that only a page about images may have.
OF_IMAGES = r"(?i)\b(images?|pixels?|CTs?|scans?|scanners?|nodules?|finding|findings)\b"


def concordance(scores: SurvivalScores) -> float:
    from sksurv.metrics import concordance_index_censored

    value: float = concordance_index_censored(scores.event, scores.time, scores.risk)[0]
    return value


REFERENCES: dict[str, Callable[[Any], float]] = {
    "score-histogram": lambda scores: roc_auc_score(scores.label, scores.score),
    "survival-histogram": concordance,
}

MakeStudy = Callable[..., NoduleStudy]


def kept(seed: int, patients: int = 60, most: int = 4) -> Scores:
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, most + 1, patients))
    label = (rng.random(patient.size) < 0.4).astype(np.int64)
    score = norm.cdf(rng.normal(size=patient.size) + 1.4 * label - 0.7)
    return Scores(score, label, patient)


def taken_part(office: Any, study: StudyProtocol, scores: Any, **changes: Any) -> None:
    """The office has approved `study`, answered a round of it and judged the model after it."""
    limits = Limits.just_for(study).model_copy(update=changes)
    office.answer(study, approved_studies=(study.digest,), limits=limits)
    approve(office.site, study)
    keep_scores(office.state, study.digest, 1, judge_of(study).columns(scores))


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves are the business of tests/unit/common/clinical; bands and pictures take seconds."""
    for name in ("evaluation.bands", "page.discrimination_svg", "calibration_page.decision_svg"):
        monkeypatch.setattr(f"common.clinical.{name}", lambda *_: "<svg></svg>")


def evaluate(office: Any, *more: str) -> Result:
    words = ["evaluate", "--site", str(office.site), "--out", str(office.folder), *more]
    return CliRunner().invoke(app, words, env={"COLUMNS": "250"})


def seen(text: str) -> str:
    """What a reader of a page sees below its header: no tags, blanks joined."""
    return " ".join(re.sub(r"<[^>]+>", " ", text.split("</header>")[-1]).split())


def facts(office: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((office.folder / JSON).read_text())
    return found


def books(office: Any) -> dict[Path, bytes]:
    """All that is kept in the state folder, but for SQLite's memory of who reads."""
    files = (path for path in office.state.rglob("*") if path.is_file())
    return {
        path: path.read_bytes()
        for path in files
        if path.suffix not in (".sqlite-shm", ".sqlite-wal")
    }


@pytest.fixture
def judged(office: Any, small_study: MakeStudy) -> NoduleStudy:
    """A study of which the office has judged the models after rounds 0, 1 and 10."""
    study = small_study()
    office.answer(study, rounds=2, approved_studies=(study.digest,))
    approve(office.site, study)
    for after_round in (0, 1, 10):
        keep_scores(
            office.state, study.digest, after_round, Binary().columns(kept(SEED + after_round))
        )
    return study


def test_the_newest_model_is_judged_as_scikit_learn_does(office: Any, judged: NoduleStudy) -> None:
    before = books(office)
    done = evaluate(office)
    assert done.exit_code == 0, done.output
    assert f"written: {office.folder / PAGE}" in done.output
    assert "stay in the hospital" in done.output
    found, scores = facts(office), kept(SEED + 10)
    assert (found["study"], found["digest"]) == (judged.study, judged.digest)
    assert (found["after_round"], found["classes"]) == (10, list(judged.images.classes))
    assert found["auroc"] == pytest.approx(roc_auc_score(scores.label, scores.score))
    assert found["average_precision"] == pytest.approx(
        average_precision_score(scores.label, scores.score)
    )
    low, high = found["auroc_interval"]
    assert low < found["auroc"] < high
    for name in (PAGE, JSON):
        assert stat.S_IMODE((office.folder / name).stat().st_mode) == 0o600
    assert (
        books(office) == before
    )  # ledger, egress log, scores: nothing is spent or said to have left


@pytest.mark.usefixtures("judged")
def test_the_page_says_for_whom_it_is_and_fetches_nothing(office: Any) -> None:
    evaluate(office)
    text = (office.folder / PAGE).read_text()
    found = facts(office)
    words = seen(text)
    assert "For this hospital alone." in words
    assert "Research use, not a medical device" in words
    assert f"{100 * found['auroc']:.0f} times in 100" in words
    point = found["points"][0]
    assert not point["same_patients"]
    assert f"{point['true_positives']} of {point['sensitivity']['images']}" in words
    for title in ("At a threshold", "read as a probability", "worth acting on", "Groups", "Limits"):
        assert title in words

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "link", "iframe", "object", "form", "base")
            for name, value in attrs:
                assert not name.startswith("on")
                if name in ("src", "href"):
                    assert (value or "").startswith("data:image/svg+xml;base64,")

    Reader().feed(text)
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_findings_per_scan_where_scores_carry_a_series(office: Any, judged: NoduleStudy) -> None:
    assert evaluate(office).exit_code == 0
    assert facts(office)["froc"] is None  # scores as they were kept before series
    assert "carry no series" in (office.folder / PAGE).read_text()
    scores = kept(SEED)
    finding = np.arange(scores.score.size)
    with_series = replace(scores, series=scores.patient, finding=finding)
    keep_scores(office.state, judged.digest, 11, Binary().columns(with_series))
    again = kept_scores(office.state, judged.digest, 11, Binary())
    assert again.series is not None
    np.testing.assert_array_equal(again.series, scores.patient)
    np.testing.assert_array_equal(again.finding, finding)
    assert evaluate(office).exit_code == 0
    found = facts(office)["froc"]
    assert found["scans"] == scores.patients
    assert found["findings"] == int(scores.label.sum())
    words = seen((office.folder / PAGE).read_text())
    at_one = found["points"][3]
    assert at_one["rate"] == 1
    assert f"shows {100 * at_one['sensitivity']:.0f} of 100 findings" in words
    assert "not searched for" in words


def test_where_the_classes_lie_apart_nothing_is_made_up(office: Any, judged: NoduleStudy) -> None:
    """No interval where none can be known, and not too few patients where they are enough."""
    label, each = np.arange(60) % 2, np.arange(60)
    score = np.where(label == 1, 0.7, 0.3)
    apart = Scores(score, label, each, series=each, finding=each)
    keep_scores(office.state, judged.digest, 11, Binary().columns(apart))
    assert evaluate(office).exit_code == 0
    assert facts(office)["temperature"] is None
    text = (office.folder / PAGE).read_text()
    assert "shows 100 of 100 findings.</p>" in text
    assert "none that is finite and above 0 fits best" in text


def test_too_few_patients_to_split_is_said_in_words(office: Any, judged: NoduleStudy) -> None:
    keep_scores(office.state, judged.digest, 11, Binary().columns(kept(SEED, patients=7)))
    assert evaluate(office).exit_code == 0
    assert facts(office)["points"][0]["same_patients"]
    assert "too few patients to choose the threshold" in (office.folder / PAGE).read_text()


def test_one_class_only_is_said_in_words(office: Any, judged: NoduleStudy) -> None:
    keep_scores(
        office.state,
        judged.digest,
        11,
        Binary().columns(Scores(np.array([0.4, 0.6]), np.array([1, 1]), np.array([0, 1]))),
    )
    assert evaluate(office).exit_code == 0
    assert facts(office)["auroc"] is None
    assert "of one class" in (office.folder / PAGE).read_text()


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("task", JUDGED)
def test_every_task_has_its_page_in_its_own_words(task: str, office: Any) -> None:
    print(f"seed {SEED}")
    study = small(task)
    taken_part(office, study, scores := phantom_scores(study, office.folder / "data", 120, SEED))
    before = books(office)
    done = evaluate(office)
    assert done.exit_code == 0, done.output
    assert books(office) == before
    found, judge = facts(office), judge_of(study)
    assert found["patients"] == judge.patients(scores)
    assert found[judge.key] == pytest.approx(REFERENCES[judge.release](scores))
    text = (office.folder / PAGE).read_text()
    words = seen(text)
    assert f"on {found['patients']} validation patients of this hospital" in text
    assert f"{100 * found[judge.key]:.0f} times in 100" in words
    if task != USUAL:
        assert not re.search(OF_IMAGES, words)
    assert "<script" not in text
    assert stat.S_IMODE((office.folder / JSON).stat().st_mode) == 0o600


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("task", JUDGED)
def test_without_the_studys_text_its_scores_tell_what_they_can(task: str, office: Any) -> None:
    study = small(task)
    taken_part(office, study, phantom_scores(study, office.folder / "data", 60, SEED))
    (office.state / APPROVED / f"{study.digest}.toml").unlink()
    done = evaluate(office)
    if judge_of(study).release == "survival-histogram":
        assert done.exit_code == 2
        assert done.output.startswith("E-PROTOCOL: expected the text of the study")
        assert not (office.folder / PAGE).exists()
    else:
        assert done.exit_code == 0, done.output
        assert facts(office)["classes"] == ["negative", "positive"]


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("task", JUDGED)
def test_small_groups_are_suppressed_as_the_site_policy_says(task: str, office: Any) -> None:
    study = small(task)
    scores = phantom_scores(study, office.folder / "data", 60, SEED)
    taken_part(office, study, scores, smallest_group=1000)
    assert evaluate(office).exit_code == 0
    groups = facts(office)["groups"]
    rows = groups if isinstance(groups, list) else [row for each in groups.values() for row in each]
    assert rows
    for row in rows:
        assert set(row.values()) - {row["name"]} == {"suppressed"}
    words = seen((office.folder / PAGE).read_text())
    assert "fewer than 1000 patients" in words
    assert "Patients at risk" not in words


def test_no_group_of_risk_can_be_worked_out_from_those_that_are_shown() -> None:
    """Of 2, 10 and 13 patients not only the 2 are hidden: 25 less the others would tell."""
    study = small("survival")
    risk = np.repeat([0.1, 0.5, 0.9], [2, 10, 13])
    scores = SurvivalScores(
        risk=risk,
        survival=(1 - risk)[:, None] ** np.array([0.25, 0.5, 0.75, 1]),
        time=np.arange(25.0) * 30 + 10,
        event=np.arange(25) % 2 == 0,
        patient=np.arange(25),
    )
    found = look(scores, study, 5)
    of_groups = {row["name"]: row["patients"] for row in found.facts["groups"]}
    assert of_groups == {"high": 13, "low": "suppressed", "middle": "suppressed"}
    words = seen(" ".join(text for _, text in found.sections))
    assert "A group of fewer than 5 patients is not shown" in words
    for name, shown in (("low", False), ("middle", False), ("high", True)):
        assert bool(re.search(rf"\b{name}\b", words)) is shown


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("task", JUDGED)
def test_a_hospital_without_validation_patients_gets_a_page(task: str, office: Any) -> None:
    study = small(task)
    nobody = judge_of(study).scores(
        study, np.empty((0, 0)), np.empty(0, np.int64), np.empty(0, np.int64), {}
    )
    taken_part(office, study, nobody)
    done = evaluate(office)
    assert done.exit_code == 0, done.output
    assert facts(office)["patients"] == 0


def test_a_class_name_is_text_on_the_page(office: Any, small_study: MakeStudy) -> None:
    study = small_study()
    images = study.images.model_copy(update={"classes": ("<b>no</b>", "<script>yes")})
    study = NoduleStudy.model_validate({**study.model_dump(), "images": images.model_dump()})
    office.answer(study, approved_studies=(study.digest,))
    approve(office.site, study)
    keep_scores(office.state, study.digest, 0, Binary().columns(kept(SEED)))
    assert evaluate(office).exit_code == 0
    text = (office.folder / PAGE).read_text()
    assert "<script" not in text
    assert "<b>no" not in text
    assert "&lt;script&gt;yes" in text


def test_which_study_must_be_clear(
    office: Any, judged: NoduleStudy, small_study: MakeStudy
) -> None:
    other = small_study(north=11, west=4)
    office.answer(other, approved_studies=(judged.digest, other.digest))
    assert evaluate(office, "--study", other.digest).exit_code == 2  # it has no scores
    assert evaluate(office).exit_code == 0
    keep_scores(office.state, other.digest, 0, Binary().columns(kept(SEED)))
    refused = evaluate(office)
    assert refused.exit_code == 2
    assert judged.digest in refused.output
    assert other.digest in refused.output
    assert evaluate(office, "--study", other.digest).exit_code == 0
    assert facts(office)["digest"] == other.digest


def test_what_is_missing_or_damaged_is_refused(office: Any, small_study: MakeStudy) -> None:
    nothing = evaluate(office)
    assert nothing.exit_code == 2
    assert nothing.output.startswith("E-RUN: expected scores of one study and found 0")
    study = small_study()
    office.answer(study)
    keep_scores(office.state, study.digest, 0, Binary().columns(kept(SEED)))
    scores_file(office.state, study.digest, 0).write_bytes(b"PK\x03\x04")
    damaged = evaluate(office)
    assert damaged.exit_code == 2
    assert damaged.output.startswith("E-DATA")
    no_folder = evaluate(office, "--out", str(Path(office.folder) / "no"))
    assert no_folder.exit_code == 2
    assert "make it, or choose another --out" in no_folder.output


@pytest.mark.slow
def test_looking_loads_no_learning_and_no_network_code(office: Any, judged: NoduleStudy) -> None:
    program = (
        "import sys\n"
        "from client.__main__ import main\n"
        "try:\n    main()\n"
        "finally:\n    print({'torch', 'flwr', 'opacus', 'httpx'} & sys.modules.keys())"
    )
    words = ["evaluate", "--site", office.site, "--out", office.folder, "--study", judged.study]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"
