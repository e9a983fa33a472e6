"""The hospital's report as one page: no script, nothing fetched, also for paper. Mode 0600."""

from collections.abc import Iterator
from datetime import datetime
from html import escape
from pathlib import Path

from client.evaluation import rounds_in_words
from client.hospital_report.gathering import OwnReport
from client.hospital_report.sections import (
    budget,
    egress,
    following,
    limits,
    study,
)
from client.pack.markdown import utc
from client.pack.page import STYLE
from client.statement import ACCOUNTS
from client.statement_text import rounded_up
from common.files import write_atomic
from common.page_parts import document

PAGE = "report.html"

_OWN_STYLE = """
h2 { font-size: 1.3rem; margin-top: 2.4rem; }
h4 { margin-top: 1.6rem; }
.tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: .7rem; margin: .6rem 0; }
.tile { border: 1px solid var(--line); border-radius: 3px; padding: .5rem .8rem; break-inside: avoid; }
.tile .value { font-size: 1.5rem; font-weight: 600; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
.note, figcaption, .caption { color: var(--soft); font-size: .85rem; max-width: 48rem; }
figure { margin: .8rem 0; break-inside: avoid; }
figure img { display: block; max-width: 100%; }
td, th { padding-right: .8rem; }
tbody th { font-weight: 600; border-bottom: 1px solid var(--line); vertical-align: top; }
.words tbody th { width: 11rem; font-weight: 400; color: var(--soft); }
.numbers { width: auto; min-width: 60%; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; padding-left: .8rem; }
.rounds { font-size: .82rem; }
.rounds td:not(:nth-child(2)), .time { white-space: nowrap; }
.rounds th:last-child, .rounds td:last-child { text-align: right; }
.counts tbody tr:last-child > * { border-top: 1.5px solid var(--ink); }
.figures td:nth-child(2), .figures tbody th { white-space: nowrap; }
.left td:nth-child(2), .left td:nth-child(3) { text-align: right; }
.left tbody th { white-space: nowrap; }
.interval { color: var(--soft); font-size: .88em; white-space: nowrap; }
.absent { color: var(--soft); font-style: italic; }
.bar { width: 9rem; height: .8rem; display: inline-block; }
@media print { h2 { break-before: auto; margin-top: 1.4rem; } figure img { max-height: 8cm; } }
"""


def write_report(folder: Path, report: OwnReport, now: datetime) -> Path:
    """Write report.html into `folder`, mode 0600, and return its path. OSError when it cannot be written."""
    path = folder / PAGE
    write_atomic(path, page(report, now).encode())
    return path


def page(report: OwnReport, now: datetime) -> str:
    """The whole document, made at `now` (UTC)."""
    hospital = escape(report.policy.hospital)
    names = [f"“{escape(own.facts.name)}”" for own in report.studies]
    steps = "".join(f"<li>{escape(step)}</li>" for step in following(report))
    body = (
        f'<section><h2>In short</h2><div class="tiles">{"".join(_tiles(report))}</div></section>'
        f"<section><h2>What to do next</h2><ul>{steps}</ul></section>"
        + "".join(study(own, report.policy.hospital) for own in report.studies)
        + f"<section><h2>The privacy budget of your patients</h2>{budget(report)}</section>"
        f"<section><h2>What left this hospital</h2>{egress(report)}</section>"
        f"<section><h2>Limits</h2>{limits(report)}</section>"
    )
    title = f"Report for {hospital}"
    inner = (
        f"<header><h1>{title}</h1><p>What this hospital did in "
        f"{', '.join(names) or 'no study so far'}, what it spent, what left, and how the model does on its "
        f"own patients.</p></header>\n{''.join(_warnings(report))}{body}"
        f"<footer>Made from this hospital's own books on {utc(now.isoformat())} UTC. Research use, not a "
        f"medical device.</footer>"
    )
    return document(title, STYLE + _OWN_STYLE, inner)


def _warnings(report: OwnReport) -> Iterator[str]:
    said = [
        "<strong>For this hospital alone.</strong> Exact figures of your patients stand here, under no "
        "privacy guarantee. Send this page to nobody outside; the reviewer pack is made for that."
    ]
    if report.problem is not None:
        said.insert(0, f"<strong>The books do not agree:</strong> {escape(report.problem)}.")
    if any(own.facts.rehearsal for own in report.studies):
        said.append("<strong>A rehearsal:</strong> one person held the data of all hospitals.")
    if any(own.facts.seeded for own in report.studies):
        said.append(
            "<strong>Test mode:</strong> the noise came from a known seed, so every epsilon is void."
        )
    if not all(own.facts.private for own in report.studies):
        said.append(
            "<strong>No differential privacy</strong> in a study of this page: treat its model as "
            "patient data."
        )
    return (f'<div class="warning"><p>{text}</p></div>' for text in said)


def _tiles(report: OwnReport) -> Iterator[str]:
    answered = sum(own.facts.answered for own in report.studies)
    reserved = sum(own.facts.reserved for own in report.studies)
    checked = "books verified" if report.verified is not None else "books not verified"
    yield _tile("Studies", f"{len(report.studies)}", checked)
    yield _tile("Requests answered", f"{answered}", f"of {reserved} that were reserved")
    left = report.left
    yield _tile(
        "Messages that left",
        "not known" if left is None else f"{left['messages']:,}",
        "the egress log cannot be read" if left is None else f"{left['bytes']:,} bytes",
    )
    for account in ACCOUNTS:
        spent = report.statement.for_life.get(account)
        value = "0" if spent is None else rounded_up(spent.value)
        of = f"of {report.policy.max_epsilon:g} for life"
        yield _tile(f"Epsilon spent, {account} patients", value, of)
    for own in report.studies:
        if own.look is not None and own.look.found.value is not None:
            found = own.look.found
            low, high = found.interval or (None, None)
            bounds = "no interval" if low is None else f"95 %: {low:.3f} to {high:.3f}"
            yield _tile(
                f"{found.figure[0].upper()}{found.figure[1:]} here, {escape(own.facts.name)}",
                f"{found.value:.3f}",
                f"{bounds}; after {rounds_in_words(own.look.after_round)}",
            )


def _tile(label: str, value: str, note: str) -> str:
    """A tile; `label`, `value` and `note` are ready HTML."""
    return (
        f'<div class="tile"><div>{label}</div><div class="value">{value}</div>'
        f'<div class="note">{note}</div></div>'
    )
