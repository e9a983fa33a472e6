"""One image file: depths, channels, crop, resize, damage, and kinds that are refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.data.pixels import read_pixels
from common.errors import DataError
from common.tasks.nodule_classification.study import Images

RNG = np.random.default_rng(5)


def images(size: int = 20, channels: int = 1, fit: str = "crop") -> Images:
    return Images.model_validate(
        {"classes": ("a", "b"), "size": size, "channels": channels, "fit": fit}
    )


def png_rows(path: Path) -> np.ndarray:
    """A 16-bit grey PNG read from its bytes alone: chunks, zlib, and the five row filters."""
    data = path.read_bytes()
    at, packed, width, height = 8, b"", 0, 0
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (16, 0)
        if kind == b"IDAT":
            packed += body
        at += 12 + length
    raw, step, above = zlib.decompress(packed), 2, bytearray(2 * width)
    rows = []
    for y in range(height):
        start = y * (2 * width + 1)
        row = bytearray(raw[start + 1 : start + 1 + 2 * width])
        for x in range(2 * width):
            left = row[x - step] if x >= step else 0
            corner = above[x - step] if x >= step else 0
            guess = left + above[x] - corner
            _, _, paeth = min(
                (abs(guess - v), n, v) for n, v in enumerate((left, above[x], corner))
            )
            row[x] = (row[x] + (0, left, above[x], (left + above[x]) // 2, paeth)[raw[start]]) % 256
        rows.append(np.frombuffer(bytes(row), ">u2"))
        above = row
    return np.stack(rows).astype(np.uint16)


def test_16_bit_png_keeps_16_bits_by_an_independent_reading(tmp_path: Path) -> None:
    y, x = np.mgrid[:24, :24]
    deep = (x * 2711 + y * y * 113 + RNG.integers(0, 300, (24, 24))).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    found = read_pixels(tmp_path / "deep.png", images(24), "here")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found[:, :, 0], png_rows(tmp_path / "deep.png"))
    np.testing.assert_array_equal(found[:, :, 0], deep)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_16_bit_tiff(tmp_path: Path, compression: str | None) -> None:
    deep = RNG.integers(0, 65536, (20, 20), np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.tif", compression=compression)
    found = read_pixels(tmp_path / "deep.tif", images(), "here")
    np.testing.assert_array_equal(found[:, :, 0], deep)


def test_big_endian_tiff_comes_in_native_order(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65536, (20, 20), np.uint16)
    tags = [(256, 20), (257, 20), (258, 16), (259, 1), (262, 1), (273, 8 + 2 + 9 * 12 + 4)]
    tags += [(277, 1), (278, 20), (279, 800)]
    entries = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    (tmp_path / "deep.tif").write_bytes(
        b"MM\0*"
        + struct.pack(">IH", 8, len(tags))
        + entries
        + bytes(4)
        + deep.astype(">u2").tobytes()
    )
    found = read_pixels(tmp_path / "deep.tif", images(), "here")
    assert found.dtype == np.dtype(np.uint16)
    assert found.dtype.isnative
    np.testing.assert_array_equal(found[:, :, 0], deep)


def test_grey_is_repeated_to_three_channels(tmp_path: Path) -> None:
    flat = RNG.integers(0, 256, (20, 20), np.uint8)
    Image.fromarray(flat).save(tmp_path / "grey.png")
    found = read_pixels(tmp_path / "grey.png", images(channels=3), "here")
    np.testing.assert_array_equal(found, np.stack([flat] * 3, axis=-1))


def test_rgb_stays_or_becomes_luminance(tmp_path: Path) -> None:
    rgb = RNG.integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(
        read_pixels(tmp_path / "rgb.png", images(channels=3), "here"), rgb
    )
    luminance = rgb @ np.array([0.299, 0.587, 0.114])
    found = read_pixels(tmp_path / "rgb.png", images(), "here")[:, :, 0]
    assert np.abs(found - luminance).max() <= 0.51


@pytest.mark.parametrize("size", [16, 17])
def test_centre_crop(tmp_path: Path, size: int) -> None:
    y, x = np.mgrid[:20, :31]
    Image.fromarray((8 * y + x).astype(np.uint8)).save(tmp_path / "wide.png")
    found = read_pixels(tmp_path / "wide.png", images(size), "here")
    top, left = (20 - size) // 2, (31 - size) // 2
    assert found[0, 0, 0] == 8 * top + left
    assert found[-1, -1, 0] == 8 * (top + size - 1) + left + size - 1


@pytest.mark.parametrize("highest", [255, 65535])
def test_resize_averages_over_the_area_in_full_depth(tmp_path: Path, highest: int) -> None:
    """64 -> 16 by the triangle filter, against its definition written out in float64."""
    dtype = np.uint8 if highest == 255 else np.uint16
    source = RNG.integers(0, highest, (64, 64), dtype, endpoint=True)
    Image.fromarray(source).save(tmp_path / "large.png")
    found = read_pixels(tmp_path / "large.png", images(16, fit="resize"), "here")[:, :, 0]
    centres = (np.arange(16)[:, None] + 0.5) * 4
    weights = np.clip(1 - np.abs(np.arange(64) + 0.5 - centres) / 4, 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    expected = weights @ source.astype(float) @ weights.T
    assert found.dtype == dtype
    assert np.abs(found - expected).max() <= 0.5 + highest * 1e-6
    if highest == 65535:
        assert len(np.unique(found % 257)) > 50  # not 8 bits blown up


def test_resize_brings_small_and_oblong_images_to_size(tmp_path: Path) -> None:
    rgb = np.zeros((9, 30, 3), np.uint8)
    rgb[:] = (10, 200, 255)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    found = read_pixels(tmp_path / "rgb.png", images(20, 3, "resize"), "here")
    assert found.shape == (20, 20, 3)
    assert (found == [10, 200, 255]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK", "I", "F"])
def test_kinds_that_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode in ("CMYK", "I", "F") else "x.png")
    Image.new(mode, (20, 20)).save(path)
    assert_refused(path, "without transparency", mode)


def test_grey_with_a_transparent_value_is_refused(tmp_path: Path) -> None:
    Image.new("L", (20, 20)).save(tmp_path / "x.png", transparency=0)
    assert_refused(tmp_path / "x.png", "without transparency")


def test_16_bit_rgb_is_refused_since_pillow_would_cut_it_to_8(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    (tmp_path / "x.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 20, 20, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress((b"\0" + bytes(120)) * 20))
        + chunk(b"IEND", b"")
    )
    assert_refused(tmp_path / "x.png", "RGB;16B")


@pytest.mark.parametrize(
    ("tag", "value", "dtype"), [(262, 0, np.uint16), (339, 2, np.uint8), (339, 2, np.uint16)]
)
def test_tiffs_that_pillow_would_misread_are_refused(
    tmp_path: Path, tag: int, value: int, dtype: type[np.unsignedinteger]
) -> None:
    Image.fromarray(np.zeros((20, 20), dtype)).save(tmp_path / "x.tif", tiffinfo={tag: value})
    assert_refused(
        tmp_path / "x.tif", "8- or 16-bit" if (tag, dtype) == (339, np.uint16) else "TIFF"
    )


def test_several_images_in_one_file_are_refused(tmp_path: Path) -> None:
    pages = [Image.new("L", (20, 20), grey) for grey in (0, 9)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    assert_refused(tmp_path / "x.tif", "found several")


def test_other_formats_are_refused(tmp_path: Path) -> None:
    Image.new("L", (20, 20)).save(tmp_path / "x.bmp")
    (tmp_path / "x.bmp").rename(tmp_path / "x.png")
    assert_refused(tmp_path / "x.png", "whole PNG, JPEG or TIFF")


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8])
def test_a_cut_file_is_refused(tmp_path: Path, name: str, share: float) -> None:
    Image.fromarray(RNG.integers(0, 256, (60, 60), np.uint8)).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    assert_refused(tmp_path / name, "whole PNG, JPEG or TIFF", name)


@pytest.mark.filterwarnings("ignore")  # Pillow's warnings about damage are not the point here
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "lzw.tif"])
def test_whatever_the_damage_only_a_data_error_leaves(tmp_path: Path, name: str) -> None:
    compression = {"compression": "tiff_lzw"} if name == "lzw.tif" else {}
    Image.fromarray(RNG.integers(0, 256, (30, 30), np.uint8)).save(tmp_path / name, **compression)
    whole = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(11)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for at in rng.integers(0, min(len(whole), 400), 3):
            damaged[at] = rng.integers(256)
        (tmp_path / name).write_bytes(damaged)
        try:
            assert read_pixels(tmp_path / name, images(), "here").shape == (20, 20, 1)
        except DataError:
            refused += 1
    assert refused > 10


def assert_refused(path: Path, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_pixels(path, images(), "row 7")
    assert str(caught.value).startswith("row 7: expected ")
    for word in words:
        assert word in str(caught.value)
