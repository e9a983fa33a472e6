"""Files of a hospital's folder: never one outside of it, never one that blocks on opening."""

import os
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from common.errors import DataError


def existing_folder(folder: Path) -> Path:
    """`folder` with all links resolved; DataError when there is no such folder."""
    try:
        resolved = Path(os.path.realpath(folder, strict=True))
        if resolved.is_dir():
            return resolved
    except (OSError, ValueError) as error:
        raise DataError(
            f"expected a folder with patients' data at {str(folder)!r}, found none that can be opened "
            f"({_reason(error)}); give the folder of one hospital"
        ) from error
    raise DataError(
        f"expected a folder with patients' data, found the file {str(folder)!r}; give a folder"
    )


def subfolders(folder: Path) -> list[Path]:
    """The folders inside `folder`, sorted by name, without hidden ones (".cache")."""
    try:
        return [path for path in entries(folder) if path.is_dir()]
    except OSError as error:
        raise _closed(folder, error) from error


def entries(folder: Path) -> list[Path]:
    """What `folder` contains, sorted by name, without hidden entries (".DS_Store")."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise _closed(folder, error) from error


def inside(folder: Path, name: str, where: str) -> Path:
    """The existing file that `name`, a path with '/', means inside the resolved `folder`.

    Links are followed, and must lead to a place inside `folder`: what a manifest names must not
    reach another hospital's images or a system file. DataError opens with `where` otherwise.
    """
    parts = PurePosixPath(name)
    if not name or parts.is_absolute() or ".." in parts.parts:
        raise DataError(
            f"{where}: expected an image path relative to the hospital's folder without '..', "
            f"found {name!r}; correct the path"
        )
    try:
        resolved = Path(os.path.realpath(folder / parts, strict=True))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{where}: expected the file {name!r} inside {str(folder)!r}, found no such file "
            f"({_reason(error)}); correct the path (folders are separated by '/')"
        ) from error
    if not resolved.is_relative_to(folder):
        raise DataError(
            f"{where}: expected a file inside {str(folder)!r}, found the link {name!r} that "
            f"leads out of it; copy the file into the folder"
        )
    return resolved


def open_regular(path: Path, where: str) -> BinaryIO:
    """`path` opened for reading; DataError when it is not a regular file that can be read.

    O_NONBLOCK makes the opening of a FIFO return at once instead of waiting for a writer, and the
    type is asked of the opened file, so that it cannot be exchanged in between.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(
            f"{where}: expected a file that can be read, found {str(path)!r} that cannot "
            f"({_reason(error)}); check its permissions"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(
            f"{where}: expected a regular file, found {str(path)!r} that is a folder, a pipe or "
            f"a device; put a regular file there"
        )
    return os.fdopen(descriptor, "rb")


def _closed(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"expected a folder that can be listed, found {str(folder)!r} that cannot "
        f"({_reason(error)}); check its permissions"
    )


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
