"""Pre-training on synthetic patches: a public starting point, which costs no patient's privacy.

Under differential privacy the hospitals' steps are few and noisy; a model that has already
seen what lungs, vessels and nodules look like needs them only to adjust. The weights made
here ship with the package (``common/pretrained``) beside a description of how they were made.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from common.files import sha256
from common.models import build_model
from common.phantom import phantom_patches, to_grey8
from common.weights import parse_weights
from server.augmentation import SHIFT, augmented

Progress = Callable[[float], None]

SHIPPED_NAME = "compact-cnn-32px"
_SHIPPED: dict[str, Any] = {
    "model": "compact-cnn",
    "size": 32,
    "channels": 1,
    "classes": 2,
    "seed": 20261123,
    "patches": 36_864,
    "epochs": 3,
}
_COMMAND = "intramural-server pretrain --out common/pretrained"

# Public constants, fitted to nobody's images: about the mean and deviation of a lung patch
# in the fixed window, in parts of white.
_MEAN, _DEVIATION = 0.4, 0.25
_HELD_OUT_PATCHES = 2048
# Hard labels made the network surer of phantoms than phantoms deserve.
_LABEL_SMOOTHING = 0.1
# Patches made between two reports of progress.
_PORTION = 2048


@dataclass(frozen=True)
class Pretrained:
    """What came of a pre-training.

    Attributes:
        phantom_auroc: area under the ROC curve on 2,048 phantoms that were not trained on. It says
            that the training worked, not how the model does on patients.
        final_loss: mean cross-entropy (nats) of the last epoch.
    """

    phantom_auroc: float
    final_loss: float


def pretrain(
    model: nn.Module,
    *,
    size: int,
    channels: int,
    seed: int,
    patches: int = 20_000,
    epochs: int = 5,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    progress: Progress | None = None,
) -> Pretrained:
    """Train ``model`` (changed in place) to tell nodules from what looks like them, on phantoms.

    AdamW, the learning rate warmed up and then lowered along a cosine; patches are changed at random
    (``server.augmentation``) and labels smoothed; what stays is a moving average of the weights. The
    same arguments and initial weights give the same result on the same machine and number of threads.

    Args:
        model: takes (N, channels, size, size) float32, gives two logits (N, 2).
        size: pixels a side.
        channels: 1, or 3 for the grey patch repeated.
        seed: of the phantoms and of the order; ``seed + 1`` makes the held-out phantoms.
        patches: number of phantoms to train on, at least one batch.
        epochs: passes over them, 1 or more.
        batch_size: patches a step. With 64, one of three initial weights tried stood at a
            phantom AUROC of 0.66 after two epochs; with 32, the same weights at 0.91.
        learning_rate: the highest one reached.
        progress: called with the share done, 0 to 1.

    Raises:
        ValueError: fewer patches than a batch, or no epoch.
    """
    if patches < batch_size or epochs < 1:
        raise ValueError(
            f"pre-training needs at least one batch of {batch_size} patches and one epoch, "
            f"found {patches} patches and {epochs} epochs"
        )
    report = progress or (lambda _share: None)
    # Making a phantom takes about as long as two passes over it.
    making = 2 / (2 + epochs)
    wide = size + 2 * SHIFT
    grey, label = _phantoms(patches, wide, seed, lambda share: report(share * making))
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4)
    steps = epochs * (patches // batch_size)
    # The warm-up keeps early large steps from killing channels for good.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, learning_rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    average = AveragedModel(model, avg_fn=_moved)
    model.train()
    loss_sum = 0.0
    for epoch in range(epochs):
        loss_sum = 0.0
        order = torch.randperm(patches, generator=generator)
        for rows in torch.split(order, batch_size)[: patches // batch_size]:
            images = _inputs(augmented(grey[rows], generator), channels)
            loss = F.cross_entropy(model(images), label[rows], label_smoothing=_LABEL_SMOOTHING)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            average.update_parameters(model)
            loss_sum += loss.item()
        report(making + (1 - making) * (epoch + 1) / epochs)
    model.load_state_dict(average.module.state_dict())
    held_grey, held_label = _phantoms(_HELD_OUT_PATCHES, size, seed + 1, lambda _share: None)
    auroc = roc_auc_score(
        held_label.numpy(), _scores(model, held_grey.float() / 255, channels).numpy()
    )
    return Pretrained(float(auroc), loss_sum / (patches // batch_size))


def make_shipped(folder: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Make the weights that ship with the package, and write them into ``folder``.

    Writes ``compact-cnn-32px.safetensors`` and ``compact-cnn-32px.json``; takes about three
    minutes on one core. Made again on another machine, the weights do as well but their digest differs:
    the order of floating-point sums is the processor's.

    Returns:
        the description, as written to the JSON file.
    """
    settings = dict(_SHIPPED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        model = build_model(settings["model"], settings["channels"], settings["classes"])
    result = pretrain(
        model,
        size=settings["size"],
        channels=settings["channels"],
        seed=settings["seed"],
        patches=settings["patches"],
        epochs=settings["epochs"],
        progress=progress,
    )
    arrays = {name: array.numpy() for name, array in model.state_dict().items()}
    data = save(arrays)
    description = {
        **settings,
        "sha256": sha256(data),
        "phantom_auroc": round(result.phantom_auroc, 4),
        "command": _COMMAND,
        "date": datetime.now(UTC).date().isoformat(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{SHIPPED_NAME}.safetensors").write_bytes(data)
    (folder / f"{SHIPPED_NAME}.json").write_text(json.dumps(description, indent=2) + "\n")
    return description


def shipped_initial(
    name: str, size: int, channels: int, *, folder: Path | None = None
) -> dict[str, NDArray[np.float32]] | None:
    """The shipped weights of a model, or None when none were made for it.

    Args:
        name: model name as in ``common.models.build_model``.
        size: pixels a side.
        channels: image channels.
        folder: where the files are; the package's own by default.

    Returns:
        float32 arrays by parameter name, in the model's order, for two classes; None when model, size or
        channels are not those of the shipped weights.

    Raises:
        ValueError: the weights are not the described ones (the message has both digests).
        FileNotFoundError: the files are not there: the package is incomplete.
    """
    source = files("common") / "pretrained" if folder is None else folder
    description = json.loads((source / f"{SHIPPED_NAME}.json").read_text())
    asked = {"model": name, "size": size, "channels": channels}
    if any(description[key] != value for key, value in asked.items()):
        return None
    data = (source / f"{SHIPPED_NAME}.safetensors").read_bytes()
    found = sha256(data)
    if found != description["sha256"]:
        raise ValueError(
            f"the shipped weights {SHIPPED_NAME}.safetensors were changed: expected the SHA-256 "
            f"{description['sha256']}, found {found}; install the package again, or make them "
            f"anew with `{description['command']}`"
        )
    arrays = parse_weights(data, Path(f"{SHIPPED_NAME}.safetensors"))
    with torch.device("meta"):
        order = build_model(name, channels, description["classes"]).state_dict()
    return {key: arrays[key] for key in order}  # the file's own order is alphabetical


def _phantoms(count: int, size: int, seed: int, progress: Progress) -> tuple[Tensor, Tensor]:
    """(count, size, size) uint8 and (count,) int64, made in portions to report on the way."""
    grey, label = [], []
    for portion, start in enumerate(range(0, count, _PORTION)):
        # Portions differ by their high bits, so that neighbouring seeds share none of them.
        part = phantom_patches(min(_PORTION, count - start), size=size, seed=seed + (portion << 32))
        grey.append(to_grey8(part.hu))
        label.append(part.label)
        progress((start + len(part.label)) / count)
    return torch.cat(grey), torch.cat(label)


def _moved(average: Tensor, weights: Tensor, updates: Tensor | int) -> Tensor:
    """The moving average of the weights after one more step: short at first, then of 500 steps."""
    decay = min(0.998, (1 + int(updates)) / (10 + int(updates)))
    return torch.lerp(weights, average, decay)


def _inputs(grey: Tensor, channels: int) -> Tensor:
    """(N, H, W) in 0..1 -> (N, channels, H, W) as the hospitals prepare their images."""
    images = (grey[:, None] - _MEAN) / _DEVIATION
    return images.expand(-1, channels, -1, -1)


@torch.no_grad()
def _scores(model: nn.Module, grey: Tensor, channels: int) -> Tensor:
    """(N, H, W) in 0..1 -> (N,) logit of nodule minus logit of the rest."""
    model.eval()
    logits = torch.cat([model(_inputs(part, channels)) for part in torch.split(grey, 256)])
    model.train()
    return logits[:, 1] - logits[:, 0]
