"""Risk from records in the report: two classes, and how often the class is right at a score of 0.5."""

from html import escape
from typing import Any

from common.metrics import Scores
from common.page_parts import absent, table
from common.protocol import StudyProtocol
from server.facts import UNREADABLE, ReportFacts
from server.page import estimate as figure
from server.page import shown
from server.sections.binary import Binary, estimate
from server.sections.judgement import reading_of
from server.sections.part import Numbers

HALF = 0.5
NONE = "not evaluated"


class Risk(Binary):
    """Accuracy is what most published results on records state, though it depends on the case mix."""

    def sections(self, facts: ReportFacts) -> dict[str, str]:
        return {"Accuracy at a score of 0.5": _accuracy(facts), **super().sections(facts)}

    def exact_numbers(self, protocol: StudyProtocol, scores: Any) -> Numbers:
        return {**super().exact_numbers(protocol, scores), "accuracy": accuracy(scores)}

    def hospital_numbers(self, protocol: StudyProtocol, scores: Any) -> Numbers:  # noqa: ARG002
        return {"accuracy": accuracy(scores)}

    def numbers(self, reading: Any) -> Numbers:
        found = reading_of(reading)
        return {
            **super().numbers(reading),
            **estimate("accuracy", found.accuracy if found else None),
        }


def accuracy(scores: Scores | None) -> float | None:
    """The share of records that are positive at a score of 0.5 or above, and negative below; exact."""
    if scores is None or not scores.score.size:
        return None
    return float(((scores.score >= HALF) == (scores.label == 1)).mean())


def _accuracy(facts: ReportFacts) -> str:
    """Of all hospitals together and, in a rehearsal, of each and of their mean."""
    reading, pooled = reading_of(facts.released), facts.pooled
    rows = [["All hospitals, released", figure(reading.accuracy if reading else None, UNREADABLE)]]
    if pooled is not None:
        own = {h.name: accuracy(h.scores) for h in facts.hospitals}
        known = [value for value in own.values() if value is not None]
        mean = sum(known) / len(known) if known else None
        rows += [
            ["All hospitals, exact", shown(accuracy(pooled.scores), why=NONE)],
            *([f"{escape(name)}, exact", shown(value, why=NONE)] for name, value in own.items()),
            ["Mean of the hospitals, exact", shown(mean, why=NONE)],
        ]
    elif reading is None:
        return f"<p>{absent(UNREADABLE.capitalize())}.</p>"
    return table(["Validation patients of", "Accuracy"], rows, "numbers") + (
        '<p class="caption">The share whose class is right when a score of 0.5 or more counts as positive. '
        "It depends on how common positives are: whoever always says the more common class reaches its "
        "share.</p>"
    )


PART = Risk()
