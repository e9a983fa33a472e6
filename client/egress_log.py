"""The egress log: everything that left the vault, written down before it leaves.

    begun      once in a hospital's life, with the ledger
    approved   site policy and study, by digest                       ── an act of the hospital's people
    released   kind, code, bytes, SHA-256, policy, ledger head        ── the last thing before the reply

One line of JSON an entry, chained and anchored (client/chain.py): `state/egress.jsonl`, `egress.head`.
Nothing leaves under a site policy that was not approved, word for word, nor when this file cannot be
written. Knows no torch and no network: a security officer can read it alone.
"""

import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from client.chain import GENESIS, Entry, canonical, read_anchor, write_anchor
from common.errors import EgressError, RunError, UnapprovedPolicyError
from common.files import locked, sha256

LOG = "egress.jsonl"
ANCHOR = "egress.head"
LOCK = "egress.lock"


@dataclass(frozen=True)
class Approval:
    """The site policy (SHA-256 of `site.toml`) that the hospital approved last; `hash` of that entry."""

    policy: str
    hash: str


class EgressLog:
    """The egress log in a hospital's state folder. What was read once is not read again.

    EgressError from every method when the log is absent, open to others, edited, cut off, restored
    or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bytes = 0  # of the log that were read and found whole
        self._last: Entry | None = None
        self._approval: Approval | None = None

    @staticmethod
    def create(folder: Path) -> None:
        """Begin the log in `folder`; EgressError when there is, or was, one already."""
        if (folder / LOG).exists() or (folder / ANCHOR).exists():
            raise EgressError(f"an egress log is begun once, and {folder} holds one, or its anchor")
        log = EgressLog(folder)
        with log._locked():
            log._append("begun", {"name": secrets.token_hex(16)})

    def approve(self, policy: str, study: str | None) -> None:
        """Write down that the hospital approved its site policy as it is, and with it a study."""
        with self._locked():
            self._catch_up()
            self._append("approved", {"policy": policy, "study": study})

    def approval_of(self, policy: str) -> Approval:
        """The approval under which replies leave; UnapprovedPolicyError unless it is of `policy`."""
        with _named_errors(self._folder):
            self._catch_up()
        if self._approval is None or self._approval.policy != policy:
            raise UnapprovedPolicyError(
                f"expected the site policy that the hospital approved and found it changed, by a "
                f"byte or more, or never approved ({policy[:12]}); if it is as it should be, say so "
                f"with intramural-client approve, and otherwise put it back"
            )
        return self._approval

    @property
    def head(self) -> str:
        """Hash of the last entry that was read or written."""
        return GENESIS if self._last is None else self._last.hash

    def write(self, frame: bytes, kind: str, code: str | None, ledger_head: str | None) -> None:
        """Write down, durably, that `frame` leaves now."""
        with self._locked():
            self._catch_up()
            body = {
                "kind": kind,
                "code": code,
                "bytes": len(frame),
                "sha256": sha256(frame),
                "policy": self._approval and self._approval.policy,
                "ledger": ledger_head,
            }
            self._append("released", body)

    @staticmethod
    def read(folder: Path) -> list[Entry]:
        """All entries, verified, oldest first; for eyes only: takes no lock and changes nothing."""
        log = EgressLog(folder)
        with _named_errors(folder):
            return log._catch_up()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._folder.is_dir():
            raise EgressError(f"expected the state folder {self._folder} and found none; mount it")
        with _named_errors(self._folder), locked(self._folder / LOCK):
            yield

    def _append(self, kind: str, body: dict[str, Any]) -> None:
        number, previous = (self._last.number, self._last.hash) if self._last else (0, GENESIS)
        entry = Entry.after(number, previous, kind, body)
        line = _line(entry)
        descriptor = os.open(self._folder / LOG, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, self._bytes)  # a line that a crash cut off: nothing had left
            os.pwrite(descriptor, line, self._bytes)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        write_anchor(self._folder / ANCHOR, entry)
        self._take(entry, len(line))

    def _take(self, entry: Entry, size: int) -> None:
        self._last, self._bytes = entry, self._bytes + size
        if entry.kind == "approved":
            self._approval = Approval(entry.body["policy"], entry.hash)

    def _catch_up(self) -> list[Entry]:
        """Read and verify what is new since the last time."""
        anchored, head = read_anchor(self._folder / ANCHOR, EgressError)
        path, new = self._folder / LOG, list[Entry]()
        if not stat.S_ISREG(mode := path.stat().st_mode) or mode & 0o077:
            raise EgressError(
                f"expected {path} to have mode 600 and be a file: find out who changed that"
            )
        with path.open("rb") as file:
            file.seek(self._bytes)
            for line in file:
                number, previous = (
                    (self._last.number, self._last.hash) if self._last else (0, GENESIS)
                )
                entry = _parsed(line)
                if entry is None or not entry.follows(number, previous):
                    if number >= anchored and not line.endswith(b"\n"):
                        break  # a crash cut it off before anything left
                    raise EgressError(
                        f"expected an unbroken chain in {path} and found that it breaks at entry "
                        f"{number + 1}: somebody edited it; keep the file as evidence and put back "
                        f"the log as it last was"
                    )
                self._take(entry, len(line))
                new.append(entry)
                if entry.number == anchored and entry.hash != head:
                    raise EgressError(
                        f"{path} and its anchor are not of one history; put back both"
                    )
        if self._last is None or self._last.number < anchored:
            raise EgressError(
                f"expected {anchored} entries in {path}, as its anchor says, and found "
                f"{self._last.number if self._last else 0}: it was restored from a backup or cut "
                f"off; put back the log as it last was"
            )
        return new


def _line(entry: Entry) -> bytes:
    return canonical(asdict(entry)).encode() + b"\n"


def _parsed(line: bytes) -> Entry | None:
    """The entry in `line`, None when it is not, byte for byte, what was written for one."""
    try:
        entry = Entry(**json.loads(line))
        return entry if _line(entry) == line else None
    except (ValueError, TypeError, RecursionError):
        return None


@contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise EgressError(
            f"expected the egress log and its anchor in {folder} and did not find both; put them "
            f"back, since without them nobody can show what left (a new hospital begins with "
            f"intramural-client ledger create)"
        ) from error
    except OSError as error:
        raise EgressError(f"the egress log in {folder} cannot be used: {error.strerror}") from error
    except RunError as error:
        raise EgressError(f"the egress log in {folder} is in use by another process") from error
