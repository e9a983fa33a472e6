"""The file under the privacy ledger: a chain of entries that can be added to and never changed.

    state/ledger.sqlite   the entries, and the last reply of every study   (-wal, -shm: SQLite's own)
          ledger.head     the anchor: number and hash of the last entry
          ledger.lock     held by the one process that may write

Each entry holds the hash of the one before it, so an edit breaks the chain at that entry. The anchor
is written after every commit, so a file that lacks its last entries (a backup copied back, a journal
deleted) is behind it. What this cannot see: somebody who rewrites database and anchor together, or
restores both at once (the whole state folder, a snapshot of the machine). Then the coordinator
notices, because every reply names the head of the reply before it (`Ledger.previous_head`).

Knows no torch, no network and no accountant: a security officer can read it alone.
"""

import errno
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import LedgerError, RunError
from common.files import locked, sha256, sync_folder, write_atomic

DATABASE = "ledger.sqlite"
ANCHOR = "ledger.head"
LOCK = "ledger.lock"

GENESIS = "0" * 64  # what the first entry has in place of a hash before it

# Read back word for word when a ledger is opened: a ledger without its triggers was worked on.
_SCHEMA = (
    "CREATE TABLE entry (number INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, "
    "body TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL) STRICT",
    "CREATE TABLE reply (study TEXT PRIMARY KEY, request TEXT NOT NULL, bytes BLOB NOT NULL) STRICT",
    "CREATE TRIGGER entry_update BEFORE UPDATE ON entry "
    "BEGIN SELECT RAISE(ABORT, 'a ledger entry is never changed'); END",
    "CREATE TRIGGER entry_delete BEFORE DELETE ON entry "
    "BEGIN SELECT RAISE(ABORT, 'a ledger entry is never deleted'); END",
    # Also against INSERT OR REPLACE, which deletes without asking the trigger above.
    "CREATE TRIGGER entry_insert BEFORE INSERT ON entry "
    "WHEN NEW.number <> (SELECT ifnull(max(number), 0) + 1 FROM entry) "
    "BEGIN SELECT RAISE(ABORT, 'a ledger entry is only ever added at the end'); END",
)


@dataclass(frozen=True)
class Entry:
    """One entry of the chain; `body` is parsed JSON, `time` ISO 8601 in UTC, hashes 64 hex digits."""

    number: int
    time: str
    kind: str
    body: dict[str, Any]
    previous: str
    hash: str


def canonical(body: dict[str, Any]) -> str:
    """`body` as the one JSON text that is hashed: sorted keys, no blanks, ASCII, finite numbers."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def hash_of(number: int, time: str, kind: str, body: str, previous: str) -> str:
    """SHA-256 of the JSON array [number, time, kind, body, previous], written without blanks."""
    whole = json.dumps([number, time, kind, body, previous], separators=(",", ":"))
    return sha256(whole.encode())


class LedgerFile:
    """An open ledger file: its verified `entries`, oldest first, and a way to add one."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, entries: list[Entry]) -> None:
        self.folder = folder
        self.entries = entries
        self._connection = connection

    def append(
        self, kind: str, body: dict[str, Any], keep: tuple[str, str, bytes] | None = None
    ) -> Entry:
        """Add one entry, durable when this returns: fsync of the journal, then the anchor.

        `keep` is (study, request, reply): the reply that takes the place of the study's last one,
        in the same transaction. LedgerError leaves the ledger as it was, or (the anchor cannot be
        written) one entry longer, which the next opening accepts.
        """
        with _named_errors(self.folder):
            with self._connection:
                entry = _insert(self._connection, self.entries, kind, body)
                if keep is not None:
                    self._connection.execute("INSERT OR REPLACE INTO reply VALUES (?, ?, ?)", keep)
            self.entries.append(entry)
            _write_anchor(self.folder, entry)
        return entry

    def reply(self, request: str) -> bytes | None:
        """The bytes kept for `request`, None when they are not kept (any more)."""
        with _named_errors(self.folder):
            found = self._connection.execute(
                "SELECT bytes FROM reply WHERE request = ?", (request,)
            ).fetchone()
        return None if found is None else bytes(found[0])


def create(folder: Path, kind: str, body: dict[str, Any]) -> None:
    """Start a chain in `folder` with its first entry; LedgerError when there is or was one.

    The database gets its name last, so that a crash leaves either a whole ledger or none. An anchor
    at entry 1 without a database is such a crash, and nothing had been spent.
    """
    _check_folder(folder)
    database, anchor = folder / DATABASE, folder / ANCHOR
    with _write_lock(folder), _named_errors(folder):
        if database.exists():
            raise LedgerError(f"{database} exists; a ledger is created once and never replaced")
        if anchor.exists() and _read_anchor(folder)[0] > 1:
            raise LedgerError(
                f"expected no trace of a ledger in {folder} and found the anchor {ANCHOR} of one "
                f"with {_read_anchor(folder)[0]} entries; put {DATABASE} back, since it holds what "
                f"these patients have spent"
            )
        unnamed = folder / (DATABASE + ".new")
        unnamed.unlink(missing_ok=True)
        unnamed.touch(mode=0o600)
        with closing(sqlite3.connect(unnamed)) as connection, connection:
            for statement in _SCHEMA:
                connection.execute(statement)
            first = _insert(connection, [], kind, body)
        _write_anchor(folder, first)
        unnamed.rename(database)
        sync_folder(folder)


@contextmanager
def open_for_writing(folder: Path) -> Iterator[LedgerFile]:
    """The verified chain in `folder`, locked against every other writer until the block ends.

    LedgerError, each with its own sentence: no folder, no database, no anchor, wrong file mode,
    locked, disk full, not a database or truncated, edited, restored or cut off.
    """
    _check_files(folder)
    with _write_lock(folder), _opened(folder, "rw") as file:
        last = file.entries[-1]
        if _read_anchor(folder) != (last.number, last.hash):
            with _named_errors(folder):  # a crash came between commit and anchor
                _write_anchor(folder, last)
        yield file


@contextmanager
def open_for_reading(folder: Path) -> Iterator[LedgerFile]:
    """The same chain, verified in the same way, for eyes only: takes no lock and changes nothing."""
    _check_files(folder)
    with _opened(folder, "ro") as file:
        yield file


@contextmanager
def _opened(folder: Path, mode: str) -> Iterator[LedgerFile]:
    with ExitStack() as stack:
        with _named_errors(folder):
            # Before the database: a writer at work meanwhile leaves it ahead, never behind.
            anchor = _read_anchor(folder)
            uri = f"{(folder / DATABASE).resolve().as_uri()}?mode={mode}"
            connection = stack.enter_context(closing(sqlite3.connect(uri, uri=True)))
            _check_database(folder, connection)
            if mode == "rw":
                # FULL: a commit returns after fsync, so what is reserved survives a power cut.
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
            entries = list(_chain(folder, connection))
            _check_anchor(folder, anchor, entries)
        yield LedgerFile(folder, connection, entries)


def _insert(
    connection: sqlite3.Connection, entries: list[Entry], kind: str, body: dict[str, Any]
) -> Entry:
    number = entries[-1].number + 1 if entries else 1
    previous = entries[-1].hash if entries else GENESIS
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    text = canonical(body)
    row = (number, time, kind, text, previous, hash_of(number, time, kind, text, previous))
    connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", row)
    # Parsed again, so that what is in memory is what the next opening will read.
    return Entry(number, time, kind, json.loads(text), previous, row[-1])


def _chain(folder: Path, connection: sqlite3.Connection) -> Iterator[Entry]:
    """All entries, each checked against its own hash and the one before; LedgerError at a break."""
    previous = GENESIS
    rows = connection.execute(
        "SELECT number, time, kind, body, previous, hash FROM entry ORDER BY number"
    )
    for number, row in enumerate(rows, start=1):
        if row[0] != number or row[4] != previous or hash_of(*row[:5]) != row[5]:
            raise LedgerError(
                f"expected an unbroken chain in {folder / DATABASE} and found that it breaks at "
                f"entry {number}: somebody edited it; keep the file as evidence and put back the "
                f"ledger as it last was"
            )
        previous = row[5]
        yield Entry(row[0], row[1], row[2], json.loads(row[3]), row[4], row[5])


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise LedgerError(
            f"expected the hospital's state folder at {folder} and found none; mount or restore "
            f"it, or correct 'state' in the site policy"
        )


def _check_files(folder: Path) -> None:
    _check_folder(folder)
    for name, what in ((DATABASE, "privacy ledger"), (ANCHOR, "anchor of the privacy ledger")):
        if not (folder / name).is_file():
            raise LedgerError(
                f"expected the {what} at {folder / name} and found none; put it back, since "
                f"without it nobody knows what these patients have already spent"
            )
    # Refused and not repaired: whoever opened it to others should be known before training goes on.
    for name in (DATABASE, DATABASE + "-wal", DATABASE + "-shm", ANCHOR, LOCK):
        path = folder / name
        if path.exists() and (mode := path.stat().st_mode & 0o777) & 0o077:
            raise LedgerError(
                f"expected {path} to be open to its owner only (mode 600) and found mode "
                f"{mode:o}; find out who changed it, then 'chmod 600' it"
            )


def _check_database(folder: Path, connection: sqlite3.Connection) -> None:
    path = folder / DATABASE
    found = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql <> ''")}
    if not found:
        raise LedgerError(
            f"expected the tables of a privacy ledger in {path} and found an empty database: it "
            f"was truncated; put back the ledger as it last was"
        )
    if found != set(_SCHEMA):
        raise LedgerError(
            f"expected the tables and triggers of a privacy ledger in {path} and found others: "
            f"somebody worked on it; put back the ledger as it last was"
        )
    ((verdict,), *_) = connection.execute("PRAGMA quick_check(1)")
    if verdict != "ok":
        raise _damaged(path, " ".join(verdict.split()))


def _check_anchor(folder: Path, anchor: tuple[int, str], entries: list[Entry]) -> None:
    number, head = anchor
    if number > len(entries):
        raise LedgerError(
            f"expected {number} entries, as the anchor {folder / ANCHOR} says, and found "
            f"{len(entries)}: {number - len(entries)} are missing, so {DATABASE} was restored from "
            f"a backup or cut off; put back the ledger as it last was"
        )
    if entries[number - 1].hash != head:
        raise LedgerError(
            f"expected entry {number} to have the hash in the anchor {folder / ANCHOR} and found "
            f"another: ledger and anchor are not of one history; put back both as they last were"
        )


def _read_anchor(folder: Path) -> tuple[int, str]:
    path = folder / ANCHOR
    found = re.fullmatch(rb"([1-9][0-9]{0,17}) ([0-9a-f]{64})\n", path.read_bytes())
    if found is None:
        raise LedgerError(
            f"expected '<number> <hash>' in the anchor {path} and found something else: it is "
            f"damaged; put it back as it last was"
        )
    return int(found[1]), found[2].decode()


def _write_anchor(folder: Path, entry: Entry) -> None:
    write_atomic(folder / ANCHOR, f"{entry.number} {entry.hash}\n".encode())


@contextmanager
def _write_lock(folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK))
        except RunError as error:
            raise LedgerError(
                f"expected to be the only writer of the privacy ledger in {folder} and found it "
                f"in use by another process; wait for it to end or stop it first"
            ) from error
        yield


@contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    """What SQLite and the file system say, as one of our sentences."""
    path = folder / DATABASE
    try:
        yield
    except sqlite3.Error as error:
        # The low byte is the result code; what is above it says which system call it was.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise _disk_full(folder) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _damaged(path, str(error)) from error
        raise LedgerError(f"the privacy ledger {path} cannot be used: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(folder) from error
        raise LedgerError(f"the privacy ledger {path} cannot be used: {error}") from error


def _damaged(path: Path, found: str) -> LedgerError:
    return LedgerError(
        f"expected a whole SQLite database at {path} and found a truncated or corrupt file "
        f"({found}); put back the ledger as it last was"
    )


def _disk_full(folder: Path) -> LedgerError:
    return LedgerError(
        f"expected room for one more entry of the privacy ledger in {folder} and found the disk "
        f"full; free some space and ask again, nothing has left the hospital"
    )
