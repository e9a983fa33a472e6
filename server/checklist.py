"""`reporting-checklist.md`: TRIPOD+AI and CLAIM, filled in as far as the run itself knows the answer.

A cell says where a fact is from. What the software cannot know is left to the investigators in words,
and never guessed.
"""

from collections.abc import Mapping

from common.markdown import code, table, word
from common.model_card import ModelCard
from common.protocol import StudyProtocol
from server.checklist_items import CLAIM, TRIPOD_AI, Item
from server.facts import ReportFacts
from server.model_card_text import MODEL_CARD_TEXT
from server.model_card_words import (
    Size,
    absences,
    aggregation,
    architecture,
    figures_of,
    inclusion,
    initial_model,
    is_judged,
    metrics,
    named,
    positive,
    preprocessing,
    privacy_words,
    software,
    task,
    training,
    warnings,
)

CHECKLIST = "reporting-checklist.md"

GUIDELINES = {
    "TRIPOD+AI (Collins et al., BMJ 2024;385:e078378)": TRIPOD_AI,
    "CLAIM (Mongan et al. 2020, update of 2024 by Tejani et al.)": CLAIM,
}
Fact = tuple[str, str]  # where it is from, and the fact

OPEN = "*to be written by the investigators*"


def checklist(card: ModelCard, facts: ReportFacts, size: Size) -> str:
    """The whole document. `facts` are those that `card` was made of."""
    known = known_facts(card, facts, size)
    parts = [
        f"# Reporting checklist: {word(card.study)}\n\n",
        *(f"> {warning}\n\n" for warning in warnings(facts)),
        "Items in short words; what they mean is in the papers. Filled in from the study protocol "
        f"({code(card.protocol[:12])}) and the run; the rest is for the investigators.\n",
    ]
    for title, sections in GUIDELINES.items():
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


def known_facts(card: ModelCard, facts: ReportFacts, size: Size) -> dict[str, Fact]:
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
    images, ct = protocol.images, protocol.images.ct
    negative, told = (f"“{word(name)}”" for name in images.classes)
    cohorts = ", ".join(f"{word(h.name)} {h.nominal_patients:,}" for h in protocol.hospitals)
    averaged = protocol.aggregation.ema is not None
    turned = protocol.training.flips_and_rotations
    return {
        "task": f"to {task(protocol)}",
        "sites": f"{len(protocol.hospitals)} hospitals: {named(protocol.hospital_names)}",
        "cohorts": f"nominal training patients, agreed and public: {cohorts}",
        "classes": f"{told} is positive, {negative} negative, as each hospital labels its images",
        "inclusion": inclusion(protocol),
        "input": preprocessing(images),
        "patch": "images as each hospital gives them"
        if ct is None
        else f"an axial square of {ct.size_mm:g} mm about a given finding",
        "window": inclusion(protocol)
        + ("" if ct is None else f"; {ct.hu_low:g} to {ct.hu_high:g} HU are used"),
        "partition": f"{100 * images.validation_fraction:g} % of each hospital's patients are for "
        "validation, by a hash of the patient number or the hospital's own list",
        "augmentation": "random flips and rotations in training" if turned else "no augmentation",
        "architecture": architecture(protocol, size),
        "initial": initial_model(protocol),
        "training": training(protocol),
        "aggregation": aggregation(protocol),
        "chosen": ("the moving average" if averaged else "the model")
        + " after the last round; nothing is chosen by performance",
        "ensemble": "one model"
        + (", a moving average of the rounds' weights" if averaged else ", no ensemble"),
    }


def _of_the_software(facts: ReportFacts) -> dict[str, str]:
    return {
        "use": "research on findings that somebody has marked; not a medical device",
        "design": "one model is developed by several hospitals and evaluated on further patients of the "
        "same hospitals",
        "unread": "what cannot be used of CT series is left out at the hospital, and intramural-client "
        "check names it there with the reason; one image file that cannot be read stops that hospital",
        "unusable": "intramural-client predict sets aside what it cannot read, with the reason",
        "pixels": "the pixels of the image, nothing else about the patient",
        "disjoint": "the patient, within a hospital; a patient of two hospitals cannot be noticed",
        "output": f"a score from 0 to 1 for {positive(facts.protocol)}",
        "imbalance": "nothing is done about it in training",
        "groups": "no sex, age, ethnicity or scanner is released",
        "internal": "validation patients come from the training hospitals",
        "external": "no external test is part of the run",
        "sameness": "labels of training and validation patients come from one list of the hospital",
        "stays": "images, patient numbers, tags and exact scores stay in the hospital",
        "data": "no image leaves a hospital, so the coordinator has none to share",
        "counts": "true numbers of patients do not leave a hospital",
        "metrics": " ".join(metrics(facts.protocol)).removesuffix("."),
        "predictions": "by the network from the weights file; intramural-client predict does it",
        "uncertainty": "95 % intervals for noise and choice of patients together; no test",
        "software": software(),
        "privacy": " ".join(privacy_words(facts)).removesuffix(".")
        if facts.private
        else "no differential privacy",
    }


def _of_the_histograms(facts: ReportFacts) -> dict[str, str]:
    if not is_judged(facts):
        return dict.fromkeys(
            ("auroc", "threshold", "calibration", "temperature"),
            "no histogram is of the final model",
        )
    found = figures_of(facts.released)
    return {
        "auroc": f"AUROC {found['AUROC']}",
        "threshold": f"threshold {found['threshold']}, sensitivity {found['sensitivity']}, specificity "
        f"{found['specificity']}",
        "calibration": f"Brier score {found['Brier score']}, calibration error "
        f"{found['calibration error']}",
        "temperature": f"temperature {found['temperature']}",
    }


def _of_the_run(card: ModelCard, facts: ReportFacts) -> dict[str, str]:
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
