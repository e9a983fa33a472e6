"""The task of predicting an outcome, yes or no, from a patient's irregular series of measurements."""

from typing import TYPE_CHECKING

from common.judging.binary import Binary
from common.sequences.words import asked_series, of_sequences
from common.tasks.sequence.study import SequenceStudy
from common.tasks.task import Loss, Task
from common.tasks.words import Words

if TYPE_CHECKING:
    from torch import Tensor, nn


class SequenceTask(Task[SequenceStudy]):
    """Series of a patient -> the probability of the last class, by cross-entropy over two logits."""

    study = SequenceStudy
    judge = Binary()
    view = "series"
    files = "series.csv and outcomes.csv (or .parquet)"

    def build(self, protocol: SequenceStudy) -> "nn.Module":
        from common.sequence_model import GRUClassifier

        sequences = protocol.sequences
        return GRUClassifier(
            sequences.features, len(sequences.classes), hidden=protocol.model.hidden
        )

    def loss(self, protocol: SequenceStudy) -> Loss:  # noqa: ARG002
        from common.losses import cross_entropy

        return Loss(cross_entropy)

    def view_shape(self, protocol: SequenceStudy) -> tuple[int, ...]:
        return (protocol.sequences.steps, protocol.sequences.features)

    def predict(self, protocol: SequenceStudy, model: "nn.Module", inputs: "Tensor") -> "Tensor":  # noqa: ARG002
        """(n, 1): the softmax of the last class."""
        import torch

        return torch.softmax(model(inputs), dim=1)[:, -1:]

    def remarks(self, protocol: SequenceStudy) -> list[str]:
        """What the two tables must have, and what is read of them."""
        return asked_series(protocol.sequences)

    def purpose(self, protocol: SequenceStudy) -> str:
        sequences = protocol.sequences
        negative, positive = sequences.classes
        return (
            f"to predict {positive} against {negative} from {len(sequences.variables)} variables "
            f"measured within {sequences.window:g} {sequences.time.unit} of {sequences.time.zero}"
        )

    def words(self, protocol: SequenceStudy) -> Words:
        return of_sequences(protocol.sequences)


TASK = SequenceTask()
