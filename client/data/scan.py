"""A folder of DICOM and NIfTI files in any nesting -> what is usable of it, and what is not and why."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from client.data.ct_header import Acquisition
from client.data.dicom import CtSlice, read_slice
from client.data.findings import FINDINGS
from client.data.nifti import SUFFIXES, read_nifti
from client.data.paths import entries
from client.data.quarantine import NotUsable, SetAside
from client.data.series import Volume
from common.errors import DataError

MAX_FILES = (
    1_000_000  # some thousand CTs; a slice takes half a kilobyte of memory while it is listed
)


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of the folder, never opened: what it is called and when it was changed."""

    name: str  # relative to the folder, with '/'
    size: int
    changed: int  # ns
    is_file: bool  # a regular one, and no link
    escapes: bool  # a link that leads out of the folder


def list_files(root: Path) -> list[Listed]:
    """All below the resolved folder `root` but folders, hidden entries and the findings, by name.

    Links are listed and not followed. DataError when there are too many, or a folder is closed.
    """
    found: list[Listed] = []
    for path in _below(root):
        if len(found) >= MAX_FILES:
            raise DataError(
                f"{root}: expected at most {MAX_FILES} files, found more; give each hospital a folder "
                f"of its own"
            )
        try:
            facts = path.lstat()
        except OSError as error:
            raise DataError(
                f"{path}: expected a file that stays while the folder is looked at ({error.strerror}); "
                f"look again when nobody works in it"
            ) from error
        link = stat.S_ISLNK(facts.st_mode)
        found.append(
            Listed(
                name=path.relative_to(root).as_posix(),
                size=facts.st_size,
                changed=facts.st_mtime_ns,
                is_file=stat.S_ISREG(facts.st_mode),
                escapes=link and not Path(os.path.realpath(path)).is_relative_to(root),
            )
        )
    return sorted(found, key=lambda listed: listed.name)


def _below(root: Path) -> Iterator[Path]:
    waiting = [root]
    while waiting:
        for path in entries(waiting.pop()):
            if path.is_dir() and not path.is_symlink():
                waiting.append(path)
            elif path != root / FINDINGS:
                yield path


@dataclass(frozen=True, eq=False, slots=True)
class Scanned:
    """The usable files by their names, which are relative to the folder."""

    slices: dict[str, CtSlice]  # DICOM
    volumes: dict[str, Volume]  # NIfTI


def scan(
    root: Path, listed: list[Listed], progress: Callable[[int], None], set_aside: list[SetAside]
) -> Scanned:
    """Read the headers of all files; `set_aside` grows by those that cannot be used.

    `progress` is told how many files are done. The second file of an instance
    (SOPInstanceUID) is set aside: a copy adds nothing.
    """
    found = Scanned({}, {})
    instances: set[str] = set()
    acquisitions: dict[Acquisition, Acquisition] = {}
    for done, file in enumerate(listed, 1):
        try:
            _check_plain(file)
            if file.name.endswith(SUFFIXES):
                found.volumes[file.name] = read_nifti(root / file.name)
            else:
                one = read_slice(root / file.name)
                if one.instance in instances:
                    raise NotUsable("it is a copy of another file")
                instances.add(one.instance)
                # A CT's hundreds of slices say the same: one copy of it.
                same = acquisitions.setdefault(one.acquisition, one.acquisition)
                found.slices[file.name] = replace(one, acquisition=same)
        except NotUsable as reason:
            set_aside.append(SetAside(file.name, str(reason)))
        progress(done)
    return found


def _check_plain(file: Listed) -> None:
    if file.escapes:
        raise NotUsable("it is a link that leads out of the folder")
    if not file.is_file:
        raise NotUsable("it is a link, a pipe or a device")
