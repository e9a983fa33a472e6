"""Section of the reviewer pack: what left the hospital, from its verified egress log."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from client.chain import Entry, canonical
from client.pack.dossier import Dossier
from client.pack.markdown import table, utc
from client.statement_text import releases
from common.errors import IntramuralError

NOT_BEGUN = (
    "Nothing was approved, spent or released at this hospital yet, so there is nothing to verify.\n"
)

# What a message of each kind can hold: the egress check lets no other field pass (client/egress.py).
KINDS = {
    "train-reply": "the noised update, and in a round that evaluates the noised histogram, or one bit "
    "that it is suppressed; noise multipliers; study, round and fingerprint of the request; two "
    "hashes of the ledger, one of the approval",
    "evaluate-reply": "the same without an update",
    "hello-reply": "the hospital's name",
    "refusal": "a code and its fixed text",
}


def egress_facts(dossier: Dossier) -> dict[str, Any]:
    """Section 4 for machines: what left by study, round, kind and code, and the state of both books.

    Hellos and refusals belong to no study. Where the pack is about one study, answers to the others are
    left out and counted.
    """
    released = [e for e in dossier.log if e.kind == "released"]
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in released:
        paid = dossier.paid.get(entry.body["ledger"])
        study, server_round = (None, None) if paid is None else (paid.study, paid.round)
        if dossier.only is None or study in (None, dossier.only):
            key = (study, server_round, entry.body["kind"], entry.body["code"])
            groups.setdefault(key, []).append(entry)
    under = Counter(e.body["policy"] for e in released)
    found = dossier.verified
    return {
        "hospital": dossier.policy.hospital,
        "verified": None if found is None else vars(found),
        "messages": len(released),
        "bytes": sum(e.body["bytes"] for e in released),
        "messages_of_other_studies": len(released) - sum(map(len, groups.values())),
        "left": [
            {
                "study": study,
                "round": server_round,
                "kind": kind,
                "code": code,
                "messages": len(entries),
                "bytes": sum(e.body["bytes"] for e in entries),
                "first": entries[0].time,
                "last": entries[-1].time,
            }
            for (study, server_round, kind, code), entries in groups.items()
        ],
        "approvals": [
            {"time": e.time, **e.body, "hash": e.hash, "messages": under[e.body["policy"]]}
            for e in dossier.log
            if e.kind == "approved"
        ],
        "heads": {
            name: {
                "entries": len(book),
                "first": {"time": book[0].time, "hash": book[0].hash},
                "last": {"time": book[-1].time, "hash": book[-1].hash},
            }
            for name, book in (("ledger", dossier.ledger), ("egress log", dossier.log))
            if book
        },
    }


def egress_section(dossier: Dossier) -> str:
    """The same in words and tables, and how somebody checks it without this program."""
    facts, found = egress_facts(dossier), dossier.verified
    parts = [
        "# 4. What left the hospital\n\n"
        "Every message is written into the egress log (`egress.jsonl`) before it leaves the vault; what "
        "cannot be written down does not leave.\n"
    ]
    if found is None:
        parts.append(NOT_BEGUN)
    else:
        parts.append(
            f"Policy, ledger, egress log and kept replies were checked against each other "
            f"(`intramural-client verify`) and are whole: {found.log_entries} entries of the log, "
            f"{found.ledger_entries} of the ledger; kept replies that have their digest: "
            f"{found.kept_replies}. Every answer that left was paid for in the ledger and sealed before. "
            f"Reservations without a reply: {found.unsealed}; sealed replies not known to have left: "
            f"{found.unsent}. Both count as spent.\n"
        )
    others = facts["messages_of_other_studies"]
    said = f"In all {facts['messages']:,} messages of {facts['bytes']:,} bytes left"
    parts.append(
        said + (f", of which {others:,} to other studies are not listed.\n" * bool(others) or ".\n")
    )
    rows = [
        (
            "-" if row["study"] is None else dossier.name_of(row["study"]),
            row["round"] or "-",
            row["kind"] + (f" {row['code']}" if row["code"] else ""),
            row["messages"],
            f"{row['bytes']:,}",
            utc(row["first"]),
            utc(row["last"]),
        )
        for row in facts["left"]
    ]
    header = ("study", "round", "kind", "messages", "bytes", "first (UTC)", "last (UTC)")
    parts.append(table(header, rows))
    parts.append("## Refusals by code\n\n" + _refusals(facts))
    approvals = [
        (
            utc(a["time"]),
            f"`{a['policy']}`",
            "-" if a["study"] is None else dossier.name_of(a["study"]),
            a["messages"],
        )
        for a in facts["approvals"]
    ]
    parts.append(
        "## Site policies in force\n\n"
        + table(("approved (UTC)", "SHA-256 of site.toml", "with the study", "messages"), approvals)
        + "\nMessages under one policy are counted at each of its approvals.\n"
    )
    heads = [
        (f"{book}, {end} entry", utc(state[end]["time"]), f"`{state[end]['hash']}`")
        for book, state in facts["heads"].items()
        for end in ("first", "last")
    ]
    parts.append("## Heads of both books\n\n" + table(("entry", "time (UTC)", "hash"), heads))
    parts.append(
        "## What each kind of message can hold\n\n" + table(("kind", "holds"), KINDS.items())
    )
    judged = not dossier.protocols or any(protocol.evaluations for protocol in dossier.protocols)
    leaves = releases(judged=judged)
    parts.append(table(("what leaves", "covered by epsilon?", "because"), leaves))
    if dossier.log:
        parts.append("## Check it without this program\n\n" + _by_hand(dossier.log[-1]))
    return "\n".join(parts)


def _refusals(facts: dict[str, Any]) -> str:
    codes: Counter[str] = Counter()
    for row in facts["left"]:
        if row["code"]:
            codes[row["code"]] += row["messages"]
    if not codes:
        return "No refusal left.\n"
    texts = {error.code: error.public_text for error in _errors(IntramuralError)}
    rows = [(code, texts.get(code, "-"), count) for code, count in sorted(codes.items())]
    return table(("code", "the fixed text that goes with it", "times"), rows)


def _errors(root: type[IntramuralError]) -> Iterator[type[IntramuralError]]:
    yield root
    for one in root.__subclasses__():
        yield from _errors(one)


def _by_hand(last: Entry) -> str:
    """How to check a line of the log, with its last line worked out."""
    row = [last.number, last.time, last.kind, canonical(last.body), last.previous]
    hashed = json.dumps(row, separators=(",", ":"))  # as client/chain.py hashes it
    return (
        "A head and a reply's SHA-256 can be checked with `sha256sum` and a text editor alone: each line "
        "of `egress.jsonl` in the state folder is one entry with `number`, `time`, `kind`, `body`, "
        "`previous` (the `hash` of the line before, 64 zeros in the first) and `hash`, which is the "
        "SHA-256 of `[number,time,kind,body,previous]`, written as JSON without blanks and with the body "
        "as a text of its own. The last line of this log:\n\n"
        f"```sh\nprintf '%s' '{hashed}' | sha256sum\n```\n\n"
        f"must give `{last.hash}`, which also stands, after the number, in `egress.head`.\n\n"
        "To see whether a reply that somebody holds left this hospital: `sha256sum` of its bytes, and "
        'search for the result as `"sha256"` in `egress.jsonl`. Behind twelve bytes a reply begins with JSON '
        'that names `ledger_head`: the same hash stands in that line as `"ledger"`. Whether a head that the '
        "coordinator holds is in the ledger: `intramural-client verify --head HASH`.\n"
    )
