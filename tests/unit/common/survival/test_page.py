"""What a hospital reads of a survival model on its own patients: words that follow the figures."""

import json

import numpy as np
import pytest

from common.drawing import canvas
from common.survival.evaluation import as_json, evaluate
from common.survival.groups import exact_groups
from common.survival.page import Page, headline, sections
from common.survival.plots import _steps
from common.survival.scores import SurvivalScores
from tests.unit.common.survival.populations import EDGES, SEED, only, proportional

UNIT = r"<years> $\frac{$"  # a plot takes what is between dollars for a formula


def page_of(scores: SurvivalScores, smallest: int = 1) -> Page:
    return Page(EDGES, UNIT, exact=evaluate(scores, EDGES), smallest=smallest)


def test_the_headline_says_what_the_interval_allows() -> None:
    whole = proportional(np.random.default_rng(SEED), 300)
    found = evaluate(whole, EDGES)
    assert found is not None
    assert found.harrell is not None
    said = headline(page_of(whole))
    assert f"{100 * found.harrell:.0f} times in 100" in said
    assert "nothing is shown" not in said
    assert "too few" not in said
    drawn = SurvivalScores(
        np.random.default_rng(SEED).random(300), None, whole.time, whole.event, whole.patient
    )
    assert "nothing is shown" in headline(page_of(drawn))
    assert "too few to say much" in headline(page_of(only(whole, np.arange(40))))
    assert "not defined" in headline(Page(EDGES, "years"))


def test_few_at_risk_are_not_counted_out_and_the_unit_is_escaped() -> None:
    scores = proportional(np.random.default_rng(SEED), 60)
    shown, hidden = (dict(sections(page_of(scores, smallest))) for smallest in (1, 12))
    assert "fewer than 12" not in shown["Survival by risk"]
    assert "fewer than 12" in hidden["Survival by risk"]
    html = "".join(hidden.values())
    assert "&lt;years&gt;" in html
    assert "<years>" not in html
    assert "Released" not in html


def test_figures_for_machines_are_those_of_the_page() -> None:
    scores = proportional(np.random.default_rng(SEED), 200)
    found = evaluate(scores, EDGES)
    assert found is not None
    facts = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert (facts["patients"], facts["events"]) == (200, int(scores.event.sum()))
    assert facts["concordance"] == found.harrell
    assert sum(group["patients"] for group in facts["groups"]) == 200
    assert facts["groups"][2]["predicted"] == pytest.approx(found.groups[2].predicted)
    assert evaluate(SurvivalScores.concatenate([]), EDGES) is None


def test_a_curve_ends_where_nobody_is_seen_any_more() -> None:
    last = EDGES[-1]
    time = np.array([0.3, 0.5, 0.6]) * last
    scores = SurvivalScores(
        np.full(3, 0.1), None, time, np.array([True, False, False]), np.arange(3)
    )
    (group,) = exact_groups(scores, (0.3, 0.6), EDGES)
    assert group.observed is None
    _, (axes,) = canvas(4, 3, 1)
    _steps(axes, group, last)
    assert np.max(axes.lines[0].get_xdata()) == pytest.approx(0.6 * last)
