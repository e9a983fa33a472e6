"""Fit, fit with warnings, or unfit: each reason in one sentence that names no patient, file or path.

Unfit is what makes the guarantee or the judgement untrue: one person counted as two, a patient on
both sides, a class that is told by how its images were made. What only makes a model worse is a
warning. The limits, each with its reason, are in client/inspection/limits.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from client.inspection.duplicates import Alike
from client.inspection.inspection import Inspection
from client.inspection.limits import (
    APART,
    CHANCE,
    FEW_PATIENTS,
    LINKED,
    MANY_IMAGES,
    MANY_TIMES,
    MOST_ASIDE,
    MOST_CONFLICTS,
    MOST_EMPTY,
    RARE_CLASS,
    TOLD,
    TOLD_APART,
)

Severity = Literal["unfit", "warning"]
Word = Literal["fit", "fit with warnings", "unfit"]


@dataclass(frozen=True, slots=True)
class Reason:
    severity: Severity
    said: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The grave reasons first."""

    reasons: tuple[Reason, ...]

    @property
    def word(self) -> Word:
        if not self.reasons:
            return "fit"
        return "unfit" if self.reasons[0].severity == "unfit" else "fit with warnings"


def judge(found: Inspection, classes: tuple[str, str]) -> Verdict:
    """`classes` are the protocol's, the negative one first."""
    reasons = [
        *_people(found),
        *_copies(found),
        *_balance(found, classes),
        *_shortcuts(found, classes),
        *_empty(found),
        *_drift(found),
        *_outside(found),
        *_aside(found),
    ]
    return Verdict(tuple(sorted(reasons, key=lambda reason: reason.severity != "unfit")))


def _people(found: Inspection) -> Iterator[Reason]:
    leaks = found.leaks
    if both := len(leaks.both_sides):
        yield Reason(
            "unfit",
            f"{_many(both, 'patient')} on both sides of the split: a model would be judged on whom it "
            f"was trained on; correct column 'split'",
        )
    if shared := len(leaks.one_study):
        yield Reason(
            "unfit",
            f"patient ids share a series or study ({_many(shared, 'group')}), which is of one person: "
            f"privacy would cover a part of them only; give them one id",
        )
    if spelled := len(leaks.alike):
        yield Reason(
            "warning",
            f"patient ids differ only in case, leading zeros or separators ({_many(spelled, 'group')}); "
            f"if they are one person, give them one id",
        )
    counts = np.array(list(found.images_of_patient.values()))
    usual = float(np.median(counts))
    if many := int((counts >= max(MANY_TIMES.value * usual, MANY_IMAGES)).sum()):
        yield Reason(
            "warning",
            f"{_many(many, 'patient')} with {counts.max()} images at most, where {usual:g} are usual: "
            f"look whether it is one person",
        )


def _copies(found: Inspection) -> Iterator[Reason]:
    pixels = [one for one in found.alike if one.kind != "nearly the same place"]
    people = [one for one in pixels if one.patients > 1]
    exact = [one for one in people if one.kind == "same pixels"]
    near = [one for one in people if one.kind == "nearly the same pixels"]
    if exact:
        yield Reason(
            "unfit",
            f"{_images(exact)} images have the same pixels as one of another patient: one person is "
            f"counted as two{_sides(exact)}; remove the copies or correct the patient ids",
        )
    if near:
        yield Reason(
            "warning",
            f"{_images(near)} images are nearly one of another patient{_sides(near)}; look at them side "
            f"by side",
        )
    if own := _images([one for one in pixels if one.patients == 1 and not one.both_labels]):
        yield Reason(
            "warning",
            f"{own} images have a copy among those of the same patient; remove the copies, which count "
            f"twice",
        )
    if conflicts := _images([one for one in found.alike if one.both_labels]):
        grave = conflicts > MOST_CONFLICTS.value * len(found.survey)
        yield Reason(
            "unfit" if grave else "warning",
            f"{conflicts} images have two labels for the same pixels or place; decide which is right",
        )


def _balance(found: Inspection, classes: tuple[str, str]) -> Iterator[Reason]:
    sides = {count.kind: count for count in found.sides}
    whole = sides["together"]
    for label, name in enumerate(classes):
        if not whole.images[label]:
            yield Reason("unfit", f"there is no image of {name}; add the class")
            continue
        for side in ("training", "validation"):
            patients = sides[side].patients[label] if side in sides else 0
            if not patients:
                yield Reason(
                    "unfit" if side == "training" else "warning",
                    f"no {side} patient has an image of {name}; add patients",
                )
            elif side == "training" and patients < FEW_PATIENTS.value:
                yield Reason(
                    "warning",
                    f"{_many(patients, 'training patient')} with images of {name}: each is more than a "
                    f"tenth of what is learnt of it; add patients",
                )
        share = whole.images[label] / sum(whole.images)
        if share < RARE_CLASS.value:
            yield Reason(
                "warning", f"{share:.1%} of the images are of {name}; add some, if there are"
            )


def _shortcuts(found: Inspection, classes: tuple[str, str]) -> Iterator[Reason]:
    for fact, (_, link) in found.facts.items():
        if link is None or link.p >= CHANCE.value or link.strength < LINKED.value:
            continue
        grave = link.strength >= TOLD.value
        told = "".join(
            f"; '{kind}' has only {classes[label]}" for kind, label in link.one_class[:3]
        )
        yield Reason(
            "unfit" if grave else "warning",
            f"the {fact} {'tells' if grave else 'goes with'} the class (Cramér's V "
            f"{link.strength:.2f}){told}: a model will learn that in place of the disease; add the other "
            f"class from the same source",
        )


def _empty(found: Inspection) -> Iterator[Reason]:
    count = len(found.constant) + len(found.clipped)
    if count:
        yield Reason(
            "unfit" if count > MOST_EMPTY.value * len(found.survey) else "warning",
            f"{_many(count, 'image')} with nothing to see ({len(found.constant)} constant, "
            f"{len(found.clipped)} quite black or white); look at places, window and export",
        )


def _drift(found: Inspection) -> Iterator[Reason]:
    far = [
        one.feature
        for one in found.phantom.drifts
        if one.distance >= APART.value and one.p < CHANCE.value
    ]
    auroc = found.phantom.auroc
    if far or (auroc is not None and auroc >= TOLD_APART.value):
        what = f" in {' and '.join(far)}" if far else ""
        told = "" if auroc is None else f" (told apart with an AUROC of {auroc:.2f})"
        yield Reason(
            "warning",
            f"the images are unlike lung CT as the initial model knows it{what}{told}; look at window, "
            f"inversion, size and organ",
        )


def _outside(found: Inspection) -> Iterator[Reason]:
    for one in found.outside:
        if one.images:
            yield Reason(
                "warning",
                f"{_many(one.images, 'image')} of {_many(one.patients, 'patient')} outside of what the "
                f"protocol states: {one.stated}",
            )
        if one.unknown:
            yield Reason(
                "warning",
                f"{_many(one.unknown, 'image')} without the facts for what the protocol states: "
                f"{one.stated}",
            )
    patients = len(found.survey.cohort.training)
    if found.least_patients is not None and patients < found.least_patients:
        yield Reason(
            "warning",
            f"{_many(patients, 'training patient')}, where the protocol states at least "
            f"{found.least_patients}",
        )


def _aside(found: Inspection) -> Iterator[Reason]:
    findings = sum(one.what.startswith("findings.csv row ") for one in found.set_aside)
    if findings > MOST_ASIDE.value * (len(found.survey) + findings):
        yield Reason(
            "unfit",
            f"{findings} findings are set aside and {len(found.survey)} are left; see why, and export "
            f"the series again",
        )
    elif found.set_aside:
        yield Reason(
            "warning",
            f"{len(found.set_aside)} files and findings are set aside, for the reasons that are listed",
        )


def _images(groups: list[Alike]) -> int:
    return len({image for group in groups for image in group.images})


def _sides(groups: list[Alike]) -> str:
    """Whether some of them are on both sides of the split."""
    return ", and on both sides of the split" if any(one.both_sides for one in groups) else ""


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
