"""Processes that end, refuse, hang and talk, kept alive by a supervisor; and one whose parent is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest

from common import supervisor
from common.errors import EXIT_REFUSED
from common.supervisor import Service, Supervisor

pytestmark = pytest.mark.slow


def python(name: str, code: str, **environment: str) -> Service:
    return Service(name, [sys.executable, "-c", code], environment)


class Running:
    """A supervisor in a thread of the test."""

    def __init__(self, folder: Path, *services: Service) -> None:
        self._umask = os.umask(0o022)  # which a supervisor changes for its process
        self.folder = folder
        self.state = folder / "state.json"
        self.stop = Event()
        self.code: int | None = None
        self._supervisor = Supervisor(services, folder / "logs", self.state)
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.code = self._supervisor.run(self.stop)

    def about(self, name: str) -> dict[str, float]:
        try:
            found: dict[str, float] = json.loads(self.state.read_text())["services"][name]
            return found
        except (OSError, KeyError, ValueError):
            return {}

    def log(self, name: str) -> str:
        file = self.folder / "logs" / f"{name}.log"
        return file.read_text() if file.exists() else ""

    def end(self) -> int | None:
        self.stop.set()
        self._thread.join(30)
        os.umask(self._umask)
        return self.code

    def ended(self) -> bool:
        return not self._thread.is_alive()


def until(true: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


SLEEPS = "import time; print('up', flush=True); time.sleep(100)"


def test_what_is_killed_is_started_again_and_all_end_together(tmp_path: Path) -> None:
    running = Running(tmp_path, python("one", SLEEPS), python("two", SLEEPS))
    until(lambda: "up" in running.log("one") and "up" in running.log("two"))
    first, other = int(running.about("one")["pid"]), int(running.about("two")["pid"])
    os.kill(first, signal.SIGKILL)
    until(lambda: running.about("one").get("restarts") == 1 and running.about("one")["pid"])
    second = int(running.about("one")["pid"])
    assert second != first
    assert running.about("two")["pid"] == other  # the others are left alone
    assert running.end() == 0
    for pid in (second, other):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not running.state.exists()


def test_what_goes_on_ending_is_started_less_and_less_often(tmp_path: Path) -> None:
    running = Running(tmp_path, python("dies", "print('again', flush=True)"))
    time.sleep(4.0)
    running.end()
    # Without a pause there would be dozens; with 0.2, 0.4, 0.8, 1.6 s there are about five.
    assert 3 <= running.log("dies").count("again") <= 7


def test_one_that_refuses_to_start_ends_all_with_its_code(tmp_path: Path) -> None:
    refuses = python("wrong", f"print('no key'); raise SystemExit({EXIT_REFUSED})")
    running = Running(tmp_path, python("fine", SLEEPS), refuses)
    until(running.ended)
    assert running.code == EXIT_REFUSED
    assert "no key" in running.log("wrong")


@pytest.mark.parametrize(
    "service",
    [
        Service("absent", ["/no/such/program"]),
        Service("stranger", [sys.executable, "-c", ""], {}, "no-such-user"),
    ],
)
def test_one_that_this_host_cannot_start_ends_all_in_words(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(tmp_path, python("fine", SLEEPS), service)
    until(running.ended)
    assert running.end() == EXIT_REFUSED
    assert f"expected to start {service.name}" in caplog.text


def test_one_that_does_not_hear_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 0.5)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPS
    running = Running(tmp_path, python("deaf", deaf))
    until(lambda: "up" in running.log("deaf"))
    began = time.monotonic()
    assert running.end() == 0
    assert time.monotonic() - began < 5


def test_what_they_say_is_kept_for_their_user_only_and_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 20_000)
    monkeypatch.setattr(supervisor, "LOG_FILES", 2)
    code = "for _ in range(2000): print('x' * 70, flush=True)\nimport time; time.sleep(100)"
    running = Running(tmp_path, python("talks", code))
    until(lambda: (tmp_path / "logs" / "talks.log.2").exists())
    running.end()
    files = sorted((tmp_path / "logs").iterdir())
    assert [f.name for f in files] == ["talks.log", "talks.log.1", "talks.log.2"]
    assert all(f.stat().st_size <= 21_000 for f in files)
    assert files[0].stat().st_mode & 0o077 == 0
    assert (tmp_path / "logs").stat().st_mode & 0o077 == 0


def test_its_environment_reaches_a_service_and_names_its_parent(tmp_path: Path) -> None:
    says = python(
        "says", "import os; print(os.environ['A'], os.environ['INTRAMURAL_PARENT'])", A="b"
    )
    running = Running(tmp_path, says)
    until(lambda: f"b {os.getpid()}" in running.log("says"))
    running.end()


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().strip(), flush=True)
import time; time.sleep(100)
"""
CHILD = """
from common.supervisor import end_with_parent
{ask}
print("up", flush=True)
import time; time.sleep(30)
"""


@pytest.mark.parametrize("asks", [True, False])
def test_a_child_that_asked_for_it_dies_with_its_parent(asks: bool, repository: Path) -> None:
    """Without asking it lives on: the test could fail."""
    code = CHILD.format(ask="end_with_parent()" if asks else "")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, code], stdout=subprocess.PIPE, text=True, cwd=repository
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline().split()[0])
    parent.kill()
    parent.communicate()

    def alive() -> bool:
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        return state != "Z"

    if asks:
        until(lambda: not alive(), 10)
    else:
        time.sleep(0.5)
        assert alive()
        os.kill(child, signal.SIGKILL)


def test_a_child_whose_parent_is_gone_already_ends_at_once(repository: Path) -> None:
    code = CHILD.format(ask="end_with_parent()")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "INTRAMURAL_PARENT": "1"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        cwd=repository,
    )
    assert done.returncode == -signal.SIGTERM
    assert "up" not in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user")
def test_a_service_runs_as_the_user_that_it_names(tmp_path: Path) -> None:
    code = "import os; print('ids', os.getuid(), os.getgroups(), os.environ['USER'], flush=True)"
    service = Service("other", ["/usr/bin/env", "python3", "-c", code], {}, "nobody")
    running = Running(tmp_path, service)
    until(lambda: "ids" in running.log("other"))
    running.end()
    assert "ids 65534 [] nobody" in running.log("other")
