"""The ledger: spent before it happens, sealed before it leaves, and refused when it is not whole."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from client.ledger import FILE, Ledger, Spend
from common.errors import LedgerError

KEY, OTHER = "a" * 64, "b" * 64
TRAINING, VALIDATION = Spend(1.5, 0.25, 8), Spend(20.0, 1.0, 1)

RESERVE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from client.ledger import Ledger, Spend

with Ledger.open(Path(sys.argv[1])) as ledger:
    ledger.reserve("a" * 64, "study", 3, {"training": Spend(1.5, 0.25, 8)})
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Ledger.create(tmp_path)
    return tmp_path


def test_accounts_are_apart_and_spends_in_order(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        assert ledger.spends("training") == ledger.spends("validation") == []
        ledger.reserve(KEY, "first", 1, {"training": TRAINING, "validation": VALIDATION})
        ledger.reserve(OTHER, "second", 1, {"validation": Spend(3.0, 1.0, 1)})
        ledger.reserve(OTHER, "second", 2, {"training": Spend(2.0, 0.5, 4)})
    with Ledger.open(folder) as ledger:  # over restarts and studies
        assert ledger.spends("training") == [TRAINING, Spend(2.0, 0.5, 4)]
        assert ledger.spends("validation") == [VALIDATION, Spend(3.0, 1.0, 1)]


def test_a_reservation_is_visible_to_others_before_reserve_returns(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        ledger.reserve(KEY, "study", 1, {"training": TRAINING})
        with Ledger.open(folder) as second:
            assert second.spends("training") == [TRAINING]


def test_a_reservation_survives_kill(folder: Path) -> None:
    died = subprocess.run([sys.executable, "-c", RESERVE_AND_DIE, str(folder)], check=False)
    assert died.returncode == -signal.SIGKILL
    with Ledger.open(folder) as ledger:
        assert ledger.spends("training") == [TRAINING]
        assert ledger.sealed_reply(KEY) is None


def test_every_commit_waits_for_the_disk(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        (mode,) = ledger._connection.execute("PRAGMA synchronous").fetchone()
        assert mode == 2  # FULL; NORMAL would lose the last commits in a power cut


def test_a_reservation_asked_twice_counts_twice(folder: Path) -> None:
    """A crash between reservation and seal: the request is asked again, and noise was drawn twice."""
    with Ledger.open(folder) as ledger:
        for _ in range(2):
            ledger.reserve(KEY, "study", 1, {"training": TRAINING})
        assert ledger.spends("training") == [TRAINING] * 2


def test_a_failing_reservation_leaves_nothing_of_itself(folder: Path) -> None:
    whole, broken = TRAINING, Spend("much", 1.0, 1)  # type: ignore[arg-type]
    with pytest.raises(LedgerError, match="cannot be used"), Ledger.open(folder) as ledger:
        ledger.reserve(KEY, "study", 1, {"training": whole, "validation": broken})
    with Ledger.open(folder) as ledger:
        assert ledger.spends("training") == ledger.spends("validation") == []


def test_a_sealed_reply_comes_back_and_an_unknown_one_is_none(folder: Path) -> None:
    reply = bytes(range(256)) * 10
    with Ledger.open(folder) as ledger:
        ledger.seal(KEY, reply)
    with Ledger.open(folder) as ledger:
        assert ledger.sealed_reply(KEY) == reply
        assert ledger.sealed_reply(OTHER) is None


def test_a_request_is_sealed_once(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        ledger.seal(KEY, b"first")
    with pytest.raises(LedgerError, match="UNIQUE"), Ledger.open(folder) as ledger:
        ledger.seal(KEY, b"second")
    with Ledger.open(folder) as ledger:
        assert ledger.sealed_reply(KEY) == b"first"


def test_of_earlier_replies_only_the_digest_is_kept(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        ledger.seal(KEY, b"first")
        ledger.seal(OTHER, b"second")
        rows = ledger._connection.execute("SELECT request, reply, reply_digest FROM sealed")
        kept = {request: (reply, len(digest)) for request, reply, digest in rows}
        assert kept == {KEY: (None, 64), OTHER: (b"second", 64)}
        with pytest.raises(LedgerError, match="no longer kept whole"):
            ledger.sealed_reply(KEY)


@pytest.mark.parametrize(
    "tamper", ["UPDATE sealed SET reply = x'00'", "UPDATE sealed SET reply_digest = '00'"]
)
def test_a_tampered_reply_stays(folder: Path, tamper: str) -> None:
    with Ledger.open(folder) as ledger:
        ledger.seal(KEY, b"reply")
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute(tamper)
    connection.close()
    with Ledger.open(folder) as ledger, pytest.raises(LedgerError, match="no longer kept whole"):
        ledger.sealed_reply(KEY)


def test_no_ledger_is_refused_and_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="found none"), Ledger.open(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no database at all" * 300])
def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(LedgerError, match="cannot be used"), Ledger.open(tmp_path) as ledger:
        ledger.spends("training")


def test_a_damaged_page_is_refused(folder: Path) -> None:
    path = folder / FILE
    path.write_bytes(path.read_bytes()[:100] + os.urandom(200) + path.read_bytes()[300:])
    with pytest.raises(LedgerError, match="cannot be used"), Ledger.open(folder) as ledger:
        ledger.reserve(KEY, "study", 1, {"training": TRAINING})


def test_a_file_that_cannot_be_opened_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(_: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr("client.ledger.sqlite3.connect", unable)
    with pytest.raises(LedgerError, match="unable to open"), Ledger.open(folder):
        pass


def test_a_ledger_is_created_once(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        ledger.reserve(KEY, "study", 1, {"training": TRAINING})
    with pytest.raises(LedgerError, match="created once"):
        Ledger.create(folder)
    with Ledger.open(folder) as ledger:
        assert ledger.spends("training") == [TRAINING]


def test_the_ledger_and_its_journals_are_for_their_owner_only(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        ledger.reserve(KEY, "study", 1, {"training": TRAINING})
        found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert f"{FILE}-wal" in found
    assert set(found.values()) == {0o600}
