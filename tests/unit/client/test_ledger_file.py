"""What can happen to the ledger's files, done to real files: each is refused with its own sentence."""

import errno
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from client.chain import GENESIS, canonical, hash_of
from client.ledger import Account, Ledger, Spend, Terms
from client.ledger_file import ANCHOR, DATABASE, LOCK
from common.errors import LedgerError
from common.files import sha256

STUDY = "5" * 64
SPENDS: dict[Account, Spend] = {"training": Spend(1.5, 0.25, 8)}
TERMS: Terms = {"validation-fraction": 0.2}


def answer(folder: Path, number: int, reply: bytes = b"reply" * 2000) -> None:
    with Ledger.open(folder) as ledger:
        ledger.reserve(f"{number:064x}", STUDY, number, SPENDS, TERMS)
        ledger.seal(f"{number:064x}", reply, "e" * 64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state folder whose ledger has seven entries: created, and three answered requests."""
    state = tmp_path / "state"
    state.mkdir()
    Ledger.create(state)
    for number in (1, 2, 3):
        answer(state, number)
    return state


def edit(folder: Path, *statements: str) -> None:
    """What somebody with the sqlite3 tool can do, who took the triggers away first."""
    connection = sqlite3.connect(folder / DATABASE)
    triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
    kept = triggers.fetchall()
    for name, _ in kept:
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    for _, sql in kept:
        connection.execute(sql)
    connection.commit()
    connection.close()


def refused(folder: Path) -> str:
    """The sentence with which opening is refused, the same for a writer and for a reader."""
    said = []
    for opening in (Ledger.open, Ledger.read):
        with pytest.raises(LedgerError) as caught, opening(folder):
            pass
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "\n" not in said[0]
    return said[0]


def restore(folder: Path, copy: Path, *names: str) -> None:
    for name in names:
        shutil.copy2(copy / name, folder / name)


# -- the chain


def test_the_chain_is_what_its_description_says(folder: Path) -> None:
    """Hashes recomputed from the description: SHA-256 of [number, time, kind, body, previous]."""
    connection = sqlite3.connect(folder / DATABASE)
    rows = connection.execute("SELECT * FROM entry ORDER BY number").fetchall()
    connection.close()
    previous = GENESIS
    for number, time, kind, body, before, own in rows:
        assert before == previous
        escaped = body.replace("\\", "\\\\").replace('"', '\\"')
        assert own == sha256(f'[{number},"{time}","{kind}","{escaped}","{previous}"]'.encode())
        previous = own
    assert [row[2] for row in rows] == ["created"] + ["reserved", "sealed"] * 3
    assert (folder / ANCHOR).read_text() == f"7 {previous}\n"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET body = '{}' WHERE number = 2",
        "DELETE FROM entry WHERE number = 7",
        "INSERT OR REPLACE INTO entry VALUES (2, 't', 'reserved', '{}', 'p', 'h')",
        "INSERT INTO entry VALUES (9, 't', 'reserved', '{}', 'p', 'h')",
        "INSERT INTO entry VALUES (0, 't', 'reserved', '{}', 'p', 'h')",
    ],
)
def test_entries_are_only_ever_added_at_the_end(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / DATABASE)
    with pytest.raises(sqlite3.IntegrityError, match="a ledger entry is"):
        connection.execute(statement)
    connection.close()
    answer(folder, 4)


@pytest.mark.parametrize(
    ("statement", "at"),
    [
        ("UPDATE entry SET body = replace(body, '1.5', '2.5') WHERE number = 2", 2),
        ("UPDATE entry SET time = '2020-01-01' WHERE number = 3", 3),
        ("UPDATE entry SET kind = 'sealed' WHERE number = 4", 4),
        ("UPDATE entry SET hash = previous WHERE number = 5", 5),
        ("UPDATE entry SET previous = hash WHERE number = 6", 6),
        ("DELETE FROM entry WHERE number = 4", 4),
        ("UPDATE entry SET number = 9 WHERE number = 7", 7),
        ("UPDATE entry SET number = -1 WHERE number = 1", 1),
    ],
)
def test_an_edited_entry_is_named(folder: Path, statement: str, at: int) -> None:
    edit(folder, statement)
    assert f"breaks at entry {at}: somebody edited it" in refused(folder)


def test_a_chain_that_was_forged_to_the_end_does_not_fit_its_anchor(folder: Path) -> None:
    """An insider who knows the hash: noise doubled in entry 2, every later hash made anew."""
    connection = sqlite3.connect(folder / DATABASE)
    rows = connection.execute("SELECT * FROM entry ORDER BY number").fetchall()
    connection.close()
    previous, forged = GENESIS, []
    for number, time, kind, body, _, _ in rows:
        text = body.replace("1.5", "3.0") if number == 2 else body
        own = hash_of(number, time, kind, text, previous)
        values = f"body = '{text}', previous = '{previous}', hash = '{own}'"
        forged.append(f"UPDATE entry SET {values} WHERE number = {number}")
        previous = own
    edit(folder, *forged)
    assert "are not of one history" in refused(folder)


def test_an_entry_that_was_hashed_anew_breaks_the_link_to_the_next(folder: Path) -> None:
    with Ledger.read(folder) as ledger:
        entry = ledger.entries[3]
    own = hash_of(4, entry.time, entry.kind, "{}", entry.previous)
    edit(folder, f"UPDATE entry SET body = '{{}}', hash = '{own}' WHERE number = 4")
    assert "breaks at entry 5: somebody edited it" in refused(folder)


def test_a_number_that_was_left_out_is_named_though_every_hash_fits(folder: Path) -> None:
    with Ledger.read(folder) as ledger:
        last = ledger.entries[-1]
    own = hash_of(9, last.time, last.kind, "{}", last.hash)
    row = f"(9, '{last.time}', '{last.kind}', '{{}}', '{last.hash}', '{own}')"
    edit(folder, f"INSERT INTO entry VALUES {row}")
    assert "breaks at entry 8: somebody edited it" in refused(folder)


@pytest.mark.parametrize("cut", [1, 4])
def test_entries_cut_off_at_the_end_are_counted(folder: Path, cut: int) -> None:
    edit(folder, f"DELETE FROM entry WHERE number > {7 - cut}")
    said = refused(folder)
    assert f"expected 7 entries, as the anchor {folder / ANCHOR} says, and found {7 - cut}" in said
    assert f"{cut} are missing" in said


@pytest.mark.parametrize(
    "statement",
    ["DROP TRIGGER entry_update", "DROP TABLE reply", "CREATE TABLE more (x TEXT)"],
)
def test_other_tables_or_triggers_are_refused(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / DATABASE)
    connection.execute(statement)
    connection.close()
    assert "tables and triggers" in refused(folder)


def test_a_changed_reply_stays_here(folder: Path) -> None:
    edit(folder, "UPDATE reply SET bytes = x'00'")
    with Ledger.open(folder) as ledger:
        for look in (ledger.check_replies, lambda: ledger.sealed_reply(f"{3:064x}")):
            with pytest.raises(LedgerError, match="digest in entry 7 and found another"):
                look()


# -- restored from a backup


def copy_of(folder: Path) -> Path:
    copy = folder.parent / "backup"
    shutil.copytree(folder, copy)
    return copy


def test_the_database_restored_from_a_backup_is_named(folder: Path) -> None:
    backup = copy_of(folder)
    answer(folder, 4)
    restore(folder, backup, DATABASE)
    assert "found 7: 2 are missing" in refused(folder)


def test_the_anchor_restored_with_another_ledgers_database_is_named(folder: Path) -> None:
    other = folder.parent / "other"
    other.mkdir()
    Ledger.create(other)
    for number in range(1, 6):
        answer(other, number)
    restore(folder, other, DATABASE)
    assert "are not of one history" in refused(folder)


def test_database_and_anchor_restored_together_pass_here(folder: Path) -> None:
    """What this file cannot see (its docstring says so): the coordinator does, by the heads."""
    backup = copy_of(folder)
    answer(folder, 4)
    restore(folder, backup, DATABASE, ANCHOR)
    with Ledger.open(folder) as ledger:
        assert len(ledger.entries) == 7


DIE_IN_MID_LIFE = """
import os, signal, sys
from pathlib import Path
from client.ledger import Ledger, Spend

with Ledger.open(Path(sys.argv[1])) as ledger:
    for number in (4, 5):
        key = f"{number:064x}"
        spends, terms = {"training": Spend(1.5, 0.25, 8)}, {"validation-fraction": 0.2}
        ledger.reserve(key, "5" * 64, number, spends, terms)
        ledger.seal(key, b"reply", "e" * 64)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(folder: Path) -> Path:
    """Entries 8 to 11 are in the journal (-wal) only: their writer was killed. A backup is beside."""
    copy_of(folder)
    died = subprocess.run([sys.executable, "-c", DIE_IN_MID_LIFE, str(folder)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert (folder / f"{DATABASE}-wal").stat().st_size > 0
    return folder


def test_what_a_killed_writer_committed_is_there(killed: Path) -> None:
    with Ledger.read(killed) as ledger:
        assert len(ledger.entries) == 11
    with Ledger.open(killed) as ledger:
        assert len(ledger.entries) == 11


def test_a_journal_that_was_deleted_is_named(killed: Path) -> None:
    (killed / f"{DATABASE}-wal").unlink()
    (killed / f"{DATABASE}-shm").unlink()
    assert "found 7: 4 are missing" in refused(killed)


def test_a_backup_under_a_newer_journal_is_whole_or_refused(killed: Path) -> None:
    with Ledger.read(killed) as ledger:
        head = ledger.head
    restore(killed, killed.parent / "backup", DATABASE)
    with Ledger.open(killed) as ledger:  # SQLite has rolled the journal forward over it
        assert ledger.head == head


def test_a_backup_without_its_journal_over_a_newer_database_is_named(killed: Path) -> None:
    answer(killed, 6)  # SQLite moves the journal into the database and deletes it
    restore(killed, killed.parent / "backup", DATABASE)
    assert "found 7: 6 are missing" in refused(killed)


# -- crash between commit and anchor


def test_a_crash_between_commit_and_anchor_is_accepted_and_repaired(folder: Path) -> None:
    behind = (folder / ANCHOR).read_text()
    answer(folder, 4)
    ahead = (folder / ANCHOR).read_text()
    (folder / ANCHOR).write_text(behind)
    with Ledger.read(folder) as ledger:
        assert len(ledger.entries) == 9
    assert (folder / ANCHOR).read_text() == behind  # a reader changes nothing
    with Ledger.open(folder) as ledger:
        assert len(ledger.entries) == 9
    assert (folder / ANCHOR).read_text() == ahead


def test_a_creation_that_a_crash_cut_short_is_done_again(tmp_path: Path) -> None:
    Ledger.create(tmp_path)
    (tmp_path / DATABASE).rename(tmp_path / f"{DATABASE}.new")  # all but the last step
    with pytest.raises(LedgerError, match="found none"), Ledger.open(tmp_path):
        pass
    Ledger.create(tmp_path)
    with Ledger.open(tmp_path) as ledger:
        assert len(ledger.entries) == 1


# -- missing, truncated, corrupt


@pytest.mark.parametrize(
    ("name", "what"), [(DATABASE, "privacy ledger"), (ANCHOR, "anchor of the privacy ledger")]
)
def test_a_missing_file_is_refused_and_none_is_made(folder: Path, name: str, what: str) -> None:
    (folder / name).unlink()
    said = refused(folder)
    assert said.startswith(f"expected the {what} at {folder / name} and found none")
    assert not (folder / name).exists()


def test_a_missing_state_folder_is_refused_and_none_is_made(tmp_path: Path) -> None:
    missing = tmp_path / "state"
    assert refused(missing).startswith(f"expected the hospital's state folder at {missing}")
    with pytest.raises(LedgerError, match="state folder"):
        Ledger.create(missing)
    assert not missing.exists()


def test_a_truncated_file_is_refused_wherever_it_ends(folder: Path) -> None:
    whole = (folder / DATABASE).read_bytes()
    for length in (0, 1, 50, 100, 512, 4096, 4097, 8192, len(whole) - 4096):
        (folder / DATABASE).write_bytes(whole)
        os.truncate(folder / DATABASE, length)
        assert "truncated" in refused(folder), length


@pytest.mark.parametrize("start", [0, 20, 100, 4096])
def test_a_corrupt_file_is_refused(folder: Path, start: int) -> None:
    with (folder / DATABASE).open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * 200)
    said = refused(folder)
    assert re.search("truncated or corrupt|cannot be used|tables and triggers", said), said


def test_damage_where_only_replies_are_kept_is_refused_before_they_are_needed(folder: Path) -> None:
    connection = sqlite3.connect(folder / DATABASE)
    (page,) = connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'reply'"
    ).fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with (folder / DATABASE).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(size))
    assert "truncated or corrupt" in refused(folder)


def test_a_file_that_is_no_database_is_refused(folder: Path) -> None:
    (folder / DATABASE).write_bytes(b"no database at all" * 300)
    assert "truncated or corrupt file (file is not a database)" in refused(folder)


@pytest.mark.parametrize("text", ["", "7", "7 abc\n", f"0 {'0' * 64}\n", f"-7 {'0' * 64}\n"])
def test_a_damaged_anchor_is_refused(folder: Path, text: str) -> None:
    (folder / ANCHOR).write_text(text)
    assert "is damaged; put it back" in refused(folder)


# -- disk full


def test_a_full_database_is_named_and_leaves_the_ledger_as_it_was(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        connection = ledger._file._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        ledger.reserve("a" * 64, STUDY, 4, SPENDS, TERMS)
        with pytest.raises(LedgerError, match="found the disk full; free some space"):
            ledger.seal("a" * 64, bytes(100_000), "e" * 64)
        assert ledger.sealed_reply("a" * 64) is None
        connection.execute(f"PRAGMA max_page_count = {pages + 1000}")  # some space was freed
        ledger.seal("a" * 64, bytes(100_000), "e" * 64)
    with Ledger.open(folder) as ledger:
        assert len(ledger.entries) == 9
        assert ledger.sealed_reply("a" * 64) == bytes(100_000)


def test_an_anchor_that_finds_the_disk_full_is_named_and_the_spend_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken, Ledger.open(folder) as ledger:
        broken.setattr("client.chain.write_atomic", full)
        with pytest.raises(LedgerError, match="found the disk full"):
            ledger.reserve("a" * 64, STUDY, 4, SPENDS, TERMS)
    with Ledger.open(folder) as ledger:
        assert len(ledger.spends("training")) == 4
        assert ledger.pending("a" * 64) is not None


FILL_A_SMALL_DISK = """
import sys
from pathlib import Path
from client.ledger import Ledger, Spend
from common.errors import LedgerError

state, told = Path(sys.argv[1]), []
Ledger.create(state)
sealed = 0
try:
    for number in range(1, 10_000):
        with Ledger.open(state) as ledger:
            key, terms = f"{number:064x}", {"validation-fraction": 0.2}
            ledger.reserve(key, "5" * 64, number, {"training": Spend(1.5, 0.25, 8)}, terms)
            ledger.seal(key, bytes(20_000 + number * 500), "e" * 64)
            sealed = number
except LedgerError as error:
    print(error)
(state / "ballast").unlink()
with Ledger.open(state) as ledger:
    spends = len(ledger.spends("training"))
    assert sealed <= spends <= sealed + 1, (sealed, spends)
    assert ledger.sealed_reply(f"{sealed:064x}") == bytes(20_000 + sealed * 500)
    print("sealed", sealed, "spends", spends)
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system of 512 KB, mounted for one process: the refusal, then on with some space freed."""
    program = tmp_path / "fill.py"
    program.write_text(FILL_A_SMALL_DISK)
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        'mount -t tmpfs -o size=512k,mode=700 tmpfs "$1" || exit 77; '
        'head -c 100000 /dev/zero > "$1/ballast"; exec "$2" "$3" "$1"'
    )
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no 'unshare' to mount a small disk with")
    small_disk = [unshare, "--mount", "--map-root-user", "sh", "-c", script, "sh"]
    done = subprocess.run(
        [*small_disk, str(disk), sys.executable, str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode in (1, 77) and "Traceback" not in done.stderr:
        pytest.skip(f"may not mount a small disk here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert "found the disk full; free some space and ask again" in done.stdout
    assert re.search(r"sealed [1-9]", done.stdout)


# -- one writer, for the owner's eyes only


HOLD = """
import sys
from pathlib import Path
from client.ledger import Ledger

with Ledger.open(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_one_process_writes_and_others_may_read(folder: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"open\n"
    with pytest.raises(LedgerError, match="in use by another process"), Ledger.open(folder):
        pass
    with Ledger.read(folder) as ledger:
        assert len(ledger.entries) == 7
    holder.communicate()
    answer(folder, 4)


@pytest.mark.parametrize("name", [DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", ANCHOR, LOCK])
@pytest.mark.parametrize("mode", [0o640, 0o602])
def test_a_file_open_to_others_is_refused(killed: Path, name: str, mode: int) -> None:
    (killed / name).chmod(mode)
    said = refused(killed)
    assert said.startswith(f"expected {killed / name} to be open to its owner only (mode 600)")
    assert f"found mode {mode:o}" in said
    assert stat.S_IMODE((killed / name).stat().st_mode) == mode


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_all_files_are_for_their_owner_only_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        Ledger.create(tmp_path)
        with Ledger.open(tmp_path) as ledger:
            ledger.reserve("a" * 64, STUDY, 1, SPENDS, TERMS)
            found = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert set(found) == {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", ANCHOR, LOCK}
    assert set(found.values()) == {0o600}


def test_every_commit_waits_for_the_disk(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        connection = ledger._file._connection
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_cannot_be_hashed_cannot_be_written() -> None:
    assert canonical({"b": 1, "a": [0.1, "é"]}) == '{"a":[0.1,"\\u00e9"],"b":1}'
    with pytest.raises(ValueError, match="Out of range"):
        canonical({"noise": float("inf")})
