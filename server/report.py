"""The report of a run: one HTML file for a clinician and a data-protection officer.

Self-contained (style and pictures inside, no script, nothing is fetched), so it can be mailed,
archived and printed. A number that is not known is not left out: it says why.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from common.files import write_atomic
from common.page_parts import absent, count, figure, table
from server.clinical_page import clinical, gained
from server.facts import UNREADABLE, HospitalFacts, ReportFacts
from server.judgement import calibration, roc, who_released
from server.model_card_words import is_judged
from server.page import ONE_CLASS, auroc, difference, epsilon, listed, page, small
from server.participation import flags, participation
from server.plots import learning_curve_svg
from server.statement import limits, privacy, warnings

STAYS = "stays in the hospital"
NOT_RUN = "not run"


def write_report(folder: Path, facts: ReportFacts) -> Path:
    """Write `report.html` into `folder`, which is made if need be, and return its path.

    An existing report is replaced whole. OSError when it cannot be written.
    """
    sections = {
        "Headline numbers": _headline(facts),
        "Learning curve": _learning_curve(facts),
        "ROC curve of the final model": roc(facts),
        "Calibration and operating point": calibration(facts),
        "Hospitals": _hospitals(facts),
        **_clinical(facts),
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


def _clinical(facts: ReportFacts) -> dict[str, str]:
    """What exact scores say beyond a curve; nothing in a deployment, where they stay in the hospitals."""
    if facts.evaluation is None:
        return {}
    return {
        "What joining gained": gained(facts.gains, facts.pooled_baseline, private=facts.private),
        "For the clinician": clinical(facts.evaluation, facts.protocol.images.classes),
    }


def _studied(facts: ReportFacts) -> str:
    protocol = facts.protocol
    negative, positive = protocol.images.classes
    patients = sum(hospital.nominal_patients for hospital in protocol.hospitals)
    where = (
        "The hospitals were simulated by the rehearser"
        if facts.rehearsal
        else "The images stayed in the hospitals"
    )
    return (
        f"{count(len(protocol.hospitals), 'hospital')} with nominally "
        f"{count(patients, 'training patient')} trained one model "
        f"({escape(protocol.model.name)}) over {count(len(facts.rounds), 'round')} to tell "
        f"{escape(positive)} from {escape(negative)} on lung-CT images of {protocol.images.size} × "
        f"{protocol.images.size} pixels. {where}."
    )


def _headline(facts: ReportFacts) -> str:
    tiles = []
    pooled = facts.pooled
    if pooled is not None:
        low_high = pooled.interval
        note = f"95 % interval {low_high[0]:.3f}–{low_high[1]:.3f}" if low_high else "no interval"
        tiles.append(("AUROC, pooled and exact", auroc(pooled.auroc), note))
        before = auroc(facts.zero_shot_auroc, why="not evaluated")
        initial = f"initial model: {escape(facts.protocol.model.initial_model)}"
        tiles.append(("AUROC before round 1", before, initial))
        precision = auroc(pooled.average_precision)
        tiles.append(("Average precision, exact", precision, "by chance: the share of positives"))
    tiles.append(("AUROC, released", *_released(facts)))
    tiles.append(("Largest ε of a hospital", *_largest_epsilon(facts)))
    asked = sum(len(r.answered) + len(r.refused) + len(r.missing) for r in facts.rounds)
    answered = sum(len(r.answered) for r in facts.rounds)
    done = f"{len(facts.rounds)} of {facts.protocol.rounds}"
    tiles.append(("Rounds", done, f"{answered} of {asked} requests answered"))
    cells = "".join(
        f'<div class="tile"><div class="label">{label}</div><div class="value">{value}</div>'
        f'<div class="note">{note}</div></div>'
        for label, value, note in tiles
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


def _released(facts: ReportFacts) -> tuple[str, str]:
    """Value and note of the tile."""
    if not facts.rounds:
        return absent("not known"), "no hospital released a histogram"
    if facts.judging is not None and not facts.judging.released:
        return absent("not known"), who_released(facts)
    if facts.released is None:
        advice = "fewer evaluations would each be less noisy" if facts.private else ""
        return absent(UNREADABLE), advice
    low, high = facts.released.auroc.interval
    of = "noised" if facts.private else "without noise"
    note = f"95 % interval {low:.3f}–{high:.3f}, {of}"
    if facts.pooled is not None and facts.pooled.by_patient is not None and facts.private:
        note += f"; {facts.pooled.by_patient.auroc.value:.3f} without the noise"
    if facts.judging is not None and facts.judging.suppressed:
        note += f". {who_released(facts)}"
    return auroc(facts.released.auroc.value), note


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
    svg = learning_curve_svg(facts.rounds, facts.zero_shot_auroc)
    if svg is None:
        return f"<p>{absent('No round has an AUROC to draw.')}</p>"
    parts = [
        "AUROC on the validation patients of all hospitals, who are never trained on. The axis "
        "may start above 0; 0.5 is chance."
    ]
    if any(r.pooled_auroc is not None for r in facts.rounds):
        parts.append(
            "The band is a 95 % interval over patients by DeLong's method; every image counts once."
        )
    if any(r.released_auroc is not None for r in facts.rounds):
        noise = "noised score histograms; noise alone moves it from round to round"
        source = noise if facts.private else "score histograms without noise"
        parts.append(
            f"The released curve is read from {source}. In it every patient counts once in each "
            "class, and its bars cover noise and choice of patients."
        )
    if facts.protocol.evaluation.every > 1:
        parts.append("Models of rounds without a mark were not evaluated.")
    return figure(svg, "AUROC after each server round", " ".join(parts))


def _hospitals(facts: ReportFacts) -> str:
    baselines = any(_has_baseline(h) for h in facts.hospitals)
    sigma = any(h.noise_multiplier is not None for h in facts.hospitals)
    head = ["Hospital", "Training patients (nominal)", "Validation patients", "AUROC, own patients"]
    if baselines:
        head += ["Alone: own patients", "Gain, own", "Alone: all patients", "Gain, all"]
    head += ["One place: own patients"] * (facts.pooled_baseline is not None)
    head += ["σ"] * sigma + ["ε at δ"]
    rows = [_hospital_row(h, facts, baselines, sigma) for h in facts.hospitals]
    notes = []
    if facts.pooled is not None:
        notes.append(
            "AUROC of the final model on the hospital's own validation patients, with a 95 % "
            "interval over patients by DeLong's method, as everywhere in this report."
        )
    if baselines:
        notes.append(
            "“Alone” is a model that this hospital trained on its own patients only; “all "
            "patients” are the validation patients of all hospitals; gain is federated minus "
            "alone. A gain that is small against the interval may be chance."
        )
    if facts.pooled_baseline is not None:
        notes.append("“One place” is one model of all hospitals' patients together.")
    if sigma:
        notes.append("σ: standard deviation of the noise over the clipping norm.")
    if facts.private:
        notes.append("ε at δ: training patients, rounded up.")
    caption = f'<p class="caption">{" ".join(notes)}</p>'
    return table(head, rows, "numbers") + caption + _who_gains(facts) + _small_cohorts(facts)


def _has_baseline(hospital: HospitalFacts) -> bool:
    alone = (hospital.local_only_auroc, hospital.local_only_pooled_auroc)
    return any(value is not None for value in alone)


def _hospital_row(h: HospitalFacts, facts: ReportFacts, baselines: bool, sigma: bool) -> list[str]:
    exact = facts.pooled is not None
    seen = absent(STAYS) if h.validation_patients is None else f"{h.validation_patients:,}"
    row = [escape(h.name), f"{h.nominal_patients:,}", seen]
    row.append(auroc(h.auroc, h.interval, why=ONE_CLASS if exact else STAYS))
    if baselines:
        why = ONE_CLASS if _has_baseline(h) else NOT_RUN
        pooled = facts.pooled.auroc if facts.pooled is not None else None
        row.append(auroc(h.local_only_auroc, why=why))
        row.append(difference(h.auroc, h.local_only_auroc))
        row.append(auroc(h.local_only_pooled_auroc, why=why))
        row.append(difference(pooled, h.local_only_pooled_auroc))
    if facts.pooled_baseline is not None:
        row.append(auroc(facts.pooled_baseline.own.get(h.name)))
    if sigma:
        row.append("–" if h.noise_multiplier is None else f"{h.noise_multiplier:.3g}")
    if not facts.private:
        row.append(f'<span class="whole">{absent("no privacy")}</span>')
    elif h.epsilon is None:
        row.append(absent("not reported"))
    else:
        delta = facts.protocol.privacy.delta if h.delta is None else h.delta
        void = " (void)" if facts.noise_seeded else ""
        row.append(f'<span class="whole">{epsilon(h.epsilon)} at {small(delta)}</span>{void}')
    return row


def _who_gains(facts: ReportFacts) -> str:
    """Plainly, on the patients of all hospitals: a hospital's own are often too few to tell."""
    federated = facts.pooled.auroc if facts.pooled is not None else None
    alone = {
        h.name: h.local_only_pooled_auroc
        for h in facts.hospitals
        if h.local_only_pooled_auroc is not None
    }
    if federated is None or not alone:
        return "<p>Local-only models were not trained: who gains from joining is not known.</p>"
    # Rounded as in the table, so that text and table cannot disagree.
    gains = [name for name, value in alone.items() if round(federated - value, 3) > 0]
    others = [name for name in alone if name not in gains]
    sentences = [
        f"<strong>Gain from joining: {listed(gains)}.</strong>"
        if gains
        else "<strong>No hospital gains from joining.</strong>"
    ]
    if gains and others:
        sentences.append(f"<strong>No gain: {listed(others)}.</strong>")
    sentences.append(
        "Judged on the validation patients of all hospitals, where the federated model reaches "
        f"{federated:.3f} and the local-only models {fmean(alone.values()):.3f} on average "
        f"(best {max(alone.values()):.3f}, worst {min(alone.values()):.3f})."
    )
    return f"<p>{' '.join(sentences)}</p>"


def _small_cohorts(facts: ReportFacts) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in facts.small_cohorts())
    return f"<ul>{items}</ul>" if items else ""


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
        elif isinstance(value, list):
            yield prefix + key, ", ".join(str(item) for item in value)
        else:
            yield prefix + key, small(value) if isinstance(value, float) else str(value)
