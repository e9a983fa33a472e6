"""Where a score comes from: part after part of the image is covered, and the score is read again.

(Zeiler and Fergus, ECCV 2014, by captum.) Grad-CAM was looked at on phantoms and is not here: in a network
of four layers whose last one is a mean over 4 x 4 places, the map of the last layer had .05 of its
mass within 8 of 32 pixels of a nodule, a fifth of the area, and that of the layer before .71 and a sign
that changed from image to image; occlusion has .80. What covers is the blurred image itself: a flat grey
is something that no CT shows, and the model takes it for tissue or air.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client.data.cohort import Pixels
from client.prediction.model import CardedModel
from common.symmetry import SYMMETRIES, turned

# Of the image's side. A cover of 3/16, 6 of 32 pixels, is the size of a small nodule.
_COVER, _STEP, _BLUR = 3 / 16, 1 / 16, 3 / 8
_COVERED_AT_ONCE = 32  # images in memory


@dataclass(frozen=True, eq=False)
class ScoreMap:
    """How the score of one image changes when a part is covered.

    `change` (size, size) is the mean fall of the score's logit over all covers that hold a pixel:
    above 0 where what is seen there speaks for the positive class, below where against it. `strongest`
    is the square as large as a cover over which `change` is largest either way: top, left, side in
    pixels; `score` and `covered` are the score before and with that square covered.
    """

    change: npt.NDArray[np.float32]
    strongest: tuple[int, int, int]
    score: float
    covered: float


def score_map(model: CardedModel, pixels: Pixels) -> ScoreMap:
    """The map of one image (size, size, channels), for the score that `CardedModel.scores` gives it."""
    from captum.attr import Occlusion  # loads for seconds

    image = model.views_of(pixels[np.newaxis]).views(np.zeros(1, np.int64))
    size, channels = image.shape[-1], image.shape[1]
    side, step = max(2, round(size * _COVER)), max(1, round(size * _STEP))
    score = _Logit(model)
    covers = _blurred(image, max(1, round(size * _BLUR)))
    with torch.no_grad():
        before = float(score(image)[0])
        found: Tensor = Occlusion(score).attribute(
            image,
            sliding_window_shapes=(channels, side, side),
            strides=(channels, step, step),
            baselines=covers,
            perturbations_per_eval=_COVERED_AT_ONCE,
        )
        change = found[0].mean(0)
        top, left = _strongest(change, side)
        one = image.clone()
        inside = (..., slice(top, top + side), slice(left, left + side))
        one[inside] = covers[inside]
        covered = float(score(one)[0])
    return ScoreMap(
        change=change.numpy().astype(np.float32),
        strongest=(top, left, side),
        score=float(torch.sigmoid(torch.tensor(before))),
        covered=float(torch.sigmoid(torch.tensor(covered))),
    )


class _Logit(nn.Module):
    """Images (N, C, H, W) -> the logit of each one's score (N,), also where that rounds to 0 or 1."""

    def __init__(self, model: CardedModel) -> None:
        super().__init__()
        self._network = model.network
        self._turns = range(SYMMETRIES if model.card.evaluation.flips_and_rotations else 1)

    def forward(self, images: Tensor) -> Tensor:
        each = [torch.log_softmax(self._network(turned(images, k)), dim=1) for k in self._turns]
        negative, positive = torch.logsumexp(torch.stack(each), dim=0).unbind(1)
        return positive - negative


def _blurred(images: Tensor, reach: int) -> Tensor:
    """Each pixel of (N, C, H, W) the mean of the square that reaches so far to each side."""
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    return F.avg_pool2d(padded, 2 * reach + 1, stride=1)


def _strongest(change: Tensor, side: int) -> tuple[int, int]:
    """Top and left of the square over which (H, W) `change` is largest in the mean, either way."""
    means = F.avg_pool2d(change[None, None], side, stride=1)[0, 0]
    at = int(means.abs().argmax())
    return at // means.shape[1], at % means.shape[1]
