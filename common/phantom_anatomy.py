"""What is painted into a phantom: lung, vessels, airways, chest wall, nodules and what looks like them.

Each function but `paint` paints one thing into a `Scene`, in HU and millimetres.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from common.phantom_scene import NODULE_KINDS, Scene, Tubes, joined

MOST_TREES = 10  # of background vessels, however large the patch


def paint(scene: Scene, centre: Tensor, radius: Tensor) -> None:
    """All of it, in an order in which the later lies over the earlier.

    `centre` (B, 1, 3) mm is where a patch's own finding is, `radius` (B, 1) mm how large.
    """
    paint_lung(scene)
    paint_bands(scene)
    paint_vessels(scene, centre, radius)
    paint_airways(scene)
    paint_walls(scene, radius)
    paint_nodules(scene, centre, radius)


def paint_lung(scene: Scene) -> None:
    """Aerated lung of -930 to -770 HU with two scales of texture; a haze in one of seven."""
    scene.hu = scene.uniform(-930, -770) + scene.texture(7.0) * scene.uniform(0, 40)
    scene.hu = scene.hu + scene.texture(2.5) * scene.uniform(0, 60)
    haze = torch.sigmoid(4 * (scene.texture(6.0) - 1)) * scene.chance(0.15)
    scene.hu = scene.hu + haze * scene.uniform(70, 420)
    # Anatomy is never straight: one smooth displacement bends all that is painted later.
    for axis in (0, 1):
        scene.points[..., axis] += scene.texture(9.0) * scene.uniform(0, 1)


def paint_bands(scene: Scene) -> None:
    """Fissures (thin sheets between lobes) and scars (thicker), cut at any angle."""
    scar = scene.of_kind("scar")
    offset = torch.where(scar, 0.7 * scene.normal(), scene.uniform(-1, 1) * scene.field)
    away = (scene.points * scene.direction(axial=0.7)).sum(-1) - offset + 0.6 * scene.texture(6.0)
    half = torch.where(scar, scene.uniform(0.5, 1.4), scene.uniform(0.3, 0.7))
    present = scar | scene.chance(0.1)
    scene.lift(torch.exp(-((away / half) ** 2)) * present, scene.uniform(-600, -100))


def _tree(
    scene: Scene, root: Tensor, radius: Tensor, present: Tensor, *, side_branch: Tensor | float
) -> Tubes:
    """Seven tubes: a vessel comes to ``root`` (B, 1, 3), divides there and divides again.

    A branch has 0.6 to 0.95 of its parent's radius (Murray's law: 0.79 where both are alike).
    Without a side branch, which comes with that probability, the vessel just runs on.
    """
    trunk, reach = scene.direction(), scene.uniform(6, 20) + 0.2 * scene.field
    stem = Tubes(
        root - trunk * reach[..., None],
        trunk,
        reach,
        radius * scene.uniform(1, 1.25),
        radius,
        present,
    )
    divides = scene.chance(side_branch)

    def branches(parent: Tubes, spread: Tensor, on: Tensor) -> Tubes:
        start = parent.end.repeat_interleave(2, dim=1)
        count = start.shape[1]
        turn = scene.normal(3 * count).reshape(-1, count, 3) * spread[..., None]
        heading = F.normalize(parent.direction.repeat_interleave(2, dim=1) + turn, dim=-1)
        thick = parent.end_radius.repeat_interleave(2, dim=1) * scene.uniform(0.6, 0.95, count)
        length = scene.uniform(3, 14, count) + 0.1 * scene.field
        return Tubes(start, heading, length, thick, 0.85 * thick, on)

    spread = scene.uniform(0.3, 0.8)
    first = branches(
        stem, spread * (0.25 + 0.75 * divides), present & torch.cat([present, divides], 1)
    )
    on = first.present.repeat_interleave(2, dim=1) & scene.chance(0.6, 4)
    return joined(stem, first, branches(first, spread, on))


def paint_vessels(scene: Scene, centre: Tensor, radius: Tensor) -> None:
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
        for _ in range(min(MOST_TREES, max(3, round(scene.field / 3))))
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
    spicules = Tubes(
        centre.expand(-1, count, -1),
        scene.direction(count, axial=0.4),
        radius * scene.uniform(1.2, 2.2, count),
        torch.full((scene.batch, count), 0.7),
        torch.full((scene.batch, count), 0.1),
        scene.of_kind("spiculated") & scene.chance(0.8, count),
    )
    depth = joined(*trees, spicules).depth(scene.points)
    scene.lift(scene.inside(depth), scene.blood_hu + 15 * scene.texture(4.0))


def paint_airways(scene: Scene) -> None:
    """Bronchi: air in a wall of 0.5 mm and more, cut at any angle."""
    near = scene.of_kind("airway", "hilum")
    distance = torch.where(near, scene.uniform(0, 6), scene.uniform(5, scene.field))
    heading, length = scene.direction(axial=1.5), torch.full((scene.batch, 1), 30.0)
    middle = scene.direction(axial=0.2) * distance[..., None]
    radius = scene.around(1.9, 0.4, 1.0, 5.0)
    present = near | scene.chance(0.12)
    tube = Tubes(middle - 15 * heading, heading, length, radius, radius, present)
    depth = tube.depth(scene.points)
    scene.lift(scene.inside(depth), scene.soft_hu - 60)
    scene.carve(scene.inside(depth - 0.5 - 0.17 * radius), -960.0)


def paint_walls(scene: Scene, radius: Tensor) -> None:
    """Pleura with what lies beyond: where a kind asks for it, and in a third of the others."""
    pleura, attached = scene.of_kind("pleura"), scene.of_kind("juxta-pleural")
    near = torch.where(pleura, scene.uniform(-3, 3.5), scene.uniform(4, scene.field))
    near = torch.where(attached, radius * scene.uniform(-0.3, 1.0), near)
    near = torch.where(scene.of_kind("hilum"), scene.uniform(-2, 7), near)
    present = pleura | attached | scene.chance(0.33)
    _paint_wall(scene, near, present)
    far = torch.where(pleura, scene.uniform(-1, 8), scene.uniform(6, scene.field))
    _paint_wall(scene, far, present & scene.chance(0.3))


def _paint_wall(scene: Scene, distance: Tensor, present: Tensor) -> None:
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
    rib = Tubes(below - 40 * tangent, tangent, length, thick, thick, chest & scene.chance(0.6))
    bone = rib.depth(scene.points)
    scene.lift(scene.inside(bone), scene.uniform(350, 900))  # the cortex, about 1.3 mm
    scene.carve(0.9 * scene.inside(bone - 1.3), scene.uniform(80, 350))  # the marrow


def paint_nodules(scene: Scene, centre: Tensor, radius: Tensor) -> None:
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
