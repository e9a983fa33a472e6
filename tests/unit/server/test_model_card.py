"""The card is of the weights beside it, says what hospitals released and nothing exact, and is words only."""

import re
import stat
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from sklearn.metrics import roc_auc_score

from common.files import sha256
from common.histogram import Estimate
from common.metrics import Scores
from common.model_card import MODEL_CARD, Judged
from common.protocol import StudyProtocol
from common.released import read
from common.tasks.nodule_classification.card import load_card
from common.tasks.nodule_classification.study import NoduleStudy
from server import deployed_facts
from server.checklist import CHECKLIST
from server.facts import HospitalFacts, PooledFacts, ReportFacts, RoundFacts
from server.gain import Pooled
from server.home import Outcome
from server.model_card import card_of, write_card
from server.model_card_text import MODEL_CARD_TEXT
from tests.answering import (
    HISTOGRAM_NOISE,
    MakeStudy,
    all_honest,
    refusing,
    run,
    silent,
)
from tests.unit.common.test_markdown import read as rendered

WEIGHTS = save({"z.weight": np.zeros((3, 2), np.float32), "a.bias": np.ones(4, np.float32)})
PAPERS = (MODEL_CARD, MODEL_CARD_TEXT, CHECKLIST)

# Many patients: what the histograms say stands far above the noise.
MANY = np.zeros((2, 16))
MANY[0, 2:9] = (120, 90, 70, 50, 40, 20, 10)
MANY[1, 5:12] = (10, 20, 40, 50, 70, 90, 120)


def finished(protocol: StudyProtocol, **changes: Any) -> ReportFacts:
    """A deployed study whose rounds were all closed, and whose model was judged."""
    fields: dict[str, Any] = {
        "protocol": protocol,
        "backend": "deployment",
        "stopped": "finished",
        "rounds": tuple(
            RoundFacts(round=n, seconds=1.0, answered=protocol.hospital_names)
            for n in range(1, protocol.rounds + 1)
        ),
        "hospitals": tuple(
            HospitalFacts(h.name, h.nominal_patients, epsilon=1.5 + n, delta=1e-5)
            for n, h in enumerate(protocol.hospitals)
        ),
        "noise_seeded": False,
        "released": read(MANY, 4.0, 0.2),
        "judged_after": protocol.rounds,
        "judging": RoundFacts(protocol.rounds + 1, 1.0, protocol.hospital_names),
    }
    return ReportFacts(**(fields | changes))


def papers(folder: Path, facts: ReportFacts) -> dict[str, str]:
    """What is written beside the weights."""
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "update-spec.json").write_text('[["z.weight", [3, 2]]]')
    write_card(folder, facts)
    return {name: (folder / name).read_text() for name in PAPERS}


def test_the_card_reads_back_and_is_of_these_weights(make_study: MakeStudy, tmp_path: Path) -> None:
    protocol = make_study(images={"ct": {"size-mm": 32.0}})
    facts = finished(protocol)
    written = papers(tmp_path, facts)
    card = load_card(tmp_path / MODEL_CARD)
    assert card.to_json() == card_of(facts, WEIGHTS).to_json()
    assert card.is_of(WEIGHTS)
    assert not card.is_of(WEIGHTS + b"\0")
    assert (card.study, card.protocol, card.rounds) == ("a-study", protocol.digest, 3)
    assert isinstance(protocol, NoduleStudy)
    assert (card.images, card.model) == (protocol.images, protocol.model)
    assert {h.name: (h.nominal_patients, h.rounds) for h in card.hospitals} == {
        "north": (60, 3),
        "east": (40, 3),
        "south": (24, 3),
        "west": (8, 3),
    }
    assert (card.epsilon, card.delta, card.rehearsal) == (4.5, 1e-5, False)
    text = written[MODEL_CARD_TEXT]
    assert sha256(WEIGHTS) in text
    assert protocol.digest in text
    assert "10 weights, of which hospitals train 6" in text
    assert "the axial square of 32 mm about the finding, the plane through it, resampled, " in text
    assert "; of image files by centre crop, scaled to 0..1; 1 x 16 x 16 pixels" in text
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in PAPERS} == {0o600}


def test_the_figures_are_those_of_the_histogram(make_study: MakeStudy, tmp_path: Path) -> None:
    facts = finished(make_study(), released=read(MANY, 0.0, 0.2))
    text = papers(tmp_path, facts)[MODEL_CARD_TEXT]
    judged = load_card(tmp_path / MODEL_CARD).judged
    assert judged is not None
    assert (judged.source, judged.prevalence) == ("released", 0.2)
    # By scikit-learn, on as many scores as patients, one number for each bin.
    counts = MANY.astype(int)
    score = np.concatenate([np.repeat(np.arange(16), row) for row in counts])
    area = roc_auc_score(np.repeat([0, 1], counts.sum(axis=1)), score)
    assert judged.auroc.value == pytest.approx(area)
    assert judged.auroc.low < area < judged.auroc.high
    assert f"| AUROC | {area:.3f} (" in text
    point = judged.operating_point
    assert point is not None
    assert point.sensitivity.value >= 0.9
    assert f"| threshold | {point.threshold:.3g} |" in text
    assert f"| sensitivity | {point.sensitivity.value:.3f} (" in text
    assert judged.temperature is not None
    assert f"| temperature | {judged.temperature.value:.3f} (" in text
    assert len(judged.reliability) == len(
        re.findall(r"\d ± \d", text)
    )  # without noise Brier's has none
    assert len(judged.reliability) > 4


def test_headings_are_those_of_mitchell_et_al(make_study: MakeStudy, tmp_path: Path) -> None:
    text = papers(tmp_path, finished(make_study()))[MODEL_CARD_TEXT]
    assert re.findall(r"^## (.*)$", text, re.M) == [
        "Model details",
        "Intended use",
        "Factors",
        "Metrics",
        "Evaluation data",
        "Training data",
        "Quantitative analyses",
        "Ethical considerations",
        "Caveats and recommendations",
    ]
    assert text.count("to be written by the owner") == 3
    assert "Research use, not a medical device." in text
    assert "The whole claim is in each hospital's privacy-statement.md." in text
    seen = rendered(text)
    assert set(seen.tags) >= {"h1", "h2", "table", "li", "blockquote"}


def test_who_was_in_which_round_is_said(make_study: MakeStudy, tmp_path: Path) -> None:
    protocol = make_study()
    rounds = (
        RoundFacts(1, 1.0, ("north", "east", "south"), refused={"west": "E-POLICY-BUDGET"}),
        RoundFacts(2, 1.0, ("north", "east", "south"), missing=("west",)),
        RoundFacts(
            3,
            1.0,
            ("north", "east", "south", "west"),
            suppressed=("south",),
            flags={"east": ["FLAG-NORM"]},
        ),
    )
    last = RoundFacts(4, 1.0, ("north", "east", "south", "west"), suppressed=("south", "west"))
    text = papers(tmp_path, finished(protocol, rounds=rounds, judging=last, closing=last))[
        MODEL_CARD_TEXT
    ]
    assert "| west | 8 | 3 | refused (E-POLICY-BUDGET) in round 1; missing in round 2; no " in text
    assert "| south | 24 | 1–3 | no histogram released in rounds 3–4 | - |" in text
    assert "far larger than those of the others (`FLAG-NORM`, round 3)" in text
    assert "Of 4 hospitals 2 released a histogram of the model: north, east." in text
    assert "south, west: fewer patients in a group than the hospital's own policy releases" in text
    assert [h.rounds for h in load_card(tmp_path / MODEL_CARD).hospitals] == [3, 3, 3, 1]


@pytest.fixture
def leaking() -> dict[str, Any]:
    """Exact facts, as no deployment has them, with figures that nothing else gives."""
    rng = np.random.default_rng(7)
    label = np.repeat([0, 1], 50)
    scores = Scores(rng.random(100) * 0.5 + 0.4 * label, label, np.arange(100))
    return {
        "pooled": PooledFacts(0.98761, (0.97652, 0.99871), read(MANY, 0.0, 0.2), scores),
        "zero_shot": 0.87654,
        "pooled_baseline": Pooled({}, 0.99123, (0.98123, 0.99923), None),
    }


EXACT = (
    "4321",
    "0.988 (",
    "0.977 to",
    "0.9876",
    "0.97652",
    "0.8765",
    "0.877",
    "exact",
    "0.991",
)


def with_exact(facts: ReportFacts) -> ReportFacts:
    return replace(
        facts,
        hospitals=tuple(
            replace(
                h, validation_patients=4321, discrimination=0.98765, interval=(0.97652, 0.99871)
            )
            for h in facts.hospitals
        ),
        rounds=tuple(replace(r, discrimination=0.7654) for r in facts.rounds),
    )


def test_a_deployed_run_shows_nothing_exact(
    make_study: MakeStudy, tmp_path: Path, leaking: dict[str, Any]
) -> None:
    facts = with_exact(finished(make_study(), **leaking))
    for name, text in papers(tmp_path, facts).items():
        text = text.replace("exact scores stay in the hospital", "")  # which says so
        assert not [figure for figure in EXACT if figure in text], name
    # The same facts of a rehearsal do show them, marked: the words above can be found.
    text = papers(tmp_path, replace(facts, backend="local"))[MODEL_CARD_TEXT]
    assert "| figure | as released | **exact, rehearsal only** |" in text
    assert (
        "Exact, rehearsal only: AUROC 0.988 (0.977 to 0.999); every image counts, 95 % interval over "
        "patients by DeLong's method; of the initial model 0.877." in text
    )
    assert "one model of all patients in one place would have 0.991 (0.981 to 0.999)." in text
    assert "4321" not in text
    assert "**A rehearsal.**" in text


def test_a_rehearsal_too_noisy_to_read_has_exact_figures_on_its_card(
    make_study: MakeStudy, tmp_path: Path, leaking: dict[str, Any]
) -> None:
    facts = finished(make_study(), released=None, backend="ray", **leaking)
    papers(tmp_path, facts)
    judged = load_card(tmp_path / MODEL_CARD).judged
    assert judged is not None
    assert judged.source == "exact"
    papers(tmp_path, replace(facts, backend="deployment"))
    assert load_card(tmp_path / MODEL_CARD).judged is None


@pytest.mark.parametrize(
    ("changes", "epsilon"),
    [
        ({}, 4.5),
        ({"noise_seeded": True}, None),
        ({"hospitals": (HospitalFacts("north", 60, epsilon=float("inf")),)}, None),
        ({"hospitals": (HospitalFacts("north", 60), HospitalFacts("east", 40, epsilon=2.0))}, None),
        ({"hospitals": (HospitalFacts("north", 60, epsilon=0.0),)}, None),
    ],
)
def test_epsilon_is_on_the_card_only_where_it_bounds(
    make_study: MakeStudy, changes: dict[str, Any], epsilon: float | None
) -> None:
    assert card_of(finished(make_study(), **changes), WEIGHTS).epsilon == epsilon


def test_without_privacy_the_card_warns(make_study: MakeStudy, tmp_path: Path) -> None:
    facts = finished(make_study(privacy={"mechanism": "none"}), backend="local")
    written = papers(tmp_path, facts)
    card = load_card(tmp_path / MODEL_CARD)
    assert (card.epsilon, card.delta) == (None, None)
    for name in (MODEL_CARD_TEXT, CHECKLIST):
        assert "**No differential privacy.** Treat the model as patient data." in written[name]


def test_figures_of_another_model_are_not_on_the_card(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    written = papers(tmp_path, finished(make_study(), judged_after=2))
    assert load_card(tmp_path / MODEL_CARD).judged is None
    assert "The last one that was judged is that after round 2." in written[MODEL_CARD_TEXT]
    assert "no histogram is of the final model" in written[CHECKLIST]


@pytest.mark.parametrize(("ema", "judged"), [(None, True), (0.9, False)])
def test_a_round_does_not_judge_a_moving_average(
    make_study: MakeStudy, tmp_path: Path, ema: float | None, judged: bool
) -> None:
    protocol = make_study(aggregation={} if ema is None else {"ema": ema})
    whole = finished(protocol)
    early = replace(whole, rounds=whole.rounds[:2], judged_after=2, stopped="quorum-missed")
    written = papers(tmp_path, early)
    assert (load_card(tmp_path / MODEL_CARD).judged is not None) == judged
    assert ("This model was not judged" in written[MODEL_CARD_TEXT]) != judged
    assert ("no histogram is of the final model" in written[CHECKLIST]) != judged
    assert card_of(whole, WEIGHTS).judged is not None


def test_no_model_no_card(make_study: MakeStudy, tmp_path: Path) -> None:
    write_card(tmp_path, finished(make_study()))
    assert list(tmp_path.iterdir()) == []


NASTY = ("<script>alert(1)</script> | no", "![x](https://example.org/x.png)`*yes*")


def test_words_of_the_protocol_are_defused(make_study: MakeStudy, tmp_path: Path) -> None:
    protocol = make_study(
        images={"classes": NASTY}, model={"initial-model": "<img src=x>|`.safetensors"}
    )
    written = papers(tmp_path, finished(protocol, stopped="<b>|ended</b>"))
    assert load_card(tmp_path / MODEL_CARD).images.classes == NASTY
    for name in (MODEL_CARD_TEXT, CHECKLIST):
        seen = rendered(written[name])
        assert not {"script", "img", "b", "a"} & set(seen.tags), name
        assert NASTY[0] in seen.text
        assert NASTY[1] in seen.text
        for line in written[name].splitlines():
            if line.startswith("|"):  # every row as wide as its table
                assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 5, 6)


def closed(protocol: StudyProtocol, folder: Path, hospitals: dict[str, Any]) -> Outcome:
    """The folder of a deployed run as its ServerApp leaves it."""
    outcome = run(protocol, hospitals, folder)
    (folder / "protocol.toml").write_text(protocol.to_toml())
    (folder / "update-spec.json").write_text('[["z.weight", [3, 2]]]')
    (folder / "model.safetensors").write_bytes(save(outcome.state.result))
    return Outcome(outcome.stopped, outcome.last.round, asdict(outcome.last))


@pytest.mark.slow
@pytest.mark.usefixtures("flower_task")
def test_a_deployed_run_leaves_its_papers_at_its_end(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployed_facts, "write_report", lambda *_: None)
    protocol = make_study(participation={"deadline-seconds": 0.5, "quorum": 2})
    hospitals = all_honest(protocol) | {"west": refusing, "south": silent}
    ended = closed(protocol, tmp_path, hospitals)
    deployed_facts.write_deployed_report(tmp_path)
    assert not (tmp_path / MODEL_CARD).exists()  # under way: the weights may be of an earlier stop
    for left_nothing in (Outcome("stopped", detail="by its operator"), Outcome("failed", round=3)):
        left_nothing.save(tmp_path)
        deployed_facts.write_deployed_report(tmp_path)
        assert not (tmp_path / MODEL_CARD).exists()
    ended.save(tmp_path)
    deployed_facts.write_deployed_report(tmp_path)
    card = load_card(tmp_path / MODEL_CARD)
    assert card.is_of((tmp_path / "model.safetensors").read_bytes())
    assert {h.name: h.rounds for h in card.hospitals} == {
        "north": 3,
        "east": 3,
        "south": 0,
        "west": 0,
    }
    text = (tmp_path / MODEL_CARD_TEXT).read_text()
    assert "| west | 8 | none | refused (E-POLICY-BUDGET) in rounds 1–4 | - |" in text
    assert "| south | 24 | none | missing in rounds 1–4 | - |" in text
    assert "4711" not in text  # which the refusing hospital kept to itself
    assert HISTOGRAM_NOISE["north"]  # there was one to release


def test_an_estimate_without_width_is_a_figure(make_study: MakeStudy) -> None:
    reading = read(MANY, 4.0, 0.2)
    assert reading is not None
    sure = replace(reading, auroc=Estimate(1.0, (1.0, 1.0)))
    judged = card_of(finished(make_study(), released=sure), WEIGHTS).judged
    assert isinstance(judged, Judged)
    assert (judged.auroc.low, judged.auroc.value, judged.auroc.high) == (1.0, 1.0, 1.0)
