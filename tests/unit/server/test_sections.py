"""Every task's part of report, summary and papers, on made scores: all is said, nothing of another task."""

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from sklearn.metrics import accuracy_score, average_precision_score

from common.errors import ModelError
from common.model_card import MODEL_CARD
from common.protocol import StudyProtocol
from common.tasks import bins_of, judge_of, task_named
from common.tasks.nodule_classification.card import load_card
from common.tasks.risk.study import RiskStudy
from server.checklist import CHECKLIST
from server.facts import HospitalFacts, PooledFacts, ReportFacts, RoundFacts
from server.gain import gains, pooled_against
from server.model_card_text import MODEL_CARD_TEXT
from server.report import write_report
from server.sections import part_of
from simulation.summary import print_summary
from simulation.summary_json import as_json
from tests.tasks import TASKS, small
from tests.unit.server.test_model_card import papers
from tests.unit.server.test_report import Balance, text_of

SEED = 20_261_126
JUDGED = tuple(name for name in TASKS if task_named(name).judge is not None)
NOISE = 2.0
# Words of images, which no other study is to be told in. "sex, age, ethnicity or device" is for all.
OF_IMAGES = (
    r"\b(image|images|pixel|pixels|CT|scan|scans|scanner|scanners|nodule|nodules|HU|CLAIM)\b"
)


def scores(task: str, rng: np.random.Generator, patients: int, skill: float) -> Any:
    """Exact scores of a model, by its judge; as good as `skill` makes them."""
    protocol = small(task)
    judge, truth = judge_of(protocol), rng.normal(size=patients)
    said = 1 / (1 + np.exp(-(skill * truth + rng.normal(size=patients))))
    patient = np.arange(patients)
    if judge.key == "auroc":
        labels = (truth + rng.normal(size=patients) > 0).astype(np.int64)
        return judge.scores(protocol, said[:, None], labels, patient, {})
    survival = (1 - said)[:, None] ** np.linspace(0.25, 1, 4)
    time = 400 * rng.exponential(size=patients) * np.exp(-truth)
    labels = np.stack([time, rng.random(patients) < 0.7], axis=1)
    outputs = np.concatenate([said[:, None], survival], axis=1)
    return judge.scores(protocol, outputs, labels, patient, {})


def facts_of(task: str, backend: str = "local") -> ReportFacts:
    """A finished run of two hospitals: what a rehearsal knows, or what a deployment does."""
    protocol, rng = small(task), np.random.default_rng(SEED)
    rounds = tuple(RoundFacts(n, 1.0, ("north", "west")) for n in (1, 2, 3))
    plain = ReportFacts(
        protocol=protocol,
        backend=backend,
        stopped="finished",
        rounds=rounds,
        hospitals=tuple(
            HospitalFacts(h.name, h.nominal_patients, epsilon=3.0, delta=1e-5)
            for h in protocol.hospitals
        ),
        noise_seeded=False,
        judging=RoundFacts(4, 1.0, ("north", "west")),
    )
    if task not in JUDGED:
        return plain
    judge = judge_of(protocol)
    own = {name: scores(task, rng, n, 2.0) for name, n in (("north", 120), ("west", 80))}
    together = judge.concatenate(list(own.values()))
    cells = judge.histogram(protocol, together)
    assert cells.shape == (2, bins_of(protocol))
    noised = cells + NOISE * rng.normal(size=cells.shape)
    found = judge.read(protocol, noised, NOISE)
    assert found is not None
    released = replace(
        plain,
        rounds=tuple(replace(r, released_discrimination=found.discrimination) for r in rounds),
        released=found,
        judged_after=3,
    )
    if backend == "deployment":
        return released
    worse = {name: worsened(task, own[name]) for name in own}
    return replace(
        released,
        rounds=tuple(replace(r, discrimination=0.8, interval=(0.7, 0.9)) for r in rounds),
        hospitals=tuple(
            replace(
                h,
                validation_patients=judge.patients(own[h.name]),
                discrimination=judge.discrimination(own[h.name]),
                interval=judge.interval(own[h.name]),
                local_only=judge.discrimination(worse[h.name]),
                local_only_pooled=0.61,
                scores=own[h.name],
            )
            for h in released.hospitals
        ),
        zero_shot=0.5,
        pooled=PooledFacts(
            judge.discrimination(together),
            judge.interval(together),
            judge.read(protocol, cells, 0.0),
            together,
        ),
        gains=gains(judge, own, dict.fromkeys(own, worse)),
        pooled_baseline=pooled_against(judge, own, worse),
    )


def worsened(task: str, found: Any) -> Any:
    """The scores of a model that says the same of all these patients."""
    judge = judge_of(small(task))
    name = "score" if judge.key == "auroc" else "risk"
    columns = {**judge.columns(found), name: np.full(judge.patients(found), 0.5)}
    columns.pop("survival", None)
    return judge.of_columns(columns)


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words only: what is drawn is looked at by the tests of each picture, and takes half a second."""
    monkeypatch.setattr(Figure, "savefig", lambda _, buffer, **__: buffer.write("<svg></svg>"))


@pytest.mark.slow
@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backend", ["local", "deployment"])
def test_the_report_is_of_this_task(task: str, backend: str, tmp_path: Path) -> None:
    facts = facts_of(task, backend)
    html = write_report(tmp_path, facts).read_text()
    parser = Balance()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    text = unescape(text_of(html))
    assert "None" not in text
    assert "nan" not in text.split()
    assert task_named(task).purpose(facts.protocol) in text
    assert ("would not leave a hospital" in text) == (facts.pooled is not None)
    if task != "nodule-classification":
        assert not re.findall(OF_IMAGES, text)
    if facts.figure is None:
        assert "Nothing is judged in this study" in text
        assert "AUROC" not in text
        return
    assert facts.figure.casefold() in text.casefold()
    assert ("AUROC" in text) == (facts.figure == "AUROC")
    if facts.pooled is not None:
        assert f"{facts.pooled.discrimination:.3f}" in text
        assert "What joining gained" in text
        assert "Gain from joining: north and west." in text


@pytest.mark.parametrize("task", TASKS)
def test_the_papers_are_of_this_task(task: str, tmp_path: Path) -> None:
    facts = facts_of(task, "deployment")
    written = papers(tmp_path, facts)
    protocol, card = facts.protocol, json.loads(written[MODEL_CARD])
    assert card["task"] == task
    own = type(protocol).model_fields.keys() - StudyProtocol.model_fields.keys()
    for name in own:
        table = getattr(protocol, name)
        if table is not None:
            assert card[name] == table.model_dump(by_alias=True, exclude_none=True, mode="json")
    assert ("judged" in card) == (task in JUDGED)
    words = task_named(task).words(protocol)
    assert ("## CLAIM" in written[CHECKLIST]) == bool(words.imaging)
    assert written[CHECKLIST].count("\n## ") == 1 + bool(words.imaging)
    if task == "nodule-classification":
        assert load_card(tmp_path / MODEL_CARD).to_json() == written[MODEL_CARD]
        return
    for paper in (MODEL_CARD_TEXT, CHECKLIST):
        assert not re.findall(OF_IMAGES, written[paper]), paper
    with pytest.raises(ModelError, match=f"found one of '{task}'") as refused:
        load_card(tmp_path / MODEL_CARD)
    assert "intramural-client predict" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("task", TASKS)
def test_the_summary_has_the_judges_name_for_its_figures(task: str, tmp_path: Path) -> None:
    facts = facts_of(task)
    found = as_json(tmp_path, facts)
    json.dumps(found, allow_nan=False)
    north = found["hospitals"]["north"]
    console = Console(record=True, width=300)
    print_summary(console, tmp_path, facts)
    said = console.export_text()
    if task not in JUDGED:
        assert not {"pooled", "zero_shot", "pooled_baseline"} & found.keys()
        assert not [key for key in north if "only" in key]
        assert "alone" not in said
        return
    assert facts.pooled is not None
    assert facts.released is not None
    key = judge_of(facts.protocol).key
    assert found["pooled"][key] == facts.pooled.discrimination
    assert found["pooled"][f"released_{key}"] == facts.released.discrimination.value
    assert found["zero_shot"] == {key: 0.5}
    assert found["pooled_baseline"][key] == 0.5
    assert (north[key], north[f"local_only_{key}"]) == (facts.hospitals[0].discrimination, 0.5)
    assert (north[f"local_only_pooled_{key}"], north[f"pooled_baseline_{key}"]) == (0.61, 0.5)
    assert f"pooled {facts.figure} {facts.pooled.discrimination:.3f}" in said
    assert ("predict" in said) == (task == "nodule-classification")


def test_the_keys_of_a_nodule_study_are_the_published_ones(tmp_path: Path) -> None:
    found = as_json(tmp_path, facts_of("nodule-classification"))
    read = {"auroc", "auroc_ci", "prevalence", "brier", "calibration_error", "temperature"}
    read |= {"temperature_ci", "threshold", "sensitivity", "sensitivity_ci", "specificity"}
    read |= {"specificity_ci"}
    assert found["pooled"].keys() == (
        {"auroc", "auroc_ci", "average_precision", "judged_after_round"}
        | {f"released_{key}" for key in read}
        | {f"exact_by_patient_{key}" for key in read}
    )
    assert found["pooled_baseline"].keys() == {
        *("auroc", "auroc_ci", "federated_less_pooled", "federated_less_pooled_ci")
    }
    assert {key for key in found["hospitals"]["north"] if "auroc" in key} == {
        *("auroc", "auroc_ci", "local_only_auroc", "local_only_pooled_auroc"),
        "pooled_baseline_auroc",
    }


@pytest.mark.usefixtures("_undrawn")
def test_figures_of_two_classes_are_scikit_learns(tmp_path: Path) -> None:
    facts = facts_of("risk")
    assert facts.pooled is not None
    summary, exact = as_json(tmp_path, facts), facts.pooled.scores
    found = summary["pooled"]
    assert found["average_precision"] == pytest.approx(
        average_precision_score(exact.label, exact.score)
    )
    accuracy = accuracy_score(exact.label, exact.score >= 0.5)
    assert found["accuracy"] == pytest.approx(accuracy)
    # One record a patient and an edge of a bin at 0.5: without noise the histogram says the same.
    assert found["exact_by_patient_accuracy"] == pytest.approx(accuracy)
    low, high = found["released_accuracy_ci"]
    assert low < accuracy < high
    own = [hospital["accuracy"] for hospital in summary["hospitals"].values()]
    text = text_of(part_of(facts.protocol).sections(facts)["Accuracy at a score of 0.5"])
    for value in (accuracy, *own, np.mean(own)):
        assert f"{value:.3f}" in text


@pytest.mark.slow
@pytest.mark.usefixtures("_undrawn")
def test_the_clinician_reads_the_classes_of_the_protocol() -> None:
    facts = facts_of("risk")
    assert facts.pooled is not None
    assert isinstance(facts.protocol, RiskStudy)
    records = facts.protocol.records.model_copy(update={"classes": ("well", "<i>ill")})
    hostile = replace(facts, protocol=facts.protocol.model_copy(update={"records": records}))
    html = part_of(facts.protocol).sections(hostile)["For the clinician"]
    assert "<i>ill" not in html
    assert "“&lt;i&gt;ill”" in html
    assert f"{100 * (facts.pooled.discrimination or 0):.0f} times in 100" in html
    one_class = judge_of(facts.protocol).scores(
        facts.protocol, np.array([[0.2]]), np.array([1]), np.array([0]), {}
    )
    alone = replace(hostile, pooled=PooledFacts(None, None, scores=one_class))
    assert "of one class" in part_of(facts.protocol).sections(alone)["For the clinician"]


def test_a_column_of_a_table_is_one_line_of_the_settings(tmp_path: Path) -> None:
    text = text_of(write_report(tmp_path, facts_of("risk", "deployment")).read_text())
    assert "records.columns: age kind number; unit years; range 20.0, 90.0; missing refuse" in text
    assert "records.columns: pain kind category; categories none, typical, other" in text
