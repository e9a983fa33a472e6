"""The clinical part of the report: the pooled model, and what each hospital gained by joining."""

import re

import numpy as np
import pytest
from scipy.stats import norm

from common.clinical.delong import auroc_difference, auroc_interval
from common.clinical.evaluation import evaluate, groups_of
from common.metrics import Scores, auroc
from server.clinical_page import clinical, gained
from server.clinical_plots import gain_svg
from server.gain import gains, pooled_against

SEED = 20_261_125
CLASSES = ("no nodule", "<i>nodule")


def hospital(rng: np.random.Generator, patients: int) -> Scores:
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    label = (rng.random(patient.size) < 0.4).astype(np.int64)
    return Scores(norm.cdf(rng.normal(size=patient.size) + 2 * label - 1), label, patient)


def worse(rng: np.random.Generator, scores: Scores) -> Scores:
    moved = norm.cdf(norm.ppf(scores.score) + 2 * rng.normal(size=scores.score.size))
    return Scores(moved, scores.label, scores.patient)


@pytest.fixture
def federated() -> dict[str, Scores]:
    rng = np.random.default_rng(SEED)
    return {"north": hospital(rng, 80), "east": hospital(rng, 50), "west": hospital(rng, 1)}


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_a_gain_is_the_paired_difference_on_own_and_on_all_patients(
    federated: dict[str, Scores],
) -> None:
    rng = np.random.default_rng(SEED)
    alone = {name: {on: worse(rng, s) for on, s in federated.items()} for name in federated}
    north, _, west = gains(federated, alone)
    assert (north.hospital, north.patients, west.patients) == ("north", 80, 1)
    assert north.federated == auroc(federated["north"])
    assert north.alone == auroc(alone["north"]["north"])
    assert north.own == auroc_difference(federated["north"], alone["north"]["north"])
    assert north.everybody is not None
    assert north.everybody.value == pytest.approx(
        (auroc(Scores.concatenate(list(federated.values()))) or 0)
        - (auroc(Scores.concatenate(list(alone["north"].values()))) or 0)
    )
    assert west.own is None  # one patient
    assert west.everybody is not None
    text = words(gained([north, west], None, private=True))
    assert "is better than what it trained alone for north" in text
    assert "for 1 hospital" in text
    assert f"{north.own.value:+.3f}" in text if north.own else False
    assert "fewer than two patients of a class" in text


def test_the_same_model_gains_nothing_and_worse_is_said(federated: dict[str, Scores]) -> None:
    (same,) = gains(federated, {"north": federated})
    assert same.own is not None
    assert (same.own.value, same.own.interval) == (0, None)
    assert "neither better nor worse" in words(gained([same], None, private=True))
    rng = np.random.default_rng(SEED)
    spoilt = {name: worse(rng, scores) for name, scores in federated.items()}
    assert "worse for north" in words(
        gained(gains(spoilt, {"north": federated}), None, private=True)
    )
    assert "No hospital trained alone" in gained([], None, private=True)
    assert gain_svg([]) is None


def test_the_pooled_baseline_is_compared_on_everybodys_patients(
    federated: dict[str, Scores],
) -> None:
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    one_place = {name: worse(rng, scores) for name, scores in federated.items()}
    found = pooled_against(federated, one_place)
    together = [Scores.concatenate(list(scores.values())) for scores in (federated, one_place)]
    assert found.auroc == auroc(together[1])
    assert found.interval == auroc_interval(together[1])
    assert found.difference == auroc_difference(*together)
    assert found.own["north"] == auroc(one_place["north"])
    assert found.own["west"] == auroc(one_place["west"])
    told = gains(federated, {"north": federated})
    for private, said in ((True, "noise added once"), (False, "under the same protocol, reaches")):
        text = words(gained(told, found, private=private))
        assert said in text
        assert f"reaches {found.auroc:.3f}" in text
        assert "AUROC, all in one place" in text
        assert found.difference is not None
        assert f"federated less that is {found.difference.value:+.3f}" in text
        assert "beyond chance (95 %)" in text  # the one place is much worse here
    same = pooled_against(federated, federated)
    assert same.difference is not None
    assert same.difference.value == 0
    svg = gain_svg(told, found)
    assert svg is not None
    assert svg != gain_svg(told)


def test_the_pooled_model_is_told_in_the_words_of_the_protocol(
    federated: dict[str, Scores],
) -> None:
    together = Scores.concatenate(list(federated.values()))
    found = evaluate(together, 5, groups_of(together, CLASSES))
    html = clinical(found, CLASSES)
    assert "<i>nodule" not in html
    assert "“&lt;i&gt;nodule”" in html
    assert f"{100 * (found.auroc or 0):.0f} times in 100" in html
    assert html.count("<img") == 3
    one_class = Scores(np.array([0.2]), np.array([1]), np.array([0]))
    assert "of one class" in clinical(evaluate(one_class, 5, {}), CLASSES)
