"""How many images and patients there are of each kind and class."""

from collections.abc import Sequence
from dataclasses import dataclass

from client.data.survey import NOT_STATED, SPACING, THICKNESS, VOLTAGE, Survey, Value

STEPS = {THICKNESS: 0.125, SPACING: 0.1, VOLTAGE: 10.0}
"""Measured values are counted in steps: 0.62 and 0.63 mm are one kind of image."""


@dataclass(frozen=True, slots=True)
class Count:
    """Of one kind; the pairs are by class, the negative one first. A patient may be in both."""

    kind: str
    images: tuple[int, int]
    patients: tuple[int, int]
    different: int  # patients, each once


def counted(survey: Survey, kinds: Sequence[str]) -> list[Count]:
    """`kinds` names one for each image; numbers in their order, then words by the alphabet."""
    labels = survey.labels.tolist()
    found = []
    for kind in sorted(set(kinds), key=_numbers_first):
        own = [n for n, one in enumerate(kinds) if one == kind]
        by_class = [[n for n in own if labels[n] == label] for label in (0, 1)]
        negative, positive = ({survey.patient_ids[n] for n in part} for part in by_class)
        found.append(
            Count(
                kind=kind,
                images=(len(by_class[0]), len(by_class[1])),
                patients=(len(negative), len(positive)),
                different=len(negative | positive),
            )
        )
    return found


def by_side(survey: Survey) -> list[Count]:
    """Training, validation, and both together."""
    sides = ["validation" if later else "training" for later in survey.validation.tolist()]
    return counted(survey, sides) + counted(survey, ["together"] * len(survey))


def by_fact(survey: Survey, fact: str) -> list[Count]:
    return counted(survey, [_kind(value, STEPS.get(fact)) for value in survey.facts[fact]])


def _kind(value: Value, step: float | None) -> str:
    if value is None:
        return NOT_STATED
    if isinstance(value, str):
        return value
    return f"{value if step is None else round(value / step) * step:.6g}"


def _numbers_first(kind: str) -> tuple[bool, float, str]:
    try:
        return (False, float(kind), "")
    except ValueError:
        return (True, 0.0, kind)
