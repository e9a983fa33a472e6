"""The recurrent network that hospitals train on series: one GRU layer and a linear head.

The rules of common/models.py hold: nothing mixes the series of a batch, nothing is computed in
place. Under differential privacy a hospital runs the same weights step by step through Opacus
(client/privacy/recurrent.py); here and in all that is published it is torch's own `nn.GRU`.
"""

from torch import Tensor, nn


class GRUClassifier(nn.Module):
    """A GRU (Cho et al. 2014, arXiv 1406.1078) whose last hidden state is classified.

    Small on purpose, as all models here: 16 hidden units on 18 features have 1,762 weights.

    Args:
        features: numbers a step, F.
        classes: number of logits.
        hidden: size of the hidden state.

    Input (N, T, F) float32, about -1..1, as common/sequences/encoding.py makes it; output
    (N, classes), logits.
    """

    def __init__(self, features: int, classes: int = 2, *, hidden: int = 16) -> None:
        super().__init__()
        if features < 1 or classes < 2 or hidden < 1:
            raise ValueError(
                f"a GRU needs at least 1 feature, 2 classes and 1 hidden unit, found {features}, "
                f"{classes} and {hidden}"
            )
        self.gru = nn.GRU(features, hidden, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, series: Tensor) -> Tensor:
        """Logits (N, classes) of series (N, T, F); T of 1 or more."""
        _, last = self.gru(series)  # (1, N, hidden)
        logits: Tensor = self.classifier(last[0])  # (N, classes)
        return logits
