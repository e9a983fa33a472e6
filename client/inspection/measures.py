"""What of each image the data report compares: a digest, three numbers, and a small picture."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from client.data.survey import Survey

GRID = 16  # pixels a side of the small picture: finer is noise, coarser is anatomy that all share
BINS = 70  # of the grey scale; 20 HU each in the usual window of 1400 HU
FEATURES = ("mean", "spread", "sharpness")

_PIXELS_AT_ONCE = 1 << 21  # 8 MB in float32, and a few copies of it

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Measures:
    """N images; grey is 0..1, the mean over the channels."""

    digests: tuple[bytes, ...]  # N: equal for equal pixels, whatever the depth and the file
    features: npt.NDArray[np.float64]  # (N, 3): see `features_of`
    spans: npt.NDArray[np.float64]  # (N,): highest minus lowest grey
    clipped: npt.NDArray[np.float64]  # (N,): share of pixels that are quite black or quite white
    small: Array  # (N, GRID * GRID): mean 0 and length 1, so that a product is a correlation
    histograms: npt.NDArray[np.float64]  # (2, BINS): share of each class's pixels


def measure(survey: Survey) -> Measures:
    """All images, a few megabytes at a time."""
    count, labels = len(survey), survey.labels
    size, _, channels = survey.cohort.training.pixels.shape[1:]
    most = max(1, _PIXELS_AT_ONCE // (size * size * channels))
    digests: list[bytes] = []
    features, small = np.empty((count, 3)), np.empty((count, GRID * GRID), np.float32)
    spans, clipped, histograms = np.empty(count), np.empty(count), np.zeros((2, BINS))
    for start in range(0, count, most):
        part = slice(start, min(start + most, count))
        images = survey.grey(np.arange(part.start, part.stop))
        digests += [
            hashlib.sha256(np.rint(one * 65535).astype(np.uint16)).digest() for one in images
        ]
        grey = images.mean(axis=-1)
        features[part] = features_of(grey)
        spans[part] = np.ptp(grey, axis=(1, 2))
        clipped[part] = ((grey <= 0) | (grey >= 1)).mean(axis=(1, 2))
        small[part] = _small(grey) if size > GRID else unit(grey)
        for label in (0, 1):
            chosen = grey[labels[part] == label]
            histograms[label] += np.histogram(chosen, BINS, (0, 1))[0]
    return Measures(
        digests=tuple(digests),
        features=features,
        spans=spans,
        clipped=clipped,
        small=small,
        histograms=histograms / np.maximum(histograms.sum(axis=1, keepdims=True), 1),
    )


def features_of(grey: Array) -> npt.NDArray[np.float64]:
    """(n, 3) of (n, height, width) in 0..1: mean, standard deviation, and mean step between neighbours.

    Their steps, down and right, are what a kernel sharpens, a thick slice blurs, and noise adds to.
    """
    down = np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2))
    right = np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    columns = (grey.mean(axis=(1, 2)), grey.std(axis=(1, 2)), (down + right) / 2)
    return np.stack(columns, axis=1).astype(np.float64)


def unit(grey: Array) -> Array:
    """(n, pixels) of (n, height, width): mean 0 and length 1 each; 0 for a constant image."""
    flat = grey.reshape(len(grey), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    found: Array = np.divide(flat, length, out=np.zeros_like(flat), where=length > 1e-6)
    return found


def _small(grey: Array) -> Array:
    pooled = functional.adaptive_avg_pool2d(torch.from_numpy(grey)[:, None], GRID)
    return unit(pooled[:, 0].numpy())
