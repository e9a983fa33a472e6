"""The eight symmetries against index arithmetic in numpy, and the group that they are."""

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.symmetry import SYMMETRIES, turned

ALL = range(SYMMETRIES)


def images(side: int = 5) -> Tensor:
    """Two images of two channels in which no two pixels are alike, so no two turns look alike."""
    return torch.arange(4 * side * side, dtype=torch.float32).reshape(2, 2, side, side)


def looks(picture: Tensor) -> bytes:
    return picture.contiguous().numpy().tobytes()


def by_index(pixels: NDArray[np.float32], symmetry: int) -> NDArray[np.float32]:
    """Pixel by pixel: quarter turns against the clock, then left and right exchanged from 4 on."""
    for _ in range(symmetry % 4):
        last = pixels.shape[-1] - 1
        found = np.empty_like(pixels)
        for row, column in itertools.product(range(last + 1), repeat=2):
            found[..., last - column, row] = pixels[..., row, column]
        pixels = found
    return pixels[..., ::-1] if symmetry >= 4 else pixels


@pytest.mark.parametrize("side", [4, 5])
def test_there_are_eight_different_pictures_and_no_ninth(side: int) -> None:
    assert SYMMETRIES == 8
    pixels = images(side)
    pictures = {looks(turned(pixels, k)) for k in ALL}
    assert len(pictures) == 8
    both = [pixels, pixels.transpose(2, 3)]
    every = {looks(p.flip(dims)) for p in both for dims in ((), (2,), (3,), (2, 3))}
    assert pictures == every  # all that a square has: with and without a transposition, any flips


@pytest.mark.parametrize("symmetry", ALL)
def test_a_symmetry_moves_every_pixel_where_the_indices_say(symmetry: int) -> None:
    expected = by_index(images().numpy(), symmetry)
    np.testing.assert_array_equal(turned(images(), symmetry).numpy(), expected)


def test_nought_changes_nothing_and_nothing_is_changed_in_place() -> None:
    pixels = images()
    assert torch.equal(turned(pixels, 0), pixels)
    for k in ALL:
        turned(pixels, k)
        assert torch.equal(pixels, images())


def test_they_are_the_group_of_the_square() -> None:
    """Any two in a row are a third, each has an opposite, and the order matters (dihedral group)."""
    pixels = images()
    number = {looks(turned(pixels, k)): k for k in ALL}
    table = [[number[looks(turned(turned(pixels, a), b))] for b in ALL] for a in ALL]
    for a in ALL:
        assert sorted(table[a]) == list(ALL)
        assert sorted(row[a] for row in table) == list(ALL)
        assert table[a][0] == table[0][a] == a
    assert [table[a][a] for a in ALL].count(0) == 6  # itself, the half turn and four mirror images
    assert any(table[a][b] != table[b][a] for a in ALL for b in ALL)


def test_every_image_and_channel_is_turned_alike() -> None:
    pixels = images()
    for k in ALL:
        whole = turned(pixels, k)
        for n, c in itertools.product(range(2), range(2)):
            alone = turned(pixels[n : n + 1, c : c + 1], k)
            assert torch.equal(whole[n, c], alone[0, 0])
