"""A hospital's patients as records in memory: encoded numbers and labels, and nothing that names them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from client.data.cohort import Patients, offsets_together

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False, slots=True)
class RecordPatients(Patients):
    """All records of P patients, N in total, as `common.tabular.encoding` encodes them.

    A series is a record of T steps (`common.sequences.encoding`).
    """

    values: npt.NDArray[np.float32]  # (N, D), or (N, T, F) of series
    labels: npt.NDArray[Any]  # (N,) int64 classes, or (N, 2) float32 time and event
    offsets: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.values.dtype != np.float32 or self.values.ndim not in (2, 3):
            raise ValueError(f"values are {self.values.dtype} {self.values.shape}")
        self._check(len(self.values))
        self.values.setflags(write=False)

    @property
    def small(self) -> bool:
        return self.values.ndim == 2

    def views(self, indices: npt.NDArray[np.int64]) -> "torch.Tensor":
        """Records (n, D), or series (n, T, F)."""
        import torch  # only who trains needs it: counting patients should take no seconds

        return torch.from_numpy(self.values[indices])

    def nobody(self) -> "RecordPatients":
        return RecordPatients(self.values[:0], self.labels[:0], np.zeros(1, np.int64))

    @classmethod
    def together(cls, parts: "Sequence[RecordPatients]") -> "RecordPatients":
        return cls(
            values=np.concatenate([part.values for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            offsets=offsets_together(parts),
        )
