"""The conductor between the wanted run, Flower's runs and the ServerApp, with a Flower of the test's own.

With the real one: tests/e2e/test_consortium_crashes.py.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.supercore.control.control_http_client import ControlHttpClient

from common.bundle import bundle_hash
from server import executor
from server.executor import MOST_CRASHES, Conductor, rounds_closed
from server.home import Home, Outcome, Wanted


class Flower:
    """A SuperLink's control API: runs by id, each under way until it is stopped."""

    def __init__(self) -> None:
        self.runs: dict[int, str] = {}
        self.bundles: list[str] = []
        self.down = False

    def StartRun(self, request: Any) -> Any:  # noqa: N802  (Flower's names)
        self._answer()
        self.bundles.append(request.fab.hash_str)
        self.runs[len(self.runs) + 1] = "running"
        return SimpleNamespace(run_id=len(self.runs))

    def ListRuns(self, _: Any) -> Any:  # noqa: N802
        self._answer()
        status = {i: SimpleNamespace(status=s) for i, s in self.runs.items()}
        return SimpleNamespace(run_dict={i: SimpleNamespace(status=s) for i, s in status.items()})

    def StopRun(self, request: Any) -> None:  # noqa: N802
        self._answer()
        self.runs[request.run_id] = "finished"

    def _answer(self) -> None:
        if self.down:
            raise httpx.ConnectError("refused")

    def under_way(self) -> list[int]:
        return [run_id for run_id, status in self.runs.items() if status != "finished"]


class Tasks:
    """An executor that gets the task of a run that is ours, and works until the test ends it."""

    def __init__(self, flower: Flower, ours: Any) -> None:
        self.flower, self.ours = flower, ours
        self.children: set[int] = set()
        self.started = 0

    def step(self) -> bool:
        tasks = [run_id for run_id in self.flower.under_way() if self.ours(run_id)]
        if self.flower.down or not tasks:
            return False
        self.started += 1
        self.children.add(self.started)
        return True

    def reap(self) -> None:
        """Nothing ends by itself here."""

    def end(self) -> None:
        self.children.clear()

    crash = end


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.superlink.mkdir()
    home.ca.parent.mkdir()
    home.ca.write_text("")
    home.secret.write_text("secret")
    home.roster.write_text("")
    (home.runs / "run").mkdir(parents=True)
    return home


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> Flower:
    flower = Flower()
    monkeypatch.setattr(ControlHttpClient, "from_server_address", lambda *_, **__: flower)
    monkeypatch.setattr(executor, "Executor", lambda *_, ours: Tasks(flower, ours))
    monkeypatch.setattr(executor, "keep_register", lambda *_: None)
    return flower


@pytest.fixture
def conductor(home: Home, flower: Flower) -> Conductor:
    assert not flower.runs
    return Conductor(home, "127.0.0.1:1")


def tasks(conductor: Conductor) -> Tasks:
    found = conductor._executor
    assert isinstance(found, Tasks)
    return found


def steps(conductor: Conductor, number: int = 3) -> None:
    for _ in range(number):
        conductor.step()


def close_a_round(home: Home) -> None:
    with (home.runs / "run" / "rounds.jsonl").open("a") as file:
        file.write("{}\n")


def test_nothing_runs_until_a_run_is_wanted(conductor: Conductor, flower: Flower) -> None:
    steps(conductor)
    assert flower.runs == {}


def test_a_wanted_run_gets_one_serverapp_with_the_thin_bundle(
    conductor: Conductor, flower: Flower, home: Home
) -> None:
    Wanted("run").save(home)
    steps(conductor, 10)
    assert flower.under_way() == [1]
    assert flower.bundles == [bundle_hash()]
    assert len(tasks(conductor).children) == 1


def test_after_a_crash_another_run_of_flowers_goes_on_and_the_old_one_is_stopped(
    conductor: Conductor, flower: Flower, home: Home
) -> None:
    Wanted("run").save(home)
    steps(conductor)
    tasks(conductor).crash()
    steps(conductor)
    assert flower.under_way() == [2]
    assert len(tasks(conductor).children) == 1
    assert Outcome.load(home.runs / "run") is None


def test_an_executor_that_was_itself_killed_goes_on_too(
    conductor: Conductor, flower: Flower, home: Home
) -> None:
    Wanted("run").save(home)
    steps(conductor)
    again = Conductor(home, "127.0.0.1:1")
    steps(again)
    assert flower.under_way() == [2]


def test_a_task_of_somebody_elses_run_is_left(
    conductor: Conductor, flower: Flower, home: Home
) -> None:
    Wanted("run").save(home)
    steps(conductor)
    tasks(conductor).crash()
    flower.runs[1] = "finished"
    flower.runs[7] = "running"  # started by whoever reached the SuperLink on loopback
    assert not tasks(conductor).step()
    steps(conductor)
    assert 7 not in flower.under_way()  # and it is stopped before ours goes on


def test_a_serverapp_that_keeps_crashing_in_a_round_fails_the_run(
    conductor: Conductor, flower: Flower, home: Home
) -> None:
    Wanted("run").save(home)
    for _ in range(3 * MOST_CRASHES):
        steps(conductor)
        tasks(conductor).crash()
    outcome = Outcome.load(home.runs / "run")
    assert outcome is not None
    assert outcome.stopped == "failed"
    assert "round 1" in outcome.detail
    started = len(flower.runs)
    steps(conductor)
    assert len(flower.runs) == started


def test_crashes_between_closed_rounds_are_borne(conductor: Conductor, home: Home) -> None:
    Wanted("run").save(home)
    for _ in range(3 * MOST_CRASHES):
        steps(conductor)
        close_a_round(home)
        tasks(conductor).crash()
    assert Outcome.load(home.runs / "run") is None
    assert rounds_closed(home.runs / "run") == 3 * MOST_CRASHES


def test_a_run_that_is_to_stop_is_stopped_and_says_so(
    conductor: Conductor, flower: Flower, home: Home
) -> None:
    Wanted("run").save(home)
    steps(conductor)
    Wanted("run", stop=True).save(home)
    steps(conductor)
    outcome = Outcome.load(home.runs / "run")
    assert outcome is not None
    assert outcome.stopped == "stopped"
    assert (flower.under_way(), tasks(conductor).children) == ([], set())


def test_a_superlink_that_is_away_is_waited_for(
    conductor: Conductor, flower: Flower, home: Home
) -> None:
    flower.down = True
    Wanted("run").save(home)
    steps(conductor)
    assert flower.runs == {}
    flower.down = False
    steps(conductor)
    assert flower.under_way() == [1]


def test_a_damaged_file_or_a_missing_roster_ends_no_executor(
    conductor: Conductor, flower: Flower, home: Home
) -> None:
    home.wanted.write_text("{")
    steps(conductor)
    home.roster.unlink()
    steps(conductor)
    assert flower.runs == {}
