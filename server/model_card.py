"""The model card of a run, for machines: the facts of the report about the weights beside it.

In a deployment everything is as hospitals released or stated it. A rehearsal may have too little noised
mass to read anything from; its card then holds the exact figures, marked as such.
"""

from math import isfinite, prod
from pathlib import Path
from typing import Any

from common.files import sha256, write_atomic
from common.model_card import MODEL_CARD, Card, CardHospital, Judgement
from common.protocol import StudyProtocol
from common.weights import parse_weights, read_weights
from server.app import FINAL_MODEL, kept_update_spec
from server.checklist import CHECKLIST, checklist
from server.facts import ReportFacts
from server.model_card_text import MODEL_CARD_TEXT, markdown
from server.model_card_words import Size, is_judged
from server.sections import part_of


def write_card(folder: Path, facts: ReportFacts) -> None:
    """Write model-card.json, model_card.md and reporting-checklist.md beside the run's weights.

    `facts` are of the run in `folder`, and of the model that its weights file holds: the caller knows
    that the run has ended. Without such a file nothing is written. RunError without the array shapes
    that a run keeps.
    """
    model = folder / FINAL_MODEL
    if not model.is_file():
        return
    weights = read_weights(model)
    card = card_of(facts, weights)
    size = Size(
        weights=sum(array.size for array in parse_weights(weights, model).values()),
        trained=sum(map(prod, kept_update_spec(folder).values())),
    )
    write_atomic(folder / MODEL_CARD, card.to_json().encode())
    write_atomic(folder / MODEL_CARD_TEXT, markdown(card, facts, size).encode())
    write_atomic(folder / CHECKLIST, checklist(card, facts, size).encode())


def card_of(facts: ReportFacts, weights: bytes) -> Card:
    """The card of the model in `weights`, the bytes of the safetensors file that the run left."""
    protocol = facts.protocol
    own: dict[str, Any] = {
        name: getattr(protocol, name)
        for name in type(protocol).model_fields
        if name not in StudyProtocol.model_fields
    }
    own["evaluation"] = protocol.evaluation
    return Card(
        **own,
        study=protocol.study,
        task=protocol.task,
        protocol=protocol.digest,
        weights=sha256(weights),
        rounds=len(facts.rounds),
        rehearsal=facts.rehearsal,
        model=protocol.model,
        hospitals=tuple(
            CardHospital(
                name=hospital.name,
                nominal_patients=hospital.nominal_patients,
                rounds=sum(hospital.name in r.answered for r in facts.rounds),
            )
            for hospital in protocol.hospitals
        ),
        epsilon=_largest_epsilon(facts),
        delta=protocol.privacy.delta if facts.private else None,
        judged=_judged(facts),
    )


def _largest_epsilon(facts: ReportFacts) -> float | None:
    """None where it is no bound: without noise, with noise that can be subtracted, or not stated."""
    stated = [h.epsilon for h in facts.hospitals]
    if not facts.private or facts.noise_seeded:
        return None
    known = [epsilon for epsilon in stated if epsilon is not None and isfinite(epsilon)]
    if len(known) < len(stated) or not any(known):
        return None
    return max(known)


def _judged(facts: ReportFacts) -> Judgement | None:
    """None unless it is the model in the file that was judged."""
    if not is_judged(facts):
        return None
    part, pooled = part_of(facts.protocol), facts.pooled
    if facts.released is not None:
        return part.judged(facts.released, "released")
    if facts.rehearsal and pooled is not None and pooled.unnoised is not None:
        return part.judged(pooled.unnoised, "exact")
    return None
