"""The study protocol of a sequence: which variables on which grid, which outcome, which network."""

from typing import Annotated, Literal

from pydantic import Field

from common.judging.binary import TwoClassEvaluation
from common.protocol import Model, StudyProtocol, Training
from common.sequences.schema import Sequences


class SequenceModel(Model):
    """A recurrent network and where round 1 starts: random weights ("random") or a file.

    "gru" has one layer with a state of `hidden` numbers. Small is better under noise: its weights
    grow with the square of it.
    """

    name: Literal["gru"] = "gru"
    hidden: Annotated[int, Field(ge=1, le=512)] = 16


class SequenceStudy(StudyProtocol):
    """A study that predicts one of two outcomes from a patient's series."""

    task: Literal["sequence"]
    sequences: Sequences
    model: SequenceModel = SequenceModel()
    training: Training
    without_dp: Training | None = None
    evaluation: TwoClassEvaluation = TwoClassEvaluation()

    @property
    def data(self) -> Sequences:
        """The series."""
        return self.sequences
