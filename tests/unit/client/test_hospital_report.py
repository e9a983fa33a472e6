"""`intramural-client report`: the hospital's own page says what its books and its scores say, and no more."""

import html
import re
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from client.__main__ import app
from client.approval import APPROVED, approve
from client.egress_log import LOG, EgressLog
from client.evidence import keep_scores, scores_file
from client.hospital_report.gathering import OwnReport, gather
from client.hospital_report.page import PAGE, page
from client.ledger import Ledger, Spend
from client.policy import load_policy
from client.privacy.accounting import epsilon_of
from client.statement_text import rounded_up
from common.judging.binary import Binary
from common.metrics import Scores
from common.tasks import USUAL, task_of
from common.tasks.nodule_classification.study import NoduleStudy
from tests.packing import answered
from tests.phantom_patients import scores as phantom_scores
from tests.scored import cohort
from tests.tasks import TASKS, small

SEED = 20_261_126

MakeStudy = Callable[..., NoduleStudy]


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves are the business of tests/unit/common/clinical; bands and pictures take seconds."""
    for name in ("page.discrimination_svg", "calibration_page.decision_svg"):
        monkeypatch.setattr(f"common.clinical.{name}", lambda *_: "<svg></svg>")


def report(office: Any, *more: str) -> Result:
    words = ["report", "--site", str(office.site), "--out", str(office.folder), *more]
    return CliRunner().invoke(app, words, env={"COLUMNS": "250"})


def own(office: Any, study: str | None = None) -> OwnReport:
    policy = load_policy(office.site)
    with Ledger.read(policy.state) as ledger:
        return gather(office.site, policy, ledger, study)


def shown(document: str) -> str:
    """What a reader sees: no style, no tags, blanks joined."""
    seen = re.sub(r"<style>.*?</style>", "", document, flags=re.S)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", seen)))


def text_of(office: Any) -> str:
    return shown((office.folder / PAGE).read_text())


class Strict(HTMLParser):
    """Every tag closed where it was opened, nothing that runs, nothing that is fetched."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(document)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object", "form", "a")
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("src", "href") or (value or "").startswith("data:")
        if tag not in ("meta", "img", "rect", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag


@pytest.fixture
def judged(office: Any, small_study: MakeStudy) -> tuple[NoduleStudy, Scores]:
    """A study of which the office answered two rounds and judged the models after rounds 0 and 2."""
    study = small_study()
    office.answer(study, rounds=2, approved_studies=(study.digest,))
    approve(office.site, study)
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    keep_scores(office.state, study.digest, 0, Binary().columns(cohort(rng, 30)))
    newest = cohort(rng, 40)
    keep_scores(office.state, study.digest, 2, Binary().columns(newest))
    return study, newest


@pytest.mark.slow
def test_the_page_shows_the_figures_of_ledger_log_and_scores(
    office: Any, judged: tuple[NoduleStudy, Scores]
) -> None:
    study, scores = judged
    done = report(office)
    assert done.exit_code == 0, done.output
    assert f"{office.folder / PAGE}, for this hospital alone: exact figures" in done.output
    assert (office.folder / "privacy-statement.md").is_file()
    path = office.folder / PAGE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document, text = path.read_text(), text_of(office)
    Strict(document)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in document
    training = epsilon_of([Spend(1.5, 0.25, 16)], 1e-5).value
    validation = epsilon_of([Spend(5.0, 1.0, 2)], 1e-5).value
    for spent in (training, validation):
        left = int(1000 * (30 - spent)) / 1000
        assert f" {rounded_up(spent)} 1e-05 30 {left:.3f} " in text
    assert f"training patients: epsilon {rounded_up(training)} at delta 1e-05" in text
    area = roc_auc_score(scores.label, scores.score)
    assert f"AUROC here, small {area:.3f} 95 %: " in text
    assert f"after 2 rounds, on {scores.patients} validation patients, exact" in text
    assert f"the model gives the first the higher score {100 * area:.0f} times in 100" in text
    released = [e for e in EgressLog.read(office.state) if e.kind == "released"]
    assert f"2 messages of {sum(e.body['bytes'] for e in released)} bytes left" in text
    for number, entry in enumerate(released, start=1):
        day = entry.time[:19].replace("T", " ")
        assert re.search(
            rf" {number} received model judged and trained {day[:10]} .* {day} 7 ", text
        )
    assert "question to tell nodule from non-nodule on lung-CT images of 16 x 16 pixels" in text
    assert "2 of 2 requests answered, 3 rounds and the final evaluation planned" in text
    assert study.digest in text
    assert "books verified" in text


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_page_in_its_own_words(task: str, office: Any) -> None:
    print(f"seed {SEED}")
    study = answered(office, small(task))
    kind, judge = task_of(study), task_of(study).judge
    value = None
    if judge is not None:
        scores = phantom_scores(study, office.folder / "data", 90, SEED)
        keep_scores(office.state, study.digest, 2, judge.columns(scores))
        value = judge.discrimination(scores)
    assert report(office).exit_code == 0
    Strict((office.folder / PAGE).read_text())
    text = text_of(office)
    truth = f" taken for the truth {kind.words(study).outcome}" if judge is not None else ""
    assert f"question {kind.purpose(study)}{truth} model " in text
    assert (f"here, {study.study} {value or 0:.3f} 95 %: " in text) is (judge is not None)
    assert ("and the final evaluation planned" in text) is (judge is not None)
    assert ("there is no model to be judged" in text) is (judge is None)
    assert ("intramural-client predict" in text) is (task == USUAL)
    if task != USUAL:
        # What no epsilon covers is the same for all tasks.
        assert not re.search(r"(?i)\b(images?|pixels?|CTs?|scans?|scanners?|nodules?)\b", text)


def test_a_hospital_without_scores_gets_its_page(office: Any, small_study: MakeStudy) -> None:
    office.answer(small_study(), rounds=1)
    assert report(office).exit_code == 0
    text = text_of(office)
    Strict((office.folder / PAGE).read_text())
    assert "no model of this study was judged on your patients yet" in text
    assert "not kept here, or changed since" in text  # the protocol's text
    assert "AUROC" not in text
    assert "1 of 1 requests answered" in text


def test_a_hospital_that_did_nothing_yet_gets_its_page(office: Any) -> None:
    assert report(office).exit_code == 0
    text = text_of(office)
    Strict((office.folder / PAGE).read_text())
    for said in (
        "What this hospital did in no study so far",
        "Nothing is spent: the ledger holds no reservation.",
        "0 messages of 0 bytes left this hospital",
        "intramural-client check",
    ):
        assert said in text


@pytest.mark.slow
def test_several_studies_stand_one_after_the_other_and_one_can_be_chosen(
    office: Any, small_study: MakeStudy, judged: tuple[NoduleStudy, Scores]
) -> None:
    first, _ = judged
    other = small_study(north=10, west=5).model_copy(update={"study": "another"})
    both = (first.digest, other.digest)
    office.answer(other, rounds=1, approved_studies=both)
    assert report(office).exit_code == 0
    text = text_of(office)
    assert "What this hospital did in “small”, “another”," in text
    assert text.index("Study “small”") < text.index("Study “another”")
    assert "3 messages of " in text
    for_life = rounded_up(epsilon_of([Spend(1.5, 0.25, 24)], 1e-5).value)
    assert f"Epsilon spent, training patients {for_life} of 30 for life" in text
    assert report(office, "--study", "another").exit_code == 0
    text = text_of(office)
    assert "Study “small”" not in text
    assert "3 messages of 21 bytes left this hospital, 2 of them to studies that are not in" in text
    assert f"Epsilon spent, training patients {for_life} of 30 for life" in text  # of their life


def test_books_that_do_not_agree_are_said_in_red(office: Any, small_study: MakeStudy) -> None:
    office.answer(small_study(), rounds=2)
    log = office.state / LOG
    log.write_text(log.read_text().replace('"bytes":7', '"bytes":8', 1))
    assert report(office).exit_code == 0
    text = text_of(office)
    assert "The books do not agree: expected an unbroken chain" in text
    assert "books not verified" in text
    assert "Find out why the books do not agree" in text
    assert "not known to have left" in text
    assert "Not known: the egress log cannot be read." in text
    assert "0 messages" not in text


def test_an_edited_policy_is_said_and_a_request_that_was_never_answered(
    office: Any, small_study: MakeStudy
) -> None:
    office.answer(small_study(), rounds=1)
    office.answer(small_study(), rounds=1, sealed=False)
    assert report(office).exit_code == 0
    text = text_of(office)
    assert "requests of small that are reserved and not answered: 1." in text
    assert " not answered not known to have left – " in text
    office.site.write_text(office.site.read_text() + "# a byte\n")
    assert report(office).exit_code == 0
    assert "The books do not agree: expected in" in text_of(office)


def test_a_budget_that_is_nearly_used_up_is_said(office: Any, small_study: MakeStudy) -> None:
    spent = epsilon_of([Spend(1.5, 0.25, 8)], 1e-5).value
    office.answer(small_study(), rounds=1, max_epsilon=round(1.05 * spent, 3))
    assert report(office).exit_code == 0
    text = text_of(office)
    assert "The budget of the training patients is nearly used up (" in text
    assert "The budget of the validation patients" not in text


def test_without_privacy_nothing_is_said_to_be_noised(office: Any, small_study: MakeStudy) -> None:
    study = small_study(mechanism="none")
    bare: dict[Any, Spend] = {"training": Spend(0.0, 0.25, 8), "validation": Spend(0.0, 1.0, 1)}
    office.answer(study, rounds=1, spends=bare, rehearsal=True)
    assert report(office).exit_code == 0
    text = text_of(office)
    Strict((office.folder / PAGE).read_text())
    assert "Epsilon spent, training patients infinite of 30 for life" in text
    assert "The budget of the training patients is nearly used up (0.000 left)" in text
    assert "the noised" not in text
    assert "the update and the histogram of a study without differential privacy" in text


def test_a_damaged_text_is_said_and_the_statement_is_written(
    office: Any, judged: tuple[NoduleStudy, Scores]
) -> None:
    study, _ = judged
    (office.state / APPROVED / f"{study.digest}.toml").write_text("no protocol")
    assert report(office).exit_code == 0
    text = text_of(office)
    assert "not kept here, or changed since" in text
    assert "AUROC here" not in text
    assert (office.folder / "privacy-statement.md").is_file()


def test_damaged_scores_are_said(office: Any, small_study: MakeStudy) -> None:
    study = small_study()
    office.answer(study, rounds=1)
    path = scores_file(office.state, study.digest, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no archive")
    assert report(office).exit_code == 0
    assert "found a file that cannot be read" in text_of(office)


@pytest.mark.slow
def test_words_of_the_protocol_are_defused(office: Any, small_study: MakeStudy) -> None:
    nasty = "<script>alert(1)</script>"
    study = small_study()
    images = study.images.model_copy(update={"classes": ("<b>no", nasty)})
    study = study.model_copy(update={"images": images})
    office.answer(study, rounds=1, approved_studies=(study.digest,))
    approve(office.site, study)
    keep_scores(
        office.state, study.digest, 1, Binary().columns(cohort(np.random.default_rng(SEED), 30))
    )
    document = page(own(office), datetime(2026, 3, 14, tzinfo=UTC))
    Strict(document)
    assert shown(document).count(nasty) > 3
    assert "on 2026-03-14 00:00:00 UTC" in shown(document)


def test_nothing_is_changed_in_the_state_folder(office: Any, small_study: MakeStudy) -> None:
    office.answer(small_study(), rounds=1)

    def kept() -> dict[Path, bytes]:
        files = (p for p in office.state.rglob("*") if p.is_file())
        return {p: p.read_bytes() for p in files if not p.name.endswith(("-shm", "-wal"))}

    before = kept()
    assert report(office).exit_code == 0
    assert kept() == before
