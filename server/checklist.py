"""`reporting-checklist.md`: TRIPOD+AI and CLAIM, filled in as far as the run itself knows the answer.

A cell says where a fact is from. What the software cannot know is left to the investigators in words,
and never guessed.
"""

from collections.abc import Mapping

from common.markdown import code, table, word
from common.model_card import Card
from common.protocol import StudyProtocol
from server.checklist_items import CLAIM, TRIPOD_AI, Item
from server.facts import UNREADABLE, ReportFacts
from server.model_card_text import MODEL_CARD_TEXT
from server.model_card_words import (
    Size,
    absences,
    aggregation,
    architecture,
    initial_model,
    interval,
    is_judged,
    named,
    privacy_words,
    purpose,
    software,
    training,
    warnings,
    words_of,
)
from server.sections import part_of

CHECKLIST = "reporting-checklist.md"

Sections = Mapping[str, tuple[Item, ...]]

FOR_ALL = {"TRIPOD+AI (Collins et al., BMJ 2024;385:e078378)": TRIPOD_AI}
FOR_IMAGING = {"CLAIM (Mongan et al. 2020, update of 2024 by Tejani et al.)": CLAIM}
Fact = tuple[str, str]  # where it is from, and the fact

OPEN = "*to be written by the investigators*"


def guidelines(protocol: StudyProtocol) -> Mapping[str, Sections]:
    """The guidelines of a study by their title: that of imaging only where the model is shown images."""
    return FOR_ALL | FOR_IMAGING if words_of(protocol).imaging else FOR_ALL


def checklist(card: Card, facts: ReportFacts, size: Size) -> str:
    """The whole document. `facts` are those that `card` was made of."""
    known = known_facts(card, facts, size)
    parts = [
        f"# Reporting checklist: {word(card.study)}\n\n",
        *(f"> {warning}\n\n" for warning in warnings(facts)),
        "Items in short words; what they mean is in the papers. Filled in from the study protocol "
        f"({code(card.protocol[:12])}) and the run; the rest is for the investigators.\n",
    ]
    for title, sections in guidelines(facts.protocol).items():
        parts.append(f"\n## {title}\n")
        for section, rows in sections.items():
            head = ("item", "asks for", "known", OPEN)
            lines = [_row(item, known) for item in rows]
            parts.append(f"\n### {section}\n\n{table(head, lines)}")
    return "".join(parts)


def _row(item: Item, known: Mapping[str, Fact]) -> tuple[str, str, str, str]:
    by_source: dict[str, list[str]] = {}
    for source, fact in (known[key] for key in item.known):
        by_source.setdefault(source, []).append(fact)
    found = " ".join(f"From {source}: {'; '.join(said)}." for source, said in by_source.items())
    return item.number, item.asks, found or "-", item.left or "-"


def known_facts(card: Card, facts: ReportFacts, size: Size) -> dict[str, Fact]:
    """Every fact under its key in server/checklist_items.py."""
    told = {
        "the protocol": _of_the_protocol(facts.protocol, size),
        "the software": _of_the_software(facts),
        "the released histograms": _of_the_histograms(facts),
        "the run": _of_the_run(card, facts),
    }
    return {
        key: (source, fact) for source, all_of_it in told.items() for key, fact in all_of_it.items()
    }


def _of_the_protocol(protocol: StudyProtocol, size: Size) -> dict[str, str]:
    words = words_of(protocol)
    cohorts = ", ".join(f"{word(h.name)} {h.nominal_patients:,}" for h in protocol.hospitals)
    averaged = protocol.aggregation.ema is not None
    return {
        "task": purpose(protocol),
        "sites": f"{len(protocol.hospitals)} hospitals: {named(protocol.hospital_names)}",
        "cohorts": f"nominal training patients, agreed and public: {cohorts}",
        "outcome": word(words.outcome),
        "inclusion": word(words.meant_for),
        "input": word(words.input),
        "partition": f"{100 * protocol.data.validation_fraction:g} % of each hospital's patients are for "
        "validation, by a hash of the patient number or the hospital's own list",
        "augmentation": f"in training: {word(words.augmentation)}",
        "architecture": architecture(protocol, size),
        "initial": initial_model(protocol),
        "training": training(protocol),
        "aggregation": aggregation(protocol),
        "chosen": ("the moving average" if averaged else "the model")
        + " after the last round; nothing is chosen by performance",
        "ensemble": "one model"
        + (", a moving average of the rounds' weights" if averaged else ", no ensemble"),
        **{key: word(said) for key, said in words.imaging.items()},
    }


def _of_the_software(facts: ReportFacts) -> dict[str, str]:
    words, metrics = words_of(facts.protocol), part_of(facts.protocol).metrics(facts.protocol)
    return {
        "use": f"research on {word(words.use)}; not a medical device",
        "design": "one model is developed by several hospitals and evaluated on further patients of the "
        "same hospitals",
        "unread": word(words.unread),
        "unusable": word(words.unusable),
        "predictors": word(words.predictors),
        "disjoint": "the patient, within a hospital; a patient of two hospitals cannot be noticed",
        "output": word(words.output),
        "imbalance": "nothing is done about it in training",
        "groups": "nothing is released by sex, age, ethnicity or device",
        "internal": "validation patients come from the training hospitals",
        "external": "no external test is part of the run",
        "sameness": "labels of training and validation patients come from one list of the hospital",
        "stays": "data of patients, patient numbers and exact scores stay in the hospital",
        "data": "no patient's data leave a hospital, so the coordinator has none to share",
        "counts": "true numbers of patients do not leave a hospital",
        "metrics": " ".join(metrics).removesuffix("."),
        "predictions": word(words.predictions),
        "uncertainty": "95 % intervals for noise and choice of patients together; no test",
        "software": software(),
        "privacy": " ".join(privacy_words(facts)).removesuffix(".")
        if facts.private
        else "no differential privacy",
    }


def _of_the_histograms(facts: ReportFacts) -> dict[str, str]:
    part = part_of(facts.protocol)
    if facts.figure is not None and not is_judged(facts):
        return dict.fromkeys(
            ("discrimination", *part.answers(None)), "no histogram is of the final model"
        )
    found = facts.released.discrimination if facts.released else None
    return {
        "discrimination": "nothing is judged"
        if facts.figure is None
        else f"{facts.figure} {interval(found.value, found.interval) if found else UNREADABLE}",
        **part.answers(facts.released),
    }


def _of_the_run(card: Card, facts: ReportFacts) -> dict[str, str]:
    absent = {name: "; ".join(absences(facts, name)) for name in facts.protocol.hospital_names}
    gone = "; ".join(f"{word(name)}: {why}" for name, why in absent.items() if why)
    return {
        "flow": f"{card.rounds} of {facts.protocol.rounds} rounds closed; "
        + (gone or "every hospital answered every time"),
        "centres": "report.html has each hospital's figures, exact ones of a rehearsal"
        if facts.rehearsal
        else "the hospitals' histograms are summed, and no figure by hospital is worked out",
        "protocol": f"protocol.toml, SHA-256 {code(card.protocol)}",
        "weights": f"model.safetensors, SHA-256 {code(card.weights)}",
        "limits": f"{code(MODEL_CARD_TEXT)}, its last section",
    }
