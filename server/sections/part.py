"""A task's part of the report, of the summary for machines and of the papers beside the weights.

Shared by all tasks is the discrimination with its interval, which the study's judge names. A part adds
what else can be said of such a model, and how its figures are worded.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from common.model_card import Judgement
from common.protocol import StudyProtocol
from server.facts import ReportFacts

Numbers = dict[str, float | list[float] | None]


@dataclass(frozen=True)
class Tile:
    """A figure among the headline numbers: ready HTML."""

    label: str
    value: str
    note: str


class Part:
    """What is the same for all: nothing to add. For a study in which nothing is judged that is all.

    `undefined` says why exact scores may have no discrimination, `released` how a released figure counts
    patients: phrases without a full stop. `predicts` is whether `intramural-client predict` takes the model.
    """

    undefined: ClassVar[str] = "not defined"
    released: ClassVar[str] = "every patient counts once"
    predicts: ClassVar[bool] = False

    def exact(self, protocol: StudyProtocol) -> str:  # noqa: ARG002
        """How an exact figure counts patients and where its interval is from: a phrase, too."""
        return "every patient counts once, 95 % interval over patients"

    def sections(self, facts: ReportFacts) -> dict[str, str]:  # noqa: ARG002
        """Title -> ready HTML, in order; what is exact comes from `facts.pooled`, in a rehearsal only."""
        return {}

    def tiles(self, facts: ReportFacts) -> list[Tile]:  # noqa: ARG002
        """Headline figures besides the discrimination."""
        return []

    def exact_numbers(self, protocol: StudyProtocol, scores: Any) -> Numbers:  # noqa: ARG002
        """Figures of all patients' exact scores for machines, besides the discrimination, by their key.

        The same keys whatever the scores; every value is None where `scores` is None.
        """
        return {}

    def hospital_numbers(self, protocol: StudyProtocol, scores: Any) -> Numbers:  # noqa: ARG002
        """The same of one hospital's."""
        return {}

    def numbers(self, reading: Any) -> Numbers:  # noqa: ARG002
        """The same of a reading of the judge; an interval has its key with "_ci" at the end."""
        return {}

    def figures(self, reading: Any) -> dict[str, str]:  # noqa: ARG002
        """Every figure of a reading in plain words, by its name; in words too for None."""
        return {}

    def metrics(self, protocol: StudyProtocol) -> tuple[str, ...]:  # noqa: ARG002
        """Which figures are stated and how their intervals come about: sentences in Markdown."""
        return ("Nothing is judged in this study.",)

    def answers(self, reading: Any) -> dict[str, str]:  # noqa: ARG002
        """What the checklist is told under "threshold", "calibration" and "temperature"."""
        return dict.fromkeys(("threshold", "calibration", "temperature"), "nothing is judged")

    def judged(
        self,
        reading: Any,  # noqa: ARG002
        source: Literal["released", "exact"],  # noqa: ARG002
    ) -> Judgement | None:
        """The reading as the model card for machines holds it."""
        return None

    def reliability(self, judged: Judgement) -> str:  # noqa: ARG002
        """What the card in words has below its figures, in Markdown; empty where there is nothing."""
        return ""
