"""One MetaImage volume (.mhd with its .raw) -> one NIfTI volume with the same voxels at the same places."""

import os
from pathlib import Path
from typing import Any

from client.data.nifti import MAX_BYTES, MAX_SIDE
from common.errors import DataError
from common.files import sync_folder

_NIFTI_HEADER_BYTES = 352  # 348 and four for extensions, of which ITK writes none
_MOST_HEADER_BYTES = 64 << 10
_OF = b"ElementDataFile"
# ITK's names of the voxel types that the hospital's reader takes, with bytes per voxel.
_VOXELS = {
    "16-bit signed integer": 2,
    "16-bit unsigned integer": 2,
    "32-bit signed integer": 4,
    "32-bit float": 4,
    "64-bit float": 8,
}


def simple_itk() -> Any:
    """The module SimpleITK. DataError names the extra that brings it."""
    try:
        import SimpleITK
    except ImportError as error:
        raise DataError(
            "expected SimpleITK to read .mhd volumes, found it not installed; "
            "install intramural[datasets]"
        ) from error
    return SimpleITK


def nifti_from_mhd(source: Path, target: Path) -> bool:
    """Write the volume `source` to `target` (.nii), whole or not at all; False when it is there already.

    A `target` of the right size was written by an earlier call and is kept. Only this volume is in
    memory. DataError when the volume cannot be used: what it claims is looked at before it is read.
    """
    itk = simple_itk()
    stored = _bytes_beside(source)
    reader = itk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(source))
    try:
        reader.ReadImageInformation()
        sides = tuple(int(side) for side in reader.GetSize())
        voxels = _voxel_bytes(source, sides, itk.GetPixelIDValueAsString(reader.GetPixelID()))
        if stored != voxels:  # ITK would fill up what is missing with zeros, and only print a line
            raise DataError(
                f"{source}: expected {voxels} bytes of voxels beside it, not compressed, found {stored}; "
                f"unpack the whole subset again"
            )
        expected = _NIFTI_HEADER_BYTES + voxels
        if target.exists() and target.stat().st_size == expected:
            return False
        # ITK chooses the format by the ending, so the unfinished file has it too.
        unfinished = target.with_name(f".{target.name}.unfinished.nii")
        try:
            itk.WriteImage(reader.Execute(), str(unfinished), False)
            _settle(unfinished, target, expected)
        finally:
            unfinished.unlink(missing_ok=True)
    except RuntimeError as error:  # ITK's own, with several lines
        raise DataError(
            f"{source}: expected a MetaImage volume, found one that cannot be read or written "
            f"({str(error).strip().splitlines()[-1]}); get it again, or make room"
        ) from error
    return True


def _voxel_bytes(source: Path, sides: tuple[int, ...], voxel: str) -> int:
    if len(sides) != 3 or not all(0 < side <= MAX_SIDE for side in sides) or voxel not in _VOXELS:
        raise DataError(
            f"{source}: expected a volume of intensities with sides within 1..{MAX_SIDE}, found "
            f"{' x '.join(map(str, sides))} of {voxel}; give the CT volumes, not masks"
        )
    size = sides[0] * sides[1] * sides[2] * _VOXELS[voxel]
    if size + _NIFTI_HEADER_BYTES > MAX_BYTES:
        raise DataError(
            f"{source}: expected at most {MAX_BYTES >> 30} GB, found {size >> 20} MB; crop it"
        )
    return size


def _settle(unfinished: Path, target: Path, expected: int) -> None:
    if (size := unfinished.stat().st_size) != expected:
        raise DataError(
            f"{target}: expected {expected} bytes, found {size}; use the SimpleITK of constraints.txt"
        )
    unfinished.chmod(0o600)
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(target)
    sync_folder(target.parent)


def _bytes_beside(source: Path) -> int:
    """The size of the file of voxels: a header may name any file, and only one beside it is meant."""
    try:
        with source.open("rb") as file:
            lines = file.read(_MOST_HEADER_BYTES).split(b"\n")
    except OSError as error:
        raise DataError(
            f"expected a volume at {source}, found none ({error.strerror}); get it again"
        ) from error
    named = [
        value for key, _, value in (line.partition(b"=") for line in lines) if key.strip() == _OF
    ]
    name = named[0].strip().decode("utf-8", "replace") if named else ""
    beside = source.parent / name
    if name != Path(name).name or not beside.is_file() or beside.is_symlink():
        raise DataError(
            f"{source}: expected a header that names a file of voxels beside it, found {name!r}; unpack "
            f"the whole subset again"
        )
    return beside.stat().st_size
