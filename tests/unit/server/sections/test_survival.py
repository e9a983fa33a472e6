"""What a report says of a survival study: exact beside released, and in words what is not known."""

import base64
import re
from dataclasses import replace

import numpy as np
import pytest

from common.histogram import Interval
from common.model_card import Judgement
from common.survival.evaluation import evaluate
from common.survival.reading import SurvivalReading, read_table
from common.survival.scores import SurvivalScores
from common.survival.table import survival_table
from common.tasks.survival.study import SurvivalStudy
from server.facts import UNREADABLE, HospitalFacts, PooledFacts, ReportFacts, RoundFacts
from server.sections import part_of
from server.sections.survival import SurvivalJudgement
from tests.unit.common.survival.populations import EDGES, SEED, proportional

NAMES = ("north", "south")


def study(model: str = "proportional-hazards", mechanism: str = "dp-sgd") -> SurvivalStudy:
    return SurvivalStudy.model_validate(
        {
            "study": "survival",
            "task": "survival",
            "rounds": 1,
            "records": {
                "columns": [{"name": "age", "kind": "number", "unit": "years", "range": [0, 120]}]
            },
            "survival": {"edges": list(EDGES), "unit": "years"},
            "model": {"name": model},
            "training": {
                "steps-per-round": 1,
                "learning-rate": 0.5,
                "sampling-rate": 0.5,
                "views-per-patient": 1,
            },
            "privacy": {"mechanism": mechanism},
            "participation": {"quorum": 1},
            "hospitals": [{"name": name, "nominal-patients": 100} for name in NAMES],
        }
    )


@pytest.fixture(scope="module")
def scores() -> SurvivalScores:
    return proportional(np.random.default_rng(SEED), 300)


def facts_of(
    scores: SurvivalScores | None,
    released: SurvivalReading | None,
    *,
    model: str = "proportional-hazards",
    mechanism: str = "dp-sgd",
) -> ReportFacts:
    protocol = study(model, mechanism)
    pooled = None
    if scores is not None:
        table = survival_table(scores, EDGES)
        unnoised = read_table(table, 0.0, EDGES, ranks_only=protocol.ranks_only)
        pooled = PooledFacts(0.75, (0.7, 0.8), unnoised, scores)
    return ReportFacts(
        protocol=protocol,
        backend="local" if scores is not None else "deployment",
        stopped="all rounds were done",
        rounds=(RoundFacts(round=1, seconds=1.0, answered=NAMES),),
        hospitals=tuple(
            HospitalFacts(name=n, nominal_patients=100, validation_noise=1.0) for n in NAMES
        ),
        noise_seeded=False,
        pooled=pooled,
        released=released,
        judging=RoundFacts(round=1, seconds=1.0, answered=NAMES),
    )


def noised(scores: SurvivalScores, noise: float = 1.0) -> SurvivalReading | None:
    table = survival_table(scores, EDGES)
    return read_table(
        table + np.random.default_rng(SEED).normal(scale=noise, size=table.shape), noise, EDGES
    )


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def worded(value: float, interval: Interval, digits: int = 3) -> str:
    return f"{value:.{digits}f} ({interval[0]:.{digits}f}–{interval[1]:.{digits}f})"


def test_exact_figures_stand_beside_the_released_ones(scores: SurvivalScores) -> None:
    found = noised(scores)
    assert found is not None
    facts = facts_of(scores, found)
    sections = part_of(facts.protocol).sections(facts)
    assert list(sections) == [
        "Ranking patients by risk",
        "Survival by risk",
        "Is the risk as predicted?",
    ]
    exact = evaluate(scores, EDGES, found.cuts)
    assert exact is not None
    assert exact.harrell is not None
    assert exact.harrell_interval is not None
    ranking = text_of(sections["Ranking patients by risk"])
    for figure in (found.discrimination, found.uno, found.brier):
        assert figure is not None
        assert worded(figure.value, figure.interval) in ranking
    assert worded(exact.harrell, exact.harrell_interval) in ranking
    assert exact.brier is not None
    assert worded(exact.brier.value, exact.brier.interval) in ranking
    assert "Table without noise" in ranking
    survival = text_of(sections["Survival by risk"])
    assert "Patients at risk, exact" in survival
    for group in found.groups:
        numbers = " ".join(f"{max(0.0, n):,.0f}" for n in group.at_risk)
        assert f"{group.name} {numbers}" in survival
    calibration = text_of(sections["Is the risk as predicted?"])
    for groups in (found.groups, exact.groups):
        for group in groups:
            assert group.observed is not None
            assert worded(group.observed.value, group.observed.interval, 2) in calibration
    assert svgs(sections["Survival by risk"])
    assert all(len(svgs(html)) == 1 for title, html in sections.items() if "Ranking" not in title)


def svgs(html: str) -> list[str]:
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    return [base64.b64decode(picture).decode() for picture in found]


def test_the_unit_is_a_word_from_outside(scores: SurvivalScores) -> None:
    facts, protocol = facts_of(scores, None), study()
    follow = protocol.survival.model_copy(update={"unit": "<img src=x>|"})
    facts = replace(facts, protocol=protocol.model_copy(update={"survival": follow}))
    part = part_of(facts.protocol)
    html = " ".join(tile.note for tile in part.tiles(facts))
    assert "&lt;img src=x&gt;" in html
    assert "<img" not in html
    sentences = " ".join(part.metrics(facts.protocol))
    assert r"\<img src=x\>\|" in sentences


def test_a_deployment_shows_released_figures_alone(scores: SurvivalScores) -> None:
    facts = facts_of(None, noised(scores))
    html = "".join(part_of(facts.protocol).sections(facts).values())
    assert "Patients at risk, as released" in html
    assert "exact" not in text_of(html).lower()
    assert part_of(facts.protocol).tiles(facts) == []


def test_what_is_not_known_is_said_in_words(scores: SurvivalScores) -> None:
    part = part_of(study())
    heard = facts_of(None, None)
    assert UNREADABLE.capitalize() in text_of("".join(part.sections(heard).values()))
    nobody = replace(heard, judging=RoundFacts(round=1, seconds=1.0, answered=(), suppressed=NAMES))
    assert "No hospital released" in text_of("".join(part.sections(nobody).values()))
    unreadable = facts_of(scores, None)
    ranking = text_of(part.sections(unreadable)["Ranking patients by risk"])
    assert ranking.count(UNREADABLE) == 3
    lost = SurvivalScores(
        scores.risk, scores.survival, scores.time, scores.event & False, scores.patient
    )
    assert "not defined" in text_of("".join(part.sections(facts_of(lost, None)).values()))
    assert set(part.figures(None).values()) == {UNREADABLE}
    assert part.numbers(None).keys() == part.numbers(noised(scores)).keys()
    assert set(part.numbers(None).values()) == {None}
    assert part.exact_numbers(study(), None).keys() == part.exact_numbers(study(), scores).keys()
    assert part.judged(None, "released") is None


def test_a_model_that_ranks_only_is_not_said_to_predict_a_risk(scores: SurvivalScores) -> None:
    ranked = SurvivalScores(scores.risk, None, scores.time, scores.event, scores.patient)
    table = survival_table(ranked, EDGES)
    found = read_table(table, 0.0, EDGES, ranks_only=True)
    facts = facts_of(ranked, found, model="cox-efron", mechanism="none")
    part = part_of(facts.protocol)
    sections = part.sections(facts)
    assert "Is the risk as predicted?" not in sections
    assert (
        "Table without noise" not in sections["Ranking patients by risk"]
    )  # the released one is it
    assert "ranks patients and predicts no survival" in sections["Ranking patients by risk"]
    assert "The model ranks only" in sections["Survival by risk"]
    assert len(part.tiles(facts)) == 1
    judged = part.judged(found, "exact")
    assert isinstance(judged, SurvivalJudgement)
    assert {group.predicted for group in judged.groups} == {None}


def test_the_card_holds_what_was_read_and_says_it_in_words(scores: SurvivalScores) -> None:
    found, part = noised(scores), part_of(study())
    assert found is not None
    judged = part.judged(found, "released")
    assert isinstance(judged, SurvivalJudgement)
    again = SurvivalJudgement.model_validate_json(
        judged.model_dump_json(by_alias=True), by_name=False
    )
    assert again == judged
    assert again.concordance.value == found.discrimination.value
    assert again.horizon == EDGES[-1]
    words = part.reliability(judged)
    for group in judged.groups:
        assert f"{group.low:.2f} to {group.high:.2f}" in words
        assert f"{group.predicted:.2f}" in words
    assert part.reliability(Judgement(source="exact")) == ""
    assert found.brier is not None
    assert f"{found.brier.value:.3f}" in part.answers(found)["calibration"]
    assert any("1 years" in sentence for sentence in part.metrics(study()))
