"""Files of patients that are damaged for real, with the name in what is damaged."""

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from client.canary.hospital import Hospital
from client.canary.names import TEXT

HEADER_BYTES = 33  # of a PNG: signature and first chunk, with width and height from byte 16
WHICH = 5  # of the files; the last where there are fewer


def truncated(hospital: Hospital) -> None:
    image = hospital.files[WHICH]
    image.write_bytes(image.read_bytes()[:-60])


def no_image(hospital: Hospital) -> None:
    hospital.files[WHICH].write_bytes(f"\x89PNG {TEXT}".encode("latin-1"))


def broken_header(hospital: Hospital) -> None:
    """A chunk with the name, whose checksum is wrong."""
    image = hospital.files[WHICH]
    whole = image.read_bytes()
    chunk = struct.pack(">I4s", len(TEXT), b"iTXt") + TEXT.encode() + bytes(4)
    image.write_bytes(whole[:HEADER_BYTES] + chunk + whole[HEADER_BYTES:])


def palette(hospital: Hospital) -> None:
    Image.new("P", (32, 32)).save(hospital.files[WHICH])


def much_text(hospital: Hospital) -> None:
    """More text than Pillow unpacks, which begins with the name."""
    about = PngInfo()
    about.add_text("PatientName", TEXT + " " * 2_000_000, zip=True)
    Image.new("L", (32, 32)).save(hospital.files[WHICH], pnginfo=about)


def bomb(hospital: Hospital) -> None:
    """An image of 60,000 x 60,000, says its header."""
    whole = bytearray(hospital.files[WHICH].read_bytes())
    whole[16:24] = struct.pack(">II", 60_000, 60_000)
    hospital.files[WHICH].write_bytes(whole)


def pipe(hospital: Hospital) -> None:
    os.mkfifo(_taken_away(hospital))


def link_to_outside(hospital: Hospital) -> None:
    _taken_away(hospital).symlink_to("/etc/passwd")


def no_file(hospital: Hospital) -> None:
    _taken_away(hospital)


def _taken_away(hospital: Hospital) -> Path:
    path = hospital.files[min(WHICH, len(hospital.files) - 1)]
    path.unlink()
    return path


def no_folder(hospital: Hospital) -> None:
    shutil.rmtree(hospital.data)


def row(line: str) -> Callable[[Hospital], None]:
    """One more row in the manifest, findings or records; `line` in Latin-1."""

    def change(hospital: Hospital) -> None:
        with hospital.table.open("ab") as file:
            file.write(line.encode("latin-1") + b"\r\n")

    return change


def columns(line: str) -> Callable[[Hospital], None]:
    """A table of these columns and no row."""

    def change(hospital: Hospital) -> None:
        hospital.table.write_text(line + "\r\n")

    return change


def odd_name(hospital: Hospital) -> None:
    """A file in a class folder whose name is not as the pattern has it."""
    hospital.files[WHICH].rename(hospital.files[WHICH].with_name(f"{TEXT}.png"))


def odd_class(hospital: Hospital) -> None:
    (hospital.data / TEXT).mkdir()
