"""A hospital's patients in memory: their data and labels, and nothing that names them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Pixels = npt.NDArray[np.uint8 | np.uint16]


class Patients(ABC):
    """P patients with N views in total; patient p owns offsets[p]:offsets[p + 1].

    A view is one of a patient's pieces of data, as the model takes it: an image, a record, a series.
    No id, path or file name is kept: what is not here cannot leave by a bug, a log or a pickle.
    The arrays are read-only. ValueError when the shapes do not belong together, since a wrong offset
    would count one patient's data as another's.
    """

    __slots__ = ()

    labels: npt.NDArray[Any]  # (N, ...): what the task's loss compares with
    offsets: npt.NDArray[np.int64]  # (P + 1,), from 0 to N, strictly increasing

    def _check(self, views: int) -> None:
        """That `views` is N, and read-only for ever."""
        bounds = (self.offsets[0], self.offsets[-1])
        if bounds != (0, views) or len(self.labels) != views:
            raise ValueError(f"{views} views, {len(self.labels)} labels, {bounds}")
        if np.any(np.diff(self.offsets) < 1):
            raise ValueError("a patient without a view, or offsets that decrease")
        self.labels.setflags(write=False)
        self.offsets.setflags(write=False)

    def __len__(self) -> int:
        """Number of patients, P."""
        return len(self.offsets) - 1

    @property
    def patient_of_view(self) -> npt.NDArray[np.int64]:
        """(N,): the index 0..P-1 of the patient that owns each view."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))

    def of(self, patient: int) -> slice:
        """The views of one patient, 0..P-1; IndexError for another number."""
        if not 0 <= patient < len(self):
            raise IndexError(f"patient {patient} of {len(self)}")
        return slice(int(self.offsets[patient]), int(self.offsets[patient + 1]))

    @property
    def small(self) -> bool:
        """Whether a view is a row of numbers, so that one alone is computed in no time."""
        return False

    @property
    def groups(self) -> dict[str, npt.NDArray[np.int64]]:
        """(N,) further ordinals that a judge may group views by, under its own names for them."""
        return {}

    @abstractmethod
    def views(self, indices: npt.NDArray[np.int64]) -> "torch.Tensor":
        """Views `indices` (n,) as float32 (n, ...); one may be asked for more than once. A copy."""

    @abstractmethod
    def nobody(self) -> Self:
        """The same kind of data without any patient."""

    @classmethod
    @abstractmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """The patients of all `parts` (at least one), in their order."""


@dataclass(frozen=True, eq=False, slots=True)
class ImagePatients(Patients):
    """All images of P patients, N in total."""

    pixels: Pixels  # (N, size, size, channels) as stored, 0..255 (uint8) or 0..65535 (uint16)
    labels: npt.NDArray[np.int64]  # (N,), 0 or 1 = index of the protocol's images.classes
    offsets: npt.NDArray[np.int64]
    mean: float  # public constants of the protocol, in units of the full range 0..1
    std: float
    # (N,) ordinals of the CT series that an image was cut from and of the finding that it shows;
    # both None where the folder does not say.
    series: npt.NDArray[np.int64] | None = None
    finding: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.pixels.dtype not in (np.uint8, np.uint16) or self.pixels.ndim != 4:
            raise ValueError(f"pixels are {self.pixels.dtype} {self.pixels.shape}")
        self._check(len(self.pixels))
        if self.labels.ndim != 1:
            raise ValueError(f"labels are {self.labels.shape}")
        for ordinals in (self.series, self.finding):
            if ordinals is not None and ordinals.shape != self.labels.shape:
                raise ValueError(f"{len(self.labels)} images, ordinals {ordinals.shape}")
        for array in (self.pixels, self.series, self.finding):
            if array is not None:
                array.setflags(write=False)

    @property
    def scale(self) -> int:
        """The pixel value that stands for 1.0: 255 or 65535, by the bit depth alone."""
        return int(np.iinfo(self.pixels.dtype).max)

    @property
    def groups(self) -> dict[str, npt.NDArray[np.int64]]:
        if self.series is None or self.finding is None:
            return {}
        return {"series": self.series, "finding": self.finding}

    def views(self, indices: npt.NDArray[np.int64]) -> "torch.Tensor":
        """Images (n, channels, size, size), (value/scale - mean)/std."""
        chosen = np.moveaxis(self.pixels[indices], -1, 1).astype(np.float32, order="C")
        chosen /= self.scale
        chosen -= self.mean
        chosen /= self.std
        import torch  # only who trains needs it: counting patients should take no seconds

        return torch.from_numpy(chosen)

    def nobody(self) -> "ImagePatients":
        none = np.zeros(1, np.int64)
        return ImagePatients(self.pixels[:0], self.labels[:0], none, self.mean, self.std)

    @classmethod
    def together(cls, parts: "Sequence[ImagePatients]") -> "ImagePatients":
        """16-bit when any part is; of which series and finding an image is, is not kept."""
        wide = any(part.pixels.dtype == np.uint16 for part in parts)
        pixels = [
            promoted(part.pixels) if wide and part.pixels.dtype == np.uint8 else part.pixels
            for part in parts
        ]
        return cls(
            pixels=np.concatenate(pixels),
            labels=np.concatenate([part.labels for part in parts]),
            offsets=offsets_together(parts),
            mean=parts[0].mean,
            std=parts[0].std,
        )


def offsets_together(parts: Sequence[Patients]) -> npt.NDArray[np.int64]:
    """The offsets of the patients of all `parts`, one after the other."""
    views = np.concatenate([np.diff(part.offsets) for part in parts])
    return np.cumsum([0, *views], dtype=np.int64)


def promoted(pixels: Pixels) -> Pixels:
    """8-bit pixels as 16-bit ones, exactly: v / 255 = 257 v / 65535."""
    return pixels.astype(np.uint16) * np.uint16(257)


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


P = TypeVar("P", bound=Patients, covariant=True)


@dataclass(frozen=True, eq=False, slots=True)
class Cohort(Generic[P]):
    """One hospital's patients on their two sides; no patient is on both.

    `training` has at least one patient; `validation` may be empty or lack a class at a small
    hospital.
    """

    training: P
    validation: P
