"""The report's account of the rounds: who answered, what was not used and why, and the warnings."""

from collections.abc import Iterator, Mapping
from html import escape

from common.page_parts import table
from server.admission import REASONS
from server.facts import ReportFacts, RoundFacts
from server.flags import COMPARED, WORDS
from server.page import runs

ROUNDS_PER_TABLE = 20  # what fits on a portrait page beside a name


def participation(facts: ReportFacts) -> str:
    """A table of all rounds by hospital, and a sentence for whatever was out of the ordinary."""
    tables = []
    for start in range(0, len(facts.rounds), ROUNDS_PER_TABLE):
        block = facts.rounds[start : start + ROUNDS_PER_TABLE]
        rows = [
            [escape(name), *(_mark(name, r) for r in block)]
            for name in facts.protocol.hospital_names
        ]
        tables.append(table(["Round", *(str(r.round) for r in block)], rows, "rounds"))
    key = (
        '<p class="caption"><span class="answered">●</span> answered &nbsp; '
        '<span class="flagged">▲</span> answered, with a warning below &nbsp; '
        '<span class="refused">R</span> refused, or its reply not used &nbsp; '
        '<span class="missing">M</span> missing: no reply before the deadline &nbsp; '
        "empty: not asked</p>"
    )
    notes = (*_refusals(facts), *_unused(facts), *_suppressed(facts), *_policies(facts))
    items = "".join(f"<li>{note}</li>" for note in notes)
    return "".join(tables) + key + (f"<ul>{items}</ul>" if items else "")


def flags(facts: ReportFacts) -> str:
    """The warnings by hospital and round, and what they can and cannot say."""
    when = _when({r.round: r.flags for r in facts.rounds})
    items = "".join(
        f"<li><strong>{escape(name)}</strong>, {_rounds(rounds)}: {WORDS[code]} "
        f"(<code>{code}</code>)</li>"
        for (name, code), rounds in when.items()
    )
    found = f"<ul>{items}</ul>" if items else "<p>No update stood out.</p>"
    few = (
        f" With fewer than {COMPARED} hospitals none is compared with the others."
        if len(facts.protocol.hospitals) < COMPARED
        else ""
    )
    private = (
        " Under differential privacy an update is mostly noise: what a small hospital does may stay "
        "hidden in it, and one that sends noise alone is not noticed."
        if facts.private
        else ""
    )
    return (
        f'{found}<p class="caption">A warning is a reason to ask the hospital, not a proof, and its '
        "updates were used all the same. It detects and does not prevent; no warning is no proof "
        f"either.{private}{few}</p>"
    )


def _mark(name: str, r: RoundFacts) -> str:
    if name in r.flags:
        return '<span class="flagged">▲</span>'
    if name in r.answered:
        return '<span class="answered">●</span>'
    if name in r.refused:
        return '<span class="refused">R</span>'
    return '<span class="missing">M</span>' if name in r.missing else ""


def _refusals(facts: ReportFacts) -> Iterator[str]:
    """ "west refused with E-POLICY-BUDGET in rounds 8–10", for each hospital and code."""
    when = _when({r.round: {name: [code] for name, code in r.refused.items()} for r in facts.heard})
    for (name, code), rounds in when.items():
        said = f"<code>{escape(code)}</code>"
        if code in REASONS:
            yield f"{escape(name)}: reply not used in {_rounds(rounds)}, {REASONS[code]} ({said})"
        else:
            yield f"{escape(name)} refused with {said} in {_rounds(rounds)}"


def _unused(facts: ReportFacts) -> Iterator[str]:
    for r in facts.heard:
        for name, earlier in r.late.items():
            yield f"{escape(name)} answered round {earlier} late, in round {r.round}; it was not used"
    again = _when({r.round: {name: ["again"] for name in r.duplicates} for r in facts.heard})
    for (name, _), rounds in again.items():
        more = sum(r.duplicates.get(name, 0) for r in facts.heard)
        replies = "1 further reply was" if more == 1 else f"{more} further replies were"
        yield f"{escape(name)} answered more than once in {_rounds(rounds)}; {replies} not used"


def _suppressed(facts: ReportFacts) -> Iterator[str]:
    when = _when({r.round: {name: ["few"] for name in r.suppressed} for r in facts.heard})
    for (name, _), rounds in when.items():
        yield (
            f"{escape(name)} released no histogram in {_rounds(rounds)}: it has fewer patients in a "
            "group than its own policy releases. That is not zero patients"
        )


def _policies(facts: ReportFacts) -> Iterator[str]:
    """Who approved another site policy while the study ran."""
    last: dict[str, str] = {}
    for r in facts.heard:
        for name, policy in r.policies.items():
            if last.setdefault(name, policy) != policy:
                yield f"{escape(name)} changed its site policy before its answer of round {r.round}"
            last[name] = policy


def _when(said: Mapping[int, Mapping[str, list[str]]]) -> dict[tuple[str, str], list[int]]:
    """(hospital, code) -> the rounds of it, from hospital -> codes by round."""
    when: dict[tuple[str, str], list[int]] = {}
    for number, by_name in said.items():
        for name, codes in by_name.items():
            for code in codes:
                when.setdefault((name, code), []).append(number)
    return when


def _rounds(numbers: list[int]) -> str:
    return f"{'round' if len(numbers) == 1 else 'rounds'} {runs(numbers)}"
