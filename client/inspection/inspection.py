"""All that the data report says of a hospital's images, as facts."""

from collections.abc import Sequence
from dataclasses import dataclass

from client.data import SetAside
from client.data.survey import Survey
from client.inspection.counts import Count, by_fact, by_side
from client.inspection.drift import FromPhantom, Outside, from_phantom, outside
from client.inspection.duplicates import Alike, alike
from client.inspection.leaks import Leaks, leaks
from client.inspection.limits import CLIPPED, CONSTANT
from client.inspection.measures import Measures, measure
from client.inspection.shortcuts import Shortcut, shortcut
from common.tasks.nodule_classification.study import NoduleStudy


@dataclass(frozen=True, eq=False, slots=True)
class Inspection:
    """Exact figures of patients: for the hospital's own screen and page, and for nothing that leaves."""

    survey: Survey
    measures: Measures
    sides: list[Count]
    facts: dict[str, tuple[list[Count], Shortcut | None]]
    images_of_patient: dict[str, int]
    alike: list[Alike]
    leaks: Leaks
    constant: list[int]  # images by number
    clipped: list[int]  # ... and not constant
    phantom: FromPhantom
    outside: list[Outside]
    least_patients: int | None  # that the protocol states; training patients
    set_aside: Sequence[SetAside]


def inspect(survey: Survey, protocol: NoduleStudy, set_aside: Sequence[SetAside]) -> Inspection:
    """Look at all of it: seconds for some thousand images, and some megabytes beside theirs."""
    measures, inclusion = measure(survey), protocol.inclusion
    tallies = {fact: by_fact(survey, fact) for fact in survey.facts}
    images_of: dict[str, int] = {}
    for patient in survey.patient_ids:
        images_of[patient] = images_of.get(patient, 0) + 1
    flat = measures.spans < CONSTANT.value
    return Inspection(
        survey=survey,
        measures=measures,
        sides=by_side(survey),
        facts={fact: (counts, shortcut(counts)) for fact, counts in tallies.items()},
        images_of_patient=images_of,
        alike=alike(survey, measures),
        leaks=leaks(survey),
        constant=flat.nonzero()[0].tolist(),
        clipped=(~flat & (measures.clipped >= CLIPPED.value)).nonzero()[0].tolist(),
        phantom=from_phantom(survey, measures),
        outside=[] if inclusion is None else outside(survey, inclusion),
        least_patients=None if inclusion is None else inclusion.least_patients,
        set_aside=set_aside,
    )
