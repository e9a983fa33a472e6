"""The networks that hospitals train: every one works under per-patient gradient clipping.

Two rules hold for all of them:

* No layer mixes the images of a batch. A statistic over the batch (BatchNorm) would let one
  patient's image reach another patient's gradient, and clipping would bound neither.
* Nothing is computed in place. Backward hooks (Opacus', and this project's own engine) see
  tensors that an in-place ReLU or ``out += identity`` would already have overwritten;
  torchvision's own ResNet fails under them for that reason. The ResNet18 here is written out
  with torchvision's parameter names, so weights made by torchvision load into it, and
  the coordinator needs no torchvision to build the model.

Shapes: N images, C channels, H rows, W columns; logits are (N, classes), before softmax.
Initial weights come from torch's global generator; callers who need them reproducible seed it
inside ``torch.random.fork_rng``.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

# torchvision's BatchNorm epsilon, needed to fold its running variance.
_BATCH_NORM_EPSILON = 1e-5
_LEAST_INPUT_PIXELS = 16


def _group_norm(channels: int, *, most_groups: int = 32) -> nn.GroupNorm:
    """GroupNorm with 32 groups, fewer in a narrow layer (Wu and He 2018, arXiv 1803.08494)."""
    return nn.GroupNorm(min(most_groups, channels), channels)


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
                _group_norm(outputs, most_groups=min(8, outputs // 4)),
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


class FrozenAffine(nn.Module):
    """``x * scale + shift`` per channel, never trained: what a BatchNorm is at prediction time.

    Args:
        channels: number of channels C. Input and output (N, C, H, W).

    ``scale`` and ``shift`` are buffers: in the state dict, but invisible to optimiser, clipping
    and noise.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("shift", torch.zeros(channels))

    def forward(self, images: Tensor) -> Tensor:
        """The affine map of (N, C, H, W), same shape."""
        return images * self.scale[:, None, None] + self.shift[:, None, None]


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; parameter names as in torchvision's BasicBlock."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = norm(outputs)
        # Two ReLU modules: a hooked module must be called once per forward pass.
        self.relu2 = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm(outputs)
            )

    def forward(self, images: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(images)))
        out = self.bn2(self.conv2(out))
        result: Tensor = self.relu2(out + self.downsample(images))  # not +=, see the module's rules
        return result


class ResNet18(nn.Module):
    """ResNet18 (He et al. 2016, arXiv 1512.03385), 11.2 million weights, nothing in place.

    Args:
        channels: image channels C, 1 or 3.
        classes: number of logits.
        norm: makes the normalisation layer for a number of channels; GroupNorm with 32 groups
            by default, ``FrozenAffine`` to carry folded BatchNorm weights.

    Input (N, C, H, W) float32, normalised, H and W of 16 or more (224 in the classic recipe);
    output (N, classes). Convolution weights start from He's normal initialisation, as in
    torchvision.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        *,
        norm: Callable[[int], nn.Module] = _group_norm,
    ) -> None:
        super().__init__()
        # In the comments, sizes for a 224-pixel image.
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(64)  # (N, 64, 112, 112)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)  # (N, 64, 56, 56)
        self.layer1 = self._stage(64, 64, 1, norm)  # (N, 64, 56, 56)
        self.layer2 = self._stage(64, 128, 2, norm)  # (N, 128, 28, 28)
        self.layer3 = self._stage(128, 256, 2, norm)  # (N, 256, 14, 14)
        self.layer4 = self._stage(256, 512, 2, norm)  # (N, 512, 7, 7)
        self.fc = nn.Linear(512, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(
        inputs: int, outputs: int, stride: int, norm: Callable[[int], nn.Module]
    ) -> nn.Sequential:
        return nn.Sequential(
            _BasicBlock(inputs, outputs, stride, norm), _BasicBlock(outputs, outputs, 1, norm)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        _check_images(images)
        out = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits: Tensor = self.fc(out.mean(dim=(2, 3)))
        return logits


def fold_imagenet(
    state_dict: Mapping[str, Tensor], *, channels: int = 1, classes: int = 2
) -> dict[str, Tensor]:
    """Turn a BatchNorm ResNet18's state into that of the "resnet18-frozen-affine" model.

    Args:
        state_dict: as torchvision's ``resnet18(weights="IMAGENET1K_V1").state_dict()`` gives it.
        channels: 3 keeps the first convolution; 1 sums it over red, green and blue, which gives
            a grey image the same activations as the same image repeated three times.
        classes: the new classifier's size. It starts anew (torch's default initialisation):
            ImageNet's thousand classes mean nothing here.

    Returns:
        a state dict that ``ResNet18(channels, classes, norm=FrozenAffine)`` loads strictly.

    Raises:
        ValueError: ``channels`` is neither 1 nor 3, or the state is not that of a ResNet18
            with BatchNorm; the message names the first differing array.

    A BatchNorm in evaluation mode is ``(x - mean) / sqrt(var + eps) * weight + bias``, so
    ``scale = weight / sqrt(var + eps)`` and ``shift = bias - mean * scale``.
    """
    if channels not in (1, 3):
        raise ValueError(f"ImageNet weights fit 1 or 3 channels, not {channels}")
    target = ResNet18(channels, classes, norm=FrozenAffine).state_dict()
    folded: dict[str, Tensor] = {}
    for name, like in target.items():
        try:
            folded[name] = _folded_array(name, like, state_dict, channels)
        except KeyError as missing:
            raise ValueError(
                f"not the state of a ResNet18 with BatchNorm: {missing} is missing"
            ) from None
        if folded[name].shape != like.shape:
            raise ValueError(
                f"not the state of a ResNet18 with BatchNorm: {name} should have the shape "
                f"{tuple(like.shape)}, found {tuple(folded[name].shape)}"
            )
    return folded


def _folded_array(name: str, like: Tensor, state: Mapping[str, Tensor], channels: int) -> Tensor:
    layer, _, kind = name.rpartition(".")
    if layer == "fc":
        return like
    if kind in ("scale", "shift"):
        variance = state[f"{layer}.running_var"]
        scale = state[f"{layer}.weight"] / torch.sqrt(variance + _BATCH_NORM_EPSILON)
        if kind == "scale":
            return scale
        return state[f"{layer}.bias"] - state[f"{layer}.running_mean"] * scale
    weight = state[name]
    if name == "conv1.weight" and channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight.clone()


def _check_images(images: Tensor) -> None:
    if images.dim() != 4 or min(images.shape[2:]) < _LEAST_INPUT_PIXELS:
        raise ValueError(
            f"expected images (N, C, H, W) of at least {_LEAST_INPUT_PIXELS} pixels a side, "
            f"found the shape {tuple(images.shape)}"
        )


def _resnet18_group(channels: int, classes: int) -> nn.Module:
    return ResNet18(channels, classes)


def _resnet18_frozen_affine(channels: int, classes: int) -> nn.Module:
    return ResNet18(channels, classes, norm=FrozenAffine)


_BUILDERS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "compact-cnn": CompactCNN,
    "resnet18": _resnet18_group,
    "resnet18-frozen-affine": _resnet18_frozen_affine,
}

MODEL_NAMES: tuple[str, ...] = tuple(_BUILDERS)
"""Names that a study protocol may ask for."""


def build_model(name: str, channels: int, classes: int) -> nn.Module:
    """A new model with random weights, in training mode, on the CPU.

    Args:
        name: "compact-cnn", "resnet18" (GroupNorm) or "resnet18-frozen-affine" (meant for folded
            ImageNet weights, see ``fold_imagenet``; without them its layers are not normalised).
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
