"""Procedural lung-CT patches in Hounsfield units (HU): public data made of nothing but geometry.

For first runs, tests and pre-training. No image is copied into it or fitted by it, so training
on it costs a hospital's patients no privacy; and the more its patches look like real ones, the
less the hospitals' own images have to teach under noise. Not blind to data, though: its author
looked at public LUNA16 patches and moved lung, noise and nodule ranges towards their grey-level
percentiles, so results on LUNA16 are a check of realism and not independent evidence.

A patch is a thin volume, made in the order of `_images`:

1. lung, with texture, haze and a smooth displacement that bends all that follows;
2. fissures and scars, vessel trees, airways, chest wall and diaphragm, in millimetres;
3. a nodule in the centre, where the patch has one; else one of the things that look like one;
4. the scanner: mean over the slice's thickness, point spread, sharpening kernel, noise.

Shapes inside: B patches at a time, P = size * size pixels, V = 3 * P points of the volume's three
planes, S tubes. One value per patch is (B, 1), a volume (B, V), places (B, V, 3) in mm from the
patch's centre, x and y in the slice, z across it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from common.phantom_anatomy import paint
from common.phantom_scene import KINDS, MIMIC_KINDS, NODULE_KINDS, PLANES, Scanner, Scene

__all__ = [
    "KINDS",
    "MIMIC_KINDS",
    "MIXED",
    "NODULE_KINDS",
    "SCANNERS",
    "WINDOW_HU",
    "Phantoms",
    "Scanner",
    "phantom_patches",
    "to_grey8",
]

WINDOW_HU = (-1000.0, 400.0)
"""The fixed window, black to white, of the usual nodule data sets."""

_BATCH_PIXELS = 64 * 32 * 32  # bounds memory: fewer patches at a time when they are large


SCANNERS: Mapping[str, Scanner] = {
    scanner.name: scanner
    for scanner in (
        Scanner("soft-kernel", (0.60, 0.80), (1.0, 1.5), (0.6, 0.9), (0.0, 0.0), 15.0, 0.0),
        Scanner("sharp-kernel", (0.55, 0.75), (0.6, 1.25), (0.35, 0.5), (0.5, 1.4), 40.0, 8.0),
        Scanner("low-dose", (0.65, 0.85), (1.0, 2.0), (0.5, 0.8), (0.0, 0.6), 55.0, -6.0),
        Scanner("thick-slice", (0.65, 0.90), (2.0, 3.0), (0.6, 1.0), (0.0, 0.3), 20.0, 12.0),
    )
}
"""Four invented hospitals' scanners by name: alike enough to learn together, different enough
that it shows."""

MIXED = Scanner("mixed", (0.55, 0.90), (0.6, 3.0), (0.35, 1.0), (0.0, 1.4), 30.0, 0.0)
"""The range of them all, for pre-training."""


@dataclass(frozen=True)
class Phantoms:
    """N synthetic patches.

    Attributes:
        hu: (N, 1, size, size) float32, HU, not clipped.
        label: (N,) int64, 1 = a nodule in the centre, 0 = none.
        kind: N names out of ``KINDS``.
    """

    hu: Tensor
    label: Tensor
    kind: tuple[str, ...]


def phantom_patches(
    count: int,
    *,
    size: int = 32,
    seed: int,
    scanner: Scanner = MIXED,
    nodule_fraction: float = 0.5,
) -> Phantoms:
    """Make ``count`` patches of ``size`` pixels a side; the same arguments give the same patches.

    The candidate is in the centre whatever the size: a larger patch shows more lung round it.
    Another count or size gives other patches, not more of the same. Torch's global generator
    is neither read nor moved.

    Args:
        count: number of patches, 0 or more.
        size: pixels a side, 16 or more.
        seed: 0 to 2**63 - 1.
        scanner: how the patches are imaged.
        nodule_fraction: share of nodules, 0 to 1, met to the nearest patch.

    Raises:
        ValueError: count, size or nodule_fraction out of range.
    """
    if count < 0 or size < 16 or not 0 <= nodule_fraction <= 1:
        raise ValueError(
            "expected count >= 0, size >= 16 and nodule_fraction within 0..1, found "
            f"{count}, {size} and {nodule_fraction}"
        )
    generator = torch.Generator().manual_seed(seed)
    label = torch.zeros(count, dtype=torch.int64)
    label[torch.randperm(count, generator=generator)[: round(count * nodule_fraction)]] = 1
    kind = torch.zeros_like(label)
    for value, shares in ((1, NODULE_KINDS), (0, MIMIC_KINDS)):
        weights = torch.tensor([shares.get(name, 0.0) for name in KINDS])
        if (chosen := label == value).any():
            kind[chosen] = torch.multinomial(
                weights, int(chosen.sum()), replacement=True, generator=generator
            )
    hu = torch.zeros(count, 1, size, size)
    batch = max(1, _BATCH_PIXELS // size**2)
    for start in range(0, count, batch):
        rows = slice(start, start + batch)
        hu[rows] = _images(kind[rows], size, scanner, generator)
    return Phantoms(hu, label, tuple(KINDS[index] for index in kind.tolist()))


def to_grey8(hu: Tensor) -> Tensor:
    """Clip HU to ``WINDOW_HU`` and round to 8 bit, as patches are stored.

    Args:
        hu: (N, 1, H, W) or (N, H, W), HU.

    Returns:
        (N, H, W) uint8, 0 = -1000 HU and below, 255 = 400 HU and above; one step is 5.5 HU.
    """
    low, high = WINDOW_HU
    grey = ((hu - low) / (high - low)).clamp(0, 1) * 255
    return grey.round().to(torch.uint8).reshape(-1, *hu.shape[-2:])


def _images(kind: Tensor, size: int, scanner: Scanner, generator: torch.Generator) -> Tensor:
    """(B, 1, size, size) HU: patches with the given centres, ``kind`` (B,) indexing ``KINDS``."""
    scene = Scene(kind, size, scanner, generator)
    # Diameters are log-normal about 7 mm. By definition a nodule has at most 30 mm
    # (Fleischner glossary, doi 10.1148/radiol.2462070712); data sets list them from 3 mm.
    radius = scene.around(3.5, 0.5, 1.5, 15.0)
    # The slice seldom meets the middle, and a detector's mark is off by a pixel.
    aside, above = scene.normal(2) * 0.6, scene.uniform(-0.45, 0.45) * radius
    centre = torch.cat([aside, above], dim=1)[:, None]  # (B, 1, 3)
    paint(scene, centre, radius)
    return _acquired(scene, scanner)


def _acquired(scene: Scene, scanner: Scanner) -> Tensor:
    """(B, 1, size, size) HU: what the scanner makes of the volume."""
    slices = scene.hu.reshape(scene.batch, PLANES, scene.size, scene.size).mean(1)
    image = _blurred(slices, scene.uniform(*scanner.psf_sigma_px))
    low, high = scanner.sharpening
    sharpening = low + (high - low) * scene.uniform(0, 1)[..., None] ** 2
    image = image + sharpening * (image - _blurred(image, torch.ones(scene.batch, 1)))
    sigma = scene.around(scanner.noise_hu, 0.7, 3.0, 200.0)
    return (image + sigma[..., None] * _noise(scene) + scanner.offset_hu)[:, None]


def _blurred(images: Tensor, sigma_px: Tensor) -> Tensor:
    """(B, H, W), each convolved with a Gaussian of its own width, (B, 1) pixels."""
    reach = 4
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1.0) / sigma_px) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, None]  # (B, 1, 9)
    padded = F.pad(images[None], (reach,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[:, :, None], groups=len(kernel))
    return F.conv2d(rows, kernel[..., None], groups=len(kernel))[0]


def _noise(scene: Scene) -> Tensor:
    """(B, size, size), deviation 1, with the spectrum of filtered back projection.

    A ramp that the kernel cuts off; where few photons get through (low dose, shoulders), streaks
    roughly along the rows.
    """
    frequencies = torch.fft.fftfreq(scene.size)  # cycles per pixel
    vertical, horizontal = torch.meshgrid(frequencies, frequencies, indexing="ij")
    frequency = (vertical**2 + horizontal**2).sqrt()
    ramp = (frequency + 0.03) ** scene.uniform(0, 1)[..., None]
    kernel = torch.exp(-((frequency / scene.uniform(0.2, 0.7)[..., None]) ** 2))
    tilt = 0.25 * scene.normal()[..., None]
    along = horizontal * tilt.cos() + vertical * tilt.sin()
    streak_px = (scene.uniform(2, 12) * scene.chance(0.25))[..., None]
    spectrum = ramp * kernel * torch.exp(-((along * streak_px) ** 2))
    white = scene.normal(scene.size**2).reshape(spectrum.shape)
    noise: Tensor = torch.fft.ifft2(torch.fft.fft2(white) * spectrum).real
    return noise / noise.std(dim=(1, 2), keepdim=True)
