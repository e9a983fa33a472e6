"""Where round 1 starts: random weights, phantom pre-training, ImageNet, or a file. Public data only."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from common import arrays
from common.arrays import Arrays
from common.errors import ModelError, RunError
from common.model_spec import model_spec
from common.protocol import StudyProtocol
from common.tasks import task_of
from common.tasks.nodule_classification.study import NoduleStudy, of_images
from common.weights import load_weights
from server.pretraining import pretrain, shipped_initial


def initial_arrays(
    protocol: StudyProtocol, progress: Callable[[float], None] | None = None
) -> Arrays:
    """The arrays of the model before round 1, as the protocol's `initial-model` says.

    RunError when the named file or download cannot be used. `progress` is called with the share
    done, 0..1, where it takes long.
    """
    wanted = protocol.model.initial_model
    if wanted == "phantom":
        found = _phantom(of_images(protocol, "phantom"), progress)
    elif wanted == "random":
        found = _arrays_of(_fresh_model(protocol))
    elif wanted == "imagenet":
        found = _imagenet(of_images(protocol, "imagenet"), _download())
    else:
        found = _from_file(protocol, Path(wanted))
    try:
        arrays.check(found, model_spec(protocol))
    except ModelError as error:
        raise RunError(f"initial-model '{wanted}' does not fit the protocol: {error}") from error
    return found


def _fresh_model(protocol: StudyProtocol) -> torch.nn.Module:
    """The model with weights that the study's digest determines: a resume starts from the same."""
    with _drawn_from(protocol):
        return task_of(protocol).build(protocol)


@contextmanager
def _drawn_from(protocol: StudyProtocol) -> Iterator[None]:
    """Torch's random numbers come from the study's digest; its global generator does not move."""
    seed = int.from_bytes(hashlib.sha256(protocol.digest.encode()).digest()[:8], "big") >> 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _arrays_of(model: torch.nn.Module) -> Arrays:
    return {name: t.detach().numpy().copy() for name, t in model.state_dict().items()}


def _phantom(protocol: NoduleStudy, progress: Callable[[float], None] | None) -> Arrays:
    images = protocol.images
    try:
        shipped = shipped_initial(protocol.model.name, images.size, images.channels)
    except (OSError, ValueError) as error:
        raise RunError(f"the shipped pre-trained model cannot be used: {error}") from error
    if shipped is not None:
        return {name: np.asarray(a, dtype=np.float32) for name, a in shipped.items()}
    model = _fresh_model(protocol)
    pretrain(model, size=images.size, channels=images.channels, seed=0, progress=progress)
    return _arrays_of(model)


def _imagenet(protocol: NoduleStudy, state: dict[str, torch.Tensor]) -> Arrays:
    from common.resnet import fold_imagenet  # torchvision, for who asks only

    model = _fresh_model(protocol)
    images = protocol.images
    try:
        with _drawn_from(protocol):  # the classifier starts anew
            folded = fold_imagenet(state, channels=images.channels, classes=len(images.classes))
    except ValueError as error:
        raise RunError(
            f"initial-model '{protocol.model.initial_model}' cannot be folded: {error}"
        ) from error
    model.load_state_dict(folded)
    return _arrays_of(model)


def _download() -> dict[str, torch.Tensor]:
    from torchvision.models import ResNet18_Weights  # only here: nothing else needs the weights

    try:
        # Torchvision's default is a pickle that may run code, of whatever content it has.
        state: dict[str, torch.Tensor] = ResNet18_Weights.IMAGENET1K_V1.get_state_dict(
            check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # RuntimeError: another hash than in the file's name
        raise RunError(
            f"torchvision could not download the ImageNet weights ({error}); save them as "
            f"safetensors elsewhere and name the file in model.initial-model"
        ) from error
    return state


def _from_file(protocol: StudyProtocol, path: Path) -> Arrays:
    """Weights of this project's own model, or torchvision's BatchNorm ResNet18 to be folded."""
    try:
        found = load_weights(path)
    except ModelError as error:
        raise RunError(f"cannot read model.initial-model: {error}") from error
    batch_norm = "bn1.running_mean" in found
    if isinstance(protocol, NoduleStudy) and protocol.model.folds_imagenet and batch_norm:
        return _imagenet(protocol, {name: torch.from_numpy(a) for name, a in found.items()})
    # In the model's order; what the model lacks stays at the end, for the check to refuse.
    known = {name: found.pop(name) for name in model_spec(protocol) if name in found}
    return known | found
