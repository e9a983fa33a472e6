"""One image file -> its pixels, (size, size, channels), uint8 or uint16 as stored.

A file of a few kilobytes can ask a decoder for gigabytes or for hours (THREATS.md T18), so how large
it is, how often it is read and what it claims is bounded before anything is decoded.
"""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin

from client.data.cohort import Pixels
from client.data.paths import open_regular
from common.errors import DataError
from common.tasks.nodule_classification.study import Images

FORMATS = ("PNG", "JPEG", "TIFF")
# Width x height. What is decoded takes up to 11 bytes a pixel on its way: 300 MB, one second.
MAX_PIXELS = 25_000_000
MAX_FILE_BYTES = 100_000_000  # 8-bit RGB of so many pixels has 75 MB without compression

# What Pillow reads before the first pixel; a TIFF's table of a million strips costs it seconds.
_MOST_METADATA = 1 << 20  # bytes
_MOST_READS = 100_000  # of a whole file; every part of one takes a few, however short it is
_MOST_STRIPS = 10_000  # of a TIFF, which has at most one for each row of pixels
# Of a JPEG: about ten make a progressive one, and each goes over all pixels in a few bytes.
_MOST_SCANS = 50
_START_OF_SCAN = b"\xff\xda"

_GREY_8, _RGB_8 = "L", "RGB"
_GREY_16 = ("I;16", "I;16L", "I;16B")
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_SAMPLE_FORMAT, _UNSIGNED = 339, 1


def read_pixels(path: Path, images: Images, where: str) -> Pixels:
    """The image as (size, size, channels) with the bit depth of the file.

    Grey becomes three equal channels and RGB its luminance (ITU-R 601), where the protocol's
    `channels` asks for it. 16 bits stay 16 bits. DataError, opening with `where`, when the file
    is not a whole PNG, JPEG or TIFF of 8- or 16-bit grey or 8-bit RGB, or does not fit.
    """
    decoded = _decode(path, images.channels, where)
    if images.fit == "crop":
        fitted = _centre_crop(decoded, images.size, where)
    else:
        fitted = _resize(decoded, images.size)
    return np.broadcast_to(fitted, (images.size, images.size, images.channels))


def _decode(path: Path, channels: int, where: str) -> Pixels:
    """The whole image (height, width, 1 or 3): 3 only where the file and the protocol have 3."""
    with open_regular(path, where) as file:
        try:
            bounded = _Bounded(file, where)
            with Image.open(bounded, formats=FORMATS) as image:  # type: ignore[arg-type]
                bounded.opened = True
                _check_kind(image, where)
                _check_work(image, file, where)
                if image.mode == _RGB_8 and channels == 1:
                    pixels = np.asarray(image.convert(_GREY_8))
                else:
                    pixels = np.asarray(image)
        except DataError:
            raise
        # Pillow's own limits lie above ours; its warning is an exception where warnings are errors.
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_large(where, str(error)) from error
        # The file's bytes drive the decoder, which raises OSError, SyntaxError, ValueError,
        # struct.error and others for damage; whatever it is, the image cannot be used.
        except Exception as error:
            raise DataError(
                f"{where}: expected a whole PNG, JPEG or TIFF image, found {path.name!r} that "
                f"cannot be decoded ({type(error).__name__}: {error}); export it again"
            ) from error
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return native if native.ndim == 3 else native[:, :, np.newaxis]


def _check_kind(image: ImageFile.ImageFile, where: str) -> None:
    """DataError unless the opened, not yet decoded image is of a kind that keeps its meaning."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(where, f"{width} x {height}")
    # Not n_frames, for which Pillow goes through all of them.
    if getattr(image, "is_animated", False):
        raise DataError(f"{where}: expected one image in a file, found several; export each apart")
    # Transparency is refused, since nothing says what lies behind it; a palette is refused, since
    # its numbers are no intensities and its colours are often an overlay or a segmentation.
    # Converting either by a guess would train on something that nobody looked at.
    if image.mode not in (_GREY_8, _RGB_8, *_GREY_16) or "transparency" in image.info:
        raise DataError(
            f"{where}: expected 8- or 16-bit grey or 8-bit RGB without transparency, found "
            f"Pillow's mode {image.mode!r}; convert the image and look at the result"
        )
    # Pillow cuts 16-bit RGB down to 8 bits and puts 12-bit grey into 16-bit words, both silently.
    arguments = image.tile[0].args
    raw_mode = arguments if isinstance(arguments, str) else str((arguments or ("",))[0])
    if ("16" in raw_mode) != (image.mode in _GREY_16):
        raise DataError(
            f"{where}: expected 8- or 16-bit grey or 8-bit RGB, found {raw_mode!r}; convert the "
            f"image to one of these"
        )
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        inverted = image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        formats = set(np.atleast_1d(image.tag_v2.get(_SAMPLE_FORMAT, _UNSIGNED)).tolist())
        if formats != {_UNSIGNED} or (inverted and image.mode in _GREY_16):
            raise DataError(
                f"{where}: expected a TIFF of unsigned values in which 0 is black, found signed "
                f"or inverted ones that Pillow would misread; export it again"
            )


def _check_work(image: ImageFile.ImageFile, file: BinaryIO, where: str) -> None:
    """DataError when decoding would take many times what an image of this size takes."""
    if len(image.tile) > _MOST_STRIPS:
        raise _too_costly(where, f"one of {len(image.tile)} strips")
    if "jpeg" in (image.format or "").lower() + str(image.info.get("compression")):
        position = file.tell()
        file.seek(0)
        # Within a scan a byte FF is always followed by another code.
        scans = file.read(MAX_FILE_BYTES).count(_START_OF_SCAN)
        file.seek(position)
        if scans > _MOST_SCANS:
            raise _too_costly(where, f"a JPEG of {scans} scans")


class _Bounded:
    """An image file as Pillow may read it: until it is `opened` no more than `_MOST_METADATA` bytes.

    DataError, opening with `where`, when it is more, or when file or number of parts are too large.
    """

    def __init__(self, file: BinaryIO, where: str) -> None:
        if (size := os.fstat(file.fileno()).st_size) > MAX_FILE_BYTES:
            raise _too_costly(where, f"one of {size // 1_000_000} MB")
        self._file, self._where, self._reads, self._bytes = file, where, 0, 0
        self.opened = False
        self.seek, self.tell, self.fileno = file.seek, file.tell, file.fileno

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._reads, self._bytes = self._reads + 1, self._bytes + len(data)
        if self._reads > _MOST_READS:
            raise _too_costly(self._where, f"one that takes more than {_MOST_READS} reads")
        if self._bytes > _MOST_METADATA and not self.opened:
            raise _too_costly(self._where, f"one with {self._bytes} bytes before the first pixel")
        return data


def _centre_crop(pixels: Pixels, size: int, where: str) -> Pixels:
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        raise DataError(
            f"{where}: expected an image of at least {size} x {size} pixels for fit = 'crop', "
            f"found {width} x {height}; use fit = 'resize' or a smaller images.size"
        )
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]


def _resize(pixels: Pixels, size: int) -> Pixels:
    """Both sides brought to `size`, bilinear over the whole area that a new pixel covers.

    The aspect ratio is not kept. Each channel is resized as 32-bit float, which holds all 16-bit
    values exactly, and rounded once; Pillow's own 16-bit resizing differs between versions.
    """
    highest = np.iinfo(pixels.dtype).max
    resized = np.empty((size, size, pixels.shape[2]), pixels.dtype)
    for channel in range(pixels.shape[2]):
        plane: npt.NDArray[np.float32] = pixels[:, :, channel].astype(np.float32)
        scaled = Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR)
        resized[:, :, channel] = np.clip(np.rint(np.asarray(scaled)), 0, highest)
    return resized


def _too_costly(where: str, found: str) -> DataError:
    return DataError(
        f"{where}: expected a plain image of at most {MAX_FILE_BYTES // 1_000_000} MB, found {found}; "
        f"export it again, without metadata"
    )


def _too_large(where: str, found: str) -> DataError:
    return DataError(
        f"{where}: expected at most {MAX_PIXELS // 1_000_000} megapixels, found {found}; cut the "
        f"image to the region of interest"
    )
