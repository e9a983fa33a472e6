"""The model card in words, `model_card.md`: for whoever is handed the model and was not in the study.

Headings and their order are those of Mitchell et al., Model Cards for Model Reporting (FAT* 2019). What
only the owner of the model can say is left as an explicit blank.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from common.markdown import code, items, table, word
from common.model_card import MODEL_CARD, Judged, ModelCard
from common.protocol import StudyProtocol
from server.facts import ReportFacts
from server.model_card_words import (
    Size,
    absences,
    aggregation,
    architecture,
    caveats,
    epsilon_words,
    evaluation_data,
    figures_of,
    flagged,
    inclusion,
    initial_model,
    interval,
    is_judged,
    metrics,
    positive,
    preprocessing,
    privacy_words,
    software,
    task,
    training,
    warnings,
)
from server.page import runs, sigma

MODEL_CARD_TEXT = "model_card.md"
BLANK = "**to be written by the owner**"


def markdown(card: ModelCard, facts: ReportFacts, size: Size) -> str:
    """The whole document. `facts` are those that `card` was made of."""
    protocol = facts.protocol
    sections = {
        "Model details": table(("what", "is"), _details(card, facts, size)),
        "Intended use": _intended(protocol),
        "Factors": items(_factors(facts)),
        "Metrics": items(metrics(protocol)),
        "Evaluation data": items(evaluation_data(facts)),
        "Training data": _training_data(facts),
        "Quantitative analyses": _quantities(card, facts),
        "Ethical considerations": _ethics(facts),
        "Caveats and recommendations": items(caveats(facts)),
    }
    return (
        f"# Model card: {word(protocol.study)}\n\n"
        f"> **{card.use.capitalize()}.** No diagnosis and no treatment may rest on it.\n\n"
        + "".join(f"> {warning}\n\n" for warning in warnings(facts))
        + "\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
        + f"\n---\n\nWritten {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by {software()}. "
        f"The same facts for machines: {code(MODEL_CARD)}. Headings after "
        "Mitchell et al. 2019, Model Cards for Model Reporting.\n"
    )


def _details(card: ModelCard, facts: ReportFacts, size: Size) -> Iterator[tuple[str, str]]:
    protocol = facts.protocol
    yield "study", f"{word(card.study)}, protocol SHA-256 {code(card.protocol)}"
    yield "weights file", f"SHA-256 {code(card.weights)}"
    yield "architecture", architecture(protocol, size)
    yield "input", preprocessing(protocol.images)
    averaged = "the mean over eight flips and rotations, "
    yield (
        "output",
        f"a score from 0 to 1 for {positive(protocol)}, "
        f"{averaged if card.evaluation.flips_and_rotations else ''}no probability before it is calibrated",
    )
    yield "initial model", initial_model(protocol)
    yield "training", training(protocol)
    yield "aggregation", aggregation(protocol)
    yield "rounds", f"{card.rounds} of {protocol.rounds} closed; it ended: {word(facts.stopped)}"
    yield "licence of the weights", BLANK
    yield "owner and contact", BLANK


def _intended(protocol: StudyProtocol) -> str:
    return (
        f"Research: to {task(protocol)}.\n\nNot for:\n\n"
        + items(
            (
                "diagnosis, treatment or triage of any patient;",
                "searching a scan: somebody else has to say where the finding is;",
                "screening, other organs, other modalities, or other questions than this one;",
                "images that were prepared otherwise than the input above.",
            )
        )
        + "\nUsers: researchers at the study's hospitals. Further users: "
        + f"{BLANK}.\n"
    )


def _factors(facts: ReportFacts) -> Iterator[str]:
    yield (
        "Scanner, kernel, slice thickness, age, sex and case mix: not collected by the coordinator, so "
        "nothing is known by group."
    )
    yield "Each hospital labels its own images; how is not part of the protocol."
    yield f"{len(facts.protocol.hospitals)} hospitals: too few to say how much the next one differs."


def _training_data(facts: ReportFacts) -> str:
    rows = [
        (
            word(hospital.name),
            f"{hospital.nominal_patients:,}",
            runs([r.round for r in facts.rounds if hospital.name in r.answered]) or "none",
            "; ".join(absences(facts, hospital.name)) or "-",
            "; ".join(flagged(facts, hospital.name)) or "-",
        )
        for hospital in facts.protocol.hospitals
    ]
    head = (
        "hospital",
        "nominal training patients",
        "rounds in the model",
        "not in, and why",
        "warnings",
    )
    return (
        table(head, rows)
        + f"\nMeant for: {inclusion(facts.protocol)}.\n"
        + "\nNominal numbers are agreed and public; the true ones stay in the hospitals. A warning is a "
        "reason to ask and no proof: the update was used all the same.\n"
    )


def _quantities(card: ModelCard, facts: ReportFacts) -> str:
    if not is_judged(facts):
        after = facts.judged_after
        last = (
            "" if after is None else f" The last one that was judged is that after round {after}."
        )
        return f"This model was not judged: the run ended before that.{last}\n"
    columns = [("as released", facts.released)]
    if facts.rehearsal and facts.pooled is not None:
        columns.append(("**exact, rehearsal only**", facts.pooled.by_patient))
    figures = [figures_of(reading) for _, reading in columns]
    rows = [(name, *(column[name] for column in figures)) for name in figures[0]]
    parts = [table(("figure", *(title for title, _ in columns)), rows)]
    if facts.rehearsal and facts.pooled is not None and facts.pooled.auroc is not None:
        of_images = interval(facts.pooled.auroc, facts.pooled.interval)
        before = facts.zero_shot_auroc
        initial = "" if before is None else f", of the initial model {before:.3f}"
        parts.append(
            f"\nExact, rehearsal only: AUROC with every image counted once {of_images}{initial}.\n"
        )
    together = facts.pooled_baseline if facts.rehearsal else None
    if together is not None and together.auroc is not None:
        parts.append(
            f"\nExact, rehearsal only: one model of all patients in one place would have "
            f"{interval(together.auroc, together.interval)}.\n"
        )
    if card.judged is not None and card.judged.reliability:
        parts.append("\n" + _reliability(card.judged))
    return "".join(parts)


def _reliability(judged: Judged) -> str:
    rows = [
        (f"{b.low:.3f} to {b.high:.3f}", f"{b.observed:.2f} ± {b.error:.2f}")
        for b in judged.reliability
    ]
    return (
        f"Of the images that score so high, the share that is positive ({judged.source}; prevalence "
        f"{100 * judged.prevalence:g} %; ± one standard error):\n\n"
        + table(("score", "share of positives"), rows)
    )


def _ethics(facts: ReportFacts) -> str:
    used = "In a study images of patients are" if facts.rehearsal else "Images of patients were"
    said = [f"{used} used without leaving their hospitals."]
    if not facts.private:
        return items(
            [*said, "**There is no differential privacy.** Treat the model as patient data."]
        )
    said += privacy_words(facts)
    head = (
        "hospital",
        "training: epsilon",
        "noise multiplier",
        "validation: epsilon",
        "histograms",
    )
    return items(said) + "\n" + table(head, _spent(facts))


def _spent(facts: ReportFacts) -> Iterator[tuple[str, ...]]:
    void = " (void)" * facts.noise_seeded
    for h in facts.hospitals:
        yield (
            word(h.name),
            "not stated" if h.epsilon is None else epsilon_words(h.epsilon) + void,
            "-" if h.noise_multiplier is None else sigma(h.noise_multiplier),
            "not stated"
            if h.validation_epsilon is None
            else epsilon_words(h.validation_epsilon) + void,
            "not stated" if h.histograms is None else str(h.histograms),
        )
