"""The report says all that it was given, says why where there is nothing, and loads nothing."""

import re
import struct
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.drawing import BLUE, VERMILLION
from common.histogram import PATIENT, Estimate
from common.page_parts import count
from common.protocol import Aggregation, Hospital, StudyProtocol
from common.released import Reading, read
from common.tasks.nodule_classification.study import ImageEvaluation, Images, NoduleStudy
from server.facts import UNREADABLE, HospitalFacts, PooledFacts, ReportFacts, RoundFacts
from server.gain import Pooled
from server.page import difference, epsilon, listed, runs, small
from server.plots import learning_curve_svg, write_tensorboard
from server.report import write_report
from server.sections.binary_plots import calibration_svg, roc_svg

NO_PRIVACY = "No differential privacy in this run."
SEEDED = "Noise came from a known seed: no privacy."
NAMES = ("north", "east", "south", "west")


# 600 patients with negative and 300 with positive images. AUROC and shares are by hand in
# tests/unit/common/test_released.py.
HISTOGRAM = np.zeros((2, 16))
HISTOGRAM[0, [1, 6, 12]] = 400, 100, 100
HISTOGRAM[1, [1, 6, 12]] = 20, 80, 200
HISTOGRAM *= PATIENT
NOISE = 2.0 * np.resize([1.0, -1.0, -1.0, 1.0, 0.5], (2, 16))


def protocol(mechanism: str = "dp-sgd") -> StudyProtocol:
    return NoduleStudy.model_validate(
        {
            "study": "lung-nodules",
            "rounds": 10,
            "images": {"classes": ["non-nodule", "nodule"], "size": 32},
            "training": {"steps-per-round": 4, "learning-rate": 0.5, "sampling-rate": 0.5},
            "privacy": {"mechanism": mechanism, "epsilon": 8.25, "max-grad-norm": 1.5},
            "participation": {"quorum": 3},
            "hospitals": [{"name": name, "nominal-patients": 10} for name in NAMES],
        }
    )


def rounds(exact: bool = True, released: bool = True) -> tuple[RoundFacts, ...]:
    return tuple(
        RoundFacts(
            round=number,
            seconds=1.5,
            answered=NAMES[:2] if number > 8 else NAMES[:3],
            refused={"west": "E-POLICY-BUDGET"} if number != 3 else {},
            missing=("south",) if number > 8 else (),
            discrimination=0.9 + number / 1000 if exact else None,
            interval=(0.88, 0.93) if exact else None,
            released_discrimination=Estimate(0.8 + number / 1000, (0.7, 0.95))
            if released
            else None,
        )
        for number in range(1, 11)
    )


def rehearsal(mechanism: str = "dp-sgd", noise_seeded: bool = False) -> ReportFacts:
    private = mechanism != "none"
    spent: tuple[Any, ...] = (7.9999, 1e-5, "PRV", 1.37, "PLD", 5.4321, 2.46, 11) if private else ()
    return ReportFacts(
        protocol=protocol(mechanism),
        backend="local",
        stopped="all rounds were done",
        rounds=rounds(),
        hospitals=(
            HospitalFacts("north", 1060, 15, 0.931, (0.901, 0.957), 0.925, 0.917, *spent),
            HospitalFacts("east", 40, 19, 0.915, (0.861, 0.962), 0.903, 0.906, *spent),
            HospitalFacts("south", 24, 6, 0.889, (0.782, 0.983), 0.871, 0.894, *spent),
            HospitalFacts("west", 8, 2, None, None, None, 0.676, *spent),
        ),
        noise_seeded=noise_seeded,
        zero_shot=0.8931,
        pooled=PooledFacts(0.9101, (0.8731, 0.9371), read(HISTOGRAM, 0.0, 0.2)),
        released=read(HISTOGRAM + NOISE, 2.0, 0.2),
        judged_after=10,
    )


def deployment() -> ReportFacts:
    return ReportFacts(
        protocol=protocol(),
        backend="deployment",
        stopped="the quorum of 3 was not met in round 11",
        rounds=rounds(exact=False),
        hospitals=tuple(HospitalFacts(name, 10) for name in NAMES),
        noise_seeded=False,
        released=read(HISTOGRAM + NOISE, 2.0, 0.2),
    )


def html_of(facts: ReportFacts, folder: Path) -> str:
    path = write_report(folder, facts)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def text_of(html: str) -> str:
    """What a reader sees: no style, no tags, blanks joined."""
    return re.sub(
        r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.S))
    )


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at words only: a page is drawn in half a second and written in none."""
    for name in (
        "server.report.learning_curve_svg",
        "server.sections.judgement.roc_svg",
        "server.sections.judgement.calibration_svg",
    ):
        monkeypatch.setattr(name, lambda *_: "<svg></svg>")


class Balance(HTMLParser):
    """Fails on a tag that is closed in the wrong place, and collects what the tests ask about."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")], "an event handler"
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


CASES = {
    "dp": rehearsal(),
    "no-dp": rehearsal("none"),
    "seeded": rehearsal(noise_seeded=True),
    "deployment": deployment(),
    "no round": replace(deployment(), rounds=(), hospitals=()),
    "one class": replace(rehearsal(), pooled=PooledFacts(None, None)),
}


@pytest.mark.slow
@pytest.mark.parametrize("facts", CASES.values(), ids=CASES)
def test_page_is_balanced_and_needs_nothing_from_outside(
    facts: ReportFacts, tmp_path: Path
) -> None:
    html = html_of(facts, tmp_path / "new" / "folder")
    parser = Balance()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    assert not parser.seen & {"script", "link", "iframe", "object"}
    assert all(address.startswith("data:image/svg+xml;base64,") for address in parser.addresses)
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    assert "url(" not in html
    assert "None" not in text_of(html)
    assert "nan" not in text_of(html).split()


@pytest.mark.usefixtures("undrawn")
def test_every_number_that_was_given_is_shown(tmp_path: Path) -> None:
    facts = rehearsal()
    text = text_of(html_of(facts, tmp_path))
    expected = [
        *("0.910", "0.873–0.937", "0.893", "10 of 10", "28 of 39 requests", "15 s"),
        *("1,060", "40", "24", "8", "15", "19", "6", "2"),
        *("0.931", "0.901–0.957", "0.925", "0.917", "0.915", "0.861–0.962", "0.903", "0.906"),
        *("0.889", "0.782–0.983", "0.871", "0.894", "0.676"),
        *("+0.006", "−0.007", "+0.012", "+0.004", "+0.018", "+0.016", "+0.234"),
        *("8.00 at 1e-5", "ε = 8.25", "1.37", "PLD and PRV", "C = 1.5", "q = 0.5", "T = 40 steps"),
        *("all rounds were done", facts.protocol.digest, "5.44", "σ = 2.46", "11 from a hospital"),
        *(
            "0.833",
            "0.839",
            "score ≥ 0.293",
            "0.933",
            "0.934",
            "0.667",
            "0.666",
            "0.172",
            "0.176 ± 0.008",
        ),
        "west refused with E-POLICY-BUDGET in rounds 1–2, 4–10",
    ]
    for number in expected:
        assert number in text, number
    assert "not a medical device" in text
    assert "would not leave a hospital" in text
    assert "one patient added or removed" in text


@pytest.mark.usefixtures("undrawn")
def test_who_gains_and_who_does_not_is_said_plainly(tmp_path: Path) -> None:
    text = text_of(html_of(rehearsal(), tmp_path))
    assert "Gain from joining: east, south and west." in text
    assert "No gain: north." in text
    assert "0.910 and the local-only models 0.848 on average (best 0.917, worst 0.676)" in text
    worse = replace(rehearsal(), pooled=PooledFacts(0.5, (0.4, 0.6)))
    assert "No hospital gains from joining." in text_of(html_of(worse, tmp_path))
    assert "Local-only models were not trained" in text_of(html_of(deployment(), tmp_path))


@pytest.mark.usefixtures("undrawn")
def test_the_pooled_baseline_has_a_column_and_the_temperature_a_row(tmp_path: Path) -> None:
    facts = rehearsal()
    text = text_of(html_of(facts, tmp_path))
    assert "One place" not in text
    assert facts.pooled is not None
    assert isinstance(facts.pooled.unnoised, Reading)
    heat = facts.pooled.unnoised.temperature
    assert heat is not None
    low, high = heat.interval
    assert f"Temperature {heat.value:.2f} ({low:.2f}–{high:.2f})" in text
    assert "reading more from it costs no ε" in text
    assert "it is fitted to these patients" in text
    own = {"north": 0.9412, "east": 0.9012, "south": None, "west": None}
    one_place = Pooled(own, 0.9301, (0.9, 0.95), None)
    text = text_of(html_of(replace(facts, pooled_baseline=one_place), tmp_path))
    assert "One place: own patients" in text
    assert "0.941" in text
    assert "0.901" in text
    assert text.count("not defined (one class only)") == 4  # south's and west's more


@pytest.mark.usefixtures("undrawn")
def test_what_is_not_known_is_said_in_words(tmp_path: Path) -> None:
    text = text_of(html_of(rehearsal(), tmp_path))
    assert text.count("not defined (one class only)") == 2  # west: own AUROC and its local-only one
    text = text_of(html_of(deployment(), tmp_path))
    assert "not defined" not in text
    assert "stays in the hospital" in text
    assert "not reported" in text
    assert "would not leave" not in text  # nothing exact is shown
    some = rehearsal()
    left_out = replace(some.hospitals[0], local_only=None, local_only_pooled=None)
    text = text_of(html_of(replace(some, hospitals=(left_out, *some.hospitals[1:])), tmp_path))
    assert text.count("not run") == 2
    assert "No gain" not in text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("mechanism", ["dp-sgd", "none"])
@pytest.mark.parametrize("noise_seeded", [False, True])
def test_red_boxes_appear_exactly_when_they_should(
    mechanism: str, noise_seeded: bool, tmp_path: Path
) -> None:
    html = html_of(rehearsal(mechanism, noise_seeded), tmp_path)
    assert (NO_PRIVACY in html) == (mechanism == "none")
    assert (SEEDED in html) == noise_seeded
    assert html.count('class="warning"') == (mechanism == "none") + noise_seeded
    voided = noise_seeded and mechanism != "none"
    assert ("void" in text_of(html).replace("is void", "")) == voided
    assert ("DP-SGD" in html) == (mechanism != "none")
    assert ("fresh entropy" in html) == (mechanism != "none" and not noise_seeded)
    assert ("gives no privacy" in html) == (mechanism == "none")


@pytest.mark.usefixtures("undrawn")
def test_a_deployment_and_a_rehearsal_are_called_what_they_are(tmp_path: Path) -> None:
    assert "The patients' data stayed in the hospitals" in html_of(deployment(), tmp_path)
    for backend in ("local", "ray", "something-new"):
        html = html_of(replace(rehearsal(), backend=backend), tmp_path)
        assert "Report of a rehearsal" in html
        assert "The patients' data stayed" not in html


@pytest.mark.usefixtures("undrawn")
def test_hostile_names_are_text(tmp_path: Path) -> None:
    hostile = "<script>alert('&\"$x$')</script>"
    clean = rehearsal()
    roster = tuple(Hospital.model_construct(name=hostile + n, nominal_patients=1) for n in NAMES)
    images = Images.model_construct(classes=(hostile, hostile), size=32)
    facts = replace(
        clean,
        protocol=clean.protocol.model_copy(
            update={"study": hostile, "hospitals": roster, "images": images}
        ),
        stopped=hostile,
        hospitals=tuple(
            replace(h, name=hostile + h.name, accountant=hostile) for h in clean.hospitals
        ),
        rounds=(RoundFacts(1, 1.0, (hostile + "north",), {hostile + "west": hostile}),),
    )
    html = html_of(facts, tmp_path)
    parser = Balance()
    parser.feed(html)
    assert parser.open == []
    assert "script" not in parser.seen
    assert html.count("&lt;script&gt;alert(&#x27;&amp;&quot;$x$&#x27;)") >= 12


@pytest.mark.usefixtures("undrawn")
def test_many_rounds_are_split_into_tables(tmp_path: Path) -> None:
    many = tuple(replace(rounds()[0], round=number) for number in range(1, 46))
    html = html_of(replace(rehearsal(), rounds=many), tmp_path)
    assert html.count('<table class="rounds">') == 3
    assert '<th scope="col">45</th>' in html


def test_learning_curve_has_gaps_and_may_be_absent() -> None:
    assert learning_curve_svg((), None, "AUROC") is None
    assert learning_curve_svg(rounds(exact=False, released=False), None, "AUROC") is None
    broken = (*rounds()[:3], RoundFacts(4, 1.0, ()), replace(rounds()[4], interval=None))
    for curve, before in ((broken, 0.89), (rounds(exact=False), None)):
        svg = learning_curve_svg(curve, before, "AUROC")
        assert svg is not None
        assert "<svg" in svg
        assert "nan" not in svg


def test_wording_of_numbers() -> None:
    # An epsilon is never shown smaller than it is, and an exact one not larger.
    assert [epsilon(v) for v in (0.0, 1.0, 2.3, 7.991, 7.99)] == [
        "0.00",
        "1.00",
        "2.30",
        "8.00",
        "7.99",
    ]
    assert [small(v) for v in (1e-5, 2.5e-10, 0.5)] == ["1e-5", "2.5e-10", "0.5"]
    assert difference(0.9, 0.95) == "−0.050"
    assert difference(None, 0.95) == difference(0.9, None) == "–"
    assert [listed(NAMES[:n]) for n in (1, 2, 3)] == [
        "north",
        "north and east",
        "north, east and south",
    ]
    assert runs([1, 2, 3, 7, 9, 10]) == "1–3, 7, 9–10"
    assert (count(1, "round"), count(2000, "round")) == ("1 round", "2,000 rounds")


def test_importing_the_report_loads_no_plotting() -> None:
    """The coordinator imports it before the first round; these cost seconds."""
    code = (
        "import sys, server.report\n"
        "heavy = {'matplotlib', 'tensorboard', 'sklearn', 'torch', 'client'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_tensorboard_reads_back_what_was_written_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    facts = rehearsal()
    write_tensorboard(tmp_path / "tensorboard", replace(facts, rounds=rounds()[:4]))
    path = write_tensorboard(tmp_path / "tensorboard", facts)  # after a resume
    assert [path] == list((tmp_path / "tensorboard").iterdir())
    events = EventAccumulator(str(path.parent)).Reload()
    assert sorted(events.Tags()["scalars"]) == [
        *("pooled/auroc", "released/auroc", "round/seconds")
    ]
    for tag, first in (("pooled/auroc", 0.901), ("released/auroc", 0.801)):
        points = events.Scalars(tag)
        assert [point.step for point in points] == list(range(1, 11))
        assert points[0].value == pytest.approx(first, abs=1e-6)
    write_tensorboard(path.parent, replace(facts, rounds=rounds(exact=False)))
    events = EventAccumulator(str(path.parent)).Reload()
    assert "pooled/auroc" not in events.Tags()["scalars"]
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert b"brain.Event:2" in path.read_bytes()[12 : 12 + length]


def test_a_figure_without_an_interval_or_with_a_wide_one_is_said_to_say_little() -> None:
    known = HospitalFacts(name="undefined", nominal_patients=200, validation_patients=40)
    hospitals = (
        known,
        replace(known, name="none", discrimination=0.6),
        replace(known, name="wide", discrimination=0.9, interval=(0.01, 0.99)),
        replace(known, name="narrow", discrimination=0.9, interval=(0.8, 0.95)),
    )
    said = replace(rehearsal(), hospitals=hospitals).small_cohorts()
    assert [sentence.split()[0] for sentence in said] == ["none", "wide"]
    assert all("too few pairs to compare among them: its own AUROC says little" in s for s in said)


@pytest.mark.usefixtures("undrawn")
def test_a_hospital_with_few_patients_is_told_what_it_gets(tmp_path: Path) -> None:
    few = HospitalFacts(name="west", nominal_patients=3, validation_patients=1)
    enough = HospitalFacts(name="north", nominal_patients=423, validation_patients=107)
    some = replace(rehearsal(), hospitals=(few, enough))
    said = some.small_cohorts()
    assert len(said) == 2
    assert "3 training patients" in said[0]
    assert "1 validation patient:" in said[1]
    assert not any("north" in sentence for sentence in said)
    text = text_of(html_of(some, tmp_path))
    assert all(sentence in text for sentence in said)


@pytest.mark.usefixtures("undrawn")
def test_exact_figures_stand_beside_released_ones_in_a_rehearsal_only(tmp_path: Path) -> None:
    both, released = (
        text_of(html_of(rehearsal(), tmp_path)),
        text_of(html_of(deployment(), tmp_path)),
    )
    for text in (both, released):
        assert "AUROC, released 0.839 95 % interval" in text
    assert "0.833 without the noise" in both
    assert "0.833" not in released
    assert "Exact" not in released
    for text in (both, released):
        assert "Share of positives by score, at a prevalence of 20 %; bars:" in text
        assert "Both are stated at a prevalence of 20 %" in text
        assert "every patient counts once in each class" in text
    unreadable = text_of(html_of(replace(rehearsal(), released=None), tmp_path))
    assert f"AUROC, released {UNREADABLE}" in unreadable
    assert "0.839" not in unreadable
    assert UNREADABLE not in both


@pytest.mark.usefixtures("undrawn")
def test_how_often_is_evaluated_is_said_as_the_protocol_has_it(tmp_path: Path) -> None:
    facts = rehearsal()
    text = text_of(html_of(facts, tmp_path))
    assert "histograms of every model and the final one, 11 histograms in a whole study" in text
    assert "not evaluated" not in text
    seldom = facts.protocol.model_copy(update={"evaluation": ImageEvaluation(every=4)})
    text = text_of(html_of(replace(facts, protocol=seldom, judged_after=8), tmp_path))
    assert "every 4th model after it and the final one, 4 histograms in a whole study" in text
    assert "Models of rounds without a mark were not evaluated." in text
    assert "The last model that was judged is that of round 8." in text
    averaged = facts.protocol.model_copy(update={"aggregation": Aggregation(ema=0.9)})
    early = replace(facts, protocol=averaged, rounds=facts.rounds[:4], judged_after=4)
    assert "a moving average, which the final evaluation alone judges" in text_of(
        html_of(early, tmp_path)
    )


def test_figures_hold_both_readings() -> None:
    """A curve per reading: colours are in the SVG, text is drawn as glyphs."""
    exact, released = read(HISTOGRAM, 0.0, 0.2), read(HISTOGRAM + NOISE, 2.0, 0.2)
    assert exact is not None
    assert released is not None
    both = roc_svg(exact.roc, released)
    alone = roc_svg(None, released)
    assert BLUE.lower() in both
    assert BLUE.lower() not in alone
    assert VERMILLION.lower() in alone
    picture = calibration_svg(exact.calibration.bins, released.calibration.bins)
    assert picture is not None
    assert BLUE.lower() in picture
    assert VERMILLION.lower() in picture
    assert calibration_svg((), ()) is None


# --- what was not used, what was held back, and warnings ---------------------------------------


def with_rounds(*changed: RoundFacts, closing: RoundFacts | None = None) -> ReportFacts:
    return replace(deployment(), rounds=changed, closing=closing)


def a_round(number: int, **about: Any) -> RoundFacts:
    return RoundFacts(**{"round": number, "seconds": 1.0, "answered": NAMES, **about})


@pytest.mark.usefixtures("undrawn")
def test_a_reply_that_was_not_used_is_named_with_its_reason(tmp_path: Path) -> None:
    rounds = [
        a_round(1, answered=NAMES[:2], refused={"west": "E-REPLY-NORM", "south": "E-NODE"}),
        a_round(2, answered=NAMES[:2], refused={"west": "E-REPLY-NORM"}, late={"south": 1}),
        a_round(3, duplicates={"north": 1}),
        a_round(4, duplicates={"north": 2}),
    ]
    closing = a_round(5, answered=NAMES[:3], refused={"west": "E-REPLY-KIND"})
    text = text_of(html_of(with_rounds(*rounds, closing=closing), tmp_path))
    for words in (
        "west: reply not used in rounds 1–2, the update is larger than an honest one with the stated "
        "noise can be ( E-REPLY-NORM )",
        "south refused with E-NODE in round 1",
        "south answered round 1 late, in round 2; it was not used",
        "north answered more than once in rounds 3–4; 3 further replies were not used",
        "west: reply not used in round 5, it was an answer to something else ( E-REPLY-KIND )",
    ):
        assert words in text
    clean = text_of(html_of(with_rounds(a_round(1)), tmp_path))
    assert not any(words in clean for words in ("not used in", "late,", "more than once"))


@pytest.mark.usefixtures("undrawn")
def test_what_is_held_back_is_said_in_words_and_is_not_zero(tmp_path: Path) -> None:
    judging = a_round(11, suppressed=("west",))
    some = replace(deployment(), judging=judging, closing=judging)
    text = text_of(html_of(some, tmp_path))
    sentence = (
        "Released by 3 of 4 hospitals; west has fewer patients in a group than its own policy "
        "releases."
    )
    assert text.count(sentence) == 2  # beside the figure and under the curve
    assert "west released no histogram in round 11" in text
    two = a_round(11, suppressed=("south", "west"))
    text = text_of(html_of(replace(some, judging=two, closing=two), tmp_path))
    assert "south and west have fewer patients in a group than their own policy releases" in text
    everybody = a_round(11, answered=NAMES[:3])
    text = text_of(html_of(replace(some, judging=everybody, closing=everybody), tmp_path))
    assert "Released by 3 of 4 hospitals." in text
    assert "fewer patients in a group" not in text


@pytest.mark.usefixtures("undrawn")
def test_when_all_hold_back_there_is_no_figure_and_the_report_says_why(tmp_path: Path) -> None:
    judging = a_round(11, suppressed=NAMES)
    nobody = replace(deployment(), released=None, judging=judging, closing=judging)
    text = text_of(html_of(nobody, tmp_path))
    assert "No hospital released a histogram" in text
    assert "Released by none of 4 hospitals; north, east, south and west have fewer" in text
    assert UNREADABLE not in text


@pytest.mark.usefixtures("undrawn")
def test_a_hospital_that_changed_its_policy_is_named_with_the_round(tmp_path: Path) -> None:
    first, second = "a" * 64, "b" * 64
    rounds = [
        a_round(1, policies={"north": first, "east": first}),
        a_round(2, policies={"east": first}),
        a_round(3, policies={"north": second, "east": first}),
    ]
    closing = a_round(4, policies={"north": second, "east": second})
    text = text_of(html_of(with_rounds(*rounds, closing=closing), tmp_path))
    assert "north changed its site policy before its answer of round 3" in text
    assert "east changed its site policy before its answer of round 4" in text
    assert text.count("changed its site policy") == 2


@pytest.mark.usefixtures("undrawn")
def test_warnings_are_in_plain_words_by_name_and_say_what_they_cannot(tmp_path: Path) -> None:
    rounds = [
        a_round(1, flags={"west": ["FLAG-NORM", "FLAG-COSINE"]}),
        a_round(2),
        a_round(3, flags={"west": ["FLAG-COSINE"], "south": ["FLAG-ECHO"]}),
    ]
    html = html_of(with_rounds(*rounds), tmp_path)
    text = text_of(html)
    for words in (
        "west , round 1: its update was far larger than those of the others ( FLAG-NORM )",
        "west , rounds 1, 3: its updates so far pull the model against those of the others",
        "south , round 3: its update was next to nothing",
        "It detects and does not prevent",
        "what a small hospital does may stay hidden",
    ):
        assert words in text
    assert html.count("▲") == 3 + 1  # in the table, and what it means
    clean = text_of(html_of(with_rounds(a_round(1)), tmp_path))
    assert "No update stood out." in clean
    assert "It detects and does not prevent" in clean
    open_study = replace(with_rounds(a_round(1)), protocol=protocol("none"))
    assert "stay hidden" not in text_of(html_of(open_study, tmp_path))
