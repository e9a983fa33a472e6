"""The privacy statement: every item of the claim, from what ran, against an accountant of its own."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dp_accounting.pld import privacy_loss_distribution

from client.ledger import Ledger
from client.statement import Statement, statement_of
from client.statement_text import JSON, MARKDOWN, markdown, rounded_up, write_statement
from common.protocol import StudyProtocol
from common.tasks import bins_of
from tests.packing import answered
from tests.tasks import TASKS, small

MakeStudy = Callable[..., StudyProtocol]


def stated(office: Any, study: str | None = None) -> Statement:
    with Ledger.read(office.state) as ledger:
        return statement_of(ledger, "north", study)


def independent(sigma: float, q: float, steps: int, delta: float = 1e-5) -> float:
    """dp-accounting's PLD, asked directly: not through this project's accounting."""
    one = privacy_loss_distribution.from_gaussian_mechanism(sigma, sampling_prob=q)
    epsilon: float = one.self_compose(steps).get_epsilon_for_delta(delta)
    return epsilon


@pytest.mark.slow
def test_epsilon_is_of_all_rounds_together_sealed_or_not(
    office: Any, small_study: MakeStudy
) -> None:
    office.answer(small_study(), rounds=3)
    office.answer(small_study(), rounds=1, sealed=False)
    (study,) = stated(office).studies
    assert (study.reserved, study.answered) == (4, 3)
    training, validation = study.accounts["training"], study.accounts["validation"]
    assert training.mechanisms == ((1.5, 0.25, 32),)
    assert validation.mechanisms == ((5.0, 1.0, 4),)
    assert training.epsilon.value == pytest.approx(independent(1.5, 0.25, 32), rel=0.01)
    assert validation.epsilon.value == pytest.approx(independent(5.0, 1.0, 4), rel=0.01)
    assert training.epsilon.accountant != training.epsilon.second.accountant


@pytest.mark.slow
def test_for_life_is_over_all_studies_and_a_study_is_its_own(
    office: Any, small_study: MakeStudy
) -> None:
    first, second = small_study(), small_study(north=11, west=4)
    office.answer(first, rounds=2)
    office.answer(second, rounds=3, max_epsilon=25.0)
    both, one = stated(office), stated(office, second.digest)
    assert [s.digest for s in both.studies] == [first.digest, second.digest]
    assert [s.digest for s in one.studies] == [second.digest]
    assert one.for_life == both.for_life
    life = both.for_life["training"].value
    assert life == pytest.approx(independent(1.5, 0.25, 40), rel=0.01)
    parts = [s.accounts["training"].epsilon.value for s in both.studies]
    assert max(parts) < life < sum(parts)
    assert one.cap == 25.0  # of the last reservation


def test_it_says_what_ran_and_not_what_is_configured(office: Any, small_study: MakeStudy) -> None:
    study = small_study()
    office.answer(study, rounds=2, rehearsal=True, noise_seed=7, engine="opacus")
    before = markdown([stated(office)])
    office.write_policy(max_epsilon=1.0, engine="book-keeping")  # tidied up afterwards
    assert markdown([stated(office)]) == before
    assert "TEST MODE: NOTHING HERE IS PRIVATE" in before
    assert "engine opacus" in before
    office.answer(study, rounds=1)  # a setting that changed in the middle is listed in both forms
    assert "engine opacus, then book-keeping" in markdown([stated(office)])
    assert "TEST MODE: NOTHING HERE IS PRIVATE" in markdown([stated(office)])


def test_every_item_of_the_claim_is_answered(office: Any, small_study: MakeStudy) -> None:
    office.answer(small_study(), rounds=3)
    text = markdown([stated(office)])
    study = stated(office).studies[0]
    training = study.accounts["training"].epsilon
    for item in (
        "unit | the patient",
        "neighbouring relation | add or remove one patient",
        f"epsilon {rounded_up(training.value)} at delta 1e-05",
        "| north | training | 1.5000 | 0.25 | 24 | 10 |",  # sigma, q, T, nominal patients
        "| north | validation | 5.0000 | 1 | 3 | - |",
        "clipped to norm C = 1.0",
        "sampling really used | training: Poisson by patient at rate q",
        f"{training.accountant} {rounded_up(training.value)}, {training.second.accountant}",
        "composition | all requests of this study",
        "## For life",
        "trust model | local",
        "noise source | operating system |",
        "## Every release, and whether the guarantee covers it",
        "## Public by assumption",
        "## What is not protected",
        "validation patients (0.2 of all",
        "delta | 1e-05; a protocol may ask for a tenth of 1 / nominal patients at the most",
        "but for what is listed below as not covered, is (epsilon, delta)-differentially private",
        study.digest,
        stated(office).head,
        "## Signed",
    ):
        assert item in text, item
    for word in ("rehearsal", "TEST MODE", "NO DIFFERENTIAL PRIVACY", "void"):
        assert word not in text, word


@pytest.mark.parametrize("task", TASKS)
def test_a_validation_account_is_stated_where_something_is_judged(task: str, office: Any) -> None:
    study = answered(office, small(task))
    text = markdown([stated(office)])
    own = text.split("## For life")[0]
    bins = bins_of(study)
    assert ("| north | validation |" in own) is (bins > 0)
    assert (f"2 x {bins} cells, to which a patient adds at most 1 in L2" in own) is (bins > 0)
    assert ("none: there is nothing to judge" in own) is (bins == 0)
    assert ("Validation: all of them in every evaluation" in own) is (bins > 0)
    assert ("are never trained on" in own) is (bins > 0)
    assert ("(0.34 of all, " in own) is True
    assert not re.search(r"(?i)\b(images?|CT|scans?)\b", own)
    releases = text.split("## Every release")[1].split("\n## ")[0]
    assert ("histogram" in releases) is (bins > 0)


def test_every_reply_has_its_row_among_the_releases(office: Any, small_study: MakeStudy) -> None:
    """Header fields of the replies, by name: a new one is a release that nobody has judged yet."""
    from common.messages import EvaluateReply, HelloReply, Refusal, TrainReply

    fields = {name for kind in (TrainReply, EvaluateReply) for name in kind.model_fields}
    judged = {
        "kind": "public",
        "names": "length, names and shapes",
        "arrays": "the update of each round",
        "study": "public",
        "round": "public",
        "request": "public",
        "histogram": "the histogram of each evaluation",
        "noise_multiplier": "the noise multipliers",
        "histogram_noise": "the noise multipliers",
        "ledger_head": "two hashes of the ledger",
        "previous_head": "two hashes of the ledger",
        "policy": "a hash for the site policy",
        "suppressed": "whether a histogram is suppressed",
    }
    assert fields == set(judged)
    assert set(Refusal.model_fields) == {"kind", "names", "arrays", "code", "text"}
    assert set(HelloReply.model_fields) == {"kind", "names", "arrays", "hospital"}
    office.answer(small_study())
    text = markdown([stated(office)])
    for row in (*judged.values(), "refusal codes", "the hello"):
        assert row in text, row
    assert "| NOT covered |" in text


def test_no_differential_privacy_is_said_in_big_words(
    office: Any, small_study: MakeStudy, without_noise: Any, tmp_path: Path
) -> None:
    office.answer(small_study(mechanism="none"), spends=without_noise, rehearsal=True)
    write_statement(tmp_path, [stated(office)], rehearsal=True)
    text = (tmp_path / MARKDOWN).read_text()
    assert "**NO DIFFERENTIAL PRIVACY**" in text
    assert "This study gives no privacy guarantee." in text
    assert "differentially private.\n" not in text
    assert "none (something was released without noise)" in text
    assert "This was a rehearsal." in text
    (hospital,) = json.loads((tmp_path / JSON).read_text())["hospitals"]
    assert hospital["for_life"]["training"]["epsilon"] is None
    assert hospital["studies"][0]["private"] is False


def test_test_mode_of_another_study_voids_the_guarantee_for_life(
    office: Any, small_study: MakeStudy
) -> None:
    office.answer(small_study(), rehearsal=True, noise_seed=1)
    second = small_study(north=11, west=4)
    office.answer(second)
    text = markdown([stated(office, second.digest)])
    own, life = text.split("## For life")
    assert "(void)" not in own
    assert life.count("(void)") == 2


def test_json_has_the_same_facts(office: Any, small_study: MakeStudy, tmp_path: Path) -> None:
    office.answer(small_study(), rounds=2)
    write_statement(tmp_path, [stated(office)])
    for name in (MARKDOWN, JSON):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
    facts = json.loads((tmp_path / JSON).read_text())
    assert facts["rehearsal"] is False
    (hospital,) = facts["hospitals"]
    (study,) = hospital["studies"]
    training = study["accounts"]["training"]
    assert training["epsilon"] == pytest.approx(independent(1.5, 0.25, 16), rel=0.01)
    assert training["mechanisms"] == [{"noise_multiplier": 1.5, "sampling_rate": 0.25, "steps": 16}]
    assert study["terms"]["clipping-norm"] == [1.0]
    assert hospital["ledger"]["entries"] == 5
    text = (tmp_path / MARKDOWN).read_text()
    for release in facts["releases"]:
        assert f"| {release['release']} | {release['covered']} |" in text
    for sentence in facts["not_protected"] + facts["public_by_assumption"]:
        assert f"- {sentence}\n" in text


def test_several_hospitals_share_one_section_a_study(office: Any, small_study: MakeStudy) -> None:
    office.answer(small_study(), rounds=2)
    with Ledger.read(office.state) as ledger:
        north, west = (statement_of(ledger, name) for name in ("north", "west"))
    text = markdown([north, west], rehearsal=True)
    assert text.count("## Study 'small'") == 1
    assert text.count("| west | training | epsilon") == 2  # in the study, and for life
    assert "exact figures, curves and comparisons" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 8
    for table in tables:  # each is a rectangle
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_an_empty_ledger_has_nothing_to_state(office: Any) -> None:
    statement = stated(office)
    assert statement.studies == ()
    assert statement.cap is None
    assert "Nothing was released" in markdown([statement])


def test_an_epsilon_is_never_stated_below_what_it_is() -> None:
    assert [rounded_up(x) for x in (0.0, 7.9840001, 7.984, 8.0, float("inf"))] == [
        "0.000",
        "7.985",
        "7.984",
        "8.000",
        "infinite",
    ]
