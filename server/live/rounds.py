"""Who did what in each round: hospitals x rounds, in marks that differ in shape."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape

from common.page_parts import table
from server.checkpoint import RoundRecord
from server.flags import WORDS
from server.live.look import Look
from server.live.words import code_in_words, in_rounds

_PER_TABLE = 24  # rounds beside a name on a portrait page


@dataclass(frozen=True)
class Mark:
    """A sign of the matrix, its style, and what it stands for."""

    sign: str
    style: str
    words: str


ANSWERED = Mark("●", "answered", "answered")
WARNED = Mark("▲", "flagged", "answered, with a warning")
REFUSED = Mark("R", "refused", "refused, or its answer not used")
LATE = Mark("L", "missing late", "late: it answered after the round had closed")
MISSING = Mark("M", "missing", "missing: no answer")
ASKED = Mark("○", "asked", "asked, no answer yet")
AWAY = Mark("–", "away", "not connected")
_KEY = (ANSWERED, WARNED, REFUSED, LATE, MISSING, ASKED, AWAY)
# How `server.deployed.StatusFile` calls them.
NOW = {
    "answered": ANSWERED,
    "refused": REFUSED,
    "missing": MISSING,
    "asked": ASKED,
    "absent": AWAY,
    "never seen": AWAY,
}


@dataclass(frozen=True)
class _Column:
    """One round: its heading, the mark and a hint for each hospital, and how long it took."""

    head: str
    marks: dict[str, tuple[Mark, str]]
    seconds: float | None = None


def matrix(look: Look) -> str:
    """The rounds of the run, the one that is open last, and the key to the marks."""
    columns = [*_past(look), *_open(look)]
    if not columns:
        return "<p>No round has begun.</p>"
    names = look.protocol.hospital_names
    longest = max((column.seconds or 0.0 for column in columns), default=0.0)
    unit, length = ("s", 1) if longest < 1000 else ("min", 60) if longest < 60_000 else ("h", 3600)
    tables = []
    for start in range(0, len(columns), _PER_TABLE):
        block = columns[start : start + _PER_TABLE]
        rows = [[escape(name), *(_cell(*column.marks[name]) for column in block)] for name in names]
        took = ["" if c.seconds is None else f"{c.seconds / length:.0f}" for c in block]
        rows.append([f'<span class="note">took, {unit}</span>', *took])
        tables.append(table(["Round", *(column.head for column in block)], rows, "rounds"))
    used = {mark for column in columns for mark, _ in column.marks.values()}
    key = " &nbsp; ".join(f"{_cell(mark, '')} {mark.words}" for mark in _KEY if mark in used)
    notes = "".join(f"<li>{note}</li>" for note in _refusals(look))
    return f'{"".join(tables)}<p class="caption key">{key}</p>' + (notes and f"<ul>{notes}</ul>")


def heard(look: Look) -> list[RoundRecord]:
    """The closed rounds, and what came after them: the final evaluation, or a round that failed."""
    last = look.outcome.last if look.outcome is not None else None
    after = [] if last is None else [RoundRecord.read(last)]
    return [*look.records, *(record for record in after if record.round > len(look.records))]


def _past(look: Look) -> Iterator[_Column]:
    every = heard(look)
    late = {(name, to): r.round for r in every for name, to in r.late.items()}
    for record in every:
        final = record.round > look.protocol.rounds
        yield _Column(
            head="final" if final else str(record.round),
            marks={name: _mark(name, record, late) for name in look.protocol.hospital_names},
            seconds=record.seconds,
        )


def _open(look: Look) -> Iterator[_Column]:
    """The round that is open; a rehearsal does not say who has answered in it."""
    run = look.run
    if run is None or not look.under_way or run["round"] <= len(look.records) or look.rehearsal:
        return
    final = run["round"] > look.protocol.rounds
    marks = {}
    for name in look.protocol.hospital_names:
        about = look.found["hospitals"][name]
        code = about.get("code")
        marks[name] = NOW[about["state"]], f"{code}: {code_in_words(code)}" if code else ""
    yield _Column(head="final, open" if final else f"{run['round']}, open", marks=marks)


def _mark(name: str, record: RoundRecord, late: Mapping[tuple[str, int], int]) -> tuple[Mark, str]:
    """`late` is the round in which a late answer came: (hospital, the round it was to) -> round."""
    if name in record.flags:
        return WARNED, "; ".join(WORDS[code] for code in record.flags[name])
    if name in record.answered:
        return ANSWERED, ""
    if (code := record.refused.get(name)) is not None:
        return REFUSED, f"{code}: {code_in_words(code)}"
    if (came := late.get((name, record.round))) is not None:
        return LATE, f"its answer came in round {came}"
    return MISSING, ""


def _cell(mark: Mark, hint: str) -> str:
    title = f' title="{escape(hint)}"' if hint else ""
    return f'<span class="{mark.style}"{title}>{mark.sign}</span>'


def _refusals(look: Look) -> Iterator[str]:
    """ "west, round 8–10: the hospital's data cannot be used (E-DATA)", for each hospital and code."""
    when: dict[tuple[str, str], list[int]] = {}
    for record in heard(look):
        for name, code in record.refused.items():
            when.setdefault((name, code), []).append(record.round)
    for (name, code), rounds in when.items():
        yield (
            f"<strong>{escape(name)}</strong>, {in_rounds(rounds)}: {code_in_words(code)} "
            f"(<code>{escape(code)}</code>)"
        )
