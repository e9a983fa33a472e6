"""One image file -> its pixels, (size, size, channels), uint8 or uint16 as stored."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin

from client.data.cohort import Pixels
from client.data.paths import open_regular
from common.errors import DataError
from common.protocol import Images

FORMATS = ("PNG", "JPEG", "TIFF")
MAX_PIXELS = 64_000_000  # width x height before decoding: 16 slices of 2000 x 2000 side by side

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
            with Image.open(file, formats=FORMATS) as image:
                _check_kind(image, where)
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
    if getattr(image, "n_frames", 1) != 1:
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


def _too_large(where: str, found: str) -> DataError:
    return DataError(
        f"{where}: expected at most {MAX_PIXELS // 1_000_000} megapixels, found {found}; cut the "
        f"image to the region of interest"
    )
