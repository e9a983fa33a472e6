"""The live page as real processes: its figures, a browser, and what happens when processes are killed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from server.live.figures import Figures
from server.live.look import OfHome
from server.status import status
from tests.browser import open_page
from tests.consortium import command, free_port, gone, threads
from tests.unit.server.live.homes import NAMES, MadeHome, record
from tests.unit.server.live.reading import Page

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _this_machines_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib's own cache, as in all other tests: to list the fonts takes seconds."""
    monkeypatch.setenv("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))


def until(true: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def text_at(address: str) -> str:
    """The page's HTML; nothing when nobody answers."""
    try:
        return httpx.get(f"http://{address}/", trust_env=False).text
    except httpx.TransportError:
        return ""


@contextmanager
def process(*words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(
        [sys.executable, "-P", "-m", *map(str, words)],
        env=threads(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        started.terminate()
        started.wait(20)


@pytest.fixture
def under_way(at_work: MadeHome) -> MadeHome:
    at_work.begin()
    at_work.close(*(record(n) for n in range(1, 6)))
    run = at_work.observer()
    run.connected([*NAMES])
    run.round_started(6, [*NAMES])
    run.answered("cluj", "E-DATA")
    return at_work


def test_the_figures_are_those_of_status_and_nobody_waits_for_them(
    under_way: MadeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Figures() as figures:
        monkeypatch.setattr(sys, "executable", "/no/such/program")
        assert figures.of(OfHome(under_way.home).look()) is None
        monkeypatch.undo()
        assert figures.of(OfHome(under_way.home).look()) is None  # not tried again before a change
        under_way.close(*(record(n) for n in range(1, 7)))
        look = OfHome(under_way.home).look()
        began = time.monotonic()
        assert figures.of(look) is None
        assert time.monotonic() - began < 1
        until(lambda: figures.of(look))
        found = figures.of(look)
        assert found is not None
        under_way.close(*(record(n) for n in range(1, 8)))
        assert (
            figures.of(OfHome(under_way.home).look()) is found
        )  # until those of round 7 are there
    said = status(under_way.home)["hospitals"]
    steps = {name: epsilon for name, epsilon in found.epsilon.items() if epsilon is not None}
    assert steps.keys() == set(NAMES)
    assert all(0 < epsilon < said[name]["epsilon"] < 8 for name, epsilon in steps.items())
    assert found.discrimination is not None
    value, low, high = found.discrimination
    assert low < value < high
    assert (found.rounds, found.after) == (6, 5)
    assert str(found.curve).count("<svg") == 1


def test_figures_of_another_version_are_no_trouble_for_long(
    under_way: MadeHome, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho '{}'\n")
    other.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(other))
    look = OfHome(under_way.home).look()
    with Figures() as figures:
        with pytest.raises(TypeError):
            until(lambda: figures.of(look))
        assert figures.of(look) is None


def test_a_browser_shows_it_and_asks_for_nothing_else(under_way: MadeHome, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with process("server.live", "--home", under_way.home.path, "--listen", address):
        until(lambda: "95 %" in text_at(address))
        opened = open_page(f"http://{address}/still", tmp_path / "browser")
    page = Page(opened.dom)
    for name in NAMES:
        assert name in page.text
    assert re.search(r"0\.\d{3} 95 % 0\.\d{3}–[01]\.\d{3}, after 4 rounds", page.text)
    assert re.search(r"\d\.\d\d of 8", page.text)
    assert [tag for tag, _, _ in page.reaches] == ["link", "img", "a"]
    # Not a word of the policy being broken: the style's hash and the picture are what it lets in.
    assert "Content Security Policy" not in opened.complaints
    assert opened.requests == frozenset()


def test_odd_paths_are_refused_as_they_arrive(under_way: MadeHome) -> None:
    port = free_port()
    with process("server.live", "--home", under_way.home.path, "--listen", f"127.0.0.1:{port}"):
        until(lambda: text_at(f"127.0.0.1:{port}"))
        for target in (
            "//",
            "/static/../",
            "/still/..",
            "http://evil.example/",
            "*",
            "/%00",
            "/a b",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
                sock.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                head = sock.recv(65_536)
            assert re.match(rb"HTTP/1.1 40[04] ", head), (target, head)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            sock.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(65_536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == b""


@pytest.mark.crash
def test_it_goes_with_its_coordinator_and_never_the_other_way_round(made: MadeHome) -> None:
    page, public = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    made.home.runs.mkdir()

    def services() -> dict[str, int]:
        try:
            found = json.loads(made.home.state.read_bytes())["services"]
        except (OSError, ValueError):
            return {}
        return {name: about["pid"] for name, about in found.items() if about["pid"]}

    with socket.create_server(
        ("127.0.0.1", int(page.rpartition(":")[2]))
    ):  # another program has it
        coordinator = subprocess.Popen(
            command("intramural-server", "start", "--home", made.home.path, "--listen", public,
                    "--page", page),
            env=threads(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert coordinator.stdout is not None
        assert "is taken by another program" in coordinator.stdout.readline()
        until(lambda: len(services()) == 4, 60)
    before = services()
    until(lambda: "No run has begun" in text_at(page))
    assert services() == before

    os.kill(before["live"], signal.SIGKILL)
    until(lambda: services().get("live") not in (None, before["live"]))
    assert {**services(), "live": 0} == {**before, "live": 0}  # nobody else noticed
    until(lambda: "No run has begun" in text_at(page))

    last = services()["live"]
    coordinator.kill()
    coordinator.wait()
    coordinator.stdout.close()
    gone(last)
    assert text_at(page) == ""
    for pid in before.values():
        gone(pid, 20)
