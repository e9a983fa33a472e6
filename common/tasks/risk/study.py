"""The study protocol of a risk: which records, which outcome of two classes, which model."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.judging.binary import TwoClassEvaluation
from common.protocol import Model, Training
from common.tabular.schema import RiskRecords
from common.tabular.task import TableStudy


class RiskModel(Model):
    """A model of the encoded records and where round 1 starts: its own start ("random") or a file.

    "logistic-regression" and "linear-svm" (hinge loss) start at weights of 0, since their losses are
    convex; "mlp" has one layer of `hidden` units, with random weights.
    """

    name: Literal["logistic-regression", "linear-svm", "mlp"] = "logistic-regression"
    hidden: Annotated[int, Field(ge=1, le=4096)] | None = None

    @model_validator(mode="after")
    def _hidden_for_a_network(self) -> "RiskModel":
        if (self.name == "mlp") != (self.hidden is not None):
            raise ValueError(
                f"model.hidden is for 'mlp' and needed with it, but name is '{self.name}'"
            )
        return self


class RiskStudy(TableStudy):
    """A study that predicts one of two outcomes from a patient's records."""

    task: Literal["risk"]
    records: RiskRecords
    model: RiskModel = RiskModel()
    training: Training
    without_dp: Training | None = None
    evaluation: TwoClassEvaluation = TwoClassEvaluation()

    @property
    def data(self) -> RiskRecords:
        """The records."""
        return self.records
