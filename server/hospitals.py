"""The report's table of hospitals, and plainly who gains from joining."""

from html import escape
from statistics import fmean

from common.page_parts import absent, table
from server.facts import HospitalFacts, ReportFacts
from server.page import difference, epsilon, heading, listed, shown, small
from server.sections import part_of

STAYS = "stays in the hospital"
NOT_RUN = "not run"


def hospitals(facts: ReportFacts) -> str:
    """A row for each hospital: its size, the model on its own patients, its spend. Then who gains."""
    baselines = any(_has_baseline(h) for h in facts.hospitals)
    sigma = any(h.noise_multiplier is not None for h in facts.hospitals)
    head = ["Hospital", "Training patients (nominal)"]
    if facts.figure is not None:
        head += ["Validation patients", f"{heading(facts.figure)}, own patients"]
    if baselines:
        head += ["Alone: own patients", "Gain, own", "Alone: all patients", "Gain, all"]
    head += ["One place: own patients"] * (facts.pooled_baseline is not None)
    head += ["σ"] * sigma + ["ε at δ"]
    rows = [_hospital_row(h, facts, baselines, sigma) for h in facts.hospitals]
    notes = []
    if facts.pooled is not None:
        notes.append(
            f"{heading(facts.figure or '')} of the final model on the hospital's own validation patients: "
            f"{part_of(facts.protocol).exact(facts.protocol)}, as everywhere in this report."
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
    return (
        table(head, rows, "numbers")
        + caption
        + (_who_gains(facts) if facts.figure is not None else "")
        + _small_cohorts(facts)
    )


def _has_baseline(hospital: HospitalFacts) -> bool:
    alone = (hospital.local_only, hospital.local_only_pooled)
    return any(value is not None for value in alone)


def _hospital_row(h: HospitalFacts, facts: ReportFacts, baselines: bool, sigma: bool) -> list[str]:
    exact, undefined = facts.pooled is not None, why_undefined(facts)
    seen = absent(STAYS) if h.validation_patients is None else f"{h.validation_patients:,}"
    row = [escape(h.name), f"{h.nominal_patients:,}"]
    if facts.figure is not None:
        row.append(seen)
        row.append(shown(h.discrimination, h.interval, why=undefined if exact else STAYS))
    if baselines:
        why = undefined if _has_baseline(h) else NOT_RUN
        pooled = facts.pooled.discrimination if facts.pooled is not None else None
        row.append(shown(h.local_only, why=why))
        row.append(difference(h.discrimination, h.local_only))
        row.append(shown(h.local_only_pooled, why=why))
        row.append(difference(pooled, h.local_only_pooled))
    if facts.pooled_baseline is not None:
        row.append(shown(facts.pooled_baseline.own.get(h.name), why=undefined))
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
    federated = facts.pooled.discrimination if facts.pooled is not None else None
    alone = {
        h.name: h.local_only_pooled for h in facts.hospitals if h.local_only_pooled is not None
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
    if facts.gains:
        sentences.append("Which of these differences may be chance is said below.")
    return f"<p>{' '.join(sentences)}</p>"


def why_undefined(facts: ReportFacts) -> str:
    """In the place of a discrimination that exact scores do not have."""
    return f"not defined ({part_of(facts.protocol).undefined})"


def _small_cohorts(facts: ReportFacts) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in facts.small_cohorts())
    return f"<ul>{items}</ul>" if items else ""
