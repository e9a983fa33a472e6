"""A hospital's folder of CT series or volumes with `findings.csv` -> its cohort of patches.

A file, series or finding that cannot be used is set aside with its reason and the others load:
an archive export of thousands of files always has some. Patient ids serve to group and to split and
are gone when the cohort is made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.data.cache import PatchCache, StoredCohort
from client.data.cohort import Cohort, ImagePatients, series_and_findings
from client.data.findings import FINDINGS, Finding, read_findings
from client.data.hounsfield import Slice
from client.data.nifti import close_volumes
from client.data.patches import ct_patch
from client.data.paths import existing_folder
from client.data.quarantine import NotUsable, SetAside
from client.data.scan import Scanned, list_files, scan
from client.data.series import Points, Volume, by_series, volume
from client.data.split import canonical_patient_id, is_validation_patient
from common.errors import DataError
from common.progress import Progress
from common.tasks.nodule_classification.study import CtPatches, Images

DECODED_SLICES = 32  # that are kept: neighbouring findings share them; 1 MB each at 512 x 512


@dataclass(frozen=True, slots=True)
class Placed:
    """A finding with its series and its place there. It lives only while a cohort is loaded."""

    where: str
    patient_id: str  # canonical
    label: int
    series: str
    volume: Volume
    mm: Points  # (3,)
    nodule: str = ""


def open_ct_folder(
    folder: Path,
    images: Images,
    cache: Path | None,
    progress: Progress,
    set_aside: list[SetAside] | None,
    used: list[Placed] | None = None,
) -> Cohort[ImagePatients]:
    """All findings of one hospital as patches; see `open_cohort`, of which this is one layout.

    A list `used` (with `set_aside`) gets the findings in the order of the patches.
    """
    root = existing_folder(folder)
    ct = _asked_for(images)
    findings, text = read_findings(root, images)
    listed = list_files(root)
    kept = None if cache is None else PatchCache(cache, images, text, listed)
    # Who asks what is set aside has all of it looked at: names of files are kept nowhere.
    stored = None if kept is None or set_aside is not None else kept.load()
    if stored is None:
        total, apart = len(listed) + len(findings), [] if set_aside is None else set_aside
        scanned = scan(root, listed, lambda done: progress(done, total), apart)
        placed = _placed(root, findings, scanned, images, apart)
        stored = _cut(
            root,
            placed,
            images,
            ct,
            lambda done: progress(len(listed) + done, total),
            apart,
            [] if used is None else used,
        )
        if kept is not None:
            kept.store(stored)
            stored = kept.load() or stored  # mapped from the disk: no second copy in memory
    return stored.cohort(images)


def count_ct_patients(folder: Path, images: Images) -> tuple[int, int]:
    """(training, validation) patients, as far as headers tell; see `count_patients`."""
    root = existing_folder(folder)
    _asked_for(images)
    findings, _ = read_findings(root, images)
    apart: list[SetAside] = []
    scanned = scan(root, list_files(root), lambda _done: None, apart)
    patients = {one.patient_id for one in _placed(root, findings, scanned, images, apart)}
    validation = sum(is_validation_patient(one, images.validation_fraction) for one in patients)
    return len(patients) - validation, validation


def _asked_for(images: Images) -> CtPatches:
    if images.ct is None:
        raise DataError(
            f"expected a study of CT patches for a folder with {FINDINGS}, found a protocol without "
            f"[images.ct]; ask the coordinator, or give a folder of images"
        )
    return images.ct


def _placed(
    root: Path,
    findings: list[Finding],
    scanned: Scanned,
    images: Images,
    set_aside: list[SetAside],
) -> list[Placed]:
    """The usable findings, sorted by patient, series, then row; DataError when they are no cohort."""
    volumes = volumes_of(scanned)
    apart = {one.what: one.reason for one in set_aside}
    placed: list[Placed] = []
    seen: set[tuple[object, ...]] = set()
    for finding in findings:
        try:
            one = _place(finding, scanned, volumes, apart)
            # A copy would count twice among its patient's images.
            if (key := (one.series, one.label, *np.round(one.mm, 3).tolist())) in seen:
                raise NotUsable("it is a copy of another row")
            seen.add(key)
            placed.append(one)
        except NotUsable as reason:
            set_aside.append(SetAside(finding.where, str(reason)))
    _check_whole(root, placed, images, set_aside)
    return sorted(placed, key=lambda one: (one.patient_id, one.series))


def volumes_of(scanned: Scanned) -> dict[str, Volume | str]:
    """Each series by its UID, each NIfTI volume by its file, or why it cannot be used."""
    found: dict[str, Volume | str] = dict(scanned.volumes)
    for series, members in by_series(scanned.slices.values()).items():
        try:
            found[series] = volume(members)
        except NotUsable as reason:
            found[series] = str(reason)
    return found


def _place(
    finding: Finding,
    scanned: Scanned,
    volumes: dict[str, Volume | str],
    apart: dict[str, str],
) -> Placed:
    """As `place_of`, for a finding of a patient. NotUsable when nothing says of which."""
    series, of, of_file = _volume_of(finding, scanned, volumes, apart)
    patient_id = finding.patient_id or canonical_patient_id(of.slices[0].patient_id)
    if not patient_id:
        raise NotUsable("it has no patient id, nor have its files")
    return Placed(
        where=finding.where,
        patient_id=patient_id,
        label=finding.label,
        series=series,
        volume=of,
        mm=_mm(finding, of, of_file),
        nodule=finding.nodule,
    )


def place_of(
    finding: Finding,
    scanned: Scanned,
    volumes: dict[str, Volume | str],
    apart: dict[str, str],
) -> tuple[str, Volume, Points]:
    """Series (or file), volume and (3,) mm in it. NotUsable when that is missing, set aside or has no
    such slice; `apart` says why a file is, by its name."""
    series, of, of_file = _volume_of(finding, scanned, volumes, apart)
    return series, of, _mm(finding, of, of_file)


def _volume_of(
    finding: Finding,
    scanned: Scanned,
    volumes: dict[str, Volume | str],
    apart: dict[str, str],
) -> tuple[str, Volume, Slice | None]:
    """Series (or file), its volume and the slice that the finding names as a file."""
    series, of_file = finding.series, None
    if finding.file is not None:
        if finding.file in apart:
            raise NotUsable(f"its file is set aside: {apart[finding.file]}")
        if (of_file := scanned.slices.get(finding.file)) is not None:
            series = of_file.series
        elif (series := finding.file) not in scanned.volumes:
            raise NotUsable("there is no such file")
    of = volumes.get(str(series))
    if of is None:
        raise NotUsable("its series is not among the usable files")
    if isinstance(of, str):
        raise NotUsable(of)
    return str(series), of, of_file


def _mm(finding: Finding, of: Volume, of_file: Slice | None) -> Points:
    if finding.mm is not None:
        return np.array(finding.mm)
    depth, rows, columns = of.shape
    row, column = finding.pixel or ((rows - 1) / 2, (columns - 1) / 2)
    if of_file is not None:
        return of.mm((of.slices.index(of_file), row, column))
    if finding.pixel is None:
        return of.mm(((depth - 1) / 2, row, column))
    if finding.number is None:
        raise NotUsable("a place in pixels is not enough for a volume; give x, y and z")
    numbers = [one.number for one in of.slices]
    if numbers.count(finding.number) != 1:
        raise NotUsable("its series has no slice of that number, or several")
    return of.mm((numbers.index(finding.number), row, column))


def _check_whole(
    root: Path, placed: list[Placed], images: Images, set_aside: list[SetAside]
) -> None:
    """DataError for what only shows over all findings together."""
    aside = f"{len(set_aside)} files and findings are set aside"
    if not placed:
        reason = f", the last because {set_aside[-1].reason}" if set_aside else ""
        raise DataError(
            f"{root}: expected findings in usable CT series, found none ({aside}{reason}); correct "
            f"{FINDINGS} or export the series again"
        )
    patient_of: dict[str, Placed] = {}
    for one in placed:
        other = patient_of.setdefault(one.series, one)
        if other.patient_id != one.patient_id:
            raise DataError(
                f"{one.where}: expected one patient for all findings of a series, found another one "
                f"in {other.where}; correct column 'patient_id'"
            )
    if len(labels := {one.label for one in placed}) < len(images.classes):
        raise DataError(
            f"{root}: expected findings of {' and '.join(images.classes)}, found usable ones of "
            f"{images.classes[labels.pop()]} only ({aside}); add the other class"
        )
    fraction = images.validation_fraction
    if all(is_validation_patient(one.patient_id, fraction) for one in placed):
        raise DataError(
            f"{root}: expected at least one training patient, found all on the validation side "
            f"({aside}); add patients"
        )


def _hu(of: Slice) -> npt.NDArray[np.float32]:
    return of.hu()


def _cut(
    root: Path,
    placed: list[Placed],
    images: Images,
    ct: CtPatches,
    progress: Callable[[int], None],
    set_aside: list[SetAside],
    usable: list[Placed],
) -> StoredCohort:
    """The patches of `placed`, training patients first; `usable`, an empty list, gets their findings.

    `progress` is told how many are done.
    """
    fraction = images.validation_fraction
    ordered = sorted(placed, key=lambda one: is_validation_patient(one.patient_id, fraction))
    hu = lru_cache(DECODED_SLICES)(_hu)
    pixels = np.empty((len(placed), images.size, images.size, images.channels), np.uint16)
    for done, one in enumerate(ordered, 1):
        try:
            pixels[len(usable)] = ct_patch(one.volume, one.mm, images, ct, hu)
            usable.append(one)
        except NotUsable as reason:
            set_aside.append(SetAside(one.where, str(reason)))
        progress(done)
    close_volumes()
    _check_whole(root, usable, images, set_aside)
    patients = [
        (patient, len(list(group)))
        for patient, group in groupby(usable, key=lambda one: one.patient_id)
    ]
    series, finding = series_and_findings(
        [(one.patient_id, one.series, one.nodule) for one in usable]
    )
    return StoredCohort(
        pixels=pixels[: len(usable)],
        labels=np.array([one.label for one in usable], np.int64),
        offsets=np.cumsum([0, *(count for _, count in patients)], dtype=np.int64),
        training=sum(not is_validation_patient(patient, fraction) for patient, _ in patients),
        series=series,
        finding=finding,
    )
