"""CT series as DICOM files with the planted name in them, and the findings beside them.

The files are written byte by byte, from the standard (PS3.5 7.1, PS3.10 7.1): pydicom is for the
reader that is under test.
"""

import csv
import struct
import zlib
from pathlib import Path

import numpy as np

from client.canary.names import NAME, PLANTED, TEXT, patient_id

EXPLICIT, DEFLATED, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
SIDE = 16  # rows, columns
IN_SLICES, COMPRESSED = (
    0,
    1,
)  # the series of three slices, and that of RLE; the others have one slice
PIXELS = 0x7FE00010
_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_LONG = ("OB", "OW", "SQ", "UN")  # the VRs whose length takes 32 bits
_UNDEFINED = 0xFFFFFFFF
_ITEM, _END_OF_ITEMS = 0xFFFEE000, 0xFFFEE0DD

Value = tuple[str, bytes]  # VR, and bytes as in the file
Elements = dict[int, Value]  # by tag


def series_uid(number: int) -> str:
    return f"1.2.826.0.1.3680043.8.498.{number + 1}"


def elements(series: int, plane: int = 0) -> Elements:
    """A slice of 1 mm pixels at z = `plane` mm, stored as HU + 1024, with the name wherever one can stand.

    Some of the texts are longer than the standard allows, as those of archives are.
    """
    noise = np.random.default_rng([series, plane]).integers(0, 1400, (SIDE, SIDE))
    name, uid = TEXT.encode(), series_uid(series)
    of_request = _written({0x00400007: ("LO", name), 0x00400009: ("SH", NAME.encode())})
    return {
        0x00080008: ("CS", b"ORIGINAL\\PRIMARY\\AXIAL"),
        0x00080016: ("UI", _CT_IMAGE.encode()),
        0x00080018: ("UI", f"{uid}.{plane + 1}".encode()),
        0x00080060: ("CS", b"CT"),
        0x00080090: ("PN", name),  # ReferringPhysicianName
        0x00081030: ("LO", name),  # StudyDescription
        0x0008103E: ("LO", name),  # SeriesDescription
        0x00090010: ("LO", name),  # who made the private elements that follow
        0x00091001: ("LO", name),
        0x00091002: ("UN", name),
        0x00100010: ("PN", name),  # PatientName
        0x00100020: ("LO", patient_id(series // 2).encode()),
        0x00101000: ("LO", "\\".join(PLANTED).encode()),  # OtherPatientIDs
        0x0020000E: ("UI", uid.encode()),
        0x00200013: ("IS", str(plane + 1).encode()),
        0x00200032: ("DS", f"0\\0\\{plane}".encode()),
        0x00200037: ("DS", b"1\\0\\0\\0\\1\\0"),
        0x00204000: ("LT", name),  # ImageComments
        0x00280002: ("US", struct.pack("<H", 1)),
        0x00280004: ("CS", b"MONOCHROME2"),
        0x00280010: ("US", struct.pack("<H", SIDE)),
        0x00280011: ("US", struct.pack("<H", SIDE)),
        0x00280030: ("DS", b"1\\1"),
        0x00280100: ("US", struct.pack("<H", 16)),
        0x00280101: ("US", struct.pack("<H", 16)),
        0x00280102: ("US", struct.pack("<H", 15)),
        0x00280103: ("US", struct.pack("<H", 1)),
        0x00281052: ("DS", b"-1024"),
        0x00281053: ("DS", b"1"),
        0x00400275: ("SQ", _element(_ITEM, "", of_request)),  # RequestAttributesSequence
        PIXELS: ("OW", noise.astype("<i2").tobytes()),
    }


def dicom_file(values: Elements, syntax: str = EXPLICIT) -> bytes:
    """The file of `values`, with the name in its preamble; in RLE its pixels are compressed."""
    if syntax == RLE:
        values = values | {PIXELS: ("OB", _in_parts(_rle(values[PIXELS][1])))}
    data = _written(values, compressed=syntax == RLE)
    if syntax == DEFLATED:
        data = zlib.compress(data, wbits=-zlib.MAX_WBITS)
    meta = _written(
        {
            0x00020002: ("UI", _CT_IMAGE.encode()),
            0x00020003: ("UI", values[0x00080018][1]),
            0x00020010: ("UI", syntax.encode()),
            0x00020016: ("AE", NAME.encode()),
        }
    )
    length = _element(0x00020000, "UL", struct.pack("<I", len(meta)))
    return TEXT.encode().ljust(128, b"\0") + b"DICM" + length + meta + data


def plant(folder: Path, classes: tuple[str, str], patients: int) -> tuple[list[Path], Path]:
    """Two series of each patient below `folder`, one of either class: their files, and the findings'."""
    files: list[Path] = []
    rows = [("series_uid", "label", "patient_id", "x", "y", "z", "referrer")]
    for series in range(2 * patients):
        name, form = patient_id(series // 2), PLANTED[series // 2 % len(PLANTED)]
        (below := folder / form / f"{series} {form}").mkdir(parents=True)
        planes = 3 if series == IN_SLICES else 1
        for plane in range(planes):
            files.append(below / f"{name}~{series}.{plane}.dcm")
            syntax = RLE if series == COMPRESSED else EXPLICIT
            files[-1].write_bytes(dicom_file(elements(series, plane), syntax))
        place = (f"{(SIDE - 1) / 2}", f"{(SIDE - 1) / 2}", f"{planes // 2}")
        rows.append((series_uid(series), classes[series % 2], name, *place, TEXT))
    findings = folder / "findings.csv"
    with findings.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return files, findings


def _written(values: Elements, *, compressed: bool = False) -> bytes:
    return b"".join(
        _element(tag, vr, value, endless=compressed and tag == PIXELS)
        for tag, (vr, value) in sorted(values.items())
    )


def _element(tag: int, vr: str, value: bytes, *, endless: bool = False) -> bytes:
    """One element, or an item, which has no VR. `endless`: of undefined length, in parts."""
    value += (b"\0" if vr in ("UI", "OB", "UN") else b" ") * (len(value) % 2)
    length = _UNDEFINED if endless else len(value)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if vr in _LONG:
        return head + struct.pack("<HI", 0, length) + value
    return head + struct.pack("<H" if vr else "<I", length) + value


def _in_parts(frame: bytes) -> bytes:
    """An empty table of offsets, one frame and the end (PS3.5 A.4)."""
    return _element(_ITEM, "", b"") + _element(_ITEM, "", frame) + _element(_END_OF_ITEMS, "", b"")


def _rle(pixels: bytes) -> bytes:
    """The upper bytes of all pixels and the lower ones, each in literal runs (PS3.5 G.3 to G.5)."""
    planes = [_literal(pixels[1::2]), _literal(pixels[::2])]
    return struct.pack("<16I", 2, 64, 64 + len(planes[0]), *[0] * 13) + b"".join(planes)


def _literal(plane: bytes) -> bytes:
    runs = (plane[start : start + 128] for start in range(0, len(plane), 128))
    return b"".join(bytes([len(run) - 1]) + run for run in runs)
