"""The hospital's own look at a model: its exact scores as one page and as JSON. Neither leaves.

Read from what the vault kept of its own evaluations: nothing is asked of the coordinator, no patient
is looked at anew and no budget is spent.
"""

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path

from client.approval import APPROVED
from client.evidence import kept_scores, scores_file
from client.ledger import Ledger
from client.pack.page import STYLE
from client.policy import SitePolicy
from common.clinical.calibration_page import Words
from common.clinical.evaluation import Evaluation, as_json, evaluate, groups_of
from common.clinical.page import LIMITS, headline, sections
from common.errors import RunError
from common.files import write_atomic
from common.page_parts import document
from common.protocol import load_protocol

PAGE, JSON = "evaluation.html", "evaluation.json"

UNNAMED = ("negative", "positive")  # the classes of a study whose text was not kept

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
    """What a hospital found of the model of `study` after `after_round` rounds.

    `classes` as the protocol names them, negative first, or UNNAMED.
    """

    hospital: str
    study: str
    digest: str
    after_round: int
    classes: tuple[str, str]
    found: Evaluation


def own_look(policy: SitePolicy, ledger: Ledger, study: str | None = None) -> OwnLook:
    """The newest model of `study` (name or digest) of which scores are kept.

    Without `study` there must be scores of one study only. RunError for no or another study, DataError
    for damaged scores, ProtocolError for a damaged protocol text.
    """
    names = {r.study: str(r.terms["study-name"]) for r in ledger.reservations()}
    judged = {digest: name for digest, name in names.items() if _judged(policy.state, digest)}
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
    scores = kept_scores(policy.state, digest, after_round)
    classes = _classes(policy.state, digest)
    found = evaluate(scores, policy.limits.smallest_group, groups_of(scores, classes))
    return OwnLook(policy.hospital, names[digest], digest, after_round, classes, found)


def _classes(state: Path, study: str) -> tuple[str, str]:
    """The classes in the text that was approved; UNNAMED without it, or when it was changed since."""
    text = state / APPROVED / f"{study}.toml"
    if not text.is_file():
        return UNNAMED
    protocol = load_protocol(text)
    return protocol.images.classes if protocol.digest == study else UNNAMED


def _judged(state: Path, study: str) -> list[int]:
    """After how many rounds there are scores of the study's model."""
    kept = scores_file(state, study, 0).parent.glob("round-*.npz")
    numbers = (path.stem.removeprefix("round-") for path in kept)
    return [int(number) for number in numbers if number.isdecimal()]


def write_look(folder: Path, look: OwnLook) -> None:
    """Write page and JSON into `folder`, mode 0600. OSError when they cannot be written."""
    facts = {
        "hospital": look.hospital,
        "study": look.study,
        "digest": look.digest,
        "after_round": look.after_round,
        "classes": list(look.classes),
        "for": "this hospital alone: exact figures of its patients, under no privacy guarantee",
        **as_json(look.found),
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / JSON, text.encode())
    write_atomic(folder / PAGE, page(look).encode())


def rounds_in_words(number: int) -> str:
    """ "1 round", "2 rounds"."""
    return f"{number} round{'' if number == 1 else 's'}"


def page(look: OwnLook) -> str:
    """The whole page: no script, nothing fetched, also for paper."""
    words = Words.of(look.found, look.classes)
    body = "".join(
        f"<section><h2>{title}</h2>{text}</section>" for title, text in sections(look.found, words)
    )
    limits = "".join(f"<li>{limit}</li>" for limit in LIMITS)
    title = escape(f"Evaluation at {look.hospital}")
    after = rounds_in_words(look.after_round)
    inner = (
        f"<header><h1>{title}</h1><p>Study “{escape(look.study)}”, the model after {after}, on "
        f"{look.found.patients:,} validation patients of this hospital.</p></header>\n"
        '<div class="warning"><p><strong>For this hospital alone.</strong> Exact figures of your '
        "patients stand here, under no privacy guarantee; nothing of this page left the hospital, "
        "and nothing of it should. Research use, not a medical device.</p></div>"
        f'<h2>In short</h2><p class="lead">{headline(look.found, words)}</p>{body}'
        f"<section><h2>Limits</h2><ul>{limits}</ul></section>"
        f"<footer>Protocol digest {look.digest}</footer>"
    )
    return document(title, STYLE + _OWN_STYLE, inner)
