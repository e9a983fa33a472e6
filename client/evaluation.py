"""The hospital's own look at a model: its exact scores as one page and as JSON. Neither leaves.

Read from what the vault kept of its own evaluations: nothing is asked of the coordinator, no patient
is looked at anew and no budget is spent.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from client.approval import APPROVED
from client.evidence import kept_scores, scores_file
from client.ledger import Ledger
from client.looks import Look, look_of
from client.pack.page import STYLE
from client.policy import SitePolicy
from common.errors import DataError, RunError
from common.files import write_atomic
from common.judging.judge import Judge
from common.page_parts import count, document
from common.protocol import StudyProtocol, load_protocol
from common.tasks import judge_of, names, task_named

PAGE, JSON = "evaluation.html", "evaluation.json"

_OWN_STYLE = """
h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.lead { font-size: 1.1rem; margin: 0; }
figure { margin: .8rem 0; break-inside: avoid; }
figure img { display: block; max-width: 100%; }
figcaption, .caption { color: var(--soft); font-size: .85rem; max-width: 48rem; }
td, th { padding-right: .8rem; }
tbody th { border-bottom: 1px solid var(--line); vertical-align: top; }
.numbers { width: auto; min-width: 60%; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; padding-left: .8rem; }
.counts tbody tr:last-child > * { border-top: 1.5px solid var(--ink); }
.figures td:nth-child(2) { white-space: nowrap; }
.figures tbody th { white-space: nowrap; }
.interval { color: var(--soft); font-size: .88em; white-space: nowrap; }
.absent { color: var(--soft); font-style: italic; }
@media print { h2 { break-before: auto; margin-top: 1.4rem; } figure img { max-height: 8cm; } }
"""


@dataclass(frozen=True, eq=False)
class OwnLook:
    """What a hospital found of the model of `study` after `after_round` rounds."""

    hospital: str
    study: str
    digest: str
    after_round: int
    found: Look


def own_look(policy: SitePolicy, ledger: Ledger, study: str | None = None) -> OwnLook:
    """The newest model of `study` (name or digest) of which scores are kept.

    Without `study` there must be scores of one study only. RunError for no or another study, DataError
    for damaged scores, ProtocolError for a damaged protocol text, or none where figures need one.
    """
    called = {r.study: str(r.terms["study-name"]) for r in ledger.reservations()}
    judged = {digest: name for digest, name in called.items() if _judged(policy.state, digest)}
    asked = [digest for digest, name in judged.items() if study in (None, digest, name)]
    if len(asked) != 1:
        known = ", ".join(f"{name} ({digest})" for digest, name in judged.items()) or "none"
        wanted = "scores of one study" if study is None else f"scores of the study '{study}'"
        raise RunError(
            f"expected {wanted} and found {len(asked)} such; choose with --study among the studies "
            f"whose models this hospital has evaluated: {known}"
        )
    digest = asked[0]
    after_round = max(_judged(policy.state, digest))
    protocol = kept_protocol(policy.state, digest)
    judge, scores = _scores(policy.state, digest, after_round, protocol)
    look = look_of(judge, scores, protocol, policy.limits.smallest_group)
    return OwnLook(policy.hospital, called[digest], digest, after_round, look)


def kept_protocol(state: Path, study: str) -> StudyProtocol | None:
    """The text that was approved; None without it, or when it was changed since.

    ProtocolError when it is damaged.
    """
    text = state / APPROVED / f"{study}.toml"
    if not text.is_file():
        return None
    protocol = load_protocol(text)
    return protocol if protocol.digest == study else None


def _scores(
    state: Path, study: str, after_round: int, protocol: StudyProtocol | None
) -> tuple[Judge[Any], Any]:
    """The kept scores and their judge, which without a text is the one that can read their columns."""
    judges = [judge_of(protocol)] if protocol is not None else list(_all_judges())
    *others, last = judges
    for judge in others:
        with suppress(DataError):
            return judge, kept_scores(state, study, after_round, judge)
    return last, kept_scores(state, study, after_round, last)


def _all_judges() -> Iterable[Judge[Any]]:
    """One of each kind."""
    found = (task_named(name).judge for name in names())
    return {judge.release: judge for judge in found if judge is not None}.values()


def _judged(state: Path, study: str) -> list[int]:
    """After how many rounds there are scores of the study's model."""
    kept = scores_file(state, study, 0).parent.glob("round-*.npz")
    numbers = (path.stem.removeprefix("round-") for path in kept)
    return [int(number) for number in numbers if number.isdecimal()]


def write_look(folder: Path, own: OwnLook) -> None:
    """Write page and JSON into `folder`, mode 0600. OSError when they cannot be written."""
    facts = {
        "hospital": own.hospital,
        "study": own.study,
        "digest": own.digest,
        "after_round": own.after_round,
        "for": "this hospital alone: exact figures of its patients, under no privacy guarantee",
        **own.found.facts,
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / JSON, text.encode())
    write_atomic(folder / PAGE, page(own).encode())


def rounds_in_words(number: int) -> str:
    """ "1 round", "2 rounds"."""
    return count(number, "round")


def page(own: OwnLook) -> str:
    """The whole page: no script, nothing fetched, also for paper."""
    look = own.found
    body = "".join(f"<section><h2>{title}</h2>{text}</section>" for title, text in look.sections)
    limits = "".join(f"<li>{limit}</li>" for limit in look.limits)
    title = escape(f"Evaluation at {own.hospital}")
    after, patients = rounds_in_words(own.after_round), count(look.patients, "validation patient")
    inner = (
        f"<header><h1>{title}</h1><p>Study “{escape(own.study)}”, the model after {after}, on "
        f"{patients} of this hospital.</p></header>\n"
        '<div class="warning"><p><strong>For this hospital alone.</strong> Exact figures of your '
        "patients stand here, under no privacy guarantee; nothing of this page left the hospital, "
        "and nothing of it should. Research use, not a medical device.</p></div>"
        f'<h2>In short</h2><p class="lead">{look.headline}</p>{body}'
        f"<section><h2>Limits</h2><ul>{limits}</ul></section>"
        f"<footer>Protocol digest {own.digest}</footer>"
    )
    return document(title, STYLE + _OWN_STYLE, inner)
