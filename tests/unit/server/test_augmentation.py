"""A phantom changed at random is still that phantom, and no two changes are alike."""

import torch
from torch import Tensor

from server.augmentation import SHIFT, augmented

SIZE = 32
WIDE = SIZE + 2 * SHIFT


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blob(count: int) -> Tensor:
    """`count` equal patches: grey, and a bright square of 8 pixels in the very centre."""
    grey = torch.full((count, WIDE, WIDE), 60, dtype=torch.uint8)
    grey[:, WIDE // 2 - 4 : WIDE // 2 + 4, WIDE // 2 - 4 : WIDE // 2 + 4] = 200
    return grey


def test_shape_type_and_range_are_those_of_an_image() -> None:
    extremes = torch.randint(0, 2, (64, WIDE, WIDE), generator=generator(1)).to(torch.uint8) * 255
    images = augmented(extremes, generator())
    assert images.shape == (64, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


def test_what_was_in_the_centre_stays_within_the_shift() -> None:
    for seed in range(20):
        images = augmented(blob(16), generator(seed))
        around = SIZE // 2 - 4 - SHIFT
        border = torch.ones(SIZE, SIZE, dtype=torch.bool)
        border[around:-around, around:-around] = False
        inside = images[:, SIZE // 2 - 2 : SIZE // 2 + 2, SIZE // 2 - 2 : SIZE // 2 + 2]
        assert (inside.mean((1, 2)) > images[:, border].mean(1) + 0.25).all()


def test_every_shift_comes_up_and_no_other() -> None:
    seen = set()
    for seed in range(200):
        bright = augmented(blob(1), generator(seed))[0] > 0.5
        rows, columns = torch.nonzero(bright, as_tuple=True)
        seen.add((round(float(rows.float().median())), round(float(columns.float().median()))))
    centres = {row for row, _ in seen} | {column for _, column in seen}
    assert len(centres) == 2 * SHIFT + 1
    assert max(centres) - min(centres) == 2 * SHIFT


def test_equal_patches_come_out_different_and_the_same_generator_gives_the_same() -> None:
    images = augmented(blob(32), generator(3))
    assert len({image.numpy().tobytes() for image in images}) == 32
    assert torch.equal(images, augmented(blob(32), generator(3)))
    assert not torch.equal(images, augmented(blob(32), generator(4)))


def test_greys_differ_about_as_far_as_scanners_do() -> None:
    """Mean grey of a flat patch of 0.235: gamma, gain and offset together, and no further."""
    flat = torch.full((2000, WIDE, WIDE), 60, dtype=torch.uint8)
    means = augmented(flat, generator(5)).mean((1, 2))
    lowest = (60 / 255) ** torch.tensor(0.3).exp() * 0.9 - 0.05
    highest = (60 / 255) ** torch.tensor(-0.3).exp() * 1.1 + 0.05
    assert float(lowest) - 0.01 < float(means.min()) < 0.16
    assert 0.32 < float(means.max()) < float(highest) + 0.01
