"""The file under the privacy ledger: a chain of entries that can be added to and never changed.

    state/ledger.sqlite   the entries, and the last reply of every study   (-wal, -shm: SQLite's own)
          ledger.head     the anchor: number and hash of the last entry
          ledger.lock     held by the one process that may write

An edit breaks the chain (client/chain.py), and a file that lacks its last entries (a backup copied
back, a journal deleted) is behind the anchor. What this cannot see: somebody who rewrites database
and anchor together, or restores both at once (the whole state folder, a snapshot of the machine). Then
the coordinator notices, because every reply names the head of the reply before it
(`Ledger.previous_head`).

Knows no torch, no network and no accountant: a security officer can read it alone.
"""

import errno
import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from client.chain import GENESIS, Entry, canonical, hash_of, read_anchor, write_anchor
from common.errors import LedgerError, RunError
from common.files import locked, sync_folder

DATABASE = "ledger.sqlite"
ANCHOR = "ledger.head"
LOCK = "ledger.lock"

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
            write_anchor(self.folder / ANCHOR, entry)
        return entry

    def reply(self, request: str) -> bytes | None:
        """The bytes kept for `request`, None when they are not kept (any more)."""
        with _named_errors(self.folder):
            found = self._connection.execute(
                "SELECT bytes FROM reply WHERE request = ?", (request,)
            ).fetchone()
        return None if found is None else bytes(found[0])

    def kept(self) -> dict[str, str]:
        """Study -> the request whose reply is kept."""
        with _named_errors(self.folder):
            return dict(self._connection.execute("SELECT study, request FROM reply"))


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
        if anchor.exists() and (entries := read_anchor(anchor, LedgerError)[0]) > 1:
            raise LedgerError(
                f"expected no trace of a ledger in {folder} and found the anchor {ANCHOR} of one "
                f"with {entries} entries; put {DATABASE} back, since it holds what these patients "
                f"have spent"
            )
        unnamed = folder / (DATABASE + ".new")
        unnamed.unlink(missing_ok=True)
        unnamed.touch(mode=0o600)
        with closing(sqlite3.connect(unnamed)) as connection, connection:
            for statement in _SCHEMA:
                connection.execute(statement)
            first = _insert(connection, [], kind, body)
        write_anchor(folder / ANCHOR, first)
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
        if read_anchor(folder / ANCHOR, LedgerError) != (last.number, last.hash):
            with _named_errors(folder):  # a crash came between commit and anchor
                write_anchor(folder / ANCHOR, last)
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
            anchor = read_anchor(folder / ANCHOR, LedgerError)
            uri = f"{(folder / DATABASE).resolve().as_uri()}?mode={mode}"
            connection = stack.enter_context(closing(sqlite3.connect(uri, uri=True)))
            with _readable(folder):
                _check_database(folder, connection)
            if mode == "rw":
                # FULL: a commit returns after fsync, so what is reserved survives a power cut.
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
            with _readable(folder):
                entries = list(_chain(folder, connection))
            _check_anchor(folder, anchor, entries)
        yield LedgerFile(folder, connection, entries)


def _insert(
    connection: sqlite3.Connection, entries: list[Entry], kind: str, body: dict[str, Any]
) -> Entry:
    previous = entries[-1].hash if entries else GENESIS
    new = Entry.after(len(entries), previous, kind, body)
    row = (new.number, new.time, new.kind, canonical(new.body), new.previous, new.hash)
    connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", row)
    return new


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
    found = _schema_of(connection)
    if not found:
        raise LedgerError(
            f"expected the tables of a privacy ledger in {path} and found an empty database: it "
            f"was truncated; put back the ledger as it last was"
        )
    with closing(sqlite3.connect(":memory:")) as new:
        for statement in _SCHEMA:
            new.execute(statement)
        expected = _schema_of(new)
    if found != expected:
        raise LedgerError(
            f"expected the tables and triggers of a privacy ledger in {path} and found others: "
            f"somebody worked on it; put back the ledger as it last was"
        )
    ((verdict,), *_) = connection.execute("PRAGMA quick_check(1)")
    if verdict != "ok":
        raise _damaged(path, " ".join(verdict.split()))


def _schema_of(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()


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


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:  # bytes where a text or a number was
        raise _damaged(folder / DATABASE, type(error).__name__) from error


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
