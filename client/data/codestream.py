"""Compressed pixels of one slice -> stored values, where a decoder for them is installed.

A codestream states its own size and could ask for a thousand times what the DICOM header says
(THREATS.md T18), so both are compared before a decoder sees it; and the decoder is in a process of its own.
"""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import RLELossless

from client.data.child import in_child
from client.data.quarantine import NotUsable

_JPEG_FAMILY = (
    "1.2.840.10008.1.2.4.50",  # baseline, 8 bits
    "1.2.840.10008.1.2.4.51",  # extended, 12 bits
    "1.2.840.10008.1.2.4.57",  # lossless
    "1.2.840.10008.1.2.4.70",  # lossless, first-order prediction: what PACS send
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
)
_JPEG_2000 = (
    "1.2.840.10008.1.2.4.90",  # lossless
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201",  # high throughput
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
)
COMPRESSED = (str(RLELossless), *_JPEG_FAMILY, *_JPEG_2000)
_DAMAGED = "its compressed pixels are damaged"
_NO_FRAME_HEADERS = (0xC4, 0xC8, 0xCC)  # within C0..CF: tables, which state no size


def decodable(syntax: str) -> bool:
    """Whether a transfer syntax is one of a compressed still image, and a decoder is installed."""
    return syntax in COMPRESSED and bool(get_decoder(syntax).is_available)


def decode(
    encapsulated: bytes, syntax: str, shape: tuple[int, int], bits_stored: int, signed: bool
) -> npt.NDArray[np.uint16]:
    """(rows, columns): stored values as words of 16 bits, a sign in their own highest bit."""
    try:
        frame = next(generate_frames(encapsulated, number_of_frames=1))
        if syntax in _JPEG_FAMILY:
            found = _jpeg_size(frame)
        elif syntax in _JPEG_2000:
            found = _jpeg_2000_size(frame)
        else:
            found = shape  # RLE states none: what it can become is bounded by the file's size
    except NotUsable:
        raise
    # The bytes drive the parser, which raises whatever it meets and would quote it.
    except Exception:
        raise NotUsable(_DAMAGED) from None
    if found != shape:
        raise NotUsable("its compressed image is not of the size that the header says")
    options: dict[str, Any] = {
        "rows": shape[0],
        "columns": shape[1],
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": 16,
        "bits_stored": bits_stored,
        "pixel_representation": int(signed),
        "pixel_keyword": "PixelData",
    }
    decoder = get_decoder(syntax)

    def words() -> bytes:
        decoded, _ = decoder.as_array(encapsulated, raw=True, **options)
        return bytes(decoded.reshape(shape).astype(np.int32).astype(np.uint16).tobytes())

    answer = in_child(words, 2 * shape[0] * shape[1])
    if answer is None:
        raise NotUsable(_DAMAGED)
    return np.frombuffer(answer, np.uint16).reshape(shape)


def _jpeg_size(frame: bytes) -> tuple[int, int]:
    """(rows, columns) of the first frame header of a JPEG or JPEG-LS stream (ISO 10918-1 B.2.2)."""
    at = 2
    while frame[at] == 0xFF:
        marker = frame[at + 1]
        (length,) = struct.unpack_from(">H", frame, at + 2)
        if (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADERS) or marker == 0xF7:
            rows, columns = struct.unpack_from(">HH", frame, at + 5)
            return rows, columns
        at += 2 + length
    raise NotUsable("its compressed image states no size")


def _jpeg_2000_size(frame: bytes) -> tuple[int, int]:
    """(rows, columns) of the SIZ segment, which must follow the start (ISO 15444-1 A.5.1)."""
    if frame[:4] != b"\xff\x4f\xff\x51":
        raise NotUsable("its compressed image states no size")
    columns, rows, left, top = struct.unpack_from(">IIII", frame, 8)
    return rows - top, columns - left
