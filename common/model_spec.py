"""Names and shapes that a protocol's model has: what may arrive at a hospital and what may leave it."""

from functools import lru_cache

import torch
from torch import nn

from common.arrays import Spec
from common.models import freeze
from common.protocol import StudyProtocol
from common.tasks import task_of


def model_of(protocol: StudyProtocol) -> nn.Module:
    """A new model of the study with initial weights, frozen where the protocol does not train."""
    return freeze(task_of(protocol).build(protocol), protocol.model.trainable)


@lru_cache(maxsize=16)
def _skeleton(protocol: StudyProtocol) -> nn.Module:
    with torch.device("meta"):  # shapes only: no memory, no initialisation
        return model_of(protocol)


def trainable_names(model: nn.Module) -> list[str]:
    """Names of the parameters that are trained, in the model's order; frozen layers are left out."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def model_spec(protocol: StudyProtocol) -> Spec:
    """Shape of every array of the global model, in order: what a request carries."""
    return {name: tuple(t.shape) for name, t in _skeleton(protocol).state_dict().items()}


def update_spec(protocol: StudyProtocol) -> Spec:
    """Shape of every array of an update, in order: what a reply carries."""
    whole = model_spec(protocol)
    return {name: whole[name] for name in trainable_names(_skeleton(protocol))}
