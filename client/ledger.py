"""The privacy ledger: every spend of this hospital's patients, durable before it happens.

Two accounts, since validation patients are never trained on: "training" and "validation". A spend
is RESERVED (fsync) before the first gradient and the reply SEALED before it leaves. A crash in
between counts as spent in full; when the identical request is asked again it goes on under the same
reservation, because nothing had left. Epsilon is always recomputed from these entries and never
stored. A re-asked request is answered with the sealed bytes, so the same question never spends twice.

    created   once in a hospital's life
    reserved  request, study, round, spends by account, terms       ── before the first gradient
    sealed    request, study, hash of the reservation, reply digest,
              head of the egress log                                ── before the reply leaves

`client/ledger_file.py` keeps the entries, chained and anchored. Knows no torch, no network and no
accountant: a security officer can read it alone.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from client import ledger_file
from client.chain import Entry
from client.ledger_file import LedgerFile
from common.errors import LedgerError
from common.files import sha256

FILE = ledger_file.DATABASE
FORMAT = 1

Account = Literal["training", "validation"]
Terms = Mapping[str, str | int | float | bool]

SIDES = ("validation-fraction", "validation-column")
"""The terms that say which side a patient is on."""


@dataclass(frozen=True)
class Spend:
    """`steps` releases of the sampled Gaussian mechanism: noise sigma x sensitivity, rate q."""

    noise_multiplier: float
    sampling_rate: float
    steps: int


@dataclass(frozen=True)
class Reservation:
    """What answering one request costs, and on which terms.

    `terms` are the public constants of the release (see `client/terms.py`). `head` is the hash of
    the entry, which fixes this reservation and everything before it: the reply carries it.
    """

    request: str
    study: str
    round: int
    spends: dict[Account, Spend]
    terms: Terms
    head: str
    time: str

    @classmethod
    def of(cls, entry: Entry) -> "Reservation":
        body = entry.body
        return cls(
            request=body["request"],
            study=body["study"],
            round=body["round"],
            spends={account: Spend(**spend) for account, spend in body["spends"].items()},
            terms=body["terms"],
            head=entry.hash,
            time=entry.time,
        )


class Ledger:
    """One hospital's ledger, open. Make one with `create` (once in a hospital's life), use it with
    `open` (one process at a time) or look at it with `read`."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    @classmethod
    def create(cls, folder: Path) -> None:
        """Start an empty ledger in `folder`; LedgerError when there is, or was, one already."""
        # The random name makes a ledger that was started anew another one than the first.
        ledger_file.create(folder, "created", {"format": FORMAT, "name": secrets.token_hex(16)})

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator["Ledger"]:
        """The ledger in `folder`, locked; LedgerError when it is not whole: no ledger, no training."""
        with ledger_file.open_for_writing(folder) as file:
            yield cls(file)

    @classmethod
    @contextmanager
    def read(cls, folder: Path) -> Iterator["Ledger"]:
        """The same for eyes only: works while another process writes, and changes nothing."""
        with ledger_file.open_for_reading(folder) as file:
            yield cls(file)

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._file.entries)

    @property
    def head(self) -> str:
        """Hash of the last entry: it fixes the whole ledger."""
        return self._file.entries[-1].hash

    def reservations(self, study: str | None = None) -> list[Reservation]:
        """All reservations, of one study (digest) or of all, oldest first."""
        all_of_them = map(Reservation.of, self._of_kind("reserved"))
        return [r for r in all_of_them if study in (None, r.study)]

    def spends(self, account: Account, study: str | None = None) -> list[Spend]:
        """All spends of `account`, sealed or not, over all restarts, oldest first.

        Of one study (digest), or of all studies: what these patients have spent in their life.
        """
        return [r.spends[account] for r in self.reservations(study) if account in r.spends]

    def pending(self, request: str) -> Reservation | None:
        """The last reservation for exactly this request that was never sealed, or None.

        A crash left it. Nothing of it left the hospital, so there is still one release to make and
        one spend that pays for it: the caller goes on with the spends that it finds here.
        """
        if self._sealed(request) is not None:
            return None
        own = [r for r in self.reservations() if r.request == request]
        return own[-1] if own else None

    def reserve(
        self,
        request: str,
        study: str,
        server_round: int,
        spends: Mapping[Account, Spend],
        terms: Terms,
    ) -> Reservation:
        """Record what answering `request` will cost, durably, before any patient is looked at.

        LedgerError when the study splits patients otherwise than the first reservation did: they
        would move from one account to the other, and pay on neither.
        """
        first = next(iter(self._of_kind("reserved")), None)
        for key in SIDES:
            asked = terms.get(key)
            began = asked if first is None else first.body["terms"].get(key, asked)
            if asked != began:
                raise LedgerError(
                    f"expected the {key.replace('-', ' ')} {began}, with which this ledger began, and "
                    f"found {asked}; patients may not move between training and validation, so this "
                    f"study cannot run on this cohort"
                )
        body = {
            "request": request,
            "study": study,
            "round": server_round,
            "spends": {account: asdict(spend) for account, spend in spends.items()},
            "terms": dict(terms),
        }
        return Reservation.of(self._file.append("reserved", body))

    def seal(self, request: str, reply: bytes, egress_head: str) -> None:
        """Keep `reply` as the only answer to `request`, durably, before it leaves.

        `egress_head` is the hash of the egress log's last entry: a log that is put back to an earlier
        state lacks it (client/verification.py).
        Only a study's last reply is kept whole, of earlier ones the digest: a coordinator closes a
        round durably before it asks for the next, so it can only ever ask again for the last, and
        an update of ResNet18 has 45 MB. LedgerError when nothing is reserved for `request`, or when
        it is sealed already.
        """
        reservation = self.pending(request)
        if reservation is None:
            raise LedgerError(
                f"expected a reservation to seal for request {request[:12]} and found none that is "
                f"open; reserve before answering, and seal once"
            )
        body = {
            "request": request,
            "study": reservation.study,
            "reserved": reservation.head,
            "reply": sha256(reply),
            "egress": egress_head,
        }
        self._file.append("sealed", body, keep=(reservation.study, request, reply))

    def sealed_reply(self, request: str) -> bytes | None:
        """The sealed answer to `request`, None when it was never answered.

        LedgerError when it was answered so long ago that only the digest is left, or when the bytes
        no longer match their digest.
        """
        sealed = self._sealed(request)
        if sealed is None:
            return None
        reply = self._file.reply(request)
        if reply is None:
            raise LedgerError(
                f"expected the last request of its study to be asked again and found an earlier "
                f"one ({request[:12]}), of which only the digest is kept; ask for the current round"
            )
        if sha256(reply) != sealed.body["reply"]:
            raise LedgerError(
                f"expected the kept reply to request {request[:12]} to have the digest in entry "
                f"{sealed.number} and found another: somebody changed it; put back the ledger as "
                f"it last was"
            )
        return reply

    def previous_head(self, study: str) -> str | None:
        """The head that the last sealed reply to `study` (digest) carried; None before the first.

        A reply carries two hashes: `head` of its own reservation, and this. So the replies of one
        ledger to one study form a chain, h1 <- h2 <- h3, of which each head is followed once. A
        ledger that was put back to an earlier state follows a head a second time (h1 <- h3', after
        h1 <- h2 was seen), and one that was started anew follows none. Whoever holds the replies
        compares each reply's previous head with those already followed and with the last one seen.
        One that was never seen means only that a reply came too late to be received.
        """
        heads = [e.body["reserved"] for e in self._of_kind("sealed") if e.body["study"] == study]
        return heads[-1] if heads else None

    def check_replies(self) -> int:
        """Compare each kept reply with its digest; how many there are, LedgerError at a difference."""
        last = {entry.body["study"]: entry.body["request"] for entry in self._of_kind("sealed")}
        if self._file.kept() != last:
            raise LedgerError(
                f"expected the last reply of each of {len(last)} studies to be kept and found "
                f"others: somebody worked on the ledger; put it back as it last was"
            )
        for request in last.values():
            self.sealed_reply(request)
        return len(last)

    def _of_kind(self, kind: str) -> Iterator[Entry]:
        return (entry for entry in self._file.entries if entry.kind == kind)

    def _sealed(self, request: str) -> Entry | None:
        found = (e for e in self._of_kind("sealed") if e.body["request"] == request)
        return next(found, None)
