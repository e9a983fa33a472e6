"""The study protocol of a summary: which records, and which figure of each column.

A summary is for a study that is to follow: its released means or quantiles become `center` and `scale`
there (common/tabular/schema.py), public like any other constant, since they were noised and charged here.
"""

from math import sqrt
from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.protocol import Aggregation, Model, Training
from common.tabular.schema import Records
from common.tabular.task import TableStudy

NUMBERS = "numbers.weight"
"""The model's one array, (D, 1): a figure for each encoded column, in the encoding's units."""


class SummaryModel(Model):
    """One number for each encoded column, all 0 at the start: the middle of the public range.

    "mean" is that of patients (a patient's records count as their mean), "quantile" that at `level`.
    """

    name: Literal["mean", "quantile"] = "mean"
    level: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _level_of_a_quantile(self) -> "SummaryModel":
        if (self.name == "quantile") != (self.level is not None):
            raise ValueError(
                f"model.level is for 'quantile' and needed with it, but name is '{self.name}'"
            )
        return self


class SummaryTraining(Training):
    """Local work of one server round: one step in which every patient takes part.

    With more, hospitals would go towards their own figures in between. A step of a mean goes all the
    way; where the cohort is not as large as agreed, that share of it is left: with 90 patients of 100 a
    tenth after one round, a thousandth after three. A quantile is found in steps of `learning_rate`, in
    units of half the width of the range.
    """

    steps_per_round: Literal[1] = 1
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    momentum: Annotated[float, Field(ge=0, le=0)] = 0.0
    sampling_rate: Annotated[float, Field(ge=1, le=1)] = 1.0


class SummaryAggregation(Aggregation):
    """The mean over hospitals by their agreed numbers of patients: each patient counts the same."""

    strategy: Literal["fedavg"] = "fedavg"
    weights: Literal["cohort"] = "cohort"
    ema: None = None
    max_share: None = None


class SummaryStudy(TableStudy):
    """A study that states a figure of each column. Nothing is judged: validation patients take no part."""

    task: Literal["summary"]
    model: SummaryModel = SummaryModel()
    training: SummaryTraining = SummaryTraining()
    without_dp: SummaryTraining | None = None
    aggregation: SummaryAggregation = SummaryAggregation()

    @model_validator(mode="after")
    def _one_figure_for_each(self) -> "SummaryStudy":
        for column in self.records.columns:
            if column.center is not None or column.scale is not None:
                raise ValueError(
                    f"column '{column.name}' has a center or scale, which a summary is to find; leave them "
                    f"out"
                )
            if column.missing == "middle":
                raise ValueError(
                    f"column '{column.name}' counts what is missing as the middle, which would move its "
                    f"figure there; take missing = 'refuse', or 'indicator' for a mean"
                )
            indicated = column.missing == "indicator"
            if self.model.level is not None and (indicated or column.kind == "category"):
                raise ValueError(
                    f"column '{column.name}' has no quantile; a study of quantiles has numbers that are "
                    f"not missing"
                )
        return self

    @model_validator(mode="after")
    def _nothing_but_the_figure(self) -> "SummaryStudy":
        for training in filter(None, (self.training, self.without_dp)):
            if self.model.level is None and training.learning_rate != 1:
                raise ValueError(
                    f"training.learning-rate is {training.learning_rate:g} but a mean is one step of 1; for "
                    f"a closer one take more rounds"
                )
        norm, longest = self.privacy.max_grad_norm, self.longest_gradient
        if self.privacy.mechanism != "none" and norm < longest * (1 - 1e-5):
            raise ValueError(
                f"privacy.max-grad-norm is {norm:g} but what a record adds to the gradient of "
                f"{len(self.records.columns)} column(s) is up to {longest:.6g} long, and clipping would "
                f"move the result; give {longest:.6g}"
            )
        return self

    @property
    def longest_gradient(self) -> float:
        """L2 norm that no record's gradient exceeds, in half-widths of the ranges.

        A column's encoded values (one for a number, several for a category) are at most 1 from where
        the model starts and at most 2 from any mean; a quantile's pull is its level or less.
        """
        level = self.model.level
        mean = 1.0 if self.rounds == 1 else 2.0
        each = mean if level is None else max(level, 1 - level)
        return each * sqrt(len(self.records.columns))

    @property
    def data(self) -> Records:
        """The records."""
        return self.records

    def evaluates(self, server_round: int) -> bool:  # noqa: ARG002
        """Never."""
        return False

    @property
    def evaluations(self) -> int:
        """None."""
        return 0
