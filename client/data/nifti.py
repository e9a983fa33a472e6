"""One NIfTI-1 volume (.nii, .nii.gz) -> a volume of planes, with nibabel where it is installed.

Of the header only size, number format, scale and the place in the patient are kept; its free text is
not. Such a file names no patient: `findings.csv` must. Planes are read one by one, from a compressed
file in one pass as long as they are asked for in order.
"""

import gzip
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from client.data.hounsfield import measured
from client.data.paths import open_regular
from client.data.quarantine import NotUsable
from client.data.series import Volume
from common.errors import DataError

SUFFIXES = (".nii", ".nii.gz")
MAX_SIDE = 4096
MAX_BYTES = 2 << 30  # of all voxels: a whole body in 16 bits has one
_MOST_EXPANSION = 200  # of gzip, which could make 1000 of one; CT makes 2 to 10
_HEADER_BYTES = 348
_FORMATS = ("int16", "uint16", "int32", "float32", "float64")
_TO_LPS = np.diag([-1.0, -1.0, 1.0])  # NIfTI's x grows to the patient's right, y to the front

logging.getLogger("nibabel").propagate = False  # its messages quote the header


@dataclass(frozen=True, slots=True)
class NiftiSlice:
    """Plane `k` of a file."""

    path: Path
    k: int
    shape: tuple[int, int]  # rows, columns: NIfTI's second and first index
    dtype: str  # numpy's, with its byte order
    begins: int  # bytes before the first voxel
    slope: float
    intercept: float
    number: int | None = None
    patient_id: str = ""

    def hu(self) -> npt.NDArray[np.float32]:
        """(rows, columns) in HU. NotUsable when the file ends before."""
        dtype = np.dtype(self.dtype)
        size = self.shape[0] * self.shape[1] * dtype.itemsize
        try:
            stream = _last.opened(self.path)
            stream.seek(self.begins + self.k * size)
            data = stream.read(size)
        except (OSError, EOFError, DataError, ValueError) as error:
            raise NotUsable("its voxels are damaged") from error
        if len(data) < size:
            raise NotUsable("it is truncated: it ends within the voxels")
        stored = np.frombuffer(data, dtype).reshape(self.shape).astype(np.float64)
        return measured(stored * self.slope + self.intercept)


def readable() -> bool:
    """Whether nibabel is installed."""
    try:
        import nibabel  # noqa: F401
    except ImportError:
        return False
    return True


def read_nifti(path: Path) -> Volume:
    """The volume in the file `path`; its voxels are read later. NotUsable says why there is none."""
    if not readable():
        raise NotUsable("it is a NIfTI volume, which needs nibabel")
    try:
        with open_regular(path, "") as file:
            size = os.fstat(file.fileno()).st_size
            packed = path.name.endswith(".gz")
            head = (gzip.GzipFile(fileobj=file) if packed else file).read(_HEADER_BYTES)
            return _volume(path, head, size * (_MOST_EXPANSION if packed else 1))
    except NotUsable:
        raise
    except DataError as error:
        raise NotUsable("it is not a regular file that can be opened") from error
    # The file's bytes drive the parser; whatever it raises, and whatever value that would quote.
    except Exception:
        raise NotUsable("its header is damaged") from None


def _volume(path: Path, head: bytes, most_bytes: int) -> Volume:
    from nibabel.nifti1 import Nifti1Header

    header: Any = Nifti1Header(head, check=False)  # type: ignore[no-untyped-call]
    if header["magic"].item() != b"n+1" or int(header["sizeof_hdr"]) != _HEADER_BYTES:
        raise NotUsable("it is not a NIfTI-1 volume in one file")
    shape = tuple(int(side) for side in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or not all(0 < side <= MAX_SIDE for side in shape):
        raise NotUsable(f"it has not three sides within 1..{MAX_SIDE}")
    dtype = header.get_data_dtype()
    if dtype.name not in _FORMATS:
        raise NotUsable("its voxels are not intensities of 16 bits or more")
    begins = int(header["vox_offset"])
    needed = begins + math.prod(shape) * dtype.itemsize
    if not _HEADER_BYTES <= begins <= 1 << 20 or needed > MAX_BYTES:
        raise NotUsable(
            f"its voxels do not begin in its first MB, or have more than {MAX_BYTES >> 30} GB"
        )
    if needed > most_bytes:
        raise NotUsable("it is truncated, or would grow beyond what a CT does")
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise NotUsable("it does not say where its voxels lie in the patient")
    if header.get_xyzt_units()[0] not in ("mm", "unknown"):
        raise NotUsable("its places are not in mm")
    affine = np.asarray(header.get_best_affine(), np.float64)
    to_mm = _TO_LPS @ affine[:3][:, [2, 1, 0, 3]]
    steps = np.linalg.norm(to_mm[:, :3], axis=0)
    if not (np.isfinite(to_mm).all() and all(0.01 <= step <= 100 for step in steps)):
        raise NotUsable("its spacing is not within 0.01..100 mm")
    if abs(np.linalg.det(to_mm[:, :3])) < 0.5 * steps.prod():
        raise NotUsable("its axes are not three directions")
    slope, intercept = header.get_slope_inter()
    planes = tuple(
        NiftiSlice(
            path=path,
            k=k,
            shape=(shape[1], shape[0]),
            dtype=dtype.str,
            begins=begins,
            slope=1.0 if slope is None else float(slope),
            intercept=0.0 if intercept is None else float(intercept),
        )
        for k in range(shape[2])
    )
    return Volume(planes, to_mm)


class _LastOpened:
    """The file that was read last, left open: the next plane is most often in it, and further on."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self._stream: BinaryIO | None = None

    def opened(self, path: Path) -> BinaryIO:
        """The bytes of the volume in the file `path`, uncompressed."""
        if self._stream is None or path != self._path:
            self.close()
            self._file, self._path = open_regular(path, ""), path
            packed = path.name.endswith(".gz")
            self._stream = (
                cast(BinaryIO, gzip.GzipFile(fileobj=self._file)) if packed else self._file
            )
        return self._stream

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._path = self._file = self._stream = None


_last = _LastOpened()


def close_volumes() -> None:
    """Close the file that `NiftiSlice.hu` left open for the next plane."""
    _last.close()
