"""The task of predicting when an event comes, from a patient's record at the start of follow-up."""

from typing import TYPE_CHECKING

from common.judging.survival import Survival
from common.tabular.task import TableTask
from common.tabular.words import asked_columns, of_records
from common.tasks.survival.study import SurvivalStudy
from common.tasks.task import Loss
from common.tasks.words import Words

if TYPE_CHECKING:
    from torch import Tensor, nn


class SurvivalTask(TableTask[SurvivalStudy]):
    """A record of a patient -> hazards over time; labels (N, 2) are time and event, 0 or 1."""

    study = SurvivalStudy
    judge = Survival()

    def build(self, protocol: SurvivalStudy) -> "nn.Module":
        from common.tasks.survival.models import build_model

        model, inputs = protocol.model, len(protocol.records.features)
        return build_model(model.name, inputs, len(protocol.survival.edges), model.hidden)

    def loss(self, protocol: SurvivalStudy) -> Loss:
        from common.tasks.survival.models import loss_of

        return loss_of(protocol.model.name, protocol.survival.edges)

    def some_labels(self, protocol: SurvivalStudy, views: int) -> "Tensor":
        import torch

        time = torch.linspace(0, protocol.survival.edges[-1], views)
        return torch.stack([time, torch.arange(views) % 2], dim=1)

    def predict(self, protocol: SurvivalStudy, model: "nn.Module", inputs: "Tensor") -> "Tensor":
        """(n, 1 + K): the risk of an event up to the last edge, and survival at each edge.

        (n, 1) for a model without a baseline hazard, which ranks and predicts no survival.
        """
        import torch

        from common.tasks.survival.models import predicted_risk, predicted_survival
        from common.tasks.survival.study import WITHOUT_BASELINE

        name, outputs = protocol.model.name, model(inputs)
        risk = predicted_risk(name, outputs)[:, None]
        if name in WITHOUT_BASELINE:
            return risk
        return torch.cat([risk, predicted_survival(name, outputs)], dim=1)

    def remarks(self, protocol: SurvivalStudy) -> list[str]:
        """Which columns the table must have."""
        return asked_columns(protocol.records, protocol.survival.label_columns)

    def purpose(self, protocol: SurvivalStudy) -> str:
        columns, follow = len(protocol.records.columns), protocol.survival
        return (
            f"to predict {follow.event} within {follow.edges[-1]:g} {follow.unit} from {columns} columns "
            f"of a patient's record"
        )

    def words(self, protocol: SurvivalStudy) -> Words:
        follow = protocol.survival
        last = f"{follow.edges[-1]:g} {follow.unit}"
        output = (
            "a number by which patients are ranked, no probability"
            if protocol.ranks_only
            else f"the probability of no event up to each of {len(follow.edges)} times, the last one "
            f"{last}, as long as hazards are as in this study"
        )
        return of_records(
            protocol.records,
            output=output,
            outcome=f"an event is “{follow.events[1]}” in the column “{follow.event}” of each hospital's "
            f"table, at the time in “{follow.time}”, in {follow.unit}; what comes after {last} is not judged",
        )


TASK = SurvivalTask()
