"""What the hospital's report is made of: its own books, kept texts and kept scores, and nothing else.

Books that do not agree are no reason to write nothing: the report says so in red, where the reviewer
pack, which goes to somebody else, is refused.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.chain import Entry
from client.egress_log import EgressLog
from client.evaluation import OwnLook, kept_protocol, own_look
from client.ledger import Ledger, Reservation
from client.pack.dossier import Dossier
from client.pack.egress import egress_facts
from client.policy import SitePolicy
from client.statement import Statement, StudyFacts, statement_of
from client.verification import Verified, verify
from common.errors import DataError, IntramuralError, ProtocolError, RunError
from common.protocol import StudyProtocol

NOT_JUDGED = "No scores are kept here: no model of this study was judged on your patients yet."
NOTHING_TO_JUDGE = (
    "This study states figures of patients' data: there is no model to be judged on them."
)


@dataclass(frozen=True)
class OwnRound:
    """One reservation of a study: for which round, when answered (None: not), and what of it left when."""

    paid: Reservation
    sealed: str | None
    left: tuple[Entry, ...]


@dataclass(frozen=True, eq=False)
class OwnStudy:
    """A study at this hospital. `protocol` is None where its text was not kept.

    `look` is the evaluation of the newest model that was judged here, or None, and `no_look` says why.
    """

    facts: StudyFacts
    protocol: StudyProtocol | None
    rounds: tuple[OwnRound, ...]
    look: OwnLook | None
    no_look: str = ""


@dataclass(frozen=True, eq=False)
class OwnReport:
    """Everything about `policy.hospital`.

    `left` is as `client.pack.egress.egress_facts` makes it, None where the egress log cannot be read.
    `problem` is the sentence that says which books do not agree; `verified` is None then, and also where
    nothing was spent yet.
    """

    policy: SitePolicy
    statement: Statement
    studies: tuple[OwnStudy, ...]
    left: Mapping[str, Any] | None
    verified: Verified | None = None
    problem: str | None = None


def gather(site: Path, policy: SitePolicy, ledger: Ledger, study: str | None) -> OwnReport:
    """The report of the hospital with `policy`, read from `site`, about one study (digest) or all.

    AccountingError as from `epsilon_of`.
    """
    statement = statement_of(ledger, policy.hospital, study)
    verified, problem, log = None, None, list[Entry]()
    try:
        log = EgressLog.read(policy.state)
        if ledger.reservations() or len(log) > 1:
            verified = verify(site)
    except IntramuralError as error:
        problem = str(error)
    dossier = Dossier(
        policy=policy,
        verified=verified,
        log=tuple(log),
        ledger=ledger.entries,
        reservations=tuple(ledger.reservations()),
        statement=statement,
        only=study,
    )
    return OwnReport(
        policy=policy,
        statement=statement,
        studies=tuple(_study(facts, dossier, ledger) for facts in statement.studies),
        left=egress_facts(dossier) if log else None,  # one that was begun is never empty
        verified=verified,
        problem=problem,
    )


def _study(facts: StudyFacts, dossier: Dossier, ledger: Ledger) -> OwnStudy:
    look, no_look = None, ""
    try:
        look = own_look(dossier.policy, ledger, facts.digest)
    except RunError:
        no_look = NOT_JUDGED if facts.judged else NOTHING_TO_JUDGE
    except (DataError, ProtocolError) as error:
        no_look = str(error)
    return OwnStudy(
        facts=facts,
        protocol=_kept_text(dossier.policy.state, facts.digest),
        rounds=tuple(
            OwnRound(
                paid=paid,
                sealed=dossier.sealed.get(paid.head),
                left=tuple(
                    e for e in dossier.log if e.kind == "released" and e.body["ledger"] == paid.head
                ),
            )
            for paid in dossier.reservations
            if paid.study == facts.digest
        ),
        look=look,
        no_look=no_look,
    )


def _kept_text(state: Path, study: str) -> StudyProtocol | None:
    """The text that was approved; None without it, or when it was changed or damaged since."""
    with suppress(ProtocolError):
        return kept_protocol(state, study)
    return None
