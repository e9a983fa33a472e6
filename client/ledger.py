"""The privacy ledger: every spend of this hospital's patients, durable before it happens.

Two accounts, since validation patients are never trained on: "training" and "validation". A spend
is RESERVED (fsync) before the first gradient and the reply SEALED before it leaves; a crash in
between counts as spent in full. Epsilon is always recomputed from these events and never stored.
A re-asked request is answered with the sealed bytes, so the same question never spends twice.

Knows no torch, no network and no accountant: a security officer can read it alone.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from common.errors import LedgerError
from common.files import sha256

FILE = "ledger.sqlite"

Account = Literal["training", "validation"]

_SCHEMA = """
CREATE TABLE reserved (
    request TEXT NOT NULL, study TEXT NOT NULL, round INTEGER NOT NULL, account TEXT NOT NULL,
    noise_multiplier REAL NOT NULL, sampling_rate REAL NOT NULL, steps INTEGER NOT NULL,
    time TEXT NOT NULL
) STRICT;
CREATE TABLE sealed (
    request TEXT PRIMARY KEY, reply_digest TEXT NOT NULL, reply BLOB, time TEXT NOT NULL
) STRICT;
"""


@dataclass(frozen=True)
class Spend:
    """`steps` releases of the sampled Gaussian mechanism: noise sigma x sensitivity, rate q."""

    noise_multiplier: float
    sampling_rate: float
    steps: int


class Ledger:
    """One hospital's ledger, open. Make one with `create` (once in a hospital's life) or `open`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def create(cls, folder: Path) -> None:
        """Start an empty ledger in `folder`; LedgerError when there is one already."""
        path = folder / FILE
        if path.exists():
            raise LedgerError(f"{path} exists; a ledger is created once and never replaced")
        path.touch(mode=0o600)
        with _connect(path) as connection:
            connection.executescript(_SCHEMA)

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator["Ledger"]:
        """The ledger in `folder`; LedgerError when it is missing or damaged: no ledger, no training."""
        path = folder / FILE
        if not path.is_file():
            raise LedgerError(
                f"expected the privacy ledger at {path} and found none; restore it, since without "
                f"it nobody knows what these patients have already spent"
            )
        with _connect(path) as connection:
            yield cls(connection)

    def reserve(
        self, request: str, study: str, server_round: int, spends: Mapping[Account, Spend]
    ) -> None:
        """Record what answering `request` will cost, durably, before any patient is looked at."""
        now = datetime.now(UTC).isoformat()
        with self._connection:
            self._connection.executemany(
                "INSERT INTO reserved VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (request, study, server_round, account, *astuple(spend), now)
                    for account, spend in spends.items()
                ],
            )

    def seal(self, request: str, reply: bytes) -> None:
        """Keep `reply` as the only answer to `request`, durably, before it leaves.

        Of earlier replies only the digest stays: a coordinator that has moved on to the next round
        does not ask for them again.
        """
        now = datetime.now(UTC).isoformat()
        with self._connection:
            self._connection.execute("UPDATE sealed SET reply = NULL")
            self._connection.execute(
                "INSERT INTO sealed VALUES (?, ?, ?, ?)", (request, sha256(reply), reply, now)
            )

    def sealed_reply(self, request: str) -> bytes | None:
        """The sealed answer to `request`, None when it was never answered.

        LedgerError when it was answered so long ago that only the digest is left, or when the bytes
        no longer match their digest.
        """
        row = self._connection.execute(
            "SELECT reply, reply_digest FROM sealed WHERE request = ?", (request,)
        ).fetchone()
        if row is None:
            return None
        reply, digest = row
        if reply is None or sha256(reply) != digest:
            raise LedgerError(f"the sealed reply to request {request[:12]} is no longer kept whole")
        return bytes(reply)

    def spends(self, account: Account) -> list[Spend]:
        """All spends of `account`, over all rounds, restarts and studies, oldest first."""
        rows = self._connection.execute(
            "SELECT noise_multiplier, sampling_rate, steps FROM reserved WHERE account = ? "
            "ORDER BY rowid",
            (account,),
        )
        return [Spend(*row) for row in rows]


@contextmanager
def _connect(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path)) as connection:
            # FULL: a commit returns after fsync, so what is reserved survives a power cut.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            yield connection
    except sqlite3.Error as error:
        raise LedgerError(f"the privacy ledger {path} cannot be used: {error}") from error
