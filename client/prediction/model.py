"""A trained model together with its card, and nothing else: no card, no prediction."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from client.data import ImagePatients
from client.data.cohort import Pixels
from client.training import said_of
from common import arrays
from common.errors import ModelError
from common.model_card import MODEL_CARD
from common.models import build_model
from common.tasks.nodule_classification import probability
from common.tasks.nodule_classification.card import ModelCard, load_card
from common.weights import parse_weights, read_weights

WEIGHTS = "model.safetensors"

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class CardedModel:
    """A network in evaluation mode, on the CPU, whose weights are those that its card names."""

    card: ModelCard
    network: nn.Module

    def scores(self, pixels: Pixels) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """(N,) scores in 0..1 of (N, size, size, channels) pixels, as `client.training` evaluates."""
        predict = partial(probability, self.card.evaluation, self.network)
        return np.nan_to_num(said_of(predict, self.views_of(pixels), CPU)[:, 0], nan=0.5)

    def views_of(self, pixels: Pixels) -> ImagePatients:
        """`pixels` as the study's model is shown them: each an image without a label."""
        count, images = len(pixels), self.card.images
        return ImagePatients(
            pixels=pixels,
            labels=np.zeros(count, np.int64),
            offsets=np.arange(count + 1, dtype=np.int64),
            mean=images.mean,
            std=images.std,
        )


def load_model(path: Path) -> CardedModel:
    """The model in a run's folder, or in a weights file, with the card that lies beside it.

    ModelError when there is no card or no weights file, when the weights are not those of the card
    (SHA-256) or do not fit the model that it names.
    """
    # pathlib's own question raises in a folder that is closed.
    file = path / WEIGHTS if os.access(path, os.F_OK) and path.is_dir() else path
    card = load_card(file.parent / MODEL_CARD)
    weights = read_weights(file)
    if not card.is_of(weights):
        raise ModelError(
            f"expected the weights that {file.parent / MODEL_CARD} is about in {file} and found "
            f"others; take both files from the same run"
        )
    network = build_model(card.model.name, card.images.channels, len(card.images.classes))
    state = network.state_dict()
    found = parse_weights(weights, file)
    arrays.check(
        {name: found[name] for name in state if name in found}
        | {name: found[name] for name in found if name not in state},
        {name: tuple(tensor.shape) for name, tensor in state.items()},
    )
    network.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in found.items()})
    network.eval()
    return CardedModel(card, network)
