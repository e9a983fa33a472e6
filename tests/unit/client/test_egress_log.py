"""The egress log survives a crash at any byte, and is refused when anybody was at it."""

import errno
import json
import os
from pathlib import Path

import pytest

from client.egress_log import ANCHOR, LOCK, LOG, EgressLog
from common.errors import EgressError, UnapprovedPolicyError
from common.files import locked

POLICY = "a" * 64


@pytest.fixture
def log(tmp_path: Path) -> EgressLog:
    EgressLog.create(tmp_path)
    log = EgressLog(tmp_path)
    log.approve(POLICY, "b" * 64)
    log.write(b"first", "refusal", "E-DATA", None)
    return log


def kinds(folder: Path) -> list[str]:
    return [entry.kind for entry in EgressLog.read(folder)]


def test_what_left_is_on_record_with_policy_and_ledger(log: EgressLog, tmp_path: Path) -> None:
    log.write(b"reply", "train-reply", None, "c" * 64)
    begun, approved, refusal, reply = EgressLog.read(tmp_path)
    assert (begun.kind, approved.kind) == ("begun", "approved")
    assert approved.body == {"policy": POLICY, "study": "b" * 64}
    assert (refusal.body["code"], refusal.body["bytes"]) == ("E-DATA", 5)
    assert reply.body["ledger"] == "c" * 64
    assert reply.body["policy"] == POLICY
    assert log.head == reply.hash
    assert log.approval_of(POLICY).hash == approved.hash
    with pytest.raises(UnapprovedPolicyError, match="by a byte or more"):
        log.approval_of("d" * 64)


def test_two_logs_that_were_begun_alike_are_two(tmp_path: Path) -> None:
    heads = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        EgressLog.create(tmp_path / name)
        heads.add(EgressLog.read(tmp_path / name)[0].body["name"])
    assert len(heads) == 2


def test_whoever_writes_in_between_is_seen(log: EgressLog, tmp_path: Path) -> None:
    """The vault keeps its log open while `approve` adds to it."""
    EgressLog(tmp_path).approve("d" * 64, None)
    assert log.approval_of("d" * 64)
    log.write(b"second", "hello-reply", None, None)
    assert kinds(tmp_path) == ["begun", "approved", "released", "approved", "released"]


def test_a_crash_within_a_line_loses_at_most_what_had_not_left(
    log: EgressLog, tmp_path: Path
) -> None:
    """A crash leaves any part of the new line, with the anchor before or after."""
    before, anchor = (tmp_path / LOG).read_bytes(), (tmp_path / ANCHOR).read_bytes()
    log.write(b"second", "hello-reply", None, None)
    whole = (tmp_path / LOG).read_bytes()
    for end in [*range(len(before), len(whole), 9), len(whole) - 1, len(whole)]:
        (tmp_path / LOG).write_bytes(whole[:end])
        (tmp_path / ANCHOR).write_bytes(anchor)
        assert len(EgressLog.read(tmp_path)) == (4 if end == len(whole) else 3)
        after = EgressLog(tmp_path)
        after.write(b"third", "hello-reply", None, None)
        assert len(EgressLog.read(tmp_path)) == (5 if end == len(whole) else 4)


@pytest.mark.usefixtures("log")
def test_the_anchor_finds_a_cut_wherever_it_is(tmp_path: Path) -> None:
    whole = (tmp_path / LOG).read_bytes()
    for end in range(0, len(whole), 7):
        (tmp_path / LOG).write_bytes(whole[:end])
        with pytest.raises(EgressError):
            EgressLog.read(tmp_path)
        with pytest.raises(EgressError):
            EgressLog(tmp_path).write(b"more", "hello-reply", None, None)


@pytest.mark.parametrize("gone", [LOG, ANCHOR])
def test_without_one_of_its_files_it_is_refused_and_not_begun_anew(
    log: EgressLog, tmp_path: Path, gone: str
) -> None:
    (tmp_path / gone).unlink()
    for use in (lambda: log.write(b"x", "refusal", None, None), lambda: EgressLog.read(tmp_path)):
        with pytest.raises(EgressError, match="put them back"):
            use()
    with pytest.raises(EgressError, match="begun once"):
        EgressLog.create(tmp_path)


def test_all_its_files_are_its_owners_and_it_is_refused_when_they_are_not(
    log: EgressLog, tmp_path: Path
) -> None:
    for name in (LOG, ANCHOR, LOCK):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    (tmp_path / LOG).chmod(0o644)
    with pytest.raises(EgressError, match="to have mode 600"):
        log.write(b"x", "refusal", None, None)


def test_a_full_disk_lets_nothing_out_and_leaves_the_log_whole(
    log: EgressLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", full)
        with pytest.raises(EgressError, match="No space left on device"):
            log.write(b"second", "hello-reply", None, None)
    log.write(b"second", "hello-reply", None, None)
    assert kinds(tmp_path) == ["begun", "approved", "released", "released"]


def test_one_writes_at_a_time(log: EgressLog, tmp_path: Path) -> None:
    with locked(tmp_path / LOCK), pytest.raises(EgressError, match="in use by another process"):
        log.write(b"x", "refusal", None, None)


def test_a_line_is_written_in_one_way_only(log: EgressLog, tmp_path: Path) -> None:
    """Other text for the same entry is another log: blanks and order are places to hide something."""
    first, *rest = (tmp_path / LOG).read_text().splitlines(keepends=True)
    (tmp_path / LOG).write_text(json.dumps(json.loads(first)) + "\n" + "".join(rest))
    with pytest.raises(EgressError, match="breaks at entry 1"):
        EgressLog.read(tmp_path)
    assert log.head != ""
