"""A file is whole or not there, private to its owner, and has one holder of its lock."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from common import files
from common.errors import RunError
from common.files import is_locked, locked, sha256, write_atomic

HOLD = """
import sys
from pathlib import Path
from common.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
TRY = """
import sys
from pathlib import Path
from common.errors import RunError
from common.files import locked
try:
    with locked(Path(sys.argv[1])):
        print("held")
except RunError:
    print("refused")
"""


class PowerCut(BaseException):
    """Nothing that the code could foresee."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.json"
    write_atomic(path, b"old")
    return path


def only(path: Path, content: bytes) -> None:
    """`path` has `content`, and nothing else lies in its folder."""
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_is_written_and_written_again(path: Path) -> None:
    only(path, b"old")
    for data in (b"new", b"", b"\0" * 3_000_000):
        write_atomic(path, data)
        only(path, data)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_only_the_owner_reads_it(path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        path.chmod(0o666)  # someone opened it up
        write_atomic(path, b"new")
        write_atomic(path.with_name("other"), b"first")
    finally:
        os.umask(before)
    for written in (path, path.with_name("other")):
        assert stat.S_IMODE(written.stat().st_mode) == 0o600


def test_what_a_kill_left_behind_is_replaced_with_its_mode(path: Path) -> None:
    left = path.with_name(path.name + ".tmp")
    left.write_bytes(b"half of a much longer content")
    left.chmod(0o644)
    write_atomic(path, b"new")
    only(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_planted_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"precious")
    path.with_name(path.name + ".tmp").symlink_to(target)
    write_atomic(path, b"new")
    assert target.read_bytes() == b"precious"
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "disk full"), PowerCut()], ids=["full", "cut"]
)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    path: Path, step: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr({"fsync": os, "replace": Path}[step], step, fail)
    with pytest.raises(type(error)):
        write_atomic(path, b"new")
    monkeypatch.undo()
    only(path, b"old")
    write_atomic(path, b"new")  # and the next one succeeds
    only(path, b"new")


def test_data_then_name_then_folder_reach_the_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def traced_fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            steps.append("folder")
        else:
            steps.append(f"file of {os.fstat(descriptor).st_size}")
        fsync(descriptor)

    def traced_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(Path, "replace", traced_replace)
    write_atomic(path, b"four")
    assert steps == ["file of 4", "rename", "folder"]


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "absent" / "x", b"")


def test_sha256_is_sha256() -> None:
    assert sha256(b"intra muros") == hashlib.sha256(b"intra muros").hexdigest()


def test_a_lock_has_one_holder_in_a_process_and_is_given_back(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    with locked(lock):
        with pytest.raises(RunError, match="locked by another process"), locked(lock):
            pytest.fail("held twice")
        with locked(tmp_path / "other.lock"):
            pass
    with pytest.raises(PowerCut), locked(lock):
        raise PowerCut
    with locked(lock):
        pass
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600


def other_process(lock: Path) -> str:
    command = [sys.executable, "-c", TRY, str(lock)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_lock_refuses_another_process_until_its_holder_is_gone(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    with locked(lock):
        assert other_process(lock) == "refused"
    assert other_process(lock) == "held"


def test_a_killed_holder_leaves_no_lock_behind(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError), locked(lock):
            pytest.fail("held by two processes")
        holder.kill()
    with locked(lock):
        assert lock.exists()


def test_the_failing_steps_are_the_ones_that_the_code_takes() -> None:
    """The faults above replace names that `common.files` really calls."""
    assert vars(files)["os"] is os
    assert vars(files)["Path"] is Path


LOOK = """
import sys
from pathlib import Path
from common.files import is_locked
print("looks", flush=True)
while sys.stdin.readable():
    if is_locked(Path(sys.argv[1])):
        sys.exit("held")
"""


def test_looks_at_a_lock_see_no_holder_and_keep_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    assert not path.exists()
    with locked(path):
        assert is_locked(path)
    lookers = [
        subprocess.Popen(
            [sys.executable, "-c", LOOK, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    try:
        for looker in lookers:
            assert looker.stdout is not None
            assert looker.stdout.readline() == b"looks\n"
        # Each looks some 100,000 times a second, and never sees the other; nor do they keep us out.
        assert not any(is_locked(path) for _ in range(20_000))
        assert all(looker.poll() is None for looker in lookers)
        with locked(path):
            assert [looker.wait(timeout=60) for looker in lookers] == [1, 1]
    finally:
        for looker in lookers:
            looker.kill()
            looker.communicate()
