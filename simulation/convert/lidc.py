"""LIDC-IDRI as DICOM from TCIA, with LUNA16's candidates -> hospitals with their series and findings.csv.

LUNA16's series are those of LIDC-IDRI by the same UIDs, and here they name their patient. Hospitals
are the scanners' manufacturers as in FLamby's Fed-LIDC-IDRI (Ogier du Terrail et al. 2022,
arXiv:2210.04620), or those of a table.
"""

import os
import re
import shutil
from collections import defaultdict
from pathlib import Path

from client.data.dicom import CtSlice, read_slice
from client.data.quarantine import NotUsable
from client.data.scan import list_files
from client.data.split import canonical_patient_id
from common.errors import DataError
from common.progress import Progress
from simulation.convert import HOSPITALS
from simulation.convert.candidates import Candidate, write_findings
from simulation.convert.hospitals import Home, Homes
from simulation.convert.luna16 import NOWHERE, Converted

_UID = re.compile(r"\d+(\.\d+)*")  # PS3.5 9.1; a UID becomes a file name


def convert_lidc(
    root: Path,
    out: Path,
    candidates: dict[str, list[Candidate]],
    homes: Homes,
    classes: tuple[str, str],
    progress: Progress,
) -> Converted:
    """Put the CT series below `root` that have `candidates` into `out`/hospitals/<name>/<series>/.

    Files are hard links where `out` is on the same disk, else copies: the reader follows no link out of
    its folder. All series of a patient that are at a hospital go to one, that of the first of them.
    DataError when there is no such series.
    """
    found = _series(root.resolve(), candidates, progress)
    home_of: dict[str, Home] = {}
    rows: dict[str, list[tuple[str, str, Candidate]]] = defaultdict(list)
    done, placed = Converted(), 0
    total = sum(map(len, found.values()))
    for series in sorted(found):
        first = found[series][0]
        whose = canonical_patient_id(first.patient_id) or series
        if (home := homes(series, first.acquisition.maker or "", whose)) is not None:
            home = home_of.setdefault(whose, home)
            folder = out / HOSPITALS / home.hospital / series
            folder.mkdir(parents=True, exist_ok=True)
            placed_now = [_place(one.path, folder / f"{one.instance}.dcm") for one in found[series]]
            done.kept += not any(placed_now)
            done.add(home.hospital, candidates[series], classes)
            rows[home.hospital] += [(series, "", candidate) for candidate in candidates[series]]
        placed += len(found[series])
        progress(placed, total)
    if not rows:
        raise DataError(NOWHERE)
    done.elsewhere = len(candidates) - sum(counts["series"] for counts in done.hospitals.values())
    for hospital, listed in rows.items():
        write_findings(out / HOSPITALS / hospital, "series_uid", listed, classes)
    return done


def _series(
    root: Path, candidates: dict[str, list[Candidate]], progress: Progress
) -> dict[str, list[CtSlice]]:
    files = list_files(root)
    found: dict[str, list[CtSlice]] = defaultdict(list)
    for number, file in enumerate(files, 1):
        progress(number, len(files))
        try:
            one = read_slice(root / file.name) if file.is_file else None
        except NotUsable:
            continue  # TCIA's folders hold X-ray images and XML too
        if (
            one
            and one.series in candidates
            and all(map(_UID.fullmatch, (one.series, one.instance)))
        ):
            found[one.series].append(one)
    if not found:
        raise DataError(
            f"expected CT series of the candidates in DICOM files below {root}, found none; give the "
            f"folder into which TCIA's downloader wrote LIDC-IDRI"
        )
    return dict(found)


def _place(source: Path, target: Path) -> bool:
    """`target` as a hard link to `source`, or as a copy on another disk; False when it is there already."""
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return False
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return True
