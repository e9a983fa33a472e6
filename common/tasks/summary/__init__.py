"""The task of stating a mean or a quantile of each column of patients' records, released and charged.

Nothing new is needed for it: the model is one number a column, so training it with the loss that a mean
or a quantile makes smallest, clipped and noised like any other, is the Gaussian mechanism on a sum
(Dwork and Roth 2014, appendix A), and a quantile by DP-SGD (Bassily, Smith and Thakurta 2014).
"""

from typing import TYPE_CHECKING

from common.tabular.task import TableTask
from common.tabular.words import asked_columns, of_records
from common.tasks.summary.study import SummaryStudy
from common.tasks.task import Loss
from common.tasks.words import Words

if TYPE_CHECKING:
    from torch import Tensor, nn


class Summary(TableTask[SummaryStudy]):
    """Records of a patient -> one number for each of D encoded columns, the same for everybody."""

    study = SummaryStudy
    judge = None

    def build(self, protocol: SummaryStudy) -> "nn.Module":
        from common.tasks.summary.locations import Locations

        return Locations(len(protocol.records.features))

    def loss(self, protocol: SummaryStudy) -> Loss:
        from functools import partial

        from common.tasks.summary.locations import pinball, squared

        level = protocol.model.level
        return Loss(squared if level is None else partial(pinball, level=level))

    def some_labels(self, protocol: SummaryStudy, views: int) -> "Tensor":
        import torch

        return torch.zeros(views, len(protocol.records.features))

    def predict(self, protocol: SummaryStudy, model: "nn.Module", inputs: "Tensor") -> "Tensor":  # noqa: ARG002
        """(n, D): the same n times."""
        found: Tensor = model(inputs)
        return found

    def remarks(self, protocol: SummaryStudy) -> list[str]:
        """Which columns the table must have."""
        return asked_columns(protocol.records, ())

    def purpose(self, protocol: SummaryStudy) -> str:
        level = protocol.model.level
        what = "the mean" if level is None else f"the quantile at {level:g}"
        return f"to state {what} of each of {len(protocol.records.columns)} columns of patients' records"

    def words(self, protocol: SummaryStudy) -> Words:
        return of_records(
            protocol.records,
            output="one number for each column, the same for every patient",
            outcome="none: nothing is predicted",
        )


TASK = Summary()
