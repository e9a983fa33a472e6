"""Patches on disk, so that a folder of CT series is decoded once: mapped into memory, never unpickled.

An entry is `<key>.npy` (the pixels) and `<key>.json` (what belongs to them, with a digest of
both), both for their owner alone. The key is a digest of all that the patches come from, so an entry
is right or not there; one that is damaged is made anew. It holds images of patients, and no name of a
patient or file.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from client.data.codestream import COMPRESSED, decodable
from client.data.cohort import Cohort, ImagePatients
from client.data.nifti import readable
from client.data.scan import Listed
from common.documents import Document, canonical_digest
from common.files import atomic_file, write_atomic
from common.tasks.nodule_classification.study import Images

_FORMAT = "intramural/ct-patches/2"  # another way to make patches has another number here
_MOST_ENTRIES = 8  # studies with other image constants, and the folder as it was before
_PART = 1 << 20  # bytes that are hashed at once

Numbers = Annotated[tuple[int, ...], Field(strict=False)]


@dataclass(frozen=True, eq=False, slots=True)
class StoredCohort:
    """A cohort in one piece: N images of P patients, those of the training side first."""

    pixels: npt.NDArray[np.uint16]  # (N, size, size, channels)
    labels: npt.NDArray[np.int64]  # (N,)
    offsets: npt.NDArray[np.int64]  # (P + 1,): patient p owns offsets[p]:offsets[p + 1]
    training: int  # patients, 1..P
    series: npt.NDArray[np.int64]  # (N,) ordinals, and those of the findings
    finding: npt.NDArray[np.int64]

    def cohort(self, images: Images) -> Cohort[ImagePatients]:
        """The two sides. ValueError when the parts do not belong together."""
        if not 1 <= self.training < len(self.offsets):
            raise ValueError(f"{self.training} training patients of {len(self.offsets) - 1}")
        middle = int(self.offsets[self.training])
        sides = [
            ImagePatients(
                self.pixels[part],
                self.labels[part],
                offsets,
                images.mean,
                images.std,
                self.series[part],
                self.finding[part],
            )
            for part, offsets in (
                (slice(None, middle), self.offsets[: self.training + 1].copy()),
                (slice(middle, None), self.offsets[self.training :] - middle),
            )
        ]
        return Cohort(*sides)


class _Index(Document):
    """What belongs to the pixels of an entry."""

    model_config = ConfigDict(strict=True)

    sha256: str  # of all parts, the pixels too
    labels: Numbers
    offsets: Numbers
    training: int
    series: Numbers
    finding: Numbers


class PatchCache:
    """The entry in `folder` for one state of a hospital's data under one study's image constants."""

    def __init__(self, folder: Path, images: Images, findings: bytes, listed: list[Listed]) -> None:
        key = hashlib.sha256(_FORMAT.encode())
        key.update(canonical_digest(images).encode())
        key.update(hashlib.sha256(findings).digest())
        for file in listed:
            # Size and time of change stand for the content, which would take minutes to read.
            facts = (file.name, file.size, file.changed, file.is_file, file.escapes)
            key.update(repr(facts).encode("utf-8", "surrogateescape") + b"\0")
        # A library that was installed since makes files usable that were set aside.
        decoders = [syntax for syntax in COMPRESSED if decodable(syntax)]
        key.update(repr((decoders, readable())).encode())
        self._folder, self._name = folder, key.hexdigest()
        self._images = images

    def load(self) -> StoredCohort | None:
        """The entry, its pixels mapped read-only; None when there is none or it is damaged."""
        try:
            index = _Index.model_validate_json((self._folder / f"{self._name}.json").read_bytes())
            path = self._folder / f"{self._name}.npy"
            pixels = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            size = self._images.size
            if pixels.dtype != np.uint16 or pixels.shape[1:] != (size, size, self._images.channels):
                return None
            stored = StoredCohort(
                pixels,
                np.array(index.labels, np.int64),
                np.array(index.offsets, np.int64),
                index.training,
                np.array(index.series, np.int64),
                np.array(index.finding, np.int64),
            )
            return stored if _sha256(stored) == index.sha256 else None
        except (OSError, ValueError, IndexError, EOFError):
            return None

    def store(self, stored: StoredCohort) -> None:
        """Write the entry, whole or not at all. A full disk costs the next opening time, nothing else."""
        index = _Index(
            sha256=_sha256(stored),
            labels=tuple(stored.labels.tolist()),
            offsets=tuple(stored.offsets.tolist()),
            training=stored.training,
            series=tuple(stored.series.tolist()),
            finding=tuple(stored.finding.tolist()),
        )
        with suppress(OSError, UnicodeEncodeError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_file(self._folder / f"{self._name}.npy") as file:
                np.lib.format.write_array(file, stored.pixels, allow_pickle=False)
            text = index.model_dump_json(by_alias=True)
            write_atomic(self._folder / f"{self._name}.json", text.encode())
            self._forget_old()

    def _forget_old(self) -> None:
        entries = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for old in entries[:-_MOST_ENTRIES]:
            old.unlink()
            old.with_suffix(".npy").unlink(missing_ok=True)


def _sha256(stored: StoredCohort) -> str:
    """64 hex digits; the pixels in parts, so that mapped ones are not held whole."""
    found = hashlib.sha256()
    for array in (stored.labels, stored.offsets, stored.series, stored.finding, stored.pixels):
        found.update(repr(array.shape).encode())
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, len(flat), _PART):
            found.update(flat[start : start + _PART].data)
    found.update(str(stored.training).encode())
    return found.hexdigest()
