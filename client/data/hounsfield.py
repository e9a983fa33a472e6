"""Hounsfield units (HU): -1000 is air, 0 is water; and what of a slice was never measured."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

AIR_HU = -1000.0  # of what lies outside the image or was never measured
LOWEST_HU = -1024.0  # of the 12-bit scale of CT: what is below is padding, declared or not
_HIGHEST_HU = 1e6  # bounds what a mad rescale slope makes, far above any metal


class Slice(Protocol):
    """One plane of a CT volume, wherever it comes from."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""

    @property
    def number(self) -> int | None:
        """InstanceNumber, where it has one."""

    @property
    def patient_id(self) -> str:
        """As in its file; may be empty."""

    def __hash__(self) -> int:
        """For a cache of decoded planes."""

    def hu(self) -> npt.NDArray[np.float32]:
        """(rows, columns) in HU. NotUsable when the pixels cannot be had."""


def measured(
    hu: npt.NDArray[np.float64], padding: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.float32]:
    """`hu` with air in place of `padding`, of all below `LOWEST_HU` and of what is no number."""
    outside = ~(hu >= LOWEST_HU)
    if padding is not None:
        outside |= padding
    return np.minimum(np.where(outside, AIR_HU, hu), _HIGHEST_HU).astype(np.float32)
