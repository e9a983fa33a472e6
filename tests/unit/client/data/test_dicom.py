"""One DICOM file: its HU against readings that are not ours, and each defect by its reason."""

import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_rescale
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    JPEG2000Lossless,
    RLELossless,
)

from client.data import codestream, dicom
from client.data.dicom import CtSlice, read_slice
from client.data.quarantine import NotUsable
from tests.unit.client.data.making_dicom import save, slice_dataset

SHARED = Path(__file__).resolve().parents[4].parent / "shared" / "data"
REAL = SHARED / "ct-dicom"

real = pytest.mark.skipif(not REAL.is_dir(), reason="the real folder ct-dicom is not here")

RAMP = np.arange(24 * 20, dtype=np.float64).reshape(24, 20) * 2.5 - 1000
LARGE = RAMP.repeat(4, axis=0).repeat(5, axis=1)  # JPEG 2000 wants some pixels


def element(data: bytes, tag: tuple[int, int]) -> bytes | None:
    """The value of a short explicit-VR element, found by its bytes."""
    for vr in (b"DS", b"SS", b"US"):
        at = data.find(struct.pack("<HH", *tag) + vr)
        if at >= 0:
            (length,) = struct.unpack_from("<H", data, at + 6)
            return data[at + 8 : at + 8 + length]
    return None


def read_by_hand(path: Path) -> npt.NDArray[np.float64]:
    """HU by the bytes of an uncompressed explicit little-endian file that ends with its pixels."""
    data = path.read_bytes()
    rows, columns = (struct.unpack("<H", element(data, (0x28, n)) or b"")[0] for n in (0x10, 0x11))
    at = data.rfind(b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", 2 * rows * columns)) + 12
    assert at >= 12
    stored = np.frombuffer(data, "<i2", rows * columns, at).reshape(rows, columns)
    slope, intercept = (float(element(data, (0x28, n)) or b"") for n in (0x1053, 0x1052))
    return stored * slope + intercept


@real
def test_real_slices_have_the_hu_of_their_bytes_and_padding_is_air() -> None:
    files = sorted(REAL.glob("*/*.dcm"))
    assert len(files) == 20
    lowest = set()
    for file in files:
        by_hand = read_by_hand(file)
        lowest.add(float(by_hand.min()))
        expected = np.where(by_hand < -1024, -1000, by_hand)
        np.testing.assert_array_equal(read_slice(file).hu(), expected)
    assert {-3024.0, -2048.0} <= lowest  # GE declares its padding, Toshiba does not


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KI.dcm"])
def test_pydicoms_ct_files_have_the_hu_that_pydicom_says(name: str) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    ds = pydicom.dcmread(path)
    assert ds.SOPClassUID == CTImageStorage
    expected = apply_rescale(ds.pixel_array, ds)
    one = read_slice(path)
    np.testing.assert_array_equal(one.hu(), np.where(expected < -1024, -1000, expected))
    assert one.spacing == tuple(ds.PixelSpacing)


def test_monochrome1_changes_the_display_and_no_number(tmp_path: Path) -> None:
    ds = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.save_as(tmp_path / "inverse.dcm")
    expected = apply_rescale(ds.pixel_array, ds)
    found = read_slice(tmp_path / "inverse.dcm").hu()
    np.testing.assert_array_equal(found, np.where(expected < -1024, -1000, expected))


@pytest.mark.parametrize(
    "name",
    [
        *("MR_small_implicit.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm"),
        *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"),
    ],
)
def test_every_transfer_syntax_gives_the_pixels_of_the_plain_file(
    tmp_path: Path, name: str
) -> None:
    """pydicom's own files, which others compressed; an MR says it is a CT to be read."""

    def as_ct(name: str) -> CtSlice:
        ds = pydicom.dcmread(str(get_testdata_file(name, download=False)))
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.Modality, ds.RescaleSlope, ds.RescaleIntercept = "CT", 1, -1024
        if "PixelPaddingValue" in ds:
            del ds.PixelPaddingValue
        ds.save_as(tmp_path / name)
        return read_slice(tmp_path / name)

    plain = as_ct("MR_small.dcm")
    np.testing.assert_array_equal(as_ct(name).hu(), plain.hu())
    assert np.ptp(plain.hu()) > 500


def hu_after(tmp_path: Path, *edits: Callable[[Dataset], object]) -> npt.NDArray[np.float32]:
    return read_slice(save(slice_dataset(RAMP, (0, 0, 0)), tmp_path / "a", *edits)).hu()


def test_slope_intercept_and_padding_by_hand(tmp_path: Path) -> None:
    stored = np.array([[-7, -6, -5], [0, 100, 3000]], "<i2")

    def edit(ds: Dataset) -> None:
        ds.Rows, ds.Columns, ds.PixelData = 2, 3, stored.tobytes()
        ds.RescaleSlope, ds.RescaleIntercept = 0.5, 10

    air = -1000
    expected = np.array([[6.5, 7, 7.5], [10, 60, 1510]])
    np.testing.assert_array_equal(hu_after(tmp_path, edit), expected)

    def pad(value: int, limit: int | None = None, vr: str = "SS") -> Callable[[Dataset], object]:
        def edit(ds: Dataset) -> None:
            ds.add_new(0x00280120, vr, value)
            if limit is not None:
                ds.add_new(0x00280121, vr, limit)

        return edit

    one = np.where(stored == -6, air, expected)
    some = np.where(stored <= -6, air, expected)
    np.testing.assert_array_equal(hu_after(tmp_path, edit, pad(-6)), one)
    np.testing.assert_array_equal(hu_after(tmp_path, edit, pad(-6, -32768)), some)
    np.testing.assert_array_equal(hu_after(tmp_path, edit, pad(-32768, -6)), some)
    np.testing.assert_array_equal(hu_after(tmp_path, edit, pad(65536 - 6, vr="US")), one)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_stored_are_no_intensities(tmp_path: Path, signed: bool) -> None:
    """12 bits in words of 16, an old overlay in the others (PS3.5 8.1.1)."""
    values = np.array([[0, 1, 2047], [5, 900, 17]]) - (40 if signed else 0)
    dirty = (values & 0xFFF) | 0x5000

    def edit(ds: Dataset) -> None:
        ds.Rows, ds.Columns, ds.PixelData = 2, 3, dirty.astype("<u2").tobytes()
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, int(signed)

    np.testing.assert_array_equal(
        hu_after(tmp_path, edit), np.where(values < 0, -1000, values - 1024)
    )


# --- each defect


def setting(**values: object) -> Callable[[Dataset], object]:
    def edit(ds: Dataset) -> None:
        for name, value in values.items():
            setattr(ds, name, value)

    return edit


def without(*names: str) -> Callable[[Dataset], object]:
    def edit(ds: Dataset) -> None:
        for name in names:
            delattr(ds, name)

    return edit


HEADER_DEFECTS = {
    "several frames": (setting(NumberOfFrames=2), "it has several frames"),
    "enhanced": (setting(SOPClassUID=EnhancedCTImageStorage), "it is not a CT image of one slice"),
    "MR": (setting(Modality="MR"), "it is not a CT image of one slice"),
    "localizer": (
        setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "it is a localizer, not a slice",
    ),
    "burned in": (setting(BurnedInAnnotation="YES"), "it says that text is burned into its pixels"),
    "palette": (setting(PhotometricInterpretation="PALETTE COLOR"), "it is not in shades of grey"),
    "colour": (setting(SamplesPerPixel=3), "it is not in shades of grey"),
    "bytes": (setting(BitsAllocated=8), "its pixels are not 8 to 16 bits in words of 16"),
    "high bit": (setting(HighBit=12), "its pixels are not 8 to 16 bits in words of 16"),
    "no sign": (without("PixelRepresentation"), "it does not say whether its pixels are signed"),
    "no spacing": (without("PixelSpacing"), "its spacing, orientation or position is missing"),
    "no position": (
        without("ImagePositionPatient"),
        "its spacing, orientation or position is missing",
    ),
    "two coordinates": (
        setting(ImagePositionPatient=[1, 2]),
        "its spacing, orientation or position is not made of numbers",
    ),
    "no spacing at all": (
        setting(PixelSpacing=[0, 1]),
        "its pixel spacing is not within 0.01..50 mm",
    ),
    "skewed": (
        setting(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
        "its orientation is not two perpendicular unit vectors",
    ),
    "long axes": (
        setting(ImageOrientationPatient=[2, 0, 0, 0, 2, 0]),
        "its orientation is not two perpendicular unit vectors",
    ),
    "no HU": (without("RescaleSlope"), "it has no rescale slope and intercept, so no HU"),
    "no slope": (setting(RescaleSlope=0), "its rescale slope or intercept cannot be of a CT"),
    "no series": (without("SeriesInstanceUID"), "it has no series UID"),
    "no instance": (without("SOPInstanceUID"), "it has no instance UID"),
    "no rows": (setting(Rows=0), "its rows or columns are not within 1..4096"),
    "absurd rows": (
        setting(Rows=65535, Columns=65535),
        "its rows or columns are not within 1..4096",
    ),
    "more rows than pixels": (
        setting(Rows=4096, Columns=4096),
        "it is truncated: its pixels are fewer than rows x columns",
    ),
    "no pixels": (without("PixelData"), "it is truncated: it ends before the pixels"),
    "no size": (without("Rows"), "its header is damaged"),
}


def reason(path: Path) -> str:
    with pytest.raises(NotUsable) as caught:
        read_slice(path).hu()
    return str(caught.value)


@pytest.mark.parametrize("name", HEADER_DEFECTS)
def test_a_header_that_is_not_of_a_ct_slice(tmp_path: Path, name: str) -> None:
    edit, why = HEADER_DEFECTS[name]
    path = tmp_path / "a"
    ds = slice_dataset(RAMP, (0, 0, 0))
    save(ds, path)
    read_slice(path)
    edit(ds)
    ds.preamble = bytes(128)
    ds.save_as(path, enforce_file_format=False)  # as it is, whatever the standard says
    assert reason(path) == why


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "x"])
@pytest.mark.parametrize("tag", [0x00200032, 0x00281052])
def test_numbers_that_are_none(tmp_path: Path, tag: int, text: str) -> None:
    whole = save(slice_dataset(RAMP, (111111, 111111, 0)), tmp_path / "a").read_bytes()
    at = whole.find(struct.pack("<HH", tag >> 16, tag & 0xFFFF) + b"DS")
    (length,) = struct.unpack_from("<H", whole, at + 6)
    value = ("\\".join([text] * (3 if tag == 0x00200032 else 1))).encode().ljust(length)[:length]
    (tmp_path / "a").write_bytes(whole[: at + 8] + value + whole[at + 8 + length :])
    why = reason(tmp_path / "a")
    assert why.startswith(("its spacing, orient", "it has no rescale", "its rescale")), why


Damage = Callable[[bytes], bytes]
META_END = b"\x08\x00\x08\x00CS"  # ImageType, the first element after the meta information


def deflated(inside: bytes) -> bytes:
    head = io.BytesIO()
    ds = slice_dataset(RAMP, (0, 0, 0))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(head, enforce_file_format=True)
    data = head.getvalue()
    at = data.find(b"1.2.840.10008.1.2.1.99") + 22
    at = data.find(b"\x02\x00\x12\x00", at)
    (length,) = struct.unpack_from("<H", data, at + 6)
    return data[: at + 8 + length] + inside


def bomb() -> bytes:
    """A quarter of a megabyte that becomes 256."""
    packer = zlib.compressobj(1, wbits=-15)
    zeros = bytes(1 << 20)
    return b"".join([*(packer.compress(zeros) for _ in range(256)), packer.flush()])


FILE_DEFECTS: dict[str, tuple[Damage, str]] = {
    "empty": (lambda _: b"", "it is not a DICOM file"),
    "text": (lambda _: b"Dear Ann,\n" * 50, "it is not a DICOM file"),
    "no preamble": (lambda whole: whole[132:], "it is not a DICOM file"),
    "within the meta": (lambda whole: whole[:142], "it is truncated: it ends within the header"),
    "within the header": (
        lambda whole: whole[: whole.find(META_END) + 40],
        "it is truncated: it ends before the pixels",
    ),
    "within the pixels": (
        lambda whole: whole[:-1],
        "it is truncated: its pixels are fewer than rows x columns",
    ),
    "no syntax": (
        lambda whole: whole.replace(b"\x02\x00\x10\x00UI", b"\x02\x00\x11\x00UI"),
        "it does not state one transfer syntax",
    ),
    "two syntaxes": (
        lambda whole: whole.replace(
            META_END, b"\x02\x00\x10\x00UI\x16\x001.2.840.10008.1.2.1.99" + META_END, 1
        ),
        "it does not state one transfer syntax",
    ),
    "unknown syntax": (
        lambda whole: whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0", 1),
        "its compression needs pylibjpeg, or is not of a still image",
    ),
    "video": (
        lambda whole: whole.replace(
            b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x18\x001.2.840.10008.1.2.4.102\0", 1
        ),
        "its compression needs pylibjpeg, or is not of a still image",
    ),
    "noise": (
        lambda whole: whole[:400] + np.random.default_rng(20261125).bytes(len(whole)),
        "",
    ),
    "a million elements": (
        lambda whole: whole.replace(META_END, b"\x09\x00\x01\x10LO\x00\x00" * 10**6 + META_END, 1),
        "its header is larger than is plausible",
    ),
    "a deep sequence": (
        lambda whole: whole.replace(
            META_END,
            (b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 9000
            + META_END,
            1,
        ),
        "its header is damaged",
    ),
    "an endless value": (
        lambda whole: whole.replace(
            META_END, b"\x08\x00\x05\x00UT\0\0\xf0\xff\xff\x7f" + META_END, 1
        ),
        "its header asks for more than is plausible",
    ),
    "deflated": (
        lambda whole: deflated(zlib.compress(whole)[2:-4]),
        "it is deflated, which can hide any size",
    ),
    "a deflated bomb": (lambda _: deflated(bomb()), "it is deflated, which can hide any size"),
}


@pytest.mark.parametrize("name", FILE_DEFECTS)
def test_a_damaged_or_hostile_file_is_told_at_once(tmp_path: Path, name: str) -> None:
    damage, why = FILE_DEFECTS[name]
    path = save(slice_dataset(RAMP, (0, 0, 0)), tmp_path / "a")
    path.write_bytes(damage(path.read_bytes()))
    started = time.process_time()
    found = reason(path)
    assert time.process_time() - started < 2
    assert found == why or (not why and found)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = save(slice_dataset(RAMP, (0, 0, 0)), tmp_path / "a")
    os.truncate(path, dicom.MAX_FILE_BYTES + 1)  # sparse: it takes no space
    assert reason(path) == "it is larger than 64 MB"


def compressed(
    path: Path, syntax: str = JPEG2000Lossless, *edits: Callable[[bytes], bytes]
) -> Path:
    ds = slice_dataset(LARGE, (0, 0, 0))
    ds.compress(syntax, generate_instance_uid=False)
    for edit in edits:
        ds.PixelData = edit(ds.PixelData)
    return save(ds, path)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
def test_a_compressed_slice_is_the_plain_one(tmp_path: Path, syntax: UID) -> None:
    plain = save(slice_dataset(LARGE, (0, 0, 0)), tmp_path / "a")
    found = read_slice(compressed(tmp_path / "b", syntax))
    np.testing.assert_array_equal(found.hu(), read_slice(plain).hu())


def test_without_a_decoder_the_reason_is_pylibjpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compressed(tmp_path / "a")
    read_slice(path)

    class Missing:
        is_available = False

    monkeypatch.setattr(codestream, "get_decoder", lambda _: Missing)
    assert reason(path) == "its compression needs pylibjpeg, or is not of a still image"


def claims(rows: int, columns: int) -> Callable[[bytes], bytes]:
    """A JPEG 2000 stream whose SIZ segment says another size."""

    def edit(data: bytes) -> bytes:
        at = data.find(b"\xff\x4f\xff\x51") + 8
        return data[:at] + struct.pack(">II", columns, rows) + data[at + 8 :]

    return edit


def test_a_codestream_of_another_size_than_the_header_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codestream, "get_decoder", lambda _: pytest.fail("it was decoded"))
    monkeypatch.setattr(dicom, "decodable", lambda _: True)
    why = "its compressed image is not of the size that the header says"
    assert reason(compressed_bomb(tmp_path / "a")) == why
    frame = b"\xff\xd8\xff\xe0\x00\x04\0\0\xff\xc3\x00\x0b\x10" + struct.pack(">HH", 60000, 60000)
    for syntax in ("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"):
        ds = slice_dataset(RAMP, (0, 0, 0))
        ds.file_meta.TransferSyntaxUID = UID(syntax)
        ds.PixelData = encapsulate([frame + bytes(100)])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        assert reason(save(ds, tmp_path / "b")) == why


def compressed_bomb(path: Path) -> Path:
    stream = b"\xff\x4f\xff\x51\x00\x29\x00\x00" + struct.pack(">IIII", 60000, 60000, 0, 0)
    ds = slice_dataset(RAMP, (0, 0, 0))
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds.PixelData = encapsulate([stream + bytes(100)])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return save(ds, path)


def test_compressed_pixels_that_are_damaged_or_too_many(tmp_path: Path) -> None:
    cut = compressed(tmp_path / "a", JPEG2000Lossless, lambda data: data[:-300])
    assert reason(cut) == "its compressed pixels are damaged"
    other = compressed(tmp_path / "b", JPEG2000Lossless, claims(2, 2))
    assert reason(other) == "its compressed image is not of the size that the header says"
    with (tmp_path / "b").open("ab") as file:
        file.write(bytes(5 << 20))
    assert (
        reason(tmp_path / "b") == "its compressed pixels are larger than the image, or not in parts"
    )


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(save(slice_dataset(RAMP, (0, 0, 0)), tmp_path / "a"))
    for name in (tmp_path / "pipe", tmp_path / "link", tmp_path, Path("/dev/zero")):
        assert reason(name) == "it is not a regular file that can be opened"
