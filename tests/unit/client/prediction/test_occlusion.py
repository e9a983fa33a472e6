"""Where the score changes: against a naive loop, about a phantom's nodule, and not without the weights."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy.ndimage import uniform_filter
from scipy.stats import spearmanr

from client.data.cohort import Pixels
from client.prediction import occlusion, predicting
from client.prediction.model import CardedModel, load_model
from client.prediction.occlusion import score_map
from client.prediction.overlay import picture
from common.models import build_model
from common.phantom import phantom_patches, to_grey8
from common.tasks.nodule_classification.study import CtPatches, Images
from tests.unit.client.prediction.conftest import Said
from tests.unit.client.prediction.making_runs import PHANTOM_IMAGES, write_phantoms

pytestmark = pytest.mark.slow  # seconds together

SEED = 20_261_127


@pytest.fixture
def model(run: Path) -> CardedModel:
    return load_model(run)


def nodules(count: int, seed: int) -> list[Pixels]:
    made = phantom_patches(count, seed=seed, nodule_fraction=1.0)
    return list(to_grey8(made.hu).numpy()[..., np.newaxis])


def logit(model: CardedModel, pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    score = model.scores(np.rint(pixels * 65535).astype(np.uint16))
    return np.asarray(np.log(score) - np.log1p(-score))


def test_the_map_is_that_of_a_naive_loop(model: CardedModel) -> None:
    """Each pixel: the mean fall over all covers that hold it; blurring by SciPy, scores by `scores`."""
    (pixels,) = nodules(1, SEED)
    image = pixels / 255
    blurred = uniform_filter(image, (25, 25, 1), mode="mirror")
    before = logit(model, image[np.newaxis])[0]
    total, times = np.zeros((32, 32)), np.zeros((32, 32))
    for top in range(0, 32, 2):
        for left in range(0, 32, 2):
            if max(top, left) + 6 > 32 + 2:  # one step beyond, so that the edge is covered too
                continue
            inside = (slice(top, top + 6), slice(left, left + 6))
            covered = image.copy()
            covered[inside] = blurred[inside]
            total[inside] += before - logit(model, covered[np.newaxis])[0]
            times[inside] += 1
    found = score_map(model, pixels)
    # captum's last covers begin where they would still reach the edge: compare where both have all.
    inner = (slice(6, 26), slice(6, 26))
    np.testing.assert_allclose(found.change[inner], (total / times)[inner], atol=2e-3)
    assert np.abs(total / times).max() > 0.3


def test_the_strongest_square_takes_the_score_where_it_says(model: CardedModel) -> None:
    for pixels in nodules(2, SEED + 1):
        found = score_map(model, pixels)
        assert found.score == pytest.approx(model.scores(pixels[np.newaxis])[0], abs=1e-6)
        top, left, side = found.strongest
        image = pixels / 255
        blurred = uniform_filter(image, (25, 25, 1), mode="mirror")
        inside = (slice(top, top + side), slice(left, left + side))
        image[inside] = blurred[inside]
        covered = model.scores(np.rint(image[np.newaxis] * 65535).astype(np.uint16))[0]
        assert found.covered == pytest.approx(covered, abs=1e-4)


def test_a_nodule_s_map_lies_about_the_nodule(model: CardedModel) -> None:
    """Nodules that are not in the middle, where a model of centred candidates looks anyway.

    The share of what speaks for a nodule within 8 of 32 pixels of it, against the place opposite, as far
    from the middle, and against places at random.
    """
    made = phantom_patches(40, size=48, seed=SEED + 2, nodule_fraction=1.0)
    moved = to_grey8(made.hu).numpy()[
        :, 3:35, 13:45, np.newaxis
    ]  # from 23.5 to row 20.5, column 10.5
    found = moved[model.scores(moved) > 0.5][:16]
    rows, columns = np.mgrid[:32, :32]
    rng = np.random.default_rng(SEED)

    def within(change: npt.NDArray[np.float32], row: float, column: float) -> float:
        near = np.hypot(rows - row, columns - column) <= 8
        return float(change[near].sum() / change.sum())

    maps = [np.clip(score_map(model, one).change, 0, None) for one in found]
    here, opposite, anywhere = (
        float(np.mean(shares))
        for shares in (
            [within(change, 20.5, 10.5) for change in maps],
            [within(change, 10.5, 20.5) for change in maps],
            [within(change, *rng.uniform(0, 31, 2)) for change in maps],
        )
    )
    print(
        f"seed {SEED}, {len(maps)} phantoms: {here:.2f} about the nodule, {opposite:.2f} opposite, "
        f"{anywhere:.2f} anywhere"
    )
    assert len(maps) >= 10
    assert here > 0.5
    assert here > 2 * max(opposite, anywhere)


def test_other_weights_make_another_map(model: CardedModel) -> None:
    """Adebayo et al. 2018: a map that stays when the weights are drawn anew explains nothing."""
    images = nodules(4, SEED + 3)
    trained = [score_map(model, one).change.ravel() for one in images]

    def alike() -> float:
        maps = [score_map(model, one).change.ravel() for one in images]
        return float(
            np.mean([spearmanr(a, b).statistic for a, b in zip(trained, maps, strict=True)])
        )

    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.add_(0.01 * weight.std() * torch.randn(weight.shape, generator=generator))
    nudged = alike()
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        for module in model.network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear | torch.nn.GroupNorm):
                module.reset_parameters()
    drawn = alike()
    print(f"seed {SEED}: rank correlation {nudged:.2f} after 1 % of noise, {drawn:.2f} drawn anew")
    assert nudged > 0.95  # or another map would say nothing about the weights
    assert abs(drawn) < 0.5


def test_colours_and_neighbouring_slices_have_a_map_and_a_picture(
    run: Path,
) -> None:
    """Three channels, at a size that nothing divides; the picture names nobody and no time."""
    of = load_model(run)
    for ct in (None, CtPatches(size_mm=20, slices=3, slice_distance_mm=1)):
        images = Images(classes=("a", "b"), size=37, channels=3, ct=ct)
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            network = build_model("compact-cnn", 3, 2).eval()
        model = replace(of, card=of.card.model_copy(update={"images": images}), network=network)
        pixels = np.random.default_rng(SEED).integers(0, 256, (37, 37, 3), np.uint8)
        found = score_map(model, pixels)
        assert found.change.shape == (37, 37)
        assert np.isfinite(found.change).all()
        assert np.abs(found.change).max() > 0
        drawn = picture(pixels, images, found)
        png = Image.open(io.BytesIO(drawn))
        assert png.size[0] > 600
        assert set(png.info) <= {"dpi"}
        assert drawn == picture(pixels, images, found)


def test_an_image_where_nothing_changes_stays_pale(run: Path) -> None:
    model = load_model(run)
    flat = np.full((32, 32, 1), 40, np.uint8)
    found = score_map(model, flat)
    assert np.abs(found.change).max() < 1e-4
    drawn = np.asarray(Image.open(io.BytesIO(picture(flat, PHANTOM_IMAGES, found))).convert("RGB"))
    right = drawn[60:-90, drawn.shape[1] // 2 : int(0.85 * drawn.shape[1])].astype(int)
    assert np.ptp(right, axis=-1).mean() < 3  # grey but for the dotted square


def test_the_command_draws_one_for_each_finding(
    tmp_path: Path, run: Path, predict: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the page and within it, with the sentence of what it shows; none names a file or patient."""
    monkeypatch.setattr(predicting, "MOST_PICTURES", 1)
    write_phantoms(tmp_path / "images", 2, seed=5)
    for n in range(2):
        (tmp_path / "images" / f"{n:03d}.png").rename(tmp_path / "images" / f"MEIER-{n}.png")
    said = predict(run, tmp_path / "images", overlay=True)
    assert said.code == 0, said.text
    names = [one["overlay"] for one in said.facts["predictions"]]
    assert names == ["overlay-0001.png", "overlay-0002.png"]
    for name in names:
        data = (said.out / name).read_bytes()
        assert Image.open(io.BytesIO(data)).format == "PNG"
        assert b"MEIER" not in data
    page = (said.out / "predictions.html").read_text()
    assert page.count("data:image/png") == 1  # a browser must hold the page: the rest lie beside it
    assert "overlay-0002.png beside this page" in page
    assert "They do not show where disease is" in page
    assert len(re.findall(r"takes the score from 0\.\d\d to 0\.\d\d", page)) == 1


def test_covers_are_the_protocol_s_image_and_not_its_pixels(model: CardedModel) -> None:
    """8 and 16 bits of one image have one map."""
    (pixels,) = nodules(1, SEED + 4)
    deep = pixels.astype(np.uint16) * np.uint16(257)
    np.testing.assert_allclose(
        score_map(model, pixels).change, score_map(model, deep).change, atol=1e-5
    )
    assert occlusion._blurred(torch.ones(1, 1, 32, 32), 12).allclose(torch.ones(1, 1, 32, 32))
