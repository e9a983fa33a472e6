"""The eight symmetries of the square: a patch of lung has no up, so each shows the same patient."""

import torch
from torch import Tensor

SYMMETRIES = 8


def turned(images: Tensor, symmetry: int) -> Tensor:
    """`images` (N, C, H, H) by one of the symmetries, 0..7; 0 changes nothing."""
    rotated = torch.rot90(images, symmetry % 4, (2, 3))
    return rotated.flip(3) if symmetry >= 4 else rotated


def turned_each(images: Tensor, symmetries: Tensor) -> Tensor:
    """Each image of (N, C, H, H) by its own of `symmetries` (N,) int64, 0..7."""
    result = images.clone()
    for symmetry in range(SYMMETRIES):
        chosen = symmetries == symmetry
        result[chosen] = turned(images[chosen], symmetry)
    return result
