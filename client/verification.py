"""Whether policy, ledger, egress log and sealed replies tell one story: offline, without torch.

site.toml  = the policy in the log's last approval
ledger     chain, anchor, kept replies = their digests
log        chain, anchor; the ledger's seals name heads that are in it
each answer that left  = a seal of the ledger: same digest, same reservation
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from client.chain import Entry
from client.egress_log import LOG, EgressLog
from client.ledger import Ledger
from client.policy import load_policy
from common.errors import EgressError, LedgerError, UnapprovedPolicyError

ANSWERS = ("train-reply", "evaluate-reply")


@dataclass(frozen=True)
class Verified:
    """What was found whole: entries of both chains, and what left."""

    since: str
    ledger_entries: int
    ledger_head: str
    log_entries: int
    log_head: str
    policy: str  # SHA-256 of the approved site.toml
    approved: str  # when
    kept_replies: int
    released: dict[str, int]  # kind -> how many times one left
    released_bytes: int
    unsealed: int  # reservations without a reply: a crash, or at work now
    unsent: int  # seals whose reply is not known to have left


def verify(site: Path, head: str | None = None) -> Verified:
    """Check all of it against each other; the IntramuralError that says what does not fit.

    `head` is a ledger hash that a coordinator holds: it must be in this ledger.
    """
    policy = load_policy(site)
    # The log first: a vault at work meanwhile seals before it releases, never the other way round.
    log = EgressLog.read(policy.state)
    with Ledger.read(policy.state) as ledger:
        entries, kept = ledger.entries, ledger.check_replies()
        unsealed = len(ledger.reservations()) - len(_seals(entries))
    approvals = [entry for entry in log if entry.kind == "approved"]
    if not approvals or approvals[-1].body["policy"] != policy.digest:
        when = approvals[-1].time if approvals else "never"
        raise UnapprovedPolicyError(
            f"expected in {site} the policy that was approved (last: {when}) and found another, if "
            f"only by a byte; put it back, or approve it as it is: intramural-client approve"
        )
    if head is not None and head not in {entry.hash for entry in entries}:
        raise LedgerError(
            f"expected the hash {head} among the {len(entries)} entries of the ledger in "
            f"{policy.state} and did not find it: this ledger was put back to an earlier state or is "
            f"another one; put back the ledger as it last was"
        )
    released = [entry for entry in log if entry.kind == "released"]
    return Verified(
        since=entries[0].time,
        ledger_entries=len(entries),
        ledger_head=entries[-1].hash,
        log_entries=len(log),
        log_head=log[-1].hash,
        policy=policy.digest,
        approved=approvals[-1].time,
        kept_replies=kept,
        released=dict(Counter(entry.body["kind"] for entry in released)),
        released_bytes=sum(entry.body["bytes"] for entry in released),
        unsealed=unsealed,
        unsent=_compared(policy.state, entries, log),
    )


def _compared(state: Path, ledger: tuple[Entry, ...], log: list[Entry]) -> int:
    """Compare log and ledger entry by entry; how many seals have no release."""
    heads = {entry.hash for entry in log}
    seals = {entry.body["reply"]: entry for entry in _seals(ledger)}
    for number, seal in enumerate(seals.values(), start=1):
        if seal.body["egress"] not in heads:
            raise EgressError(
                f"expected in {state / LOG} the entry that the ledger's seal {number} names and did "
                f"not find it: the log was put back to an earlier state, or is another one; put back "
                f"the log as it last was"
            )
    left = set()
    for entry in _answers(log):
        paid = seals.get(entry.body["sha256"])
        if paid is None or paid.body["reserved"] != entry.body["ledger"]:
            raise LedgerError(
                f"expected a seal in the ledger for the reply in entry {entry.number} of the egress "
                f"log and found none: the ledger was put back to an earlier state, or is another "
                f"one; put back the ledger as it last was"
            )
        left.add(entry.body["sha256"])
    return len(seals.keys() - left)


def _seals(ledger: tuple[Entry, ...]) -> list[Entry]:
    return [entry for entry in ledger if entry.kind == "sealed"]


def _answers(log: list[Entry]) -> Iterator[Entry]:
    return (e for e in log if e.kind == "released" and e.body["kind"] in ANSWERS)
