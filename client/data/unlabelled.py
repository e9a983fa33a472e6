"""Images and CT findings that nobody has labelled -> patches, made as a study's own are.

What cannot be used is set aside with its reason and the rest goes on. Headers are read first, pixels when
a patch is asked for: memory holds one patch, a few decoded slices and half a kilobyte for each file.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from client.data.cohort import Pixels
from client.data.ct_folder import DECODED_SLICES, place_of, volumes_of
from client.data.dicom import CtSlice, read_slice
from client.data.findings import FINDINGS, UNLABELLED, Finding, read_findings
from client.data.hounsfield import Slice
from client.data.image_folder import has_ct
from client.data.listing import MANIFEST
from client.data.listing import SUFFIXES as IMAGES_END
from client.data.nifti import SUFFIXES as VOLUMES_END
from client.data.nifti import read_nifti
from client.data.patches import ct_patch
from client.data.paths import existing_folder, open_regular
from client.data.pixels import read_pixels
from client.data.quarantine import NotUsable, SetAside
from client.data.scan import Scanned, list_files, scan
from client.data.series import Points, Volume
from common.errors import DataError
from common.tasks.nodule_classification.study import CtPatches, Images

NO_CT = (
    "the model is not of a study of CT patches, so nothing says how to cut one out; give an image"
)
NO_PLACE = (
    "a CT needs the place of its finding; give --at or --pixel, or findings.csv in its folder"
)
NEEDLESS_PLACE = "it is an image and taken whole; leave out --at and --pixel"
UNKNOWN = "it is no PNG, JPEG, TIFF, DICOM or NIfTI file"


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look in CTs of which no findings.csv says it."""

    kind: Literal["mm", "pixel"]
    numbers: tuple[float, ...]  # x, y, z in mm, patient coordinates (LPS); or row, column from 0


@dataclass(frozen=True, slots=True)
class Source:
    """The DICOM slice that is nearest to a finding. It names a patient: it lives as long as a run."""

    slice: CtSlice
    row: float  # of the finding's projection on it, from 0, the middle of the first pixel
    column: float


@dataclass(frozen=True, eq=False, slots=True)
class Unlabelled:
    """One image, or one place in a CT. Its name and place stay at the hospital."""

    what: str  # "folder/a.png", "folder/findings.csv row 7"
    of: str  # the series or file that it lies in
    mm: tuple[float, float, float] | None  # where, in patient coordinates (LPS)
    source: Source | None
    _cut: Callable[[], Pixels]

    def patch(self) -> Pixels:
        """(size, size, channels), uint8 or uint16. NotUsable when it cannot be had."""
        try:
            return self._cut()
        except DataError as error:
            raise NotUsable(str(error)) from error


def unlabelled(
    inputs: Sequence[Path],
    images: Images,
    place: Place | None,
    progress: Callable[[int], None],
    set_aside: list[SetAside],
) -> list[Unlabelled]:
    """What is to be predicted in files and folders, in their order, as a study with `images` sees it.

    A folder with findings.csv has the findings that are listed there, of any patient and without
    labels if need be; of another folder every file counts. A DICOM file or NIfTI volume outside of
    such a folder needs a `place`: in mm it is looked at once in each series, in pixels once in each file.
    `progress` is told how many CT files of an input are read. DataError for an input that does not exist.
    """
    ct = None if images.ct is None else _Ct(images, images.ct, progress, set_aside)
    found: list[Unlabelled] = []
    loose: list[tuple[str, Path]] = []  # CT files without findings.csv
    for path in inputs:
        # pathlib's own questions raise in a folder that is closed.
        if not os.access(path, os.F_OK):
            raise DataError(
                f"expected a file or a folder at {str(path)!r} and found none that can be reached; "
                f"correct the path"
            )
        if has_ct(path):
            if ct is None:
                set_aside.append(SetAside(f"{path}/{FINDINGS}", NO_CT))
            else:
                found += ct.listed(path)
            continue
        for name, file in _files(path, set_aside):
            if file.name.lower().endswith(IMAGES_END):
                if place is None:
                    cut = partial(read_pixels, file, images, name)
                    found.append(Unlabelled(name, name, None, None, cut))
                else:
                    set_aside.append(SetAside(name, NEEDLESS_PLACE))
            elif reason := _no_ct(file):
                set_aside.append(SetAside(name, reason))
            else:
                loose.append((name, file))
    if ct is not None and place is not None:
        found += ct.at(place, loose)
    else:
        reason = NO_CT if ct is None else NO_PLACE
        set_aside += [SetAside(name, reason) for name, _ in loose]
    return found


def _files(path: Path, set_aside: list[SetAside]) -> Iterator[tuple[str, Path]]:
    """(name, resolved path) of the file `path`, or of all in the folder."""
    if not path.is_dir():
        yield str(path), path.resolve()
        return
    root = existing_folder(path)
    for one in list_files(root):
        if not one.is_file:
            set_aside.append(SetAside(f"{path}/{one.name}", "it is a link, a pipe or a device"))
        elif one.name != MANIFEST:
            yield f"{path}/{one.name}", root / one.name


def _no_ct(file: Path) -> str:
    """Why a file that is no image is no CT either; "" when it may be one."""
    if file.name.endswith(VOLUMES_END):
        return ""
    try:
        with open_regular(file, "") as opened:
            return "" if opened.read(132)[128:] == b"DICM" else UNKNOWN
    except (DataError, OSError):
        return "it is not a regular file that can be opened"


class _Ct:
    """Findings in CT files: found by headers, cut out later."""

    def __init__(
        self,
        images: Images,
        ct: CtPatches,
        progress: Callable[[int], None],
        set_aside: list[SetAside],
    ) -> None:
        self._images, self._ct = images, ct
        self._progress, self._set_aside = progress, set_aside

        @lru_cache(DECODED_SLICES)
        def hu(of: Slice) -> npt.NDArray[np.float32]:
            return of.hu()

        self._hu = hu

    def listed(self, folder: Path) -> Iterator[Unlabelled]:
        """The findings of a folder with findings.csv."""
        root = existing_folder(folder)
        try:
            findings, _ = read_findings(root, None)
        except DataError as error:
            self._set_aside.append(SetAside(f"{folder}/{FINDINGS}", str(error)))
            return
        apart: list[SetAside] = []
        scanned = scan(root, list_files(root), self._progress, apart)
        self._set_aside += [replace(one, what=f"{folder}/{one.what}") for one in apart]
        named = [(f"{folder}/{finding.where}", finding) for finding in findings]
        yield from self._placed(named, scanned, {one.what: one.reason for one in apart})

    def at(self, place: Place, files: Sequence[tuple[str, Path]]) -> Iterator[Unlabelled]:
        """`place` in each series of the DICOM files, or in each file, and in each NIfTI volume."""
        scanned, instances = Scanned({}, {}), set[str]()
        for done, (name, path) in enumerate(files, 1):
            try:
                if path.name.endswith(VOLUMES_END):
                    scanned.volumes[name] = read_nifti(path)
                else:
                    one = read_slice(path)
                    if one.instance in instances:
                        raise NotUsable("it is a copy of another file")
                    instances.add(one.instance)
                    scanned.slices[name] = one
            except NotUsable as reason:
                self._set_aside.append(SetAside(name, str(reason)))
            self._progress(done)
        yield from self._placed(list(_findings_at(place, scanned)), scanned, {})

    def _placed(
        self, findings: Sequence[tuple[str, Finding]], scanned: Scanned, apart: dict[str, str]
    ) -> Iterator[Unlabelled]:
        """Each finding, by what it is called, in its volume; set aside when it has no place there."""
        volumes = volumes_of(scanned)
        for what, finding in findings:
            try:
                series, of, mm = place_of(finding, scanned, volumes, apart)
            except NotUsable as reason:
                self._set_aside.append(SetAside(what, str(reason)))
                continue
            cut = partial(ct_patch, of, mm, self._images, self._ct, self._hu)
            x, y, z = mm.tolist()
            yield Unlabelled(what, series, (x, y, z), _source(of, mm), cut)


def _findings_at(place: Place, scanned: Scanned) -> Iterator[tuple[str, Finding]]:
    blank = Finding("", None, None, None, None, None, UNLABELLED, "")
    if place.kind == "pixel":
        row, column = place.numbers
        for name in (*scanned.slices, *scanned.volumes):
            yield name, replace(blank, file=name, pixel=(row, column))
        return
    x, y, z = place.numbers
    for name in scanned.volumes:
        yield name, replace(blank, file=name, mm=(x, y, z))
    for series in dict.fromkeys(one.series for one in scanned.slices.values()):
        yield f"series {series}", replace(blank, series=series, mm=(x, y, z))


def _source(of: Volume, mm: Points) -> Source | None:
    number, row, column = of.index(mm).tolist()
    nearest = of.slices[round(min(max(number, 0), len(of.slices) - 1))]
    return Source(nearest, row, column) if isinstance(nearest, CtSlice) else None
