"""torchvision's ResNet18 for per-patient gradients: GroupNorm or frozen affine, nothing in place.

Apart from `common.models`, because importing torchvision takes a second or two that a study with the
compact CNN need not wait for.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

BATCH_NORM_EPSILON = 1e-5  # torchvision's, needed to fold its running variance
GROUPS = 32  # Wu and He 2018, arXiv 1803.08494


class FrozenAffine(nn.Module):
    """`x * scale + shift` per channel, never trained: what a BatchNorm is at prediction time.

    Input and output (N, channels, H, W). `scale` and `shift` are buffers: part of the model's
    state, but invisible to optimizer, clipping and noise.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("shift", torch.zeros(channels))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale[:, None, None] + self.shift[:, None, None]


class OutOfPlaceBlock(BasicBlock):  # type: ignore[misc]  # torchvision has no types
    """torchvision's block with `out + identity` in place of `out += identity`.

    Hooks that record activations (Opacus') fail on a tensor that is overwritten after they saw it.
    """

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        result: Tensor = self.relu(out + identity)
        return result


def group_norm(channels: int) -> nn.Module:
    """GroupNorm with 32 groups, fewer in a narrow layer."""
    return nn.GroupNorm(min(GROUPS, channels), channels)


def resnet18(channels: int, classes: int, norm: Callable[[int], nn.Module]) -> nn.Module:
    """ResNet18 (He et al. 2016, arXiv 1512.03385) with the normalisation layers that `norm` makes.

    Input (N, channels, H, W) float32, normalised, 224 pixels in the classic recipe and 32 or more;
    output (N, classes).
    """
    model: nn.Module = ResNet(OutOfPlaceBlock, [2, 2, 2, 2], num_classes=classes, norm_layer=norm)
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


def fold_imagenet(state: Mapping[str, Tensor], *, channels: int, classes: int) -> dict[str, Tensor]:
    """torchvision's BatchNorm ResNet18 `state` as that of `resnet18(..., norm=FrozenAffine)`.

    A BatchNorm in evaluation mode is (x - mean) / sqrt(var + eps) * weight + bias, so its scale is
    weight / sqrt(var + eps) and its shift is bias - mean * scale. With one channel the first
    convolution is summed over red, green and blue, which gives a grey image the activations of the
    same image repeated three times. The classifier starts anew: ImageNet's thousand classes mean
    nothing here. ValueError names the first array that is missing or has another shape.
    """
    if channels not in (1, 3):
        raise ValueError(f"ImageNet weights fit 1 or 3 channels, not {channels}")
    folded = {}
    for name, like in resnet18(channels, classes, FrozenAffine).state_dict().items():
        try:
            array = _folded(name, like, state, channels)
        except KeyError as missing:
            raise ValueError(f"not a ResNet18 with BatchNorm: {missing} is missing") from None
        if array.shape != like.shape:
            raise ValueError(
                f"not a ResNet18 with BatchNorm: {name} should have shape {tuple(like.shape)}, "
                f"found {tuple(array.shape)}"
            )
        folded[name] = array
    return folded


def _folded(name: str, like: Tensor, state: Mapping[str, Tensor], channels: int) -> Tensor:
    layer, _, kind = name.rpartition(".")
    if layer == "fc":
        return like
    if kind in ("scale", "shift"):
        deviation = torch.sqrt(state[f"{layer}.running_var"] + BATCH_NORM_EPSILON)
        scale = state[f"{layer}.weight"] / deviation
        if kind == "scale":
            return scale
        return state[f"{layer}.bias"] - state[f"{layer}.running_mean"] * scale
    if name == "conv1.weight" and channels == 1:
        return state[name].sum(dim=1, keepdim=True)
    return state[name].clone()
