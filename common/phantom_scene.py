"""The thin volume in which a phantom is painted: its points, its random numbers, its brush, its tubes.

Shapes as in `common.phantom`: B patches, P = size * size pixels, V = 3 * P points, S tubes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

# Shares of what is in the centre: chosen by eye, not measured. Most nodules are solid, some
# subsolid; many touch a vessel or the pleura.
NODULE_KINDS: Mapping[str, float] = {
    "solid": 0.28,
    "spiculated": 0.10,
    "calcified": 0.08,
    "part-solid": 0.06,
    "ground-glass": 0.06,
    "juxta-pleural": 0.22,
    "vessel-attached": 0.20,
}
# What candidate detectors take for nodules, vessels and pleura most of all; chosen as well.
MIMIC_KINDS: Mapping[str, float] = {
    "vessel": 0.30,
    "bifurcation": 0.22,
    "hilum": 0.08,
    "pleura": 0.20,
    "scar": 0.08,
    "airway": 0.08,
    "lung": 0.04,
}
KINDS: tuple[str, ...] = (*NODULE_KINDS, *MIMIC_KINDS)
"""Every value that ``Phantoms.kind`` can take; the nodules come first."""

PLANES = 3  # enough to soften what crosses the slice at an angle
FAR_MM = 1000.0


@dataclass(frozen=True)
class Scanner:
    """How a hospital's scanner images. Ranges (low, high) are drawn uniformly, patch by patch.

    Attributes:
        name: for reports.
        spacing_mm: pixel size in the slice, mm; the field of view is size * spacing.
        slice_thickness_mm: mm; a thick slice blurs what crosses it.
        psf_sigma_px: Gaussian point spread, pixels.
        sharpening: weight of the reconstruction kernel's unsharp mask, 0 = none; low values
            are drawn more often than high ones.
        noise_hu: median over patches of the noise's standard deviation, HU.
        offset_hu: calibration error of every pixel, HU.
    """

    name: str
    spacing_mm: tuple[float, float]
    slice_thickness_mm: tuple[float, float]
    psf_sigma_px: tuple[float, float]
    sharpening: tuple[float, float]
    noise_hu: float
    offset_hu: float


class Scene:
    """What is being painted: B thin volumes, their random numbers and their brush."""

    def __init__(
        self, kind: Tensor, size: int, scanner: Scanner, generator: torch.Generator
    ) -> None:
        self.kind, self.size, self.generator = kind, size, generator
        self.batch = len(kind)
        spacing = self.uniform(*scanner.spacing_mm)
        self.field = size / 2 * float(spacing.max())  # mm, half the widest field of view
        steps = torch.arange(size) - (size - 1) / 2
        row, column = torch.meshgrid(steps, steps, indexing="ij")
        thickness = self.uniform(*scanner.slice_thickness_mm)
        planes = torch.linspace(-1, 1, PLANES) / 3 * thickness  # (B, 3)
        self.points = torch.stack(
            [
                (column.flatten() * spacing).repeat(1, PLANES),
                (row.flatten() * spacing).repeat(1, PLANES),
                planes.repeat_interleave(size**2, dim=1),
            ],
            dim=-1,
        )
        self.hu = torch.zeros(self.batch, PLANES * size**2)
        self.edge = self.uniform(0.2, 0.5)  # mm over which borders blur
        self.soft_hu = self.uniform(-40, 90)  # muscle, water and partial volume
        # Four in ten were given a contrast agent, which brightens blood.
        self.blood_hu = self.soft_hu + self.chance(0.4) * self.uniform(40, 260)

    def uniform(self, low: float | Tensor, high: float | Tensor, columns: int = 1) -> Tensor:
        """(B, columns)"""
        return torch.rand(self.batch, columns, generator=self.generator) * (high - low) + low

    def normal(self, columns: int = 1) -> Tensor:
        """(B, columns)"""
        return torch.randn(self.batch, columns, generator=self.generator)

    def around(self, median: float, spread: float, low: float, high: float) -> Tensor:
        """(B, 1) log-normal with ``spread`` the deviation of the logarithm, clipped."""
        return (median * torch.exp(spread * self.normal())).clamp(low, high)

    def chance(self, probability: float | Tensor, columns: int = 1) -> Tensor:
        """(B, columns) bool"""
        return torch.rand(self.batch, columns, generator=self.generator) < probability

    def direction(self, columns: int = 1, *, axial: float = 1.0) -> Tensor:
        """(B, columns, 3) unit vectors; ``axial`` > 1 leans them across the slice, < 1 into it."""
        vectors = torch.randn(self.batch, columns, 3, generator=self.generator)
        return F.normalize(vectors * torch.tensor([1.0, 1.0, axial]), dim=-1)

    def texture(self, bump_mm: float) -> Tensor:
        """(B, V) smooth field, the same in all planes: mean 0, deviation about 0.7."""
        cells = max(2, round(2 * self.field / bump_mm)) + 1
        field = F.interpolate(
            self.normal(cells**2).reshape(self.batch, 1, cells, cells),
            size=(self.size, self.size),
            mode="bicubic",
        )
        return field.reshape(self.batch, -1).repeat(1, PLANES)

    def of_kind(self, *names: str) -> Tensor:
        """(B, 1) bool: which patches are of one of these kinds."""
        wanted = torch.tensor([KINDS.index(name) for name in names])
        return torch.isin(self.kind, wanted)[:, None]

    def inside(self, depth: Tensor) -> Tensor:
        """0..1: cover of what is ``depth`` mm below a surface, with this patch's blurred border."""
        return torch.sigmoid(depth / self.edge)

    def lift(self, cover: Tensor, hu: Tensor | float) -> None:
        """Brighten to ``hu`` where ``cover`` (0..1) says so; what is brighter stays."""
        self.hu = self.hu + (hu - self.hu).clamp_min(0) * cover

    def carve(self, cover: Tensor, hu: Tensor | float) -> None:
        """Replace by ``hu`` where ``cover`` (0..1) says so."""
        self.hu = self.hu + (hu - self.hu) * cover


@dataclass(frozen=True)
class Tubes:
    """S straight tubes per patch, mm: vessels, airways, ribs, spicules."""

    start: Tensor  # (B, S, 3)
    direction: Tensor  # (B, S, 3), unit
    length: Tensor  # (B, S)
    radius: Tensor  # (B, S) at the start
    end_radius: Tensor  # (B, S)
    present: Tensor  # (B, S) bool

    @property
    def end(self) -> Tensor:
        return self.start + self.direction * self.length[..., None]

    def depth(self, points: Tensor) -> Tensor:
        """(B, V) mm from each point (B, V, 3) out to the tubes' surface, negative outside."""
        height, ends = points[..., 2], torch.stack([self.start[..., 2], self.end[..., 2]])
        thick = torch.maximum(self.radius, self.end_radius) + 2.0  # and the blurred border
        seen = self.present & (ends.amax(0) + thick > height.amin(1, keepdim=True))
        seen = seen & (ends.amin(0) - thick < height.amax(1, keepdim=True))
        depth = torch.full(points.shape[:2], -FAR_MM)
        # Patch by patch: most tubes miss the slice, and a few fit the processor's cache.
        for patch, tubes in enumerate(seen):
            if tubes.any():
                depth[patch] = self._depth_in(patch, tubes, points[patch].T)
        return depth

    def _depth_in(self, patch: int, tubes: Tensor, points: Tensor) -> Tensor:
        """(V,): the same for some tubes of one patch, points (3, V)."""
        start, direction = self.start[patch, tubes], self.direction[patch, tubes]  # (S, 3)
        length, radius = self.length[patch, tubes, None], self.radius[patch, tubes, None]
        taper = (self.end_radius[patch, tubes, None] - radius) / length
        along = direction @ points - (direction * start).sum(-1, keepdim=True)  # (S, V)
        # |point - start|^2 multiplied out: no (S, V, 3) array is needed.
        squared = start.square().sum(-1, keepdim=True) - 2 * start @ points
        nearest = torch.minimum(along.clamp_min(0), length)
        squared = squared + points.square().sum(0) - nearest * (2 * along - nearest)
        return (radius + taper * nearest - squared.clamp_min(1e-6).sqrt()).amax(0)


def joined(*parts: Tubes) -> Tubes:
    names = [field.name for field in fields(Tubes)]
    return Tubes(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in names))
