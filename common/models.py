"""The networks that hospitals train: every one works under per-patient gradient clipping.

Two rules hold for all of them:

* No layer mixes the images of a batch. A statistic over the batch (BatchNorm) would let one
  patient's image reach another patient's gradient, and clipping would bound neither.
* Nothing is computed in place. Backward hooks (Opacus', and this project's own engine) see
  tensors that an in-place ReLU or ``out += identity`` would already have overwritten.

Shapes: N images, C channels, H rows, W columns; logits are (N, classes), before softmax.
Initial weights come from torch's global generator; callers who need them reproducible seed it
inside ``torch.random.fork_rng``.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from common.protocol import Trainable

_LEAST_INPUT_PIXELS = 16


class CompactCNN(nn.Module):
    """Four 3x3 convolutions with GroupNorm, about 60,000 weights, for patches of 32 to 64 pixels.

    Small on purpose: the noise of differential privacy grows with the number of weights while
    the clipped gradient does not.

    Args:
        channels: image channels C, usually 1 (CT) or 3.
        classes: number of logits.

    Input (N, C, H, W) float32, normalised, H and W of 16 or more; output (N, classes).
    """

    def __init__(self, channels: int = 1, classes: int = 2, *, width: int = 16) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int) -> list[nn.Module]:
            return [
                # No bias: the normalisation that follows would subtract it again.
                nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
                # Four channels a group keeps enough values per group even at 4x4 pixels.
                nn.GroupNorm(min(8, outputs // 4), outputs),
                nn.ReLU(),
            ]

        # In the comments, sizes for a 32-pixel patch and the default width.
        self.features = nn.Sequential(
            *stage(channels, width),  # (N, 16, 32, 32)
            nn.MaxPool2d(2),  # (N, 16, 16, 16)
            *stage(width, 2 * width),  # (N, 32, 16, 16)
            nn.MaxPool2d(2),  # (N, 32, 8, 8)
            *stage(2 * width, 4 * width),  # (N, 64, 8, 8)
            nn.MaxPool2d(2),  # (N, 64, 4, 4)
            *stage(4 * width, 4 * width),  # (N, 64, 4, 4)
        )
        self.classifier = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        _check_images(images)
        features = self.features(images)  # (N, 64, H/8, W/8)
        pooled = features.mean(dim=(2, 3))  # (N, 64)
        logits: Tensor = self.classifier(pooled)  # (N, classes)
        return logits


def freeze(model: nn.Module, trainable: Trainable) -> nn.Module:
    """`model`, with gradients only for what `trainable` names: all, normalisations and head, or head.

    The head is the last linear layer. What is frozen is neither trained nor noised.
    """
    modules = list(model.modules())
    head = [module for module in modules if isinstance(module, nn.Linear)][-1]
    norms = [module for module in modules if isinstance(module, nn.GroupNorm)]
    trained: dict[Trainable, list[nn.Module]] = {
        "all": modules,
        "norm-and-head": [*norms, head],
        "head": [head],
    }
    for module in modules:
        if module not in trained[trainable]:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
    return model


def _check_images(images: Tensor) -> None:
    if images.dim() != 4 or min(images.shape[2:]) < _LEAST_INPUT_PIXELS:
        raise ValueError(
            f"expected images (N, C, H, W) of at least {_LEAST_INPUT_PIXELS} pixels a side, "
            f"found the shape {tuple(images.shape)}"
        )


def _resnet18(channels: int, classes: int) -> nn.Module:
    from common import (
        resnet,  # torchvision takes a second or two that the compact CNN need not wait
    )

    return resnet.resnet18(channels, classes, resnet.group_norm)


def _resnet18_frozen_affine(channels: int, classes: int) -> nn.Module:
    from common import resnet

    return resnet.resnet18(channels, classes, resnet.FrozenAffine)


_BUILDERS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "compact-cnn": CompactCNN,
    "resnet18": _resnet18,
    "resnet18-frozen-affine": _resnet18_frozen_affine,
}

MODEL_NAMES: tuple[str, ...] = tuple(_BUILDERS)
"""Names that a study protocol may ask for."""


def build_model(name: str, channels: int, classes: int) -> nn.Module:
    """A new model with random weights, in training mode, on the CPU.

    Args:
        name: "compact-cnn", "resnet18" (GroupNorm) or "resnet18-frozen-affine" (meant for
            folded ImageNet weights, see ``common.resnet.fold_imagenet``; without them its layers
            are not normalised).
        channels: image channels, 1 or more.
        classes: number of logits, 2 or more.

    Raises:
        ValueError: unknown name (the message lists the known ones), or a number out of range.
    """
    if name not in _BUILDERS:
        raise ValueError(f"unknown model {name!r}; known are {', '.join(MODEL_NAMES)}")
    if channels < 1 or classes < 2:
        raise ValueError(
            f"a model needs at least 1 channel and 2 classes, found {channels} and {classes}"
        )
    return _BUILDERS[name](channels, classes)
