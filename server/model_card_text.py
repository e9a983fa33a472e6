"""The model card in words, `model_card.md`: for whoever is handed the model and was not in the study.

Headings and their order are those of Mitchell et al., Model Cards for Model Reporting (FAT* 2019). What
only the owner of the model can say is left as an explicit blank.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from common.markdown import code, items, table, word
from common.model_card import MODEL_CARD, Card
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
    flagged,
    initial_model,
    interval,
    is_judged,
    privacy_words,
    purpose,
    software,
    training,
    warnings,
    words_of,
)
from server.page import runs, sigma
from server.sections import part_of

MODEL_CARD_TEXT = "model_card.md"
BLANK = "**to be written by the owner**"


def markdown(card: Card, facts: ReportFacts, size: Size) -> str:
    """The whole document. `facts` are those that `card` was made of."""
    protocol = facts.protocol
    sections = {
        "Model details": table(("what", "is"), _details(card, facts, size)),
        "Intended use": _intended(protocol),
        "Factors": items(_factors(facts)),
        "Metrics": items(part_of(protocol).metrics(protocol)),
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


def _details(card: Card, facts: ReportFacts, size: Size) -> Iterator[tuple[str, str]]:
    protocol, words = facts.protocol, words_of(facts.protocol)
    yield "study", f"{word(card.study)}, protocol SHA-256 {code(card.protocol)}"
    yield "weights file", f"SHA-256 {code(card.weights)}"
    yield "architecture", architecture(protocol, size)
    yield "input", word(words.input)
    yield "output", word(words.output)
    yield "outcome", word(words.outcome)
    yield "initial model", initial_model(protocol)
    yield "training", training(protocol)
    yield "aggregation", aggregation(protocol)
    yield "rounds", f"{card.rounds} of {protocol.rounds} closed; it ended: {word(facts.stopped)}"
    yield "licence of the weights", BLANK
    yield "owner and contact", BLANK


def _intended(protocol: StudyProtocol) -> str:
    return (
        f"Research: {purpose(protocol)}.\n\nNot for:\n\n"
        + items(
            (
                "diagnosis, treatment or triage of any patient;",
                *(f"{word(use)};" for use in words_of(protocol).not_for),
                "any data that were prepared otherwise than the input above.",
            )
        )
        + "\nUsers: researchers at the study's hospitals. Further users: "
        + f"{BLANK}.\n"
    )


def _factors(facts: ReportFacts) -> Iterator[str]:
    yield word(words_of(facts.protocol).groups)
    yield "Outcomes are each hospital's own; how they were found is not part of the protocol."
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
        + f"\nMeant for: {word(words_of(facts.protocol).meant_for)}.\n"
        + "\nNominal numbers are agreed and public; the true ones stay in the hospitals. A warning is a "
        "reason to ask and no proof: the update was used all the same.\n"
    )


def _quantities(card: Card, facts: ReportFacts) -> str:
    if facts.figure is None:
        return "Nothing is judged in this study, so there is no figure of the model.\n"
    if not is_judged(facts):
        after = facts.judged_after
        last = (
            "" if after is None else f" The last one that was judged is that after round {after}."
        )
        return f"This model was not judged: the run ended before that.{last}\n"
    part, pooled = part_of(facts.protocol), facts.pooled if facts.rehearsal else None
    columns = [("as released", facts.released)]
    if pooled is not None:
        columns.append(("**exact, rehearsal only**", pooled.unnoised))
    figures = [part.figures(reading) for _, reading in columns]
    rows = [(name, *(column[name] for column in figures)) for name in figures[0]]
    parts = [table(("figure", *(title for title, _ in columns)), rows)]
    if pooled is not None and pooled.discrimination is not None:
        exact = interval(pooled.discrimination, pooled.interval)
        initial = "" if facts.zero_shot is None else f"; of the initial model {facts.zero_shot:.3f}"
        parts.append(
            f"\nExact, rehearsal only: {facts.figure} {exact}; {part.exact(facts.protocol)}{initial}.\n"
        )
    together = facts.pooled_baseline if facts.rehearsal else None
    if together is not None and together.discrimination is not None:
        parts.append(
            f"\nExact, rehearsal only: one model of all patients in one place would have "
            f"{interval(together.discrimination, together.interval)}.\n"
        )
    if card.judged is not None and (more := part.reliability(card.judged)):
        parts.append(f"\n{more}")
    return "".join(parts)


def _ethics(facts: ReportFacts) -> str:
    used = "In a study data of patients are" if facts.rehearsal else "Data of patients were"
    said = [f"{used} used without leaving their hospitals."]
    if not facts.private:
        return items(
            [*said, "**There is no differential privacy.** Treat the model as patient data."]
        )
    said += privacy_words(facts)
    head = ["hospital", "training: epsilon", "noise multiplier"]
    if facts.figure is not None:
        head += ["validation: epsilon", "histograms"]
    return items(said) + "\n" + table(head, _spent(facts))


def _spent(facts: ReportFacts) -> Iterator[list[str]]:
    for h in facts.hospitals:
        row = [
            word(h.name),
            _stated(h.epsilon, facts),
            "-" if h.noise_multiplier is None else sigma(h.noise_multiplier),
        ]
        if facts.figure is not None:
            histograms = "not stated" if h.histograms is None else str(h.histograms)
            row += [_stated(h.validation_epsilon, facts), histograms]
        yield row


def _stated(value: float | None, facts: ReportFacts) -> str:
    if value is None:
        return "not stated"
    return epsilon_words(value) + " (void)" * facts.noise_seeded
