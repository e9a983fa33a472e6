"""One person as two: on both sides of the split, or under two patient ids."""

import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass

from client.data.survey import Survey

Group = tuple[str, ...]  # patient ids that belong together


@dataclass(frozen=True, slots=True)
class Leaks:
    """It names patients, so it lives only while the report is made."""

    both_sides: Group  # ids with images on both sides
    one_study: tuple[Group, ...]  # different ids within one series or study, which is of one person
    alike: tuple[Group, ...]  # ids that differ in case, leading zeros or separators only


def leaks(survey: Survey) -> Leaks:
    sides: defaultdict[str, set[bool]] = defaultdict(set)
    studies: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    spelled: defaultdict[str, set[str]] = defaultdict(set)
    for patient, later, series, study in zip(
        survey.patient_ids,
        survey.validation.tolist(),
        survey.series,
        survey.studies,
        strict=True,
    ):
        sides[patient].add(later)
        spelled[_plain(patient)].add(patient)
        for level, uid in (("series", series), ("study", study)):
            if uid is not None:
                studies[level, uid].add(patient)
    shared = {tuple(sorted(ids)) for ids in studies.values() if len(ids) > 1}
    return Leaks(
        both_sides=tuple(sorted(patient for patient, on in sides.items() if len(on) > 1)),
        one_study=tuple(sorted(shared)),
        alike=tuple(sorted(tuple(sorted(ids)) for ids in spelled.values() if len(ids) > 1)),
    )


def _plain(patient: str) -> str:
    """The id without case, leading zeros and the kind of separators: "P_007" and "p-7" are alike."""
    text = unicodedata.normalize("NFKC", patient).casefold()
    text = re.sub(r"(?<!\d)0+(?=\d)", "", text)
    return re.sub(r"[^\w]+|_+", "-", text).strip("-")
