"""What each hospital gained by joining: paired differences, in words, as a picture and as a table."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import norm

from common.clinical.delong import auroc_difference, auroc_interval
from common.judging.binary import Binary
from common.metrics import Scores, auroc
from server.gain import Gain, Pooled, gains, pooled_against
from server.gain_page import gain_svg, gained

SEED = 20_261_125
BINARY = Binary()


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


def page_of(found: Sequence[Gain], pooled: Pooled | None, *, private: bool) -> str:
    return gained(found, pooled, name="AUROC", undefined="one class only", private=private)


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_a_gain_is_the_paired_difference_on_own_and_on_all_patients(
    federated: dict[str, Scores],
) -> None:
    rng = np.random.default_rng(SEED)
    alone = {name: {on: worse(rng, s) for on, s in federated.items()} for name in federated}
    north, _, west = gains(BINARY, federated, alone)
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
    text = words(page_of([north, west], None, private=True))
    assert "is better than what it trained alone for north" in text
    assert "for 1 hospital" in text
    assert f"{north.own.value:+.3f}" in text if north.own else False
    assert "too few patients to tell" in text


def test_the_same_model_gains_nothing_and_worse_is_said(federated: dict[str, Scores]) -> None:
    (same,) = gains(BINARY, federated, {"north": federated})
    assert same.own is not None
    assert (same.own.value, same.own.interval) == (0, None)
    assert "neither better nor worse" in words(page_of([same], None, private=True))
    rng = np.random.default_rng(SEED)
    spoilt = {name: worse(rng, scores) for name, scores in federated.items()}
    assert "worse for north" in words(
        page_of(gains(BINARY, spoilt, {"north": federated}), None, private=True)
    )
    assert "No hospital trained alone" in page_of([], None, private=True)
    assert gain_svg([], None, "AUROC") is None


def test_the_pooled_baseline_is_compared_on_everybodys_patients(
    federated: dict[str, Scores],
) -> None:
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    one_place = {name: worse(rng, scores) for name, scores in federated.items()}
    found = pooled_against(BINARY, federated, one_place)
    together = [Scores.concatenate(list(scores.values())) for scores in (federated, one_place)]
    assert found.discrimination == auroc(together[1])
    assert found.interval == auroc_interval(together[1])
    assert found.difference == auroc_difference(*together)
    assert found.own["north"] == auroc(one_place["north"])
    assert found.own["west"] == auroc(one_place["west"])
    told = gains(BINARY, federated, {"north": federated})
    for private, said in ((True, "noise added once"), (False, "under the same protocol, reaches")):
        text = words(page_of(told, found, private=private))
        assert said in text
        assert f"reaches {found.discrimination:.3f}" in text
        assert "AUROC, all in one place" in text
        assert found.difference is not None
        assert f"federated less that is {found.difference.value:+.3f}" in text
        assert "beyond chance (95 %)" in text  # the one place is much worse here
    same = pooled_against(BINARY, federated, federated)
    assert same.difference is not None
    assert same.difference.value == 0
    svg = gain_svg(told, found, "AUROC")
    assert svg is not None
    assert svg != gain_svg(told, None, "AUROC")
