"""The phantoms against anatomy, against real patches where they are present, and themselves."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.phantom import (
    KINDS,
    MIMIC_KINDS,
    MIXED,
    NODULE_KINDS,
    SCANNERS,
    Phantoms,
    phantom_patches,
    to_grey8,
)

pytestmark = pytest.mark.slow

REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "luna16-train"


@pytest.fixture(scope="module")
def many() -> Phantoms:
    return phantom_patches(1200, seed=5)


def test_shapes_types_and_finiteness(many: Phantoms) -> None:
    assert many.hu.shape == (1200, 1, 32, 32)
    assert many.hu.dtype == torch.float32
    assert many.label.dtype == torch.int64
    assert len(many.kind) == 1200
    assert torch.isfinite(many.hu).all()


def test_same_arguments_same_patches_and_another_seed_others() -> None:
    first, again, other = (phantom_patches(70, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.hu, again.hu)
    assert first.kind == again.kind
    assert not torch.equal(first.hu, other.hu)


def test_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = phantom_patches(20, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(4)
    assert torch.equal(first.hu, phantom_patches(20, seed=1).hu)


@pytest.mark.parametrize(("fraction", "nodules"), [(0.0, 0), (0.25, 10), (0.5, 20), (1.0, 40)])
def test_share_of_nodules_is_met(fraction: float, nodules: int) -> None:
    made = phantom_patches(40, seed=0, nodule_fraction=fraction)
    assert int(made.label.sum()) == nodules


def test_labels_follow_kinds_and_every_kind_is_made(many: Phantoms) -> None:
    assert set(many.kind) == set(KINDS)
    for label, kind in zip(many.label.tolist(), many.kind, strict=True):
        assert kind in (NODULE_KINDS if label else MIMIC_KINDS)


def test_kinds_come_in_their_shares(many: Phantoms) -> None:
    for shares in (NODULE_KINDS, MIMIC_KINDS):
        assert sum(shares.values()) == pytest.approx(1.0)
        for kind, share in shares.items():
            # Four standard deviations of a count out of 600.
            allowed = 4 * (share * (1 - share) / 600) ** 0.5
            assert many.kind.count(kind) / 600 == pytest.approx(share, abs=allowed)


@pytest.mark.parametrize("size", [16, 33, 50, 64, 224])
def test_any_size(size: int) -> None:
    made = phantom_patches(2, size=size, seed=1)
    assert made.hu.shape == (2, 1, size, size)
    assert torch.isfinite(made.hu).all()


def test_no_patch_is_an_empty_set() -> None:
    made = phantom_patches(0, seed=1)
    assert made.hu.shape == (0, 1, 32, 32)
    assert made.kind == ()


@pytest.mark.parametrize(
    ("count", "size", "fraction"), [(-1, 32, 0.5), (1, 15, 0.5), (1, 32, 1.1), (1, 32, -0.1)]
)
def test_arguments_out_of_range_are_named(count: int, size: int, fraction: float) -> None:
    with pytest.raises(ValueError, match=r"count >= 0, size >= 16 and nodule_fraction"):
        phantom_patches(count, size=size, seed=0, nodule_fraction=fraction)


def test_lung_is_aerated() -> None:
    # The darker half of a patch is lung, whatever else is in it. Densitometry counts
    # voxels below -950 HU as emphysema; healthy lung at full inspiration is about -850.
    made = phantom_patches(400, seed=11)
    lower_quartile = made.hu.flatten(1).quantile(0.25, dim=1)
    assert -950 < float(lower_quartile.median()) < -750


def _centre(patches: Phantoms, kind: str) -> torch.Tensor:
    """(K,) mean HU of the middle 4x4 pixels of the patches of a kind."""
    chosen = torch.tensor([k == kind for k in patches.kind])
    return patches.hu[chosen, 0, 14:18, 14:18].mean(dim=(1, 2))


def test_centres_have_the_hu_of_their_tissue(many: Phantoms) -> None:
    assert -150 < float(_centre(many, "solid").median()) < 120
    assert -150 < float(_centre(many, "juxta-pleural").median()) < 120
    assert float(_centre(many, "calcified").median()) > 150
    assert -750 < float(_centre(many, "ground-glass").median()) < -350
    assert float(_centre(many, "lung").median()) < -700


def test_a_larger_patch_shows_more_lung_and_not_a_larger_nodule() -> None:
    def bright_pixels(size: int) -> float:
        made = phantom_patches(60, size=size, seed=7, nodule_fraction=1.0)
        solid = torch.tensor([kind == "solid" for kind in made.kind])
        middle = slice((size - 8) // 2, (size + 8) // 2)
        return float((made.hu[solid, 0, middle, middle] > -400).float().mean())

    assert bright_pixels(64) == pytest.approx(bright_pixels(32), abs=0.2)


def _roughness(patches: Phantoms) -> float:
    """Median over patches of the median step between neighbours, HU: noise and sharpness."""
    steps = patches.hu.diff(dim=3).abs().flatten(1)
    return float(steps.median(dim=1).values.median())


def test_scanners_differ_as_their_names_say() -> None:
    made = {name: phantom_patches(120, seed=3, scanner=s) for name, s in SCANNERS.items()}
    assert len(made) == 4
    rough = {name: _roughness(patches) for name, patches in made.items()}
    assert rough["soft-kernel"] < rough["low-dose"]
    assert rough["soft-kernel"] < rough["sharp-kernel"]
    assert rough["thick-slice"] < rough["sharp-kernel"]


def test_mixed_covers_every_scanner_but_for_the_offset() -> None:
    for scanner in SCANNERS.values():
        for name in ("spacing_mm", "slice_thickness_mm", "psf_sigma_px", "sharpening"):
            low, high = getattr(MIXED, name)
            assert low <= getattr(scanner, name)[0]
            assert getattr(scanner, name)[1] <= high


def test_grey_values_are_the_fixed_window() -> None:
    hu = torch.tensor([-3024.0, -1000.0, -300.0, 400.0, 3000.0, -994.0]).reshape(1, 1, 2, 3)
    grey = to_grey8(hu)
    assert grey.dtype == torch.uint8
    assert grey.tolist() == [[[0, 0, 128], [255, 255, 1]]]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real LUNA16 patches are not on this machine")
def test_grey_levels_are_those_of_real_patches() -> None:
    real = []
    for site in ("siemens", "philips"):
        with (REAL / site / "manifest.csv").open() as lines:
            for row in list(csv.DictReader(lines))[::4]:
                with Image.open(REAL / site / row["image"]) as image:
                    pixels = np.asarray(image.convert("L"))
                if pixels.shape == (50, 50):
                    real.append(pixels[9:41, 9:41])
    real_grey = np.stack(real).reshape(len(real), -1)
    # Real candidates are nodules in one of six.
    made = phantom_patches(600, seed=1, nodule_fraction=1 / 6)
    made_grey = to_grey8(made.hu).numpy().reshape(600, -1)
    for quantile in (0.1, 0.25, 0.5, 0.75):
        expected = np.median(np.quantile(real_grey, quantile, axis=1))
        found = np.median(np.quantile(made_grey, quantile, axis=1))
        # 16 grey levels are 88 HU.
        assert found == pytest.approx(expected, abs=16), f"quantile {quantile}"
    steps = [np.median(np.abs(np.diff(g.reshape(-1, 32, 32).astype(int), axis=2)), axis=(1, 2))
             for g in (real_grey, made_grey)]  # fmt: skip
    assert np.median(steps[1]) == pytest.approx(np.median(steps[0]), rel=0.5)
