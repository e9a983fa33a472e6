"""A chain of entries that is added to and never changed: under the privacy ledger and the egress log.

Each entry holds the hash of the one before it, so an edit breaks the chain at that entry. An anchor
beside it, written after every entry, holds the number and hash of the last one, so a chain that lacks
its end is behind it.
"""

import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import IntramuralError
from common.files import sha256, write_atomic

_MOST_ANCHOR = 100  # bytes; an anchor has 84 at most
GENESIS = "0" * 64  # what the first entry has in place of a hash before it


@dataclass(frozen=True)
class Entry:
    """One entry; `body` is parsed JSON, `time` ISO 8601 in UTC, hashes are 64 hex digits."""

    number: int
    time: str
    kind: str
    body: dict[str, Any]
    previous: str
    hash: str

    @classmethod
    def after(cls, number: int, previous: str, kind: str, body: dict[str, Any]) -> "Entry":
        """The entry of now that follows on entry `number` with the hash `previous`."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        text = canonical(body)
        own = hash_of(number + 1, time, kind, text, previous)
        # Parsed again, so that what is in memory is what the next opening will read.
        return cls(number + 1, time, kind, json.loads(text), previous, own)

    def follows(self, number: int, previous: str) -> bool:
        """Whether this is the entry after `number`, with its own right hash and that of the one before."""
        own = hash_of(self.number, self.time, self.kind, canonical(self.body), self.previous)
        return (self.number, self.previous, self.hash) == (number + 1, previous, own)


def canonical(body: dict[str, Any]) -> str:
    """`body` as the one JSON text that is hashed: sorted keys, no blanks, ASCII, finite numbers."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def hash_of(number: int, time: str, kind: str, body: str, previous: str) -> str:
    """SHA-256 of the JSON array [number, time, kind, body, previous], written without blanks."""
    whole = json.dumps([number, time, kind, body, previous], separators=(",", ":"))
    return sha256(whole.encode())


def read_anchor(path: Path, error: type[IntramuralError]) -> tuple[int, str]:
    """Number and hash of the last entry; `error` when the anchor is damaged, OSError when absent."""
    # A pipe in its place would be waited for, and a device would be read without end.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        found = re.fullmatch(rb"([1-9][0-9]{0,17}) ([0-9a-f]{64})\n", file.read(_MOST_ANCHOR))
    if found is None:
        raise error(
            f"expected '<number> <hash>' in the anchor {path} and found something else: it is "
            f"damaged; put it back as it last was"
        )
    return int(found[1]), found[2].decode()


def write_anchor(path: Path, last: Entry) -> None:
    """Make `last` durable as the last entry."""
    write_atomic(path, f"{last.number} {last.hash}\n".encode())
