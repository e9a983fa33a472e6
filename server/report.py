"""The report of a run: one HTML file for a clinician and a data-protection officer.

Self-contained (style and pictures inside, no script, nothing is fetched), so it can be mailed,
archived and printed. A number that is not known is not left out: it says why.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from common.files import write_atomic
from common.page_parts import absent, count, figure, table
from common.tasks import task_of
from server.facts import TOO_WIDE, UNREADABLE, ReportFacts
from server.gain_page import gained
from server.histograms import who_released
from server.hospitals import hospitals, why_undefined
from server.model_card_words import is_judged
from server.page import epsilon, heading, page, shown, small
from server.participation import flags, participation
from server.plots import learning_curve_svg
from server.sections import part_of
from server.sections.part import Tile
from server.statement import limits, privacy, warnings


def write_report(folder: Path, facts: ReportFacts) -> Path:
    """Write `report.html` into `folder`, which is made if need be, and return its path.

    An existing report is replaced whole. OSError when it cannot be written.
    """
    sections = {
        "Headline numbers": _headline(facts),
        "Learning curve": _learning_curve(facts),
        **part_of(facts.protocol).sections(facts),
        "Hospitals": hospitals(facts),
        **_gained(facts),
        "Who took part in each round": participation(facts),
        "Warnings about updates": flags(facts),
        "Privacy": privacy(facts),
        "Study protocol": _settings(facts),
        "Limits": limits(facts),
    }
    html = page(
        title=facts.protocol.study,
        kind="Report of a rehearsal" if facts.rehearsal else "Report of a federated study",
        lead=_studied(facts),
        warnings=warnings(facts),
        body="".join(
            f"<section><h2>{t}</h2>{content}</section>" for t, content in sections.items()
        ),
        footer=f"Written by intramural, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. "
        f"Study <code>{facts.protocol.digest}</code>. With it belong <code>model_card.md</code> and "
        f"<code>reporting-checklist.md</code>, which are written into the same folder when the run has "
        f"ended, unless it was stopped or failed.",
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    write_atomic(path, html.encode())
    return path


def _gained(facts: ReportFacts) -> dict[str, str]:
    """What exact scores say of the gain; nothing in a deployment, where they stay in the hospitals."""
    if facts.figure is None or facts.pooled is None:
        return {}
    undefined = why_undefined(facts)
    said = gained(
        facts.gains,
        facts.pooled_baseline,
        name=facts.figure,
        undefined=undefined,
        private=facts.private,
    )
    return {"What joining gained": said}


def _studied(facts: ReportFacts) -> str:
    protocol = facts.protocol
    patients = sum(hospital.nominal_patients for hospital in protocol.hospitals)
    where = (
        "The hospitals were simulated by the rehearser"
        if facts.rehearsal
        else "The patients' data stayed in the hospitals"
    )
    return (
        f"{count(len(protocol.hospitals), 'hospital')} with nominally "
        f"{count(patients, 'training patient')} trained one model "
        f"({escape(protocol.model.name)}) over {count(len(facts.rounds), 'round')} "
        f"{escape(task_of(protocol).purpose(protocol))}. {where}."
    )


def _headline(facts: ReportFacts) -> str:
    asked = sum(len(r.answered) + len(r.refused) + len(r.missing) for r in facts.rounds)
    answered = sum(len(r.answered) for r in facts.rounds)
    done = f"{len(facts.rounds)} of {facts.protocol.rounds}"
    tiles = (
        *_judged(facts),
        Tile("Largest ε of a hospital", *_largest_epsilon(facts)),
        Tile("Rounds", done, f"{answered} of {asked} requests answered"),
    )
    cells = "".join(
        f'<div class="tile"><div class="label">{tile.label}</div><div class="value">{tile.value}</div>'
        f'<div class="note">{tile.note}</div></div>'
        for tile in tiles
    )
    seconds = sum(r.seconds for r in facts.rounds)
    early = facts.judged_after is not None and not is_judged(facts)
    judged = f"The last model that was judged is that of round {facts.judged_after}. " * early
    if early and facts.protocol.aggregation.ema is not None:
        judged += (
            "What the run leaves is a moving average, which the final evaluation alone judges. "
        )
    return (
        f'<div class="tiles">{cells}</div><p>How the run ended: {escape(facts.stopped)}. {judged}'
        f"Its rounds took {seconds:,.0f} s in all.</p>"
    )


def _judged(facts: ReportFacts) -> Iterator[Tile]:
    """What the model is worth; nothing where nothing is judged."""
    if facts.figure is None:
        return
    pooled, part, name = facts.pooled, part_of(facts.protocol), heading(facts.figure)
    if pooled is not None:
        low_high = pooled.interval
        note = f"95 % interval {low_high[0]:.3f}–{low_high[1]:.3f}" if low_high else "no interval"
        value = shown(pooled.discrimination, why=why_undefined(facts))
        yield Tile(f"{name}, pooled and exact", value, note)
        before = shown(facts.zero_shot, why="not evaluated")
        initial = f"initial model: {escape(facts.protocol.model.initial_model)}"
        yield Tile(f"{name} before round 1", before, initial)
    yield from part.tiles(facts)
    yield Tile(f"{name}, released", *_released(facts))


def _released(facts: ReportFacts) -> tuple[str, str]:
    """Value and note of the tile."""
    if not facts.rounds:
        return absent("not known"), "no hospital released a histogram"
    if facts.judging is not None and not facts.judging.released:
        return absent("not known"), who_released(facts)
    if facts.released is None:
        advice = "fewer evaluations would each be less noisy" if facts.private else ""
        return absent(UNREADABLE), advice
    found = facts.released.discrimination
    low, high = found.interval
    of = "noised" if facts.private else "without noise"
    if high - low > TOO_WIDE:
        of += ": too noisy to say much"
    note = f"95 % interval {low:.3f}–{high:.3f}, {of}"
    if facts.pooled is not None and facts.pooled.unnoised is not None and facts.private:
        note += f"; {facts.pooled.unnoised.discrimination.value:.3f} without the noise"
    if facts.judging is not None and facts.judging.suppressed:
        note += f". {who_released(facts)}"
    return shown(found.value), note


def _largest_epsilon(facts: ReportFacts) -> tuple[str, str]:
    """Value and note of the tile."""
    if not facts.private:
        return absent("none"), "no differential privacy"
    known = [h for h in facts.hospitals if h.epsilon is not None]
    if not known:
        return absent("not reported"), f"asked for: {facts.protocol.privacy.epsilon:g}"
    worst = max(known, key=lambda h: h.epsilon or 0.0)
    delta = facts.protocol.privacy.delta if worst.delta is None else worst.delta
    note = f"at δ = {small(delta)}, per patient, training"
    return epsilon(worst.epsilon or 0.0), f"{note}; void" if facts.noise_seeded else note


def _learning_curve(facts: ReportFacts) -> str:
    if facts.figure is None:
        return f"<p>{absent('Nothing is judged in this study, so there is nothing to draw.')}</p>"
    part, name = part_of(facts.protocol), heading(facts.figure)
    svg = learning_curve_svg(facts.rounds, facts.zero_shot, facts.figure)
    if svg is None:
        return f"<p>{absent(f'No round has a figure to draw ({facts.figure}).')}</p>"
    parts = [
        f"{name} on the validation patients of all hospitals, who are never trained on. The axis "
        "may start above 0; 0.5 is chance."
    ]
    if any(r.discrimination is not None for r in facts.rounds):
        parts.append(f"The band is of the exact figures: {part.exact(facts.protocol)}.")
    if any(r.released_discrimination is not None for r in facts.rounds):
        noise = "noised histograms; noise alone moves it from round to round"
        source = noise if facts.private else "histograms without noise"
        parts.append(
            f"The released curve is read from {source}. In it {part.released}, and its bars cover noise "
            "and choice of patients."
        )
    if facts.protocol.evaluation.every > 1:
        parts.append("Models of rounds without a mark were not evaluated.")
    return figure(svg, f"{name} after each server round", " ".join(parts))


def _settings(facts: ReportFacts) -> str:
    """Every value of the protocol under the name that it has in `protocol.toml`."""
    protocol = facts.protocol
    document = protocol.model_dump(by_alias=True, exclude_none=True, mode="json")
    del document["hospitals"]  # they have their own table
    rows = [(f"<code>{escape(key)}</code>", escape(value)) for key, value in _flat(document)]
    return (
        "<p>The study's identity is the SHA-256 of this protocol; a hospital trains only under one "
        f"that it approved: <code>{protocol.digest}</code>.</p>"
        f'<div class="settings">{table([], rows, "words")}</div>'
    )


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """("training.steps-per-round", "4") and so on, in the order of the document."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, bool):
            yield prefix + key, "yes" if value else "no"
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for item in value:  # such as a column of a table
                own = [(name, text) for name, text in _flat(item) if text and name != "name"]
                said = "; ".join(f"{name} {text}" for name, text in own)
                yield f"{prefix}{key}: {item.get('name', '')}", said
        elif isinstance(value, list):
            yield prefix + key, ", ".join(str(item) for item in value)
        else:
            yield prefix + key, small(value) if isinstance(value, float) else str(value)
