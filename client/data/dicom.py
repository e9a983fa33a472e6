"""One DICOM file -> where its slice lies in the patient, and its pixels in Hounsfield units.

What is read of a header is an allow-list (THREATS.md T15): pydicom passes over all other elements,
and of those read only a `CtSlice` remains. What a file claims is bounded before anything is
decoded (T18). Text that begins with PS3 is the DICOM standard.
"""

import logging
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom import config
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from client.data.codestream import decodable, decode
from client.data.ct_header import (
    ALLOWED,
    MAX_SIDE,
    Acquisition,
    Vector,
    acquisition,
    check_kind,
    geometry,
    padding,
    scale,
    uid,
)
from client.data.hounsfield import measured
from client.data.paths import open_regular
from client.data.quarantine import NotUsable
from common.errors import DataError

MAX_FILE_BYTES = 64 << 20  # twice what 4096 x 4096 pixels of 16 bits need
_MOST_HEADER_BYTES = 4 << 20  # that pydicom reads; what it passes over costs nothing
_MOST_HEADER_READS = 50_000  # a header has some hundred elements, each a few reads

_PIXEL_DATA = 0x7FE00010
_PIXEL_DATA_OR_LATER = 0x7FE00008  # float pixel data is not of a CT
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_NATIVE = (_IMPLICIT, _EXPLICIT, _BIG_ENDIAN)
_UNDEFINED = 0xFFFFFFFF  # the length of a compressed image, which comes in parts

# Their messages quote the values that they wonder about, a patient's name among them.
for _library in ("pydicom", "pylibjpeg", "openjpeg", "libjpeg"):
    logging.getLogger(_library).addHandler(logging.NullHandler())
    logging.getLogger(_library).propagate = False
config.settings.reading_validation_mode = config.IGNORE


@dataclass(frozen=True, slots=True)
class CtSlice:
    """One slice of a CT series. It names a patient, so it lives only while a cohort is loaded."""

    path: Path
    patient_id: str  # as in the file; may be empty
    series: str
    study: str | None  # StudyInstanceUID
    instance: str
    number: int | None  # InstanceNumber: what a viewer shows
    shape: tuple[int, int]  # rows, columns
    spacing: tuple[float, float]  # mm between rows, between columns
    along_row: Vector  # unit vector in which the column number grows, patient coordinates (LPS)
    along_column: Vector  # ... in which the row number grows
    position: Vector  # mm, of the middle of row 0, column 0
    thickness: float | None  # mm
    slope: float  # HU = slope * stored + intercept
    intercept: float
    padding: tuple[int, int] | None  # stored values from and to which nothing was measured
    signed: bool
    bits_stored: int
    syntax: str
    pixels_at: int  # where the pixels begin in the file, bytes
    pixel_bytes: int | None  # None: compressed, to the end of the file
    acquisition: Acquisition

    def hu(self) -> npt.NDArray[np.float32]:
        """(rows, columns) in HU, padding as air. NotUsable when the pixels cannot be had."""
        try:
            with open_regular(self.path, "") as file, _quiet():
                stored = self._stored(file)
        except (DataError, OSError) as error:  # an archive may be mounted over a network
            raise NotUsable("it could not be opened again") from error
        low, high = self.padding or (1, 0)
        hu = stored.astype(np.float64) * self.slope + self.intercept
        return measured(hu, (stored >= low) & (stored <= high))

    def _stored(self, file: BinaryIO) -> npt.NDArray[np.int32]:
        file.seek(self.pixels_at)
        if self.pixel_bytes is None:
            raw = decode(
                file.read(MAX_FILE_BYTES), self.syntax, self.shape, self.bits_stored, self.signed
            )
        else:
            order = ">" if self.syntax == _BIG_ENDIAN else "<"
            data = file.read(2 * self.shape[0] * self.shape[1])
            if len(data) < 2 * self.shape[0] * self.shape[1]:
                raise NotUsable("it is truncated: it ends within the pixels")
            raw = np.frombuffer(data, f"{order}u2").reshape(self.shape).astype(np.uint16)
        # Bits above those stored may hold an overlay (PS3.5 8.1.1); shifting also extends the sign.
        unused = 16 - self.bits_stored
        shifted = raw.view(np.uint16) << np.uint16(unused)
        kind = np.int16 if self.signed else np.uint16
        return (shifted.view(kind) >> kind(unused)).astype(np.int32)


def read_slice(path: Path) -> CtSlice:
    """The slice in the file `path`, without its pixels. NotUsable says why there is none."""
    try:
        with open_regular(path, "") as file, _quiet():
            return _read(path, file)
    except DataError as error:
        raise NotUsable("it is not a regular file that can be opened") from error
    except NotUsable:
        raise
    # The file's bytes drive the parser; whatever it raises, and whatever value that would quote.
    except Exception:
        raise NotUsable("its header is damaged") from None


def _read(path: Path, file: BinaryIO) -> CtSlice:
    size = os.fstat(file.fileno()).st_size
    if size > MAX_FILE_BYTES:
        raise NotUsable(f"it is larger than {MAX_FILE_BYTES >> 20} MB")
    syntax = _transfer_syntax(file)
    header = read_dataset(
        _Bounded(file),  # type: ignore[arg-type]
        is_implicit_VR=syntax == _IMPLICIT,
        is_little_endian=syntax != _BIG_ENDIAN,
        stop_when=lambda tag, _vr, _length: tag >= _PIXEL_DATA_OR_LATER,
        specific_tags=[BaseTag(tag) for tag in ALLOWED.values()],
    )
    values = {name: header.get(name) for name in ALLOWED}
    pixels_at, length = _pixel_data(file, syntax)
    check_kind(values)
    shape = (int(values["Rows"]), int(values["Columns"]))
    if not all(0 < side <= MAX_SIDE for side in shape):
        raise NotUsable(f"its rows or columns are not within 1..{MAX_SIDE}")
    needed = 2 * shape[0] * shape[1]
    if syntax in _NATIVE:
        if length < needed or pixels_at + needed > size:
            raise NotUsable("it is truncated: its pixels are fewer than rows x columns")
    elif length != _UNDEFINED or size > 2 * needed + _MOST_HEADER_BYTES:
        raise NotUsable("its compressed pixels are larger than the image, or not in parts")
    signed = int(values["PixelRepresentation"]) == 1
    spacing, along_row, along_column, position, thickness = geometry(values)
    slope, intercept = scale(values)
    return CtSlice(
        path=path,
        patient_id=str(values["PatientID"] or ""),
        series=uid(values["SeriesInstanceUID"], "series"),
        study=str(values["StudyInstanceUID"] or "")[:64] or None,
        instance=uid(values["SOPInstanceUID"], "instance"),
        number=None if values["InstanceNumber"] in (None, "") else int(values["InstanceNumber"]),
        shape=shape,
        spacing=spacing,
        along_row=along_row,
        along_column=along_column,
        position=position,
        thickness=thickness,
        slope=slope,
        intercept=intercept,
        padding=padding(values, signed),
        signed=signed,
        bits_stored=int(values["BitsStored"]),
        syntax=syntax,
        pixels_at=pixels_at,
        pixel_bytes=needed if syntax in _NATIVE else None,
        acquisition=acquisition(values),
    )


def _transfer_syntax(file: BinaryIO) -> str:
    """The transfer syntax UID in the file's meta information, left at its end (PS3.10 7.1).

    Not by pydicom, which would at once inflate a deflated file, however large it becomes.
    """
    if file.read(132)[128:] != b"DICM":
        raise NotUsable("it is not a DICOM file")
    found: list[str] = []
    for _ in range(64):  # elements; the standard has about fifteen
        start = file.tell()
        head = file.read(8)
        if len(head) < 8:
            raise NotUsable("it is truncated: it ends within the header")
        group, element, vr, length = struct.unpack("<HH2sH", head)
        if group != 2:
            file.seek(start)
            break
        if vr in (b"OB", b"UN", b"OW", b"SQ", b"UT", b"OF"):
            (length,) = struct.unpack("<I", file.read(4))
        if element == 0x0010:
            found.append(file.read(min(length, 64)).rstrip(b"\0 ").decode("ascii"))
        else:
            file.seek(length, os.SEEK_CUR)
    if len(found) != 1:
        raise NotUsable("it does not state one transfer syntax")
    if found[0] == _DEFLATED:
        raise NotUsable("it is deflated, which can hide any size")
    if found[0] not in _NATIVE and not decodable(found[0]):
        raise NotUsable("its compression needs pylibjpeg, or is not of a still image")
    return found[0]


def _pixel_data(file: BinaryIO, syntax: str) -> tuple[int, int]:
    """Where the pixels begin and how many bytes they say they are; `file` stands before them."""
    order = ">" if syntax == _BIG_ENDIAN else "<"
    head = file.read(8)
    if len(head) < 8:
        raise NotUsable("it is truncated: it ends before the pixels")
    group, element = struct.unpack(f"{order}HH", head[:4])
    if (group << 16 | element) != _PIXEL_DATA:
        raise NotUsable("it has no pixels")
    (length,) = struct.unpack(f"{order}I", head[4:] if syntax == _IMPLICIT else file.read(4))
    return file.tell(), length


class _Bounded:
    """A file as pydicom may read its header: so many bytes and parts, NotUsable beyond."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._reads, self._bytes = file, 0, 0
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _MOST_HEADER_BYTES:
            raise NotUsable("its header asks for more than is plausible")
        data = self._file.read(size)
        self._reads, self._bytes = self._reads + 1, self._bytes + len(data)
        if self._reads > _MOST_HEADER_READS or self._bytes > _MOST_HEADER_BYTES:
            raise NotUsable("its header is larger than is plausible")
        return data


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
