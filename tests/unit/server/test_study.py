"""`intramural-server run`, `stop` and `status`, on a coordinator's home without its processes."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from common.errors import CoordinatorError, RunError
from common.files import locked
from common.keys import make_private_key, public_text
from common.protocol import StudyProtocol
from server.checkpoint import Checkpoints
from server.home import Home, Outcome, Wanted
from server.provision import initialise
from server.roster import Member, Roster, change_roster
from server.status import as_table, closed_rounds, one_line, status
from server.study import put_run, stop_run, wait_for_end
from tests.answering import MakeStudy

COORDINATOR = {"names": ["127.0.0.1"], "port": 9443}


@pytest.fixture
def study(make_study: MakeStudy) -> StudyProtocol:
    return make_study(coordinator=COORDINATOR)


@pytest.fixture
def home(tmp_path: Path, study: StudyProtocol) -> Home:
    (tmp_path / "protocol.toml").write_text(study.to_toml())
    initialise(tmp_path / "home", tmp_path / "protocol.toml")
    home = Home(tmp_path / "home")
    home.runs.mkdir()
    change_roster(home.roster, lambda _: roster(study, study.hospital_names))
    return home


@pytest.fixture
def running(home: Home) -> Iterator[None]:
    with locked(home.lock):
        yield


def roster(study: StudyProtocol, names: tuple[str, ...], **changes: Any) -> Roster:
    now = datetime.now(UTC).replace(microsecond=0)
    return Roster(
        members=tuple(
            Member(
                hospital=name,
                public_key=public_text(make_private_key().public_key()),
                nominal_patients=changes.get(name, study.hospital(name).nominal_patients),
                approved=now,
                expires=now + timedelta(days=100),
            )
            for name in names
        )
    )


def silent(_: float) -> None:
    """Nobody waits for the pre-training."""


def put(home: Home, study: StudyProtocol) -> Path:
    protocol = home.path.parent / "given.toml"
    protocol.write_text(study.to_toml())
    return put_run(home, protocol, silent)


@pytest.mark.usefixtures("running")
def test_a_run_is_put_where_the_executor_finds_it(home: Home, study: StudyProtocol) -> None:
    folder = put(home, study)
    assert folder == home.runs / f"a-study-{study.digest[:8]}"
    assert Wanted.load(home) == Wanted(run=folder.name)
    state = Checkpoints(folder, study).load()
    assert state is not None
    assert state.round == 0
    assert Outcome.load(folder) is None


@pytest.mark.usefixtures("running")
def test_a_run_that_stopped_is_taken_up_and_its_rounds_stay(
    home: Home, study: StudyProtocol
) -> None:
    folder = put(home, study)
    before = sorted((f.name, f.read_bytes()) for f in (folder / "checkpoints").iterdir())
    Outcome(stopped="quorum-missed", round=1).save(folder)
    assert put(home, study) == folder
    assert Outcome.load(folder) is None
    assert sorted((f.name, f.read_bytes()) for f in (folder / "checkpoints").iterdir()) == before


def test_without_a_coordinator_nothing_is_begun(home: Home, study: StudyProtocol) -> None:
    with pytest.raises(RunError, match="intramural-server start"):
        put(home, study)
    assert list(home.runs.iterdir()) == []


@pytest.mark.usefixtures("running")
def test_a_finished_run_is_not_run_again(home: Home, study: StudyProtocol) -> None:
    Outcome(stopped="finished", round=3).save(put(home, study))
    with pytest.raises(RunError, match="has finished"):
        put(home, study)


@pytest.mark.usefixtures("running")
def test_one_run_at_a_time(home: Home, study: StudyProtocol, make_study: MakeStudy) -> None:
    first = put(home, study)
    other = make_study(study="b-study", coordinator=COORDINATOR)
    with pytest.raises(RunError, match=f"is on run {first.name}"):
        put(home, other)
    assert stop_run(home) == first.name
    assert Wanted.load(home) == Wanted(run=first.name, stop=True)
    Outcome(stopped="stopped").save(first)
    with pytest.raises(RunError, match="found none"):
        stop_run(home)
    assert put(home, other).name.startswith("b-study")


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"coordinator": {"names": ["127.0.0.2"], "port": 9443}}, "hospitals dial"),
        ({"coordinator": None}, "hospitals dial"),
        ({"participation": {"quorum": 4}}, "at least 4 approved"),
        ({"participation": {"mandatory": ["west"]}}, "among them west"),
        ({"hospitals": [{"name": "north", "nominal-patients": 7},
                        {"name": "east", "nominal-patients": 40}]}, "nominal cohort of north"),
    ],
)  # fmt: skip
def test_a_protocol_that_coordinator_or_roster_do_not_bear_is_refused(
    changes: dict[str, Any], match: str, home: Home, study: StudyProtocol, make_study: MakeStudy
) -> None:
    change_roster(home.roster, lambda _: roster(study, ("north", "east", "south")))
    changed = make_study(**({"coordinator": COORDINATOR} | changes))
    with pytest.raises(RunError, match=match):
        put(home, changed)
    assert Wanted.load(home) is None


@pytest.mark.usefixtures("running")
def test_waiting_ends_with_the_run(home: Home, study: StudyProtocol) -> None:
    folder, looks = put(home, study), 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            Outcome(stopped="finished", round=3).save(folder)

    assert wait_for_end(home, folder, look).stopped == "finished"
    assert looks == 3  # once more after the end, for the last line


def test_waiting_ends_with_the_coordinator_too(home: Home, study: StudyProtocol) -> None:
    with locked(home.lock):
        folder = put(home, study)
    with pytest.raises(RunError, match="goes on behind its last closed round"):
        wait_for_end(home, folder, lambda: None)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"run": "a", "x": 1}'])
def test_a_damaged_file_is_named(text: str, home: Home) -> None:
    home.wanted.write_text(text)
    with pytest.raises(CoordinatorError, match=r"wanted\.json"):
        Wanted.load(home)


def test_status_before_any_run(home: Home) -> None:
    found = status(home, epsilon=False)
    assert (found["coordinator"], found["run"]) == ("not running", None)
    assert found["certificate_days_left"]["server"] in (396, 397)
    assert found["hospitals"]["west"] == {"days_left": 99, "nominal_patients": 8}
    json.dumps(found)
    drawn(found)


def drawn(found: dict[str, Any]) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(as_table(found))
    return console.export_text()


@pytest.mark.usefixtures("running")
def test_status_says_who_is_in_who_is_late_and_how_the_run_stands(
    home: Home, study: StudyProtocol
) -> None:
    folder = put(home, study)
    now = {
        "round": 2,
        "rounds": 3,
        "round_started": 1.0,
        "hospitals": {
            "north": {"connected": True, "state": "answered", "since": 1.0, "code": None},
            "east": {"connected": False, "state": "absent", "since": 1.0},
            "south": {"connected": True, "state": "refused", "since": 1.0, "code": "E-DATA"},
        },
    }
    (folder / "status.json").write_text(json.dumps(now))
    record = {
        "round": 1, "seconds": 2.0, "answered": ["east", "north"], "refused": {}, "missing": ["west"],
        "late": {}, "noise": {"north": 1.5, "east": 1.5}, "heads": {}, "histogram": None,
        "histogram_noise": None,
    }  # fmt: skip
    (folder / "rounds.jsonl").write_text(json.dumps(record) + "\n")
    found = status(home, epsilon=False)
    run = found["run"]
    assert (run["state"], run["round"], run["rounds_closed"]) == ("under way", 2, 1)
    assert found["hospitals"]["east"]["rounds_in"] == 1
    assert found["hospitals"]["west"]["state"] == "never seen"
    text = drawn(found)
    for word in (
        "under way",
        "gone for",
        "refused E-DATA",
        "never seen",
        "round 2/3",
        "1 of 3 rounds closed",
    ):
        assert word in text, text
    assert one_line(folder, study) == (
        "round 2/3: north answered, east absent, south refused, west never seen"
    )
    assert [r.round for r in closed_rounds(folder)] == [1]
    Outcome(stopped="quorum-missed", round=2, detail="").save(folder)
    assert status(home, epsilon=False)["run"]["state"] == "quorum-missed"


def test_status_of_a_run_whose_coordinator_is_gone(home: Home, study: StudyProtocol) -> None:
    with locked(home.lock):
        put(home, study)
    assert status(home, epsilon=False)["run"]["state"] == "waits for the coordinator"
