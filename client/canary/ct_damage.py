"""DICOM files and findings that are damaged for real, with the name in what is damaged."""

from collections.abc import Callable

from client.canary import ct
from client.canary.damage import WHICH
from client.canary.hospital import Hospital
from client.canary.names import NAME, TEXT

SERIES = 3  # of which `hospital.files[WHICH]` is the only slice
Change = Callable[[Hospital], None]


def value(tag: int, vr: str, text: str = TEXT, image: int = WHICH) -> Change:
    """One element of a slice says `text` and is of the type `vr`."""

    def change(hospital: Hospital) -> None:
        series, plane = (SERIES, 0) if image == WHICH else (ct.IN_SLICES, image)
        elements = ct.elements(series, plane) | {tag: (vr, text.encode())}
        hospital.files[image].write_bytes(ct.dicom_file(elements))

    return change


def syntax(uid: str) -> Change:
    """A slice in the transfer syntax `uid`."""

    def change(hospital: Hospital) -> None:
        hospital.files[WHICH].write_bytes(ct.dicom_file(ct.elements(SERIES), uid))

    return change


def edited(edit: Callable[[bytes], bytes], image: int = WHICH) -> Change:
    """The bytes of a slice are other ones."""

    def change(hospital: Hospital) -> None:
        path = hospital.files[image]
        path.write_bytes(edit(path.read_bytes()))

    return change


def within_the_name(whole: bytes) -> bytes:
    return whole[: _patient_name(whole) + 8 + len(NAME)]


def without_last_pixels(whole: bytes) -> bytes:
    return whole[:-60]


def length_too_long(whole: bytes) -> bytes:
    """PatientName goes on beyond the end of the file."""
    at = _patient_name(whole) + 6
    return whole[:at] + b"\xf0\xff" + whole[at + 2 :]


def without_end(whole: bytes) -> bytes:
    """In place of PatientName a sequence of undefined length, of which nothing marks the end."""
    at = _patient_name(whole)
    return whole[:at] + b"\x10\0\x10\0SQ\0\0\xff\xff\xff\xff" + TEXT.encode()


def no_dicom(_: bytes) -> bytes:
    return TEXT.encode() * 10


def broken_frame(whole: bytes) -> bytes:
    """Compressed pixels whose table of contents is the name."""
    at = whole.index(b"\xfe\xff\x00\xe0", whole.index(b"\xe0\x7f\x10\0OB") + 20) + 8
    name = TEXT.encode()[:64]
    return whole[:at] + name + whole[at + len(name) :]


def no_volume(hospital: Hospital) -> None:
    """A NIfTI volume that is none, and its name."""
    (hospital.data / f"{TEXT}.nii").write_text(TEXT * 10)


def all_of_them(change: Callable[[bytes], bytes]) -> Change:
    def of_all(hospital: Hospital) -> None:
        for path in hospital.files:
            path.write_bytes(change(path.read_bytes()))

    return of_all


def _patient_name(whole: bytes) -> int:
    """Where the element begins."""
    return whole.index(b"\x10\0\x10\0PN")
