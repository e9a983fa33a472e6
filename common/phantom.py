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

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW_HU = (-1000.0, 400.0)
"""The fixed window, black to white, of the usual nodule data sets."""

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

_PLANES = 3  # enough to soften what crosses the slice at an angle
_BATCH_PIXELS = 64 * 32 * 32  # bounds memory: fewer patches at a time when they are large
_MOST_TREES = 10  # of background vessels, however large the patch
_FAR_MM = 1000.0


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


class _Scene:
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
        planes = torch.linspace(-1, 1, _PLANES) / 3 * thickness  # (B, 3)
        self.points = torch.stack(
            [
                (column.flatten() * spacing).repeat(1, _PLANES),
                (row.flatten() * spacing).repeat(1, _PLANES),
                planes.repeat_interleave(size**2, dim=1),
            ],
            dim=-1,
        )
        self.hu = torch.zeros(self.batch, _PLANES * size**2)
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
        return field.reshape(self.batch, -1).repeat(1, _PLANES)

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
class _Tubes:
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
        depth = torch.full(points.shape[:2], -_FAR_MM)
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


def _joined(*parts: _Tubes) -> _Tubes:
    names = [field.name for field in fields(_Tubes)]
    return _Tubes(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in names))


def _images(kind: Tensor, size: int, scanner: Scanner, generator: torch.Generator) -> Tensor:
    """(B, 1, size, size) HU: patches with the given centres, ``kind`` (B,) indexing ``KINDS``."""
    scene = _Scene(kind, size, scanner, generator)
    # Diameters are log-normal about 7 mm. By definition a nodule has at most 30 mm
    # (Fleischner glossary, doi 10.1148/radiol.2462070712); data sets list them from 3 mm.
    radius = scene.around(3.5, 0.5, 1.5, 15.0)
    # The slice seldom meets the middle, and a detector's mark is off by a pixel.
    aside, above = scene.normal(2) * 0.6, scene.uniform(-0.45, 0.45) * radius
    centre = torch.cat([aside, above], dim=1)[:, None]  # (B, 1, 3)
    _paint_lung(scene)
    _paint_bands(scene)
    _paint_vessels(scene, centre, radius)
    _paint_airways(scene)
    _paint_walls(scene, radius)
    _paint_nodules(scene, centre, radius)
    return _acquired(scene, scanner)


def _paint_lung(scene: _Scene) -> None:
    """Aerated lung of -930 to -770 HU with two scales of texture; a haze in one of seven."""
    scene.hu = scene.uniform(-930, -770) + scene.texture(7.0) * scene.uniform(0, 40)
    scene.hu = scene.hu + scene.texture(2.5) * scene.uniform(0, 60)
    haze = torch.sigmoid(4 * (scene.texture(6.0) - 1)) * scene.chance(0.15)
    scene.hu = scene.hu + haze * scene.uniform(70, 420)
    # Anatomy is never straight: one smooth displacement bends all that is painted later.
    for axis in (0, 1):
        scene.points[..., axis] += scene.texture(9.0) * scene.uniform(0, 1)


def _paint_bands(scene: _Scene) -> None:
    """Fissures (thin sheets between lobes) and scars (thicker), cut at any angle."""
    scar = scene.of_kind("scar")
    offset = torch.where(scar, 0.7 * scene.normal(), scene.uniform(-1, 1) * scene.field)
    away = (scene.points * scene.direction(axial=0.7)).sum(-1) - offset + 0.6 * scene.texture(6.0)
    half = torch.where(scar, scene.uniform(0.5, 1.4), scene.uniform(0.3, 0.7))
    present = scar | scene.chance(0.1)
    scene.lift(torch.exp(-((away / half) ** 2)) * present, scene.uniform(-600, -100))


def _tree(
    scene: _Scene, root: Tensor, radius: Tensor, present: Tensor, *, side_branch: Tensor | float
) -> _Tubes:
    """Seven tubes: a vessel comes to ``root`` (B, 1, 3), divides there and divides again.

    A branch has 0.6 to 0.95 of its parent's radius (Murray's law: 0.79 where both are alike).
    Without a side branch, which comes with that probability, the vessel just runs on.
    """
    trunk, reach = scene.direction(), scene.uniform(6, 20) + 0.2 * scene.field
    stem = _Tubes(
        root - trunk * reach[..., None],
        trunk,
        reach,
        radius * scene.uniform(1, 1.25),
        radius,
        present,
    )
    divides = scene.chance(side_branch)

    def branches(parent: _Tubes, spread: Tensor, on: Tensor) -> _Tubes:
        start = parent.end.repeat_interleave(2, dim=1)
        count = start.shape[1]
        turn = scene.normal(3 * count).reshape(-1, count, 3) * spread[..., None]
        heading = F.normalize(parent.direction.repeat_interleave(2, dim=1) + turn, dim=-1)
        thick = parent.end_radius.repeat_interleave(2, dim=1) * scene.uniform(0.6, 0.95, count)
        length = scene.uniform(3, 14, count) + 0.1 * scene.field
        return _Tubes(start, heading, length, thick, 0.85 * thick, on)

    spread = scene.uniform(0.3, 0.8)
    first = branches(
        stem, spread * (0.25 + 0.75 * divides), present & torch.cat([present, divides], 1)
    )
    on = first.present.repeat_interleave(2, dim=1) & scene.chance(0.6, 4)
    return _joined(stem, first, branches(first, spread, on))


def _paint_vessels(scene: _Scene, centre: Tensor, radius: Tensor) -> None:
    """Vessel trees: all over the lung, in the centre as mimics, at a nodule; and spicules."""
    reach = torch.tensor([1.1 * scene.field, 1.1 * scene.field, 6.0])
    crowd = scene.uniform(0.1, 0.95)
    trees = [
        _tree(
            scene,
            scene.uniform(-reach, reach, 3)[:, None],
            scene.around(0.6, 0.4, 0.25, 2.0),
            scene.chance(crowd),
            side_branch=0.9,
        )
        for _ in range(min(_MOST_TREES, max(3, round(scene.field / 3))))
    ]
    vessel, hilum, pleura = (scene.of_kind(name) for name in ("vessel", "hilum", "pleura"))
    thick = torch.where(hilum, scene.uniform(2, 5.5), scene.around(1.15, 0.4, 0.5, 3.5))
    middle = 0.6 * scene.normal(3)[:, None]
    central = vessel | hilum | scene.of_kind("bifurcation") | (pleura & scene.chance(0.4))
    trees.append(_tree(scene, middle, thick, central, side_branch=0.9 - 0.7 * vessel.float()))
    # Arteries run beside airways, and often beside veins.
    beside = middle + scene.direction(axial=0.3) * scene.uniform(2, 8)[..., None]
    pair = hilum | scene.of_kind("airway") | (vessel & scene.chance(0.3))
    trees.append(_tree(scene, beside, 0.8 * thick, pair, side_branch=0.5))
    # A vessel leads to many nodules, and through some.
    fed = scene.of_kind("vessel-attached") | (
        scene.of_kind("solid", "spiculated") & scene.chance(0.3)
    )
    feeding = (radius * scene.uniform(0.15, 0.45)).clamp(0.35, 1.6)
    trees.append(_tree(scene, centre, feeding, fed, side_branch=0.3))
    count = 8
    spicules = _Tubes(
        centre.expand(-1, count, -1),
        scene.direction(count, axial=0.4),
        radius * scene.uniform(1.2, 2.2, count),
        torch.full((scene.batch, count), 0.7),
        torch.full((scene.batch, count), 0.1),
        scene.of_kind("spiculated") & scene.chance(0.8, count),
    )
    depth = _joined(*trees, spicules).depth(scene.points)
    scene.lift(scene.inside(depth), scene.blood_hu + 15 * scene.texture(4.0))


def _paint_airways(scene: _Scene) -> None:
    """Bronchi: air in a wall of 0.5 mm and more, cut at any angle."""
    near = scene.of_kind("airway", "hilum")
    distance = torch.where(near, scene.uniform(0, 6), scene.uniform(5, scene.field))
    heading, length = scene.direction(axial=1.5), torch.full((scene.batch, 1), 30.0)
    middle = scene.direction(axial=0.2) * distance[..., None]
    radius = scene.around(1.9, 0.4, 1.0, 5.0)
    present = near | scene.chance(0.12)
    tube = _Tubes(middle - 15 * heading, heading, length, radius, radius, present)
    depth = tube.depth(scene.points)
    scene.lift(scene.inside(depth), scene.soft_hu - 60)
    scene.carve(scene.inside(depth - 0.5 - 0.17 * radius), -960.0)


def _paint_walls(scene: _Scene, radius: Tensor) -> None:
    """Pleura with what lies beyond: where a kind asks for it, and in a third of the others."""
    pleura, attached = scene.of_kind("pleura"), scene.of_kind("juxta-pleural")
    near = torch.where(pleura, scene.uniform(-3, 3.5), scene.uniform(4, scene.field))
    near = torch.where(attached, radius * scene.uniform(-0.3, 1.0), near)
    near = torch.where(scene.of_kind("hilum"), scene.uniform(-2, 7), near)
    present = pleura | attached | scene.chance(0.33)
    _paint_wall(scene, near, present)
    far = torch.where(pleura, scene.uniform(-1, 8), scene.uniform(6, scene.field))
    _paint_wall(scene, far, present & scene.chance(0.3))


def _paint_wall(scene: _Scene, distance: Tensor, present: Tensor) -> None:
    """Tissue beyond a curved surface, ``distance`` (B, 1) mm from the patch's centre.

    Hollow seen from the lung it is the chest wall, with fat and ribs; bulging it is the
    diaphragm, the heart or a great vessel.
    """
    normal, hollow = scene.direction(axial=0.5), scene.chance(0.5)
    along = (scene.points * normal).sum(-1)
    lateral = scene.points.square().sum(-1) - along.square()
    curvature = torch.where(hollow, 1.0, -1.0) / scene.uniform(18, 130)
    bumps = scene.texture(4.5) * scene.uniform(0, 0.6)
    depth = along - distance + curvature * lateral / 2 + bumps
    hu = torch.where(hollow | scene.chance(0.5), scene.soft_hu, scene.blood_hu)
    scene.lift(scene.inside(depth) * present, hu + 25 * scene.texture(4.0))
    chest = present & hollow
    fat = scene.inside(depth - scene.uniform(2, 9)) * (chest & scene.chance(0.6))
    scene.carve(fat, -95 + 25 * scene.texture(5.0))
    tangent = F.normalize(torch.linalg.cross(normal, scene.direction(axial=1.5)), dim=-1)
    below = normal * (distance + scene.uniform(4.5, 9))[..., None]
    length, thick = torch.full((scene.batch, 1), 80.0), scene.uniform(2.5, 4.5)
    rib = _Tubes(below - 40 * tangent, tangent, length, thick, thick, chest & scene.chance(0.6))
    bone = rib.depth(scene.points)
    scene.lift(scene.inside(bone), scene.uniform(350, 900))  # the cortex, about 1.3 mm
    scene.carve(0.9 * scene.inside(bone - 1.3), scene.uniform(80, 350))  # the marrow


def _paint_nodules(scene: _Scene, centre: Tensor, radius: Tensor) -> None:
    """Uneven ellipsoids: soft tissue, calcium, ground glass (-700 to -350 HU), or a core in it."""
    present = scene.of_kind(*NODULE_KINDS)
    offset = scene.points - centre
    turn, flat = scene.uniform(0, math.pi), scene.uniform(0.72, 1)
    across = (turn.cos() * offset[..., 0] + turn.sin() * offset[..., 1]) * flat
    other = (turn.cos() * offset[..., 1] - turn.sin() * offset[..., 0]) / flat
    tall = offset[..., 2] * scene.uniform(0.8, 1.2)
    uneven = scene.texture(4.5) * scene.uniform(0, 0.22) * radius
    depth = radius - (across**2 + other**2 + tall**2).sqrt() - uneven

    part_solid = scene.of_kind("part-solid")
    glassy = part_solid | scene.of_kind("ground-glass")
    hu = scene.soft_hu + scene.uniform(-80, 80)
    hu = torch.where(scene.of_kind("calcified"), scene.uniform(180, 700), hu)
    hu = torch.where(glassy, scene.uniform(-700, -350), hu)
    border = torch.where(glassy, scene.uniform(0.5, 1.5), scene.edge * scene.uniform(0.8, 1.6))
    grain = scene.texture(3.0) * scene.uniform(0, 60)
    scene.lift(torch.sigmoid(depth / border) * present, hu + grain)
    core = scene.inside(depth - radius * scene.uniform(0.4, 0.7))
    scene.lift(core * part_solid, scene.soft_hu)
    cavity = present & ~glassy & (radius > 4) & scene.chance(0.04)
    scene.carve(scene.inside(depth - radius * scene.uniform(0.4, 0.6)) * cavity, -900.0)


def _acquired(scene: _Scene, scanner: Scanner) -> Tensor:
    """(B, 1, size, size) HU: what the scanner makes of the volume."""
    slices = scene.hu.reshape(scene.batch, _PLANES, scene.size, scene.size).mean(1)
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


def _noise(scene: _Scene) -> Tensor:
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
