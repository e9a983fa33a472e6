"""What is said of a score is what the card says, and nothing when it says nothing."""

import math

import pytest

from client.prediction.words import meaning_of, percent
from common.model_card import CardHospital
from common.tasks.nodule_classification.card import ModelCard
from common.tasks.nodule_classification.study import ImageEvaluation, ImageModel
from tests.unit.client.prediction.making_runs import JUDGED, PHANTOM_IMAGES


def card(**changes: object) -> ModelCard:
    judged = None if changes.get("judged", 0) is None else JUDGED.model_copy(update=changes)
    return ModelCard(
        study="s",
        protocol="1" * 64,
        weights="2" * 64,
        rounds=1,
        rehearsal=False,
        model=ImageModel(),
        images=PHANTOM_IMAGES,
        evaluation=ImageEvaluation(),
        hospitals=(CardHospital(name="a", nominal_patients=9, rounds=1),),
        judged=judged,
    )


def test_a_model_that_nobody_judged_gives_a_score_and_not_a_probability() -> None:
    meaning = meaning_of(0.9, card(judged=None))
    assert (meaning.probability, meaning.positive, meaning.share) == (None, None, None)
    assert "a score and not a probability" in meaning.words
    assert "%" not in meaning.words


def test_without_a_temperature_it_is_a_score_too() -> None:
    meaning = meaning_of(0.6, card(temperature=None))
    assert meaning.probability is None
    assert "a score and not a probability" in meaning.words
    assert "Of 100 findings with such a score" in meaning.words


@pytest.mark.parametrize("score", [0.02, 0.31, 0.5, 0.77, 0.999])
def test_the_probability_is_the_sigmoid_of_the_logit_over_the_temperature(score: float) -> None:
    odds = (score / (1 - score)) ** (1 / 1.5)
    found = meaning_of(score, card()).probability
    assert found is not None
    assert math.isclose(found, odds / (1 + odds), rel_tol=1e-9)
    assert f"Probability of “nodule”: {percent(found)}" in meaning_of(score, card()).words


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (0.0, "about 4 were “nodule” (95 %: 2 to 6)"),
        (0.4999, "about 4 were “nodule”"),
        (0.5, "about 31 were “nodule” (95 %: 21 to 41)"),  # a bin begins with its lower edge
        (0.8, "about 31 were “nodule”"),
        (0.81, "How many findings with such a score were “nodule” is not known."),
    ],
)
def test_of_a_hundred_such_findings(score: float, said: str) -> None:
    meaning = meaning_of(score, card())
    assert said in meaning.words
    assert (meaning.share is None) == ("not known" in said)


def test_an_interval_stays_within_all_and_none() -> None:
    (low, high) = (
        JUDGED.reliability[0].model_copy(update={"observed": at, "error": 0.3}) for at in (0.1, 0.9)
    )
    for one, (least, most) in ((low, (0.0, 0.688)), (high, (0.312, 1.0))):
        share = meaning_of(0.2, card(reliability=(one,))).share
        assert share is not None
        assert share[1:] == pytest.approx((least, most), abs=1e-3)


@pytest.mark.parametrize(("score", "positive"), [(0.499, False), (0.5, True), (0.51, True)])
def test_the_operating_point_belongs_to_the_positives(score: float, positive: bool) -> None:
    meaning = meaning_of(score, card())
    assert meaning.positive is positive
    called = "At or above" if positive else "Below"
    assert f"{called} the operating point (0.50)" in meaning.words
    assert "found 86 % (95 %: 80 to 91) of “nodule” and was right on 83 %" in meaning.words


def test_without_an_operating_point_nothing_counts_as_positive() -> None:
    meaning = meaning_of(0.9, card(operating_point=None))
    assert meaning.positive is None
    assert "no operating point" in meaning.words


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.0, "less than 1 %"),
        (0.005, "less than 1 %"),
        (0.31, "31 %"),
        (0.995, "more than 99 %"),
        (0.9999, "more than 99 %"),
    ],
)
def test_nobody_is_told_none_or_all(share: float, said: str) -> None:
    assert percent(share) == said
