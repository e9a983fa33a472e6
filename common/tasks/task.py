"""What a task is: everything that one kind of study does differently, and nothing that all do alike.

Clipping, noise, ledger, egress, rounds and aggregation know none of the tasks. Importing a task loads no
torch: the coordinator's serving processes and the hospital's gate read protocols too.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from numpy.typing import NDArray

from common.judging.judge import Judge
from common.protocol import StudyProtocol
from common.tasks.words import Words

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

S = TypeVar("S", bound=StudyProtocol)

Uniform = Callable[[int], "NDArray[np.float64]"]


@dataclass(frozen=True)
class Loss:
    """(N,) losses of N views from the model's outputs (N, ...) and their labels (N, ...).

    With `mixes_patients` a view's loss depends on the other views too (Cox' partial likelihood
    compares whoever is at risk): no clipping of one patient's gradient bounds what this patient
    changes, so differential privacy refuses such a loss.
    """

    of: "Callable[[Tensor, Tensor], Tensor]"
    mixes_patients: bool = False

    def __call__(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        return self.of(outputs, labels)


class Task(ABC, Generic[S]):
    """One kind of study: its protocol's tables, its models, its loss and how they are judged.

    `view` is the word for one of a patient's pieces of data ("image", "record"), `files` says what a
    hospital's folder holds; `judge` is None where there is nothing to judge.
    """

    study: ClassVar[type[StudyProtocol]]
    judge: ClassVar[Judge[Any] | None]
    view: ClassVar[str]
    files: ClassVar[str]

    @abstractmethod
    def build(self, protocol: S) -> "nn.Module":
        """A new model with its initial weights, in training mode, on the CPU; all of it trainable."""

    @abstractmethod
    def loss(self, protocol: S) -> Loss:
        """What training makes small."""

    @abstractmethod
    def view_shape(self, protocol: S) -> tuple[int, ...]:
        """The shape of one view as the model takes it, without the axis of the views."""

    def some_labels(self, protocol: S, views: int) -> "Tensor":  # noqa: ARG002
        """Labels of `views` views of nobody, on which a chunk's memory and precision are tried.

        Of two classes in turn, where a task has no others.
        """
        import torch

        return torch.arange(views) % 2

    @abstractmethod
    def predict(self, protocol: S, model: "nn.Module", inputs: "Tensor") -> "Tensor":
        """(n, k): what the judge takes, from the model in evaluation mode and n views."""

    def augmented(self, protocol: S, inputs: "Tensor", uniform: Uniform) -> "Tensor":  # noqa: ARG002
        """`inputs` (n, ...) changed at random in training; `uniform(n)` draws n numbers from [0, 1)."""
        return inputs

    def remarks(self, protocol: S) -> list[str]:  # noqa: ARG002
        """Sentences on what else the study asks of a hospital's data, for whoever approves it."""
        return []

    @abstractmethod
    def purpose(self, protocol: S) -> str:
        """What is told from what, in words that end a sentence: "to tell nodule from vessel on ..."."""

    @abstractmethod
    def words(self, protocol: S) -> Words:
        """What papers about the model say that this task alone knows."""
