"""The task of predicting a disease or an outcome, yes or no, from a patient's records."""

from typing import TYPE_CHECKING

from common.judging.binary import Binary
from common.tabular.task import TableTask
from common.tabular.words import asked_columns, of_records
from common.tasks.risk.study import RiskStudy
from common.tasks.task import Loss
from common.tasks.words import Words

if TYPE_CHECKING:
    from torch import Tensor, nn


class Risk(TableTask[RiskStudy]):
    """Records of a patient -> the probability of the last class; one output, its logit or margin."""

    study = RiskStudy
    judge = Binary(unit=0.25)

    def build(self, protocol: RiskStudy) -> "nn.Module":
        from common.tasks.risk.models import build_model

        model = protocol.model
        return build_model(model.name, len(protocol.records.features), model.hidden)

    def loss(self, protocol: RiskStudy) -> Loss:
        from common.losses import hinge, logistic

        return Loss(hinge if protocol.model.name == "linear-svm" else logistic)

    def predict(self, protocol: RiskStudy, model: "nn.Module", inputs: "Tensor") -> "Tensor":  # noqa: ARG002
        """(n, 1): the sigmoid of the output.

        A support vector machine has a margin and no logit: its sigmoid is 1/2 where the margin is 0 and
        ranks as the margin does, but is a probability only once it is calibrated.
        """
        import torch

        return torch.sigmoid(model(inputs))

    def remarks(self, protocol: RiskStudy) -> list[str]:
        """Which columns the table must have."""
        return asked_columns(protocol.records, protocol.records.label_columns)

    def purpose(self, protocol: RiskStudy) -> str:
        negative, positive = protocol.records.classes
        columns = len(protocol.records.columns)
        return f"to predict {positive} against {negative} from {columns} columns of a patient's records"

    def words(self, protocol: RiskStudy) -> Words:
        records = protocol.records
        negative, positive = records.classes
        return of_records(
            records,
            output=f"a score from 0 to 1 for “{positive}”, no probability before it is calibrated",
            outcome=f"“{positive}” is positive, “{negative}” negative, as the column “{records.outcome}” of "
            f"each hospital's table says",
        )


TASK = Risk()
