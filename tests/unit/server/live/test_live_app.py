"""Who gets an answer from the live page, what a browser may do with it, and damaged files."""

import base64
import hashlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from server.home import Home, Wanted
from server.live.look import Kept, Look, OfHome
from tests.unit.server.live.conftest import Ask, asking
from tests.unit.server.live.homes import NAMES, MadeHome, record
from tests.unit.server.live.reading import Page


@pytest.fixture
def under_way(at_work: MadeHome) -> MadeHome:
    at_work.begin()
    at_work.close(record(1), record(2, refused={"cluj": "E-DATA"}))
    run = at_work.observer()
    run.connected([*NAMES])
    run.round_started(3, [*NAMES])
    return at_work


@pytest.fixture
def ask(under_way: MadeHome) -> Ask:
    return asking(OfHome(under_way.home))


def test_only_reading_is_answered(ask: Ask) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        found = ask("/", method)
        assert (found.status_code, found.headers["allow"]) == (405, "GET, HEAD"), method
        assert "aachen" not in found.text
    assert ask("/", "HEAD").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/status.json", "/still/", "/index.html", "/?a=1", "/still?x", "/..%2f", "/%2e", "/favicon.ico",
     "/docs", "/openapi.json"],
)  # fmt: skip
def test_only_two_paths_are_there(path: str, ask: Ask) -> None:
    found = ask(path)
    assert found.status_code == 404
    assert "aachen" not in found.text


def test_only_the_names_of_loopback_are_answered(ask: Ask) -> None:
    for host in ("127.0.0.1", "127.0.0.1:9444", "localhost:8000", "[::1]:9444", "[::1]"):
        assert ask(Host=host).status_code == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9444", "",
                 "evil.example:127", "127.0.0.1@evil.example", "10.0.0.1:9444", "::1", "127.0.0.1:",
                 "LOCALHOST\t", "0.0.0.0:9444"):  # fmt: skip
        found = ask(Host=host)
        assert found.status_code == 403, host
        assert "aachen" not in found.text


def test_every_answer_forbids_what_is_not_needed(ask: Ask) -> None:
    for found in (ask(), ask("/still"), ask("/x"), ask("/", "POST"), ask(Host="evil.example")):
        policy = dict(
            part.strip().partition(" ")[::2]
            for part in found.headers["content-security-policy"].split(";")
        )
        assert policy.pop("style-src").startswith("'sha256-")
        assert policy == {
            "default-src": "'none'",
            "img-src": "data:",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        assert found.headers["x-frame-options"] == "DENY"
        assert found.headers["cache-control"] == "no-store"
        assert found.headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in found.headers


def test_the_page_fetches_and_runs_nothing(ask: Ask) -> None:
    for path, refresh in (("/", "5"), ("/still", None)):
        found = ask(path)
        page = Page(found.text)
        assert page.reaches == [
            ("link", "href", "data:,"),
            ("a", "href", "/still" if refresh else "/"),
        ]
        assert page.tags.isdisjoint(
            {"script", "iframe", "form", "object", "embed", "base", "input"}
        )
        assert "style" not in page.attributes
        assert not any(name.startswith("on") for name in page.attributes)
        assert page.refresh == refresh
        digest = hashlib.sha256("".join(page.styles).encode()).digest()
        assert base64.b64encode(digest).decode() in found.headers["content-security-policy"]
        assert "url(" not in "".join(page.styles)
        assert "@import" not in "".join(page.styles)


def test_no_path_is_shown(under_way: MadeHome, ask: Ask) -> None:
    assert str(under_way.home.path) not in ask().text
    assert str(under_way.home.path.parent) not in ask().text


def damaged(path: Path, text: bytes) -> None:
    path.unlink()
    path.write_bytes(text)


@pytest.mark.parametrize(
    "file", ["rounds.jsonl", "outcome.json", "protocol.toml", "wanted", "roster"]
)
@pytest.mark.parametrize("how", ["cut off", "other", "empty list"])
def test_a_file_that_cannot_be_read_leaves_the_figures_of_before(
    file: str, how: str, under_way: MadeHome, ask: Ask
) -> None:
    home = under_way.home
    path = {"wanted": home.wanted, "roster": home.roster}.get(file, under_way.run / file)
    if file == "outcome.json":
        assert "is under way" in ask().text
        path.write_text('{"stopped": "finished", "round": 3}')
    before = ask()
    whole = path.read_bytes()
    damaged(path, {"cut off": whole[:-7], "other": b'{"x": 1}\n', "empty list": b"[]\n"}[how])
    found = ask()
    assert found.status_code == 200
    page = Page(found.text)
    assert "Old figures." in page.text
    assert "Traceback" not in found.text
    assert str(home.path) not in found.text
    assert page.table("Round") == Page(before.text).table("Round")
    damaged(path, whole)
    assert "Old figures." not in ask().text


def test_a_half_written_status_file_is_no_trouble(under_way: MadeHome, ask: Ask) -> None:
    status = under_way.run / "status.json"
    damaged(status, status.read_bytes()[:-20])
    page = Page(ask().text)
    assert "Old figures." not in page.text
    assert page.table("Round")[0] == ["Round", "1", "2"]


def test_a_home_that_could_never_be_read_is_said_to_be(made: MadeHome, tmp_path: Path) -> None:
    made.home.roster.write_text("members = 5")
    for home in (made.home, Home(tmp_path / "nothing")):
        found = asking(OfHome(home))()
        assert found.status_code == 503
        page = Page(found.text)
        assert "cannot be read now" in page.text
        assert page.refresh == "5"
        assert str(tmp_path) not in found.text
    Wanted(run="gone").save(made.home)
    assert asking(OfHome(made.home))().status_code == 503


def test_hostile_words_are_text(under_way: MadeHome, ask: Ask) -> None:
    rounds = under_way.run / "rounds.jsonl"
    lines = [asdict(record(1, refused={"cluj": "E-<img src=x onerror=alert(1)>"}))]
    lines[0]["refused"]["cluj"] += '"><script>'
    damaged(rounds, "".join(json.dumps(line) + "\n" for line in lines).encode())
    page = Page(ask().text)
    assert page.tags.isdisjoint({"script", "img"})
    assert "E-<img src=x onerror=alert(1)>" in page.text


class Counting:
    """A source that counts how often it is read."""

    def __init__(self, source: OfHome) -> None:
        self._source = source
        self.looks = 0

    def stamp(self) -> object:
        return self._source.stamp()

    def look(self) -> Look:
        self.looks += 1
        return self._source.look()


def test_files_are_read_again_when_they_changed_and_not_before(under_way: MadeHome) -> None:
    source = Counting(OfHome(under_way.home))
    kept = Kept(source)
    first = kept.look()
    assert kept.look() is first
    assert source.looks == 1
    under_way.close(record(1), record(2), record(3))
    assert len(kept.look().records) == 3
    under_way.observer().connected(["evora"])
    assert kept.look().found["hospitals"]["evora"]["connected"] is True
    under_way.end("finished", round=21)
    assert kept.look().under_way is False
    assert source.looks == 4


def test_looking_writes_nothing(under_way: MadeHome, ask: Ask) -> None:
    def files() -> dict[Path, tuple[int, bytes]]:
        found = (path for path in under_way.home.path.rglob("*") if path.is_file())
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}

    before = files()
    for path in ("/", "/still", "/x"):
        ask(path)
    assert files() == before


def test_the_process_is_small_until_somebody_looks_and_after() -> None:
    heavy = "torch", "flwr", "scipy", "sklearn", "matplotlib", "dp_accounting"
    code = f"import sys, server.live.__main__; print([m for m in {heavy} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
