"""Every state of a run on the live page, from homes as the coordinator's processes write them."""

import json
import random
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from common.files import locked
from server.checkpoint import RoundRecord
from server.home import Outcome, Wanted
from server.live.look import OfHome, OfRehearsal
from tests.unit.server.live.conftest import Show, asking
from tests.unit.server.live.homes import NAMES, MadeHome, protocol, provisioned, record
from tests.unit.server.live.reading import Page


def cells(page: Page, hospital: str) -> list[str]:
    return next(row for row in page.table("Hospital") if row[0] == hospital)


def test_before_any_run(show: Show) -> None:
    page = show()
    assert "No run has begun. 5 of 5 hospitals approved." in page.text
    assert "No coordinator is at work" in page.text
    assert cells(page, "cluj") == ["cluj", "90", "300"]
    assert page.table("Round") == []


def test_a_run_that_nobody_was_asked_in(at_work: MadeHome, show: Show) -> None:
    at_work.begin()
    page = show()
    assert "is under way. No hospital has been asked yet." in page.text
    assert "0 hospitals of 5 connected, and a round needs 3 answers" in page.text
    assert "not seen in this run" in cells(page, "evora")[2]
    assert "No round has begun." in page.text


def test_a_run_under_way_says_who_is_in_who_is_late_and_until_when(
    at_work: MadeHome, show: Show
) -> None:
    at_work.begin()
    at_work.close(record(1), record(2, missing=["evora"]), record(3, late={"evora": 2}))
    run = at_work.observer()
    run.connected([*NAMES])
    run.round_started(4, [*NAMES])
    run.answered("aachen", None)
    run.answered("bergen", "E-DATA")
    run.connected([name for name in NAMES if name != "dijon"])
    page = show()
    assert re.search(r"Round 4 of 20 has been open for \d+ s and closes at", page.text)
    assert "in 10 min." in page.text
    assert "3 of 20" in page.text
    assert "1 of 5 3 needed to close it" in page.text
    assert cells(page, "aachen")[2].startswith("● answered")
    assert "the hospital's data cannot be used (E-DATA); connected for" in cells(page, "bergen")[2]
    assert "○ asked, then lost" in cells(page, "dijon")[2]
    assert "gone for" in cells(page, "dijon")[2]
    assert cells(page, "evora")[3] == "2 of 3"
    head, *rows = page.table("Round")
    assert head == ["Round", "1", "2", "3", "4, open"]
    assert rows == [
        ["aachen", "●", "●", "●", "●"],
        ["bergen", "●", "●", "●", "R"],
        ["cluj", "●", "●", "●", "○"],
        ["dijon", "●", "●", "●", "○"],
        ["evora", "●", "L", "●", "○"],
        ["took, s", *(f"{record(n).seconds:.0f}" for n in (1, 2, 3)), ""],
    ]
    assert "No answer of bergen in the open round that can be used: the hospital's" in page.text


def test_between_two_rounds_and_in_the_final_evaluation(at_work: MadeHome, show: Show) -> None:
    at_work.begin()
    run = at_work.observer()
    run.connected([*NAMES])
    run.round_started(1, [*NAMES])
    at_work.close(record(1))
    assert "Round 1 is closed, the next one is about to begin." in show().text
    at_work.close(*(record(n) for n in range(1, 21)))
    run.round_started(21, [*NAMES])
    run.connected(["cluj", "evora"])  # fewer than the quorum
    page = show()
    assert "The final evaluation has been open for" in page.text
    assert "0 of 5 the final evaluation ends with any number" in page.text
    assert "the final evaluation ends without: aachen, bergen and dijon." in page.text
    assert "needs 3 answers" not in page.text
    assert page.table("Round")[0][-1] == "final, open"


def test_a_finished_run(at_work: MadeHome, show: Show) -> None:
    at_work.begin()
    at_work.close(*(record(n) for n in range(1, 21)))
    at_work.end("finished", round=21, last=asdict(record(21)))
    page = show()
    assert "has finished." in page.text
    assert "Nothing needs attention" in page.text
    assert [*page.table("Round")[0]] == ["Round", *map(str, range(1, 21)), "final"]


@pytest.mark.parametrize(
    ("stopped", "words"),
    [
        ("quorum-missed", "has ended: a round did not get the answers that it needs"),
        ("mandatory-missing", "has ended: a hospital that must answer did not"),
        ("stopped", "was stopped by the coordinator’s operator"),
        ("interrupted", "was interrupted"),
        ("failed", "has failed"),
    ],
)
def test_a_run_that_ended_early(stopped: str, words: str, at_work: MadeHome, show: Show) -> None:
    at_work.begin()
    at_work.close(record(1))
    last = record(2, missing=["cluj", "dijon", "evora"])
    at_work.end(stopped, round=2, last=asdict(last))
    page = show()
    assert words in page.text
    assert [row[-1] for row in page.table("Round")[1:4]] == ["●", "●", "M"]
    unhappy = stopped not in ("stopped", "interrupted")
    assert ("Needs attention" in page.text) == unhappy


def test_a_run_whose_coordinator_is_gone(made: MadeHome, show: Show) -> None:
    made.begin()
    made.close(record(1))
    page = show()
    assert "waits: no coordinator is at work" in page.text
    assert "No coordinator is at work, so no hospital can connect" in page.text


def test_of_a_failure_only_its_code_is_shown(at_work: MadeHome) -> None:
    at_work.begin()
    elsewhere = "/var/lib/somewhere"
    for detail, words in {
        f"E-CHECKPOINT: cannot write {elsewhere}": "the checkpoint cannot be used (E-CHECKPOINT)",
        f"the ServerApp crashed in {elsewhere}": "its process did not go on",
        "E-<script>: x": "its process did not go on",
    }.items():
        at_work.end("failed", detail=detail)
        html = asking(OfHome(at_work.home))().text
        assert words in Page(html).text
        assert elsewhere not in html
        assert "crashed" not in html
        assert "script" not in html


def test_several_runs_and_one_that_cannot_be_read(at_work: MadeHome, show: Show) -> None:
    at_work.begin()
    earlier = MadeHome(at_work.home, protocol("first-steps", 3))
    earlier.begin()
    earlier.close(record(1), record(2))
    earlier.end("stopped", round=2)
    Wanted(run=at_work.run.name).save(at_work.home)
    (at_work.home.runs / "damaged").mkdir()
    page = show()
    assert page.table("Run") == [
        ["Run", "State", "Rounds closed"],
        ["damaged", "not readable", ""],
        [earlier.run.name, "stopped", "2 of 3"],
    ]
    assert "lung-nodules" in page.text
    Wanted(run=earlier.run.name).save(at_work.home)
    page = show()
    assert f"Run {earlier.run.name} was stopped" in page.text
    assert page.table("Run")[-1][:2] == [at_work.run.name, "not ended"]


def test_what_needs_attention_is_said(tmp_path: Path) -> None:
    made = provisioned(tmp_path, protocol(), bergen=12, dijon=-1)
    made.begin()
    flags = {"cluj": ["FLAG-COSINE"]}
    made.close(record(1), record(2, flags=flags), record(3, flags=flags))
    services = {"executor": {"pid": 1, "since": 1.0, "restarts": 5}}
    made.home.state.write_text(json.dumps({"services": services}))
    with locked(made.home.lock):
        page = Page(asking(OfHome(made.home))().text)
    assert "The certificate of bergen expires in 12 days" in page.text
    assert "The certificate of dijon has expired" in page.text
    assert cells(page, "dijon")[-1] == "expired"
    assert "Updates of cluj stood out in rounds 2–3" in page.text
    assert "pull the model against those of the others (wrong labels?)" in page.text
    assert "The executor was started again 5 times" in page.text


def test_a_hospital_off_the_roster_and_one_that_the_study_does_not_name(
    at_work: MadeHome, show: Show
) -> None:
    named = [h.model_dump(by_alias=True) for h in at_work.study.hospitals]
    at_work.study = protocol(hospitals=[*named[1:], {"name": "faro", "nominal-patients": 20}])
    at_work.begin()
    at_work.close()
    page = show()
    assert "Not on the roster, so it cannot connect: faro." in page.text
    assert cells(page, "faro")[-1] == "not on the roster"
    assert cells(page, "aachen") == ["aachen", "220", "not in this study", "", "", "300"]


def test_the_matrix_says_what_the_rounds_file_says(at_work: MadeHome, show: Show) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    records: list[RoundRecord] = []
    for number in range(1, 61):
        doing = {name: chance.choice("aaafrm") for name in NAMES}
        gone = [name for name in NAMES if doing[name] == "m"]
        late = {name: number - 1 for name in NAMES if number > 1 and chance.random() < 0.2}
        about = {
            "missing": gone,
            "refused": {name: "E-NODE" for name in NAMES if doing[name] == "r"},
            "flags": {name: ["FLAG-NORM"] for name in NAMES if doing[name] == "f"},
            "late": {n: r for n, r in late.items() if n in records[r - 1].missing},
        }
        records.append(record(number, **about))
    at_work.study = protocol(rounds=100)
    at_work.begin()
    at_work.close(*records)

    said = [json.loads(line) for line in (at_work.run / "rounds.jsonl").read_text().splitlines()]
    expected = {}
    for name in NAMES:
        row = []
        for one in said:
            late_in = [r["round"] for r in said if r["late"].get(name) == one["round"]]
            if name in one["missing"]:
                row.append("L" if late_in else "M")
            elif name in one["refused"]:
                row.append("R")
            else:
                row.append("▲" if one["flags"].get(name) else "●")
        expected[name] = row
    found = {row[0]: row[1:] for row in show().table("Round")}
    assert found["Round"] == [str(n) for n in range(1, 61)]
    assert {name: found[name] for name in NAMES} == expected


def test_without_privacy_no_epsilon_is_shown(made: MadeHome) -> None:
    made.study = protocol(privacy={"mechanism": "none"})
    made.begin()
    made.close(record(1, noise={}))
    page = Page(asking(OfHome(made.home))().text)
    assert "no differential privacy" in page.text
    assert cells(page, "cluj")[3] == "no privacy"


def test_a_rehearsal_shows_its_rounds_and_no_coordinator(made: MadeHome) -> None:
    made.study = protocol(rounds=3)
    made.begin()
    made.close(record(1), record(2, refused={"cluj": "E-POLICY-BUDGET"}))
    ask = asking(OfRehearsal(made.run))
    with locked(made.run / "run.lock"):
        page = Page(ask().text)
    assert "Live page of a rehearsal" in page.text
    assert "is under way. Its hospitals are simulated" in page.text
    assert page.table("Round")[3] == ["cluj", "●", "R"]
    assert page.table("Hospital")[0] == [
        "Hospital", "Patients (nominal)", "Rounds answered", "ε stated, of the promised",
    ]  # fmt: skip
    assert "Coordinator" not in page.text
    assert "was interrupted" in Page(ask().text).text
    (made.run / "model.safetensors").write_bytes(b"")
    made.close(*(record(n) for n in (1, 2, 3)))
    assert "has finished" in Page(ask().text).text


def test_an_outcome_of_another_version_is_not_taken_for_none(at_work: MadeHome) -> None:
    at_work.begin()
    at_work.close(record(1))
    ask = asking(OfHome(at_work.home))
    assert "is under way" in ask().text
    Outcome(stopped="finished", round=1, last={"round": 1, "of": "another version"}).save(
        at_work.run
    )
    page = Page(ask().text)
    assert "Old figures." in page.text
    assert "is under way" in page.text
