"""The rounds as this hospital and as the coordinator have them, and whether the two agree.

Own rounds come from the ledger. The coordinator's come from `rounds.jsonl` of its run folder: one JSON
object a closed round, of which only what is named in `ClosedRound` is read, each in its form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.ledger import Reservation
from client.pack.dossier import Dossier
from client.pack.markdown import items, table, utc
from common.documents import Name, first_problem
from common.errors import RunError
from common.protocol import StudyProtocol

ROUNDS = "rounds.jsonl"

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Code = Annotated[str, Field(pattern=r"^[A-Z]+(-[A-Z]+)+$", max_length=40)]


class ClosedRound(BaseModel):
    """What the coordinator recorded about one closed round; hospitals by name.

    `heads` are the ledger heads of the answers that it used, `policies` the hashes of the approvals
    that they named, `late` the earlier round that a late reply was for. `histogram` is the sum of the
    released ones, of the model before this round, with the noise `histogram_noise` in a cell.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    round: Annotated[int, Field(ge=1)]
    answered: tuple[Name, ...]
    refused: dict[Name, Code]
    missing: tuple[Name, ...]
    heads: dict[Name, Hash]
    late: dict[Name, int] = Field(default_factory=dict)
    policies: dict[Name, Hash] = Field(default_factory=dict)
    suppressed: tuple[Name, ...] = ()
    histogram: tuple[tuple[float, ...], ...] | None = None
    histogram_noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    @property
    def released(self) -> frozenset[str]:
        """Whose histograms are in the sum."""
        return frozenset(self.answered) - frozenset(self.suppressed)


@dataclass(frozen=True)
class Quorum:
    """The coordinator's rounds of one study; `standing` has a sentence a round on this hospital,
    `disagreements` those in which the ledger here and the record there cannot both be right."""

    protocol: StudyProtocol
    rounds: tuple[ClosedRound, ...]
    standing: tuple[str, ...]
    disagreements: tuple[str, ...]


def read_rounds(path: Path) -> tuple[ClosedRound, ...]:
    """The rounds in `path`, in their order; RunError when it is not a coordinator's rounds.jsonl."""
    found = []
    try:
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            found.append(ClosedRound.model_validate_json(line))
            if found[-1].round != number:
                raise RunError(
                    f"expected round {number} in line {number} of {path} and found round "
                    f"{found[-1].round}; ask the coordinator for the whole file"
                )
    except ValidationError as error:
        raise RunError(
            f"expected in line {number} of {path} a round as a coordinator of this version records it: "
            f"{first_problem(error, ClosedRound)}; ask the coordinator for {ROUNDS} of the run folder"
        ) from error
    except OSError as error:
        raise RunError(f"cannot read the coordinator's rounds {path}: {error.strerror}") from error
    return tuple(found)


def compare(dossier: Dossier, rounds: Sequence[ClosedRound]) -> Quorum:
    """`rounds` beside this hospital's books. RunError unless the dossier is about one known study."""
    protocols = dossier.protocols
    if len(dossier.studies) != 1 or not protocols:
        raise RunError(
            f"expected one approved study, whose text was kept, to compare {ROUNDS} with and found "
            f"{len(protocols)}; name the study with --study"
        )
    standing, disagreements = [], []
    for one in rounds:
        problem = _problem(dossier, protocols[0].digest, one)
        said = problem or _agreement(dossier, protocols[0].digest, one)
        standing.append(f"**DISAGREES**: {problem}" if problem else said)
        if problem:
            disagreements.append(f"Round {one.round}: {problem}.")
    return Quorum(protocols[0], tuple(rounds), tuple(standing), tuple(disagreements))


def _problem(dossier: Dossier, study: str, taken: ClosedRound) -> str | None:
    """Why what the coordinator recorded of this hospital's answer cannot be right, or None."""
    hospital = dossier.policy.hospital
    if hospital not in taken.answered:
        return None
    head = taken.heads.get(hospital)
    if head is None:
        return "the coordinator used an answer and recorded no ledger head of it"
    paid = dossier.paid.get(head)
    if paid is None:
        return f"the ledger head {head} that the coordinator recorded is not in this ledger"
    if (paid.study, paid.round) != (study, taken.round):
        return (
            f"the ledger head {head} that the coordinator recorded is of round {paid.round} of study "
            f"{paid.study[:12]} in this ledger"
        )
    if head not in dossier.sealed:
        return f"the ledger head {head} that the coordinator recorded was never sealed here"
    approval = taken.policies.get(hospital)
    approvals = {e.hash for e in dossier.log if e.kind == "approved"}
    if approval is not None and approval not in approvals:
        return f"the approval {approval} that the coordinator recorded is not in this egress log"
    return None


def _agreement(dossier: Dossier, study: str, taken: ClosedRound) -> str:
    """What the two records say together of this hospital in a round."""
    hospital = dossier.policy.hospital
    if hospital in taken.answered:
        return "agrees: answered"
    sealed = dossier.sealed
    own = [
        sealed[r.head]
        for r in dossier.reservations
        if (r.study, r.round) == (study, taken.round) and r.head in sealed
    ]
    here = f"; answered here on {utc(own[-1])}, paid for and not used" if own else ""
    if hospital in taken.refused:
        return f"refused, {taken.refused[hospital]}{here}"
    if hospital in taken.missing:
        return f"missing{here}"
    return f"not asked{here}"


def rounds_section(dossier: Dossier, quorum: Quorum | None) -> str:
    """Section 5: the rounds that this hospital answered, and the coordinator's account of them."""
    sealed, by_study = dossier.sealed, dict[str, list[Reservation]]()
    for reservation in dossier.reservations:
        if dossier.only in (None, reservation.study):
            by_study.setdefault(reservation.study, []).append(reservation)
    parts = [
        "# 5. Rounds and quorum\n\n"
        "## Rounds at this hospital\n\n"
        "From the privacy ledger. A request is reserved before any patient is looked at and sealed before "
        "its reply leaves; the reply carries the head. What is reserved and not sealed counts as spent, "
        "and nothing of it left.\n"
    ]
    if not by_study:
        parts.append("This hospital was asked for nothing yet.\n")
    for study, reservations in by_study.items():
        rows = [
            (
                r.round,
                " and ".join(sorted(r.spends)),
                utc(r.time),
                utc(sealed[r.head]) if r.head in sealed else "**not sealed**",
                f"`{r.head}`",
            )
            for r in reservations
        ]
        header = ("round", "patients", "reserved (UTC)", "sealed (UTC)", "ledger head in the reply")
        parts.append(f"### Study {dossier.name_of(study)}\n\n" + table(header, rows))
    parts.append("## Rounds at the coordinator\n\n" + _coordinators(dossier, quorum))
    return "\n".join(parts)


def _coordinators(dossier: Dossier, quorum: Quorum | None) -> str:
    if quorum is None:
        return (
            f"**Not given.** Who else answered is known to the coordinator only. Ask the coordinator for "
            f"the file `{ROUNDS}` of the study's run folder (it holds no patient data) and make this pack "
            f"again with `--study NAME --rounds {ROUNDS}`.\n"
        )
    protocol, participation = quorum.protocol, quorum.protocol.participation
    verdict = (
        f"**DISAGREEMENT in {len(quorum.disagreements)} of {len(quorum.rounds)} rounds.** Either the "
        f"coordinator's file or this hospital's ledger is not what it was. Find out which before anybody "
        f"relies on this pack.\n\n{items(quorum.disagreements)}"
        if quorum.disagreements
        else "The ledger heads that the coordinator recorded for this hospital agree with this hospital's "
        "ledger in every round that lists an answer of it.\n"
    )
    mandatory = ", ".join(participation.mandatory) or "none"
    rows = [
        (
            one.round,
            f"{len(one.answered)} of {len(protocol.hospitals)}: {', '.join(one.answered) or '-'}",
            ", ".join(f"{name} ({code})" for name, code in one.refused.items()) or "-",
            ", ".join(one.missing) or "-",
            ", ".join(f"{name} (for round {n})" for name, n in one.late.items()) or "-",
            standing,
        )
        for one, standing in zip(quorum.rounds, quorum.standing, strict=True)
    ]
    last = quorum.rounds[-1].round if quorum.rounds else 0
    beyond = sorted(
        {r.round for r in dossier.reservations if r.study == protocol.digest and r.round > last}
    )
    header = ("round", "answered", "refused", "missing", "late", f"'{dossier.policy.hospital}'")
    more = ", ".join(map(str, beyond))
    return (
        f"{verdict}\nThe rest is the coordinator's word. A round closes with at least "
        f"{participation.quorum} answers (mandatory: {mandatory}); a reply is used in its own round only.\n\n"
        + table(header, rows)
        + (
            f"\nAsked here beyond the last round of the file: {more}. A round that was not closed, and the "
            f"evaluation of the final model (round {protocol.rounds + 1}), are never in it.\n"
            if beyond
            else ""
        )
    )
