"""A hospital's patients in memory: their images and labels, and nothing that names them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Pixels = npt.NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True, eq=False, slots=True)
class Patients:
    """All images of P patients, N in total; patient p owns offsets[p]:offsets[p + 1].

    No id, path or file name is kept: what is not here cannot leave by a bug, a log or a pickle.
    The arrays are made read-only. ValueError when the shapes do not belong together, since a
    wrong offset would count one patient's images as another's.
    """

    pixels: Pixels  # (N, size, size, channels) as stored, 0..255 (uint8) or 0..65535 (uint16)
    labels: npt.NDArray[np.int64]  # (N,), 0 or 1 = index of the protocol's images.classes
    offsets: npt.NDArray[np.int64]  # (P + 1,), from 0 to N, strictly increasing
    mean: float  # public constants of the protocol, in units of the full range 0..1
    std: float
    # (N,) ordinals of the CT series that an image was cut from and of the finding that it shows;
    # both None where the folder does not say.
    series: npt.NDArray[np.int64] | None = None
    finding: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.pixels.dtype not in (np.uint8, np.uint16) or self.pixels.ndim != 4:
            raise ValueError(f"pixels are {self.pixels.dtype} {self.pixels.shape}")
        bounds = (self.offsets[0], self.offsets[-1])
        if bounds != (0, len(self.pixels)) or self.labels.shape != (len(self.pixels),):
            raise ValueError(f"{len(self.pixels)} images, {len(self.labels)} labels, {bounds}")
        if np.any(np.diff(self.offsets) < 1):
            raise ValueError("a patient without an image, or offsets that decrease")
        for ordinals in (self.series, self.finding):
            if ordinals is not None and ordinals.shape != self.labels.shape:
                raise ValueError(f"{len(self.labels)} images, ordinals {ordinals.shape}")
        for array in (self.pixels, self.labels, self.offsets, self.series, self.finding):
            if array is not None:
                array.setflags(write=False)

    def __len__(self) -> int:
        """Number of patients, P."""
        return len(self.offsets) - 1

    @property
    def scale(self) -> int:
        """The pixel value that stands for 1.0: 255 or 65535, by the bit depth alone."""
        return int(np.iinfo(self.pixels.dtype).max)

    @property
    def patient_of_image(self) -> npt.NDArray[np.int64]:
        """(N,): the index 0..P-1 of the patient that owns each image."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))

    def of(self, patient: int) -> slice:
        """The images of one patient, 0..P-1; IndexError for another number."""
        if not 0 <= patient < len(self):
            raise IndexError(f"patient {patient} of {len(self)}")
        return slice(int(self.offsets[patient]), int(self.offsets[patient + 1]))

    def views(self, indices: npt.NDArray[np.int64]) -> "torch.Tensor":
        """Images `indices` (n,) as float32 (n, channels, size, size), (value/scale - mean)/std.

        An image may be asked for more than once. The result is a copy.
        """
        chosen = np.moveaxis(self.pixels[indices], -1, 1).astype(np.float32, order="C")
        chosen /= self.scale
        chosen -= self.mean
        chosen /= self.std
        import torch  # only who trains needs it: counting patients should take no seconds

        return torch.from_numpy(chosen)


def series_and_findings(
    named: Sequence[tuple[str, str, str]],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(N,) ordinals of N images' series and findings, from (patient, series, nodule) by name.

    A patient's images of one series with the same nodule are of one finding. An image without ("",
    or -1 as in LUNA16's lists) is a finding of its own.
    """
    series: dict[tuple[str, str], int] = {}
    finding: dict[object, int] = {}
    ordinals = [
        (
            series.setdefault((patient, of), len(series)),
            finding.setdefault(at if nodule in ("", "-1") else (patient, of, nodule), len(finding)),
        )
        for at, (patient, of, nodule) in enumerate(named)
    ]
    first, second = np.array(ordinals, np.int64).reshape(-1, 2).T.copy()
    return first, second


@dataclass(frozen=True, eq=False, slots=True)
class Cohort:
    """One hospital's patients on their two sides; no patient is on both.

    `training` has at least one patient; `validation` may be empty or lack a class at a small
    hospital.
    """

    training: Patients
    validation: Patients
