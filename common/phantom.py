"""Procedural lung-CT patches in Hounsfield units (HU): public data made of nothing but geometry.

For first runs, tests and pre-training. No patient's image went into it, so training on it
costs no privacy; the more its patches look like real ones, the less the hospitals' own images
have to teach under noise.

A patch is a small volume, seen as one slice:

1. **lung**: aerated tissue with texture (`_lung`);
2. **anatomy** painted on, in millimetres: vessel trees and airways that run through the slice
   (`_trees`, `_airways`), chest wall, ribs and diaphragm (`_walls`), fissures and scars (`_bands`);
3. **the centre**: a nodule, or one of the things that look like one (`_nodules`; `KINDS`);
4. **acquisition** (`_acquire`): mean over the slice's thickness, the scanner's point spread
   function, sharpening kernel and noise.

Shapes inside: B patches at a time, Z planes within the slice, P = size * size pixels; a volume
is (B, Z, P), a value per patch (B, 1, 1). Lengths are mm. Everything random comes from one
generator made of the caller's seed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW_HU = (-1000.0, 400.0)
"""The fixed window (HU) between black and white, the usual lung window of nodule data sets."""

# Chance of each kind of centre. Nodules: mostly solid, about a tenth subsolid, as in screening
# (Henschke 2002, doi 10.2214/ajr.178.5.1781053); a fifth to a quarter touch the pleura.
NODULE_KINDS: Mapping[str, float] = {
    "solid": 0.27,
    "spiculated": 0.10,
    "calcified": 0.08,
    "part-solid": 0.05,
    "ground-glass": 0.07,
    "juxta-pleural": 0.23,
    "vessel-attached": 0.20,
}
# What detectors of candidates mistake for nodules: vessels first, then the pleura.
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

_PLANES = 3  # Z: enough to soften what crosses the slice at an angle
_BATCH_PIXELS = 64 * 32 * 32  # bounds memory: fewer patches at a time when they are large
_MOST_BACKGROUND_TREES = 8
_FAR_MM = 1000.0


@dataclass(frozen=True)
class Scanner:
    """How a hospital's scanner images: ranges (low, high) are drawn uniformly per patch.

    Attributes:
        name: for reports.
        spacing_mm: pixel size in the slice, mm. The field of view is size * spacing.
        slice_thickness_mm: mm; thick slices blur what crosses them.
        psf_sigma_px: Gaussian point spread function, pixels.
        sharpening: weight of the unsharp mask of the reconstruction kernel, 0 = none.
        noise_hu: median over patches of the noise's standard deviation, HU.
        offset_hu: calibration error added to every pixel, HU.
    """

    name: str
    spacing_mm: tuple[float, float]
    slice_thickness_mm: tuple[float, float]
    psf_sigma_px: tuple[float, float]
    sharpening: tuple[float, float]
    noise_hu: float
    offset_hu: float


SCANNERS: Mapping[str, Scanner] = {
    scanner.name: scanner
    for scanner in (
        Scanner("soft-kernel", (0.60, 0.80), (1.0, 1.5), (0.6, 0.9), (0.0, 0.0), 15.0, 0.0),
        Scanner("sharp-kernel", (0.55, 0.75), (0.6, 1.25), (0.35, 0.5), (0.5, 1.4), 40.0, 8.0),
        Scanner("low-dose", (0.65, 0.85), (1.0, 2.0), (0.5, 0.8), (0.0, 0.6), 55.0, -6.0),
        Scanner("thick-slice", (0.65, 0.90), (2.0, 3.0), (0.6, 1.0), (0.0, 0.3), 20.0, 12.0),
    )
}
"""Four invented hospitals' scanners, by name: alike enough to learn from, different enough to see.
The differences between kernels and doses are of the size reported for real ones."""

MIXED = Scanner("mixed", (0.55, 0.90), (0.6, 3.0), (0.35, 1.0), (0.0, 1.2), 25.0, 0.0)
"""The whole range, for pre-training."""


@dataclass(frozen=True)
class Phantoms:
    """N synthetic patches.

    Attributes:
        hu: (N, 1, size, size) float32, HU, not clipped.
        label: (N,) int64, 1 = a nodule in the centre.
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

    The candidate sits in the centre, whatever the size; a larger patch shows more of the lung
    round it. The same seed with another count or size gives other patches. Torch's global
    generator is neither read nor moved.

    Args:
        count: number of patches, 0 or more.
        size: pixels a side, 16 or more.
        seed: any integer from 0 to 2**63 - 1.
        scanner: how the patches are imaged.
        nodule_fraction: share of nodules, 0 to 1, met to the nearest patch.

    Raises:
        ValueError: an argument out of range.
    """
    if count < 0 or size < 16 or not 0 <= nodule_fraction <= 1:
        raise ValueError(
            "expected count >= 0, size >= 16 and nodule_fraction within 0..1, found "
            f"{count}, {size} and {nodule_fraction}"
        )
    draw = _Draw(torch.Generator().manual_seed(seed))
    label = torch.zeros(count, dtype=torch.int64)
    label[draw.permutation(count)[: round(count * nodule_fraction)]] = 1
    nodule, mimic = (torch.tensor(list(k.values())) for k in (NODULE_KINDS, MIMIC_KINDS))
    kind = torch.where(
        label == 1, draw.choice(nodule, count), len(nodule) + draw.choice(mimic, count)
    )
    batch = max(1, _BATCH_PIXELS // size**2)
    images = [_images(part, size, scanner, draw) for part in torch.split(kind, batch) if len(part)]
    hu = torch.cat(images) if images else torch.zeros(0, 1, size, size)
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


@dataclass(frozen=True)
class _Draw:
    """Random numbers from one generator; every method returns float32 unless it says otherwise."""

    generator: torch.Generator

    def uniform(self, low: float | Tensor, high: float | Tensor, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def log_normal(
        self, median: float, spread: float, low: float, high: float, *shape: int
    ) -> Tensor:
        """Median times exp(normal * spread), clipped."""
        return (median * torch.exp(self.normal(*shape) * spread)).clamp(low, high)

    def chance(self, probability: float | Tensor, *shape: int) -> Tensor:
        """Bool."""
        return torch.rand(*shape, generator=self.generator) < probability

    def choice(self, weights: Tensor, count: int) -> Tensor:
        """(count,) int64 indices into ``weights``."""
        if count == 0:
            return torch.zeros(0, dtype=torch.int64)
        return torch.multinomial(weights, count, replacement=True, generator=self.generator)

    def permutation(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.generator)

    def direction(self, *shape: int, axial: float = 1.0) -> Tensor:
        """Unit vectors (*shape, 3); ``axial`` > 1 leans them out of the slice, < 1 into it."""
        return F.normalize(self.normal(*shape, 3) * torch.tensor([1.0, 1.0, axial]), dim=-1)


@dataclass
class _Scene:
    """What is being painted: B patches, each a volume of Z planes."""

    draw: _Draw
    kind: Tensor  # (B,) index into KINDS
    size: int
    spacing: Tensor  # (B, 1, 1) mm per pixel
    points: Tensor  # (B, Z, P, 3) mm, origin in the centre of the patch
    soft_hu: Tensor  # (B, 1, 1) HU of muscle and other soft tissue
    blood_hu: Tensor  # (B, 1, 1) HU of vessels, higher where contrast agent was given
    edge: Tensor  # (B, 1, 1) mm over which a border blurs
    hu: Tensor  # (B, Z, P)

    @property
    def batch(self) -> int:
        return len(self.kind)

    @property
    def field(self) -> float:
        """Half the field of view, mm, of the batch's widest patch."""
        return self.size / 2 * float(self.spacing.max())

    def of_kind(self, *names: str) -> Tensor:
        """(B,) bool: which patches are of one of these kinds."""
        return torch.isin(self.kind, torch.tensor([KINDS.index(name) for name in names]))

    def paint(self, cover: Tensor, hu: Tensor) -> None:
        """Lift to ``hu`` where ``cover`` (0..1) says so; never darkens what is there."""
        self.hu = torch.maximum(self.hu, self.hu + (hu - self.hu) * cover)

    def carve(self, cover: Tensor, hu: Tensor | float) -> None:
        """Replace by ``hu`` where ``cover`` (0..1) says so."""
        self.hu = self.hu + (hu - self.hu) * cover

    def texture(self, cell_mm: float) -> Tensor:
        """(B, 1, P) smooth random field, mean 0, deviation about 0.7, bumps of ``cell_mm``."""
        cells = max(2, round(2 * self.field / cell_mm)) + 1
        field = F.interpolate(
            self.draw.normal(self.batch, 1, cells, cells),
            size=(self.size, self.size),
            mode="bicubic",
            align_corners=False,
        )
        return field.reshape(self.batch, 1, -1)

    def per_patch(self, low: float, high: float) -> Tensor:
        """(B, 1, 1) uniform."""
        return self.draw.uniform(low, high, self.batch, 1, 1)

    def some(self, probability: float) -> Tensor:
        """(B,) bool, each with this probability."""
        return self.draw.chance(probability, self.batch)


@dataclass(frozen=True)
class _Tubes:
    """S straight tubes per patch, mm: vessels, airways, ribs, spicules."""

    start: Tensor  # (B, S, 3)
    direction: Tensor  # (B, S, 3), unit
    length: Tensor  # (B, S)
    radius: Tensor  # (B, S) at the start
    end_radius: Tensor  # (B, S)
    present: Tensor  # (B, S) bool

    def depth(self, points: Tensor) -> Tensor:
        """(B, Z, P) how deep each point lies within the tubes, mm, negative outside."""
        low, high = points[..., 2].amin((1, 2)) - 2.0, points[..., 2].amax((1, 2)) + 2.0
        top = self.start[..., 2] + self.direction[..., 2] * self.length
        below = torch.maximum(self.start[..., 2], top) + self.radius < low[:, None]
        above = torch.minimum(self.start[..., 2], top) - self.radius > high[:, None]
        seen = self.present & ~below & ~above  # most background vessels miss the slice
        depth = torch.full(points.shape[:-1], -_FAR_MM)
        # Patch by patch: a few tubes over one patch stay in the processor's cache.
        for patch, tubes in enumerate(seen):
            if tubes.any():
                depth[patch] = self._depth_of(patch, tubes, points[patch])
        return depth

    def _depth_of(self, patch: int, tubes: Tensor, points: Tensor) -> Tensor:
        """(Z, P): the same for one patch (Z, P, 3) and some of its tubes."""
        start, direction = self.start[patch, tubes], self.direction[patch, tubes]  # (S, 3)
        length, radius = self.length[patch, tubes, None], self.radius[patch, tubes, None]
        taper = (self.end_radius[patch, tubes, None] - radius) / length
        flat = points.reshape(-1, 3).T  # (3, Z*P)
        along = direction @ flat - (direction * start).sum(-1, keepdim=True)  # (S, Z*P)
        # |point - start|^2 multiplied out: no (S, Z*P, 3) array is needed.
        squared = start.square().sum(-1, keepdim=True) - 2 * start @ flat + flat.square().sum(0)
        nearest = torch.minimum(along.clamp_min(0), length)
        distance = (squared - nearest * (2 * along - nearest)).clamp_min(1e-6).sqrt()
        return (radius + taper * nearest - distance).amax(0).reshape(points.shape[:-1])


def _joined(*parts: _Tubes) -> _Tubes:
    names = [field.name for field in fields(_Tubes)]
    return _Tubes(*(torch.cat([getattr(part, name) for part in parts], 1) for name in names))


def _images(kind: Tensor, size: int, scanner: Scanner, draw: _Draw) -> Tensor:
    """(B, 1, size, size) HU: one batch of patches of the given kinds."""
    scene = _lung(kind, size, scanner, draw)
    nodule = _nodule(scene)
    _paint_bands(scene)
    _paint_vessels(scene, nodule)
    _paint_airways(scene)
    _paint_walls(scene, nodule)
    _paint_nodule(scene, nodule)
    return _acquire(scene, scanner)


def _lung(kind: Tensor, size: int, scanner: Scanner, draw: _Draw) -> _Scene:
    """Aerated lung: -900 to -770 HU, with texture, and now and then a haze."""
    batch = len(kind)
    spacing = draw.uniform(*scanner.spacing_mm, batch, 1, 1)
    thickness = draw.uniform(*scanner.slice_thickness_mm, batch, 1, 1)
    rows, columns = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 2, indexing="ij")
    plane = torch.stack([columns.flatten(), rows.flatten()], -1)  # (P, 2) pixels
    height = torch.linspace(-1, 1, _PLANES)[None, :, None] * thickness / 3  # (B, Z, 1)
    points = torch.cat(
        [
            (plane * spacing)[:, None].expand(-1, _PLANES, -1, -1),
            height[..., None].expand(-1, -1, size**2, -1),
        ],
        -1,
    )
    soft_hu = draw.uniform(-40.0, 90.0, batch, 1, 1)
    contrast = draw.chance(0.4, batch, 1, 1) * draw.uniform(40.0, 260.0, batch, 1, 1)
    edge = draw.uniform(0.2, 0.5, batch, 1, 1)
    empty = torch.zeros(batch, _PLANES, size**2)
    scene = _Scene(draw, kind, size, spacing, points, soft_hu, soft_hu + contrast, edge, empty)
    air = scene.per_patch(-900.0, -770.0)
    air = air + scene.texture(7.0) * scene.per_patch(0, 40)
    air = air + scene.texture(2.5) * scene.per_patch(0, 60)
    haze = torch.sigmoid(4 * (scene.texture(6.0) - 1)) * scene.some(0.15)[:, None, None]
    scene.hu = (air + haze * scene.per_patch(70, 420)).expand(-1, _PLANES, -1)
    # Anatomy is never straight: one smooth displacement bends all that is painted from here on.
    bend = torch.stack([scene.texture(9.0), scene.texture(9.0)], -1) * 0.8
    scene.points = torch.cat([points[..., :2] + bend, points[..., 2:]], -1)
    return scene


@dataclass(frozen=True)
class _Nodule:
    """The nodule of each patch; drawn for all, painted only where the kind is a nodule."""

    centre: Tensor  # (B, 3) mm
    radius: Tensor  # (B,) mm


def _nodule(scene: _Scene) -> _Nodule:
    """Diameters of 3 to 30 mm (the definition of a nodule, Fleischner glossary 2008,
    doi 10.1148/radiol.2462070712), median 7; the slice seldom passes through the middle."""
    draw, batch = scene.draw, scene.batch
    radius = draw.log_normal(3.4, 0.5, 1.5, 15.0, batch)
    aside = draw.normal(batch, 2) * 0.6
    above = draw.uniform(-0.45, 0.45, batch) * radius
    return _Nodule(torch.cat([aside, above[:, None]], -1), radius)


def _tree(
    scene: _Scene, root: Tensor, radius: Tensor, present: Tensor, *, straight: Tensor | None = None
) -> _Tubes:
    """One vessel that comes to ``root`` (B, 3) and divides there, and divides again.

    Each branch is thinner than its parent by about the cube root of 2 (Murray's law).
    Where ``straight`` (B,), the vessel runs on through the root, with hardly a side branch.
    """
    draw, batch = scene.draw, scene.batch
    straight = torch.zeros(batch, dtype=torch.bool) if straight is None else straight
    trunk = draw.direction(batch)
    reach = draw.uniform(6.0, 20.0, batch) + 0.2 * scene.field

    def branches(
        parent: Tensor, start: Tensor, thick: Tensor, spread: Tensor, on: Tensor
    ) -> _Tubes:
        count = parent.shape[1]
        heading = F.normalize(parent + draw.normal(batch, count, 3) * spread[:, None, None], dim=-1)
        begin = thick * draw.uniform(0.65, 0.95, batch, count)
        length = draw.uniform(3.0, 14.0, batch, count) + 0.1 * scene.field
        return _Tubes(start, heading, length, begin, begin * 0.85, on)

    stem = _Tubes(
        (root - trunk * reach[:, None])[:, None],
        trunk[:, None],
        reach[:, None],
        radius[:, None] * draw.uniform(1.0, 1.25, batch, 1),
        radius[:, None],
        present[:, None],
    )
    twice = torch.tensor([0, 0])
    spread = draw.uniform(0.3, 0.8, batch) * torch.where(straight, 0.25, 1.0)
    side = draw.chance(torch.where(straight, 0.15, 0.9)[:, None], batch, 2)
    side[:, 0] = True
    first = branches(
        trunk[:, None][:, twice],
        root[:, None].expand(-1, 2, -1),
        radius[:, None].expand(-1, 2),
        spread,
        side & present[:, None],
    )
    pairs = torch.tensor([0, 0, 1, 1])
    ends = first.start + first.direction * first.length[..., None]
    second = branches(
        first.direction[:, pairs],
        ends[:, pairs],
        first.end_radius[:, pairs],
        draw.uniform(0.3, 0.8, batch),
        first.present[:, pairs] & draw.chance(0.6, batch, 4),
    )
    return _joined(stem, first, second)


def _paint_vessels(scene: _Scene, nodule: _Nodule) -> None:
    """Trees in the background, and those that belong to the centre."""
    draw, batch = scene.draw, scene.batch
    everywhere = torch.tensor([scene.field * 1.1, scene.field * 1.1, 6.0])
    crowd = draw.uniform(0.1, 0.95, batch)
    trees = [
        _tree(
            scene,
            draw.uniform(-everywhere, everywhere, batch, 3),
            draw.log_normal(0.6, 0.4, 0.25, 2.0, batch),
            draw.chance(crowd, batch),
        )
        for _ in range(min(_MOST_BACKGROUND_TREES, max(3, round(scene.field / 4))))
    ]
    middle = draw.normal(batch, 3) * 0.6
    thick = draw.log_normal(1.15, 0.4, 0.5, 3.5, batch)
    hilum = scene.of_kind("hilum")
    thick = torch.where(hilum, draw.uniform(2.0, 5.5, batch), thick)
    vessel = scene.of_kind("vessel")
    central = vessel | hilum | scene.of_kind("bifurcation")
    central = central | (scene.of_kind("pleura") & scene.some(0.4))
    trees.append(_tree(scene, middle, thick, central, straight=vessel))
    beside = middle + draw.direction(batch, axial=0.3) * draw.uniform(2.0, 8.0, batch, 1)
    trees.append(
        _tree(
            scene, beside, thick * 0.8, hilum | scene.of_kind("airway") | (vessel & scene.some(0.3))
        )
    )
    # Vessels that feed a nodule start at its centre; a nodule on a vessel sits on a passing one.
    fed = scene.of_kind("vessel-attached") | (
        scene.of_kind("solid", "spiculated") & scene.some(0.3)
    )
    feeding = (nodule.radius * draw.uniform(0.15, 0.45, batch)).clamp(0.35, 1.6)
    trees.append(_tree(scene, nodule.centre, feeding, fed, straight=scene.some(0.5)))
    spiculated = scene.of_kind("spiculated")[:, None].expand(-1, 8)
    spicules = _Tubes(
        nodule.centre[:, None].expand(-1, 8, -1),
        draw.direction(batch, 8, axial=0.4),
        nodule.radius[:, None] * draw.uniform(1.2, 2.2, batch, 8),
        torch.full((batch, 8), 0.7),
        torch.full((batch, 8), 0.1),
        spiculated & draw.chance(0.8, batch, 8),
    )
    depth = _joined(*trees, spicules).depth(scene.points)
    scene.paint(torch.sigmoid(depth / scene.edge), scene.blood_hu + scene.texture(4.0) * 15)


def _paint_airways(scene: _Scene) -> None:
    """A bronchus: a wall of about a sixth of its diameter round air, seen at any angle."""
    draw, batch = scene.draw, scene.batch
    near = scene.of_kind("airway", "hilum")
    present = near | scene.some(0.12)
    distance = torch.where(
        near, draw.uniform(0.0, 6.0, batch), draw.uniform(5.0, scene.field, batch)
    )
    heading = draw.direction(batch, axial=1.5)
    middle = draw.direction(batch, axial=0.2) * distance[:, None]
    radius = draw.log_normal(1.9, 0.4, 1.0, 5.0, batch)[:, None]
    length = torch.full((batch, 1), 30.0)
    tube = _Tubes(
        (middle - heading * 15)[:, None], heading[:, None], length, radius, radius, present[:, None]
    )
    wall = tube.depth(scene.points)
    scene.paint(torch.sigmoid(wall / scene.edge), scene.soft_hu - 60)
    lumen = wall - (0.5 + 0.17 * radius[..., None])
    scene.carve(torch.sigmoid(lumen / scene.edge), -960.0)


def _paint_walls(scene: _Scene, nodule: _Nodule) -> None:
    """Chest wall (hollow, with fat and ribs), diaphragm and mediastinum (bulging, uniform)."""
    draw, batch = scene.draw, scene.batch
    pleura, attached, hilum = (scene.of_kind(k) for k in ("pleura", "juxta-pleural", "hilum"))
    first = torch.where(
        attached,
        nodule.radius * draw.uniform(-0.3, 1.0, batch),
        torch.where(pleura, draw.uniform(-3.0, 3.5, batch), draw.uniform(4.0, scene.field, batch)),
    )
    first = torch.where(hilum, draw.uniform(-2.0, 7.0, batch), first)
    often = pleura | attached | scene.some(0.33)
    second = torch.where(
        pleura, draw.uniform(-1.0, 8.0, batch), draw.uniform(6.0, scene.field, batch)
    )
    for distance, present in ((first, often), (second, often & scene.some(0.3))):
        _paint_wall(scene, distance, present)


def _paint_wall(scene: _Scene, distance: Tensor, present: Tensor) -> None:
    """Tissue beyond a curved surface ``distance`` (B,) mm from the centre, where ``present``."""
    draw, batch = scene.draw, scene.batch
    normal = draw.direction(batch, axial=0.5)
    along = (scene.points @ normal[:, None, :, None])[..., 0]  # (B, Z, P)
    lateral = scene.points.square().sum(-1) - along.square()
    hollow = scene.some(0.5)[:, None, None]
    curvature = torch.where(hollow, 1.0, -1.0) / scene.per_patch(18, 130)
    bumps = scene.texture(4.5) * scene.per_patch(0, 0.8)
    depth = along - distance[:, None, None] + curvature * lateral / 2 + bumps
    there = present[:, None, None]
    tissue = scene.soft_hu + scene.texture(4.0) * 25
    tissue = torch.where(hollow | (draw.uniform(0, 1, batch, 1, 1) < 0.5), tissue, scene.blood_hu)
    scene.paint(torch.sigmoid(depth / scene.edge) * there, tissue)
    # Under the muscle of the chest wall lie fat (about -100 HU) and the ribs.
    chest = there & hollow
    fat = torch.sigmoid((depth - scene.per_patch(2, 9)) / 0.6) * (
        chest & scene.some(0.6)[:, None, None]
    )
    scene.carve(fat, -95 + scene.texture(5.0) * 25)
    tangent = F.normalize(torch.linalg.cross(normal, draw.direction(batch, axial=1.5)), dim=-1)
    below = normal * (distance + draw.uniform(4.5, 9.0, batch))[:, None]
    thick = draw.uniform(2.5, 4.5, batch)[:, None]
    ribs = chest[:, :, 0] & scene.some(0.6)[:, None]
    rib = _Tubes(
        (below - tangent * 40)[:, None],
        tangent[:, None],
        torch.full((batch, 1), 80.0),
        thick,
        thick,
        ribs,
    ).depth(scene.points)
    scene.paint(torch.sigmoid(rib / scene.edge), scene.per_patch(350, 900))
    scene.carve(torch.sigmoid((rib - 1.3) / scene.edge) * 0.9, scene.per_patch(80, 350))


def _paint_bands(scene: _Scene) -> None:
    """Fissures (thin sheets) and scars (thicker), cut at any angle."""
    draw, batch = scene.draw, scene.batch
    scar = scene.of_kind("scar")
    normal = draw.direction(batch, axial=0.7)
    offset = torch.where(scar, draw.normal(batch) * 0.7, draw.uniform(-1, 1, batch) * scene.field)
    away = (scene.points @ normal[:, None, :, None])[..., 0] - offset[:, None, None]
    away = away + scene.texture(6.0) * 0.6
    half = torch.where(scar, draw.uniform(0.5, 1.4, batch), draw.uniform(0.3, 0.7, batch))
    sheet = (
        torch.exp(-((away / half[:, None, None]) ** 2)) * (scar | scene.some(0.1))[:, None, None]
    )
    scene.paint(sheet, scene.per_patch(-600, -100))


def _paint_nodule(scene: _Scene, nodule: _Nodule) -> None:
    """An uneven ellipsoid; its HU by kind (solid: soft tissue; ground glass: -750 to -300)."""
    present = scene.of_kind(*NODULE_KINDS)[:, None, None]
    offset = scene.points - nodule.centre[:, None, None]
    turn, flat = scene.per_patch(0, math.pi), scene.per_patch(0.72, 1.0)
    across = (turn.cos() * offset[..., 0] + turn.sin() * offset[..., 1]) * flat
    other = (turn.cos() * offset[..., 1] - turn.sin() * offset[..., 0]) / flat
    tall = offset[..., 2] * scene.per_patch(0.8, 1.2)
    radius = nodule.radius[:, None, None]
    uneven = scene.texture(4.5) * scene.per_patch(0, 0.22) * radius
    depth = radius - (across**2 + other**2 + tall**2).sqrt() - uneven

    glassy, part = (scene.of_kind(k)[:, None, None] for k in ("ground-glass", "part-solid"))
    calcified = scene.of_kind("calcified")[:, None, None]
    hu = scene.soft_hu + scene.per_patch(-110, 60)
    hu = torch.where(calcified, scene.per_patch(180, 700), hu)
    hu = torch.where(glassy | part, scene.per_patch(-700, -350), hu)
    hu = hu + scene.texture(3.0) * scene.per_patch(0, 60)
    edge = torch.where(
        glassy | part, scene.per_patch(0.5, 1.5), scene.edge * scene.per_patch(0.8, 1.6)
    )
    scene.paint(torch.sigmoid(depth / edge) * present, hu)
    core = torch.sigmoid((depth - radius * scene.per_patch(0.4, 0.7)) / scene.edge)
    scene.paint(core * part, scene.soft_hu)
    # A few nodules hold a cavity.
    hole = present & (scene.some(0.04) & (nodule.radius > 4))[:, None, None] & ~glassy
    cavity = torch.sigmoid((depth - radius * scene.per_patch(0.4, 0.6)) / scene.edge)
    scene.carve(cavity * hole, -900.0)


def _acquire(scene: _Scene, scanner: Scanner) -> Tensor:
    """(B, 1, size, size) HU: what the scanner makes of the volume."""
    draw, batch, size = scene.draw, scene.batch, scene.size
    image = scene.hu.mean(1).reshape(1, batch, size, size)
    image = _blurred(image, draw.uniform(*scanner.psf_sigma_px, batch))
    # An unsharp mask stands for the edge enhancement of lung kernels; most patches get little.
    low, high = scanner.sharpening
    sharp = low + (high - low) * draw.uniform(0, 1, batch, 1, 1) ** 2
    image = image + sharp * (image - _blurred(image, torch.ones(batch)))
    sigma = draw.log_normal(scanner.noise_hu, 0.6, 3.0, 150.0, batch, 1, 1)
    image = image[0] + sigma * _noise(scene) + scanner.offset_hu
    return image[:, None].float()


def _blurred(images: Tensor, sigma_px: Tensor) -> Tensor:
    """(1, B, H, W) convolved with a Gaussian of its own width, (B,) pixels, each."""
    reach = 4
    steps = torch.arange(-reach, reach + 1.0)
    kernel = torch.exp(-0.5 * (steps / sigma_px[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, None]  # (B, 1, 9)
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[:, :, None], groups=len(kernel))
    return F.conv2d(rows, kernel[..., None], groups=len(kernel))


def _noise(scene: _Scene) -> Tensor:
    """(B, size, size), deviation 1: the spectrum of filtered back projection.

    A ramp cut off by the kernel (Boedeker 2007, doi 10.1088/0031-9155/52/14/002); where few photons get
    through (shoulders, low dose), streaks along one direction.
    """
    draw, size = scene.draw, scene.size
    vertical = torch.fft.fftfreq(size)[:, None]  # cycles per pixel
    horizontal = torch.fft.fftfreq(size)[None, :]
    frequency = (vertical**2 + horizontal**2).sqrt()
    ramp = (frequency + 0.03) ** scene.per_patch(0.0, 1.0)
    cut = torch.exp(-((frequency / scene.per_patch(0.2, 0.7)) ** 2))
    tilt = draw.normal(scene.batch, 1, 1) * 0.25
    along = horizontal * tilt.cos() + vertical * tilt.sin()
    streak_px = scene.per_patch(2.0, 12.0) * scene.some(0.25)[:, None, None]
    spectrum = ramp * cut * torch.exp(-((along * streak_px) ** 2))
    noise = torch.fft.ifft2(torch.fft.fft2(draw.normal(scene.batch, size, size)) * spectrum).real
    return noise / noise.std(dim=(1, 2), keepdim=True)
