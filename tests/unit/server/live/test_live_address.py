"""Where the live page may listen, and what `start` and `page` say about it."""

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import CoordinatorError
from server import __main__ as program
from server.live.address import loopback, offered
from tests.unit.server.live.homes import MadeHome


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"127.0.0.1:{sock.getsockname()[1]}"


def test_loopback_is_taken() -> None:
    assert loopback("127.0.0.1:9444") == ("127.0.0.1", 9444)
    assert loopback("[::1]:1") == ("::1", 1)


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0:9444", "[::]:9444", "localhost:9444", "10.0.0.5:9444", "9444", ":9444", "127.0.0.1",
     "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.2:9444", "127.0.0.1:9444 ", "[::ffff:127.0.0.1]:9444", ""],
)  # fmt: skip
def test_whatever_others_could_reach_is_refused(text: str) -> None:
    with pytest.raises(CoordinatorError, match="loopback only"):
        loopback(text)


def test_a_page_never_stands_in_the_way_of_the_coordinator(taken: str) -> None:
    where, said = offered(taken, "0.0.0.0:9443")
    assert where == taken  # it waits there
    assert "is taken by another program" in said
    where, said = offered("127.0.0.1:9443", "0.0.0.0:9443")
    assert where is None
    assert "is the public one" in said


def test_a_port_that_is_forbidden_is_not_said_to_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", forbidden)
    where, said = offered("127.0.0.1:444", "0.0.0.0:9443")
    assert where == "127.0.0.1:444"
    assert "127.0.0.1:444 cannot be had (Permission denied)" in said


def test_what_start_hands_on(made: MadeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[object, ...]] = []

    def run(*words: object) -> int:
        given.append(words)
        return 0

    monkeypatch.setattr("server.coordinator.run_coordinator", run)
    words = ["start", "--home", str(made.home.path), "--listen", "127.0.0.1:9443"]

    def start(*more: str) -> tuple[int, str, object]:
        given.clear()
        found = CliRunner().invoke(program.app, [*words, *more])
        return found.exit_code, " ".join(found.output.split()), given[0][-1] if given else "none"

    with socket.create_server(("127.0.0.1", 0)) as sock:
        free = f"127.0.0.1:{sock.getsockname()[1]}"
    assert start("--page", free) == (0, f"live page: http://{free}", free)
    assert start("--no-page") == (0, "", None)
    code, said, handed = start("--page", "0.0.0.0:9444")
    assert (code, handed) == (2, "none")
    assert "E-COORDINATOR" in said


def test_page_alone_refuses_in_words(made: MadeHome, taken: str, tmp_path: Path) -> None:
    def page(*words: str) -> str:
        found = CliRunner().invoke(program.app, ["page", *words])
        assert found.exit_code == 2
        return " ".join(found.output.split())

    home = str(made.home.path)
    assert "loopback only" in page("--home", home, "--listen", "0.0.0.0:9444")
    assert "may be there already" in page("--home", home, "--listen", taken)
    assert "E-PROTOCOL" in page("--home", str(tmp_path / "nothing"))
    made.begin()
    assert "expected a rehearsal's run folder" in page("--run", str(made.run))
