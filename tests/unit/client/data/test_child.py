"""Work in a child process: its answer, and everything that it may do instead."""

import ctypes
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from client.data import child
from client.data.child import in_child


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_answer_comes_back_whole() -> None:
    sent = os.urandom(3_000_000)  # many times what a pipe holds
    assert in_child(lambda: sent, len(sent)) == sent
    assert in_child(lambda: b"", 0) == b""


def fails() -> bytes:
    raise ValueError("a patient's name")


def crashes() -> bytes:
    ctypes.string_at(0)
    return b"1234"


def ends() -> bytes:
    os._exit(0)


def eats() -> bytes:
    return bytes(bytearray(4 << 30)[:4])


ODD: dict[str, Callable[[], bytes]] = {
    "an error": fails,
    "a crash": crashes,
    "an early end": ends,
    "too much memory": eats,
    "too little": lambda: b"123",
    "too many": lambda: b"12345",
}


@pytest.mark.parametrize("work", ODD.values(), ids=ODD)
def test_anything_else_is_no_answer_and_leaves_nothing_behind(
    work: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    children: list[int] = []
    fork = os.fork

    def forked() -> int:
        children.append(fork())
        return children[0]

    monkeypatch.setattr(os, "fork", forked)
    before = open_descriptors()
    assert in_child(work, 4) is None
    assert open_descriptors() == before
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ChildProcessError):  # it was waited for
        os.waitpid(children[0], os.WNOHANG)


def test_it_can_write_no_file(tmp_path: Path) -> None:
    def writes() -> bytes:
        (tmp_path / "kept").write_bytes(b"a patient")
        return b"1234"

    assert in_child(writes, 4) is None
    assert (tmp_path / "kept").read_bytes() == b""


def test_one_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "MOST_SECONDS", 1.0)
    began = time.monotonic()
    assert in_child(lambda: time.sleep(600) or b"", 0) is None  # type: ignore[func-returns-value]
    assert time.monotonic() - began < 60


def test_it_has_none_of_its_parents_files_and_lines() -> None:
    here, there = socket.socketpair()
    with here, there:

        def tries() -> bytes:
            try:
                os.write(there.fileno(), b"a patient")
            except OSError:
                return b"shut"
            return b"open"

        assert in_child(tries, 4) == b"shut"
        here.setblocking(False)
        with pytest.raises(BlockingIOError):
            here.recv(1)
