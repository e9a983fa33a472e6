"""The privacy statement of a hospital as facts: what ran, from its ledger alone.

Nothing here is read from a protocol or a policy of today: a setting that was changed after the
fact changes no statement about the past. `client/statement_text.py` writes it down.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.ledger import Account, Ledger, Reservation
from client.privacy.accounting import Epsilon, epsilon_of, history_of
from client.privacy.guessing import right_guesses
from client.terms import TEST_MODE

ACCOUNTS: tuple[Account, ...] = ("training", "validation")

Term = str | int | float | bool


@dataclass(frozen=True)
class AccountFacts:
    """What one account spent; `mechanisms` are (sigma, q, steps), equal ones counted together.

    `right_guesses` is what the epsilon means (`client/privacy/guessing.py`), 0.5 to 1.
    """

    epsilon: Epsilon
    right_guesses: float
    asked: float | None
    mechanisms: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True)
class StudyFacts:
    """One study at one hospital.

    `terms` holds every value that a term had, in the order of time: usually one. Of the `reserved`
    requests `answered` were sealed; the others count in full and nothing of them left. `began` and
    `ended` are the times of the first and the last reservation (ISO 8601, UTC).
    """

    digest: str
    terms: Mapping[str, tuple[Term, ...]]
    accounts: Mapping[Account, AccountFacts]
    reserved: int
    answered: int
    began: str
    ended: str

    @property
    def name(self) -> str:
        return str(self.terms["study-name"][0])

    @property
    def judged(self) -> bool:
        """Whether validation patients judge its models: not so where it only states figures."""
        return 0 not in self.terms["histogram-bins"]

    @property
    def private(self) -> bool:
        return "none" not in self.terms["mechanism"]

    @property
    def seeded(self) -> bool:
        return TEST_MODE in self.terms["noise"]

    @property
    def rehearsal(self) -> bool:
        return True in self.terms["rehearsal"]


@dataclass(frozen=True)
class Statement:
    """One hospital: its studies, and `for_life` what all studies of its ledger cost together.

    `for_life` holds all of them also where `studies` is one; its delta is the smallest that a study
    was promised, and one study with `seeded` noise makes it void. `cap` is the lifetime cap in the
    last reservation, None before the first.
    """

    hospital: str
    studies: tuple[StudyFacts, ...]
    for_life: Mapping[Account, Epsilon]
    seeded: bool
    cap: float | None
    entries: int
    head: str


def statement_of(ledger: Ledger, hospital: str, study: str | None = None) -> Statement:
    """The facts of `ledger`, about one study (digest) or all. AccountingError as from `epsilon_of`."""
    reservations = ledger.reservations()
    digests = dict.fromkeys(r.study for r in reservations)  # in the order of time
    delta = delta_of(reservations)
    return Statement(
        hospital=hospital,
        studies=tuple(_study(ledger, digest) for digest in digests if study in (None, digest)),
        for_life={a: epsilon_of(ledger.spends(a), delta) for a in ACCOUNTS} if delta else {},
        seeded=any(r.terms["noise"] == TEST_MODE for r in reservations),
        cap=float(reservations[-1].terms["lifetime-cap"]) if reservations else None,
        entries=len(ledger.entries),
        head=ledger.head,
    )


def delta_of(reservations: list[Reservation]) -> float | None:
    """The smallest delta on which anything was reserved: the epsilon at it is the largest."""
    return min((float(r.terms["delta"]) for r in reservations), default=None)


def _study(ledger: Ledger, digest: str) -> StudyFacts:
    reservations = ledger.reservations(digest)
    terms = {
        key: tuple(dict.fromkeys(r.terms[key] for r in reservations))
        for key in reservations[0].terms
    }
    delta = delta_of(reservations)
    accounts: dict[Account, AccountFacts] = {}
    for account, asked in zip(ACCOUNTS, ("epsilon", "validation-epsilon"), strict=True):
        spends = ledger.spends(account, digest)
        if spends and delta is not None:
            accounts[account] = AccountFacts(
                epsilon=epsilon_of(spends, delta),
                right_guesses=right_guesses(spends),
                asked=float(terms[asked][0]) if "none" not in terms["mechanism"] else None,
                mechanisms=history_of(spends),
            )
    sealed = [e for e in ledger.entries if e.kind == "sealed" and e.body["study"] == digest]
    return StudyFacts(
        digest=digest,
        terms=terms,
        accounts=accounts,
        reserved=len(reservations),
        answered=len(sealed),
        began=reservations[0].time,
        ended=reservations[-1].time,
    )


def as_json(statement: Statement) -> dict[str, Any]:
    """The same facts for machines; an epsilon is None where there is no guarantee."""
    return {
        "hospital": statement.hospital,
        "ledger": {"entries": statement.entries, "head": statement.head},
        "lifetime_cap": statement.cap,
        "for_life": {a: epsilon_json(e) for a, e in statement.for_life.items()},
        "studies": [
            {
                "study": study.digest,
                "name": study.name,
                "rehearsal": study.rehearsal,
                "private": study.private,
                "test_mode_noise": study.seeded,
                "requests_reserved": study.reserved,
                "requests_answered": study.answered,
                "began": study.began,
                "ended": study.ended,
                "accounts": {
                    account: {
                        **epsilon_json(facts.epsilon),
                        "epsilon_asked": facts.asked,
                        "right_guesses_at_most": facts.right_guesses,
                        "mechanisms": [
                            {"noise_multiplier": sigma, "sampling_rate": q, "steps": steps}
                            for sigma, q, steps in facts.mechanisms
                        ],
                    }
                    for account, facts in study.accounts.items()
                },
                "terms": {key: list(values) for key, values in study.terms.items()},
            }
            for study in statement.studies
        ],
    }


def epsilon_json(epsilon: Epsilon) -> dict[str, Any]:
    """An epsilon with both accountants' figures."""
    return {
        "epsilon": _finite(epsilon.value),
        "delta": epsilon.delta,
        "accountant": epsilon.accountant,
        "second_accountant": epsilon.second.accountant,
        "second_epsilon": _finite(epsilon.second.value),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
