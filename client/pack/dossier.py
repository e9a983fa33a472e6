"""What the reviewer pack is made of: policy, books and approved studies of one hospital, at one moment.

Read from the same files as `verify` reads, and refused where `verify` refuses. Knows where the patients'
folder is and never opens it, nor the exact scores, nor the kept replies.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from client import egress_log, ledger_file
from client.approval import APPROVED
from client.chain import Entry
from client.egress_log import EgressLog
from client.ledger import Account, Ledger, Reservation
from client.plain_words import in_plain_words
from client.policy import SitePolicy, check_limits, load_policy, permit_of
from client.privacy.budget import protocol_noise, study_noise
from client.statement import Statement, statement_of
from client.studies import chosen_study
from client.verification import Verified, verify
from common.errors import PolicyError, RunError
from common.protocol import StudyProtocol, load_protocol

_BOOKS = (egress_log.LOG, egress_log.ANCHOR, ledger_file.DATABASE, ledger_file.ANCHOR)
_WORDS = ("of this hospital", "known are")  # where --study looks


@dataclass(frozen=True)
class ApprovedStudy:
    """A study as this hospital's own files know it.

    `protocol` is None where no text was kept, `approved` are the times of its approvals in the egress
    log, `listed` says whether the site policy names it now, `objection` why the vault would refuse it
    under that policy today. `words` are those of `client.plain_words`.
    """

    digest: str
    protocol: StudyProtocol | None
    approved: tuple[str, ...]
    listed: bool
    words: Mapping[str, list[str]] = field(default_factory=dict)
    objection: str | None = None


@dataclass(frozen=True)
class Dossier:
    """`verified` is None where nothing was approved, spent or released yet; `statement` without books.

    `only` is the study's digest where the pack is about one, of which then alone `studies` and
    `statement` are; `log`, `ledger` and `reservations` are always whole.
    """

    policy: SitePolicy
    verified: Verified | None
    log: tuple[Entry, ...] = ()
    ledger: tuple[Entry, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    statement: Statement | None = None
    studies: tuple[ApprovedStudy, ...] = ()
    only: str | None = None

    @property
    def protocols(self) -> tuple[StudyProtocol, ...]:
        """Of the studies with a kept text."""
        return tuple(study.protocol for study in self.studies if study.protocol is not None)

    @cached_property
    def paid(self) -> Mapping[str, Reservation]:
        """Every reservation by its head, which the answer to it carries."""
        return {reservation.head: reservation for reservation in self.reservations}

    @cached_property
    def sealed(self) -> Mapping[str, str]:
        """Head of each reservation that was answered -> when that was sealed."""
        return {e.body["reserved"]: e.time for e in self.ledger if e.kind == "sealed"}

    @cached_property
    def _names(self) -> Mapping[str, str]:
        names = {protocol.digest: protocol.study for protocol in self.protocols}
        return names | {r.study: str(r.terms["study-name"]) for r in self.reservations}

    def name_of(self, digest: str) -> str:
        """The study's name where it is known, and the beginning of its digest."""
        return f"{self._names.get(digest, 'name unknown')} ({digest[:12]})"


def gather(site: Path, study: str | None = None) -> Dossier:
    """All of it about `study` (name or digest), or about every study.

    The IntramuralError of `verify` where the books do not fit; PolicyError for a kept text that is not
    the one approved, ProtocolError for one that cannot be read; RunError for an unknown study, and when
    the vault wrote meanwhile.
    """
    policy = load_policy(site)
    if not any((policy.state / name).exists() for name in _BOOKS):
        chosen_study(study, {}, *_WORDS)
        listed = tuple(ApprovedStudy(d, None, (), True) for d in policy.approved_studies)
        return Dossier(policy, None, studies=listed)
    verified = verify(site) if _has_acted(policy.state) else None
    log = tuple(EgressLog.read(policy.state))
    with Ledger.read(policy.state) as ledger:
        if verified and (verified.log_head, verified.ledger_head) != (log[-1].hash, ledger.head):
            raise RunError(
                "the vault wrote into its books while they were read; make the pack again, between "
                "two rounds"
            )
        reservations, kept = ledger.reservations(), _kept(policy.state)
        names = {r.study: str(r.terms["study-name"]) for r in reservations}
        known = names | {digest: kept[digest].study for digest in kept}
        only = chosen_study(study, known, *_WORDS)
        digests = [str(e.body["study"]) for e in log if e.kind == "approved" and e.body["study"]]
        return Dossier(
            policy=policy,
            verified=verified,
            log=log,
            ledger=ledger.entries,
            reservations=tuple(reservations),
            statement=statement_of(ledger, policy.hospital, only),
            studies=tuple(
                _study(digest, kept.get(digest), policy, log, ledger)
                for digest in dict.fromkeys([*digests, *policy.approved_studies, *kept])
                if only in (None, digest)
            ),
            only=only,
        )


def _has_acted(state: Path) -> bool:
    """Whether the books say more than that they were begun."""
    with Ledger.read(state) as ledger:
        return len(EgressLog.read(state)) > 1 or len(ledger.entries) > 1


def _kept(state: Path) -> dict[str, StudyProtocol]:
    """The texts that `approve` kept, by digest, each with the digest that its name says."""
    found = {}
    for path in sorted((state / APPROVED).glob("*.toml")):
        protocol = load_protocol(path)
        if protocol.digest != path.stem:
            raise PolicyError(
                f"expected the text in {path} to have the digest in its name and found "
                f"{protocol.digest[:12]}: somebody changed it after it was approved; put it back, or "
                f"approve the study again"
            )
        found[protocol.digest] = protocol
    return found


def _study(
    digest: str,
    protocol: StudyProtocol | None,
    policy: SitePolicy,
    log: Iterable[Entry],
    ledger: Ledger,
) -> ApprovedStudy:
    approved = tuple(e.time for e in log if e.kind == "approved" and e.body["study"] == digest)
    listed = digest in policy.approved_studies
    if protocol is None:
        return ApprovedStudy(digest, None, approved, listed)
    noise, objection = _noise(protocol, policy, ledger)
    on_roster = policy.hospital in protocol.hospital_names
    words = in_plain_words(protocol, policy, noise) if on_roster else {}
    return ApprovedStudy(digest, protocol, approved, listed, words, objection)


def _noise(
    protocol: StudyProtocol, policy: SitePolicy, ledger: Ledger
) -> tuple[Mapping[Account, float], str | None]:
    """The study's noise multipliers here, and why the policy would not permit it today."""
    try:
        check_limits(protocol, policy)
        return study_noise(protocol, ledger, permit_of(policy)), None
    except PolicyError as error:
        noise: dict[Account, float] = {}
        for account, own in protocol_noise(protocol).items():
            begun = ledger.spends(account, study=protocol.digest)
            noise[account] = begun[0].noise_multiplier if begun else own
        return noise, str(error)
