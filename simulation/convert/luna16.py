"""LUNA16 as published -> hospitals with NIfTI volumes and findings.csv.

A folder with candidates_V2.csv (or candidates.csv) and subset0 to subset9, each with volumes named
by their series: <SeriesInstanceUID>.mhd and .raw. LUNA16 names no patient, so a series stands for one
unless a table of series says whose it is.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import DataError
from common.progress import Progress
from simulation.convert import HOSPITALS
from simulation.convert.candidates import Candidate, write_findings
from simulation.convert.hospitals import Homes
from simulation.convert.volumes import nifti_from_mhd, simple_itk

_CANDIDATES = ("candidates_V2.csv", "candidates.csv")
_TABLES = "CSVFILES"  # where CSVFILES.zip unpacks to

NOWHERE = (
    "expected a hospital for the series at hand, found that the table names none of them; give a --sites "
    "table of these series"
)


@dataclass(slots=True)
class Converted:
    """What a converter wrote, for whoever called it."""

    hospitals: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    kept: int = 0  # series of an earlier call
    elsewhere: int = 0  # series with candidates that are not in the folder, or at no hospital
    failed: list[str] = field(default_factory=list)  # a sentence for each

    def add(self, hospital: str, found: list[Candidate], classes: tuple[str, str]) -> None:
        """Count a series of `hospital`."""
        self.hospitals[hospital].update(["series", *(classes[one.label] for one in found)])


def candidates_file(root: Path) -> Path:
    """The newest table of candidates in `root`. DataError when there is none."""
    for folder in (root, root / _TABLES):
        for name in _CANDIDATES:
            if (folder / name).is_file():
                return folder / name
    raise DataError(
        f"expected {' or '.join(_CANDIDATES)} in {root}, found none; download it beside the subsets, or "
        f"name it by --candidates"
    )


def convert_luna16(
    root: Path,
    out: Path,
    candidates: dict[str, list[Candidate]],
    homes: Homes,
    classes: tuple[str, str],
    progress: Progress,
) -> Converted:
    """Convert the series in `root`'s subsets that have `candidates`, into `out`/hospitals/<name>/.

    One volume at a time is in memory; what an earlier call wrote is kept. A volume that cannot be used
    is left out with its reason. DataError when there is none at all, none is at a hospital, or SimpleITK
    is missing.
    """
    simple_itk()  # before anything is looked for
    # Not seg-lungs-LUNA16, which has masks of the same names.
    volumes = {path.stem: path for path in sorted(root.rglob("subset*/*.mhd"))}
    wanted = [
        (series, volumes[series], home)
        for series in candidates
        if series in volumes and (home := homes(series, volumes[series].parent.name, series))
    ]
    if not wanted and volumes.keys() & candidates.keys():
        raise DataError(NOWHERE)
    done = Converted(elsewhere=len(candidates) - len(wanted))
    rows: dict[str, list[tuple[str, str, Candidate]]] = defaultdict(list)
    for number, (series, source, home) in enumerate(wanted, 1):
        folder = out / HOSPITALS / home.hospital
        folder.mkdir(parents=True, exist_ok=True)
        try:
            done.kept += not nifti_from_mhd(source, folder / f"{series}.nii")
        except DataError as error:
            done.failed.append(str(error))
        else:
            done.add(home.hospital, candidates[series], classes)
            whose = home.patient_id or series
            rows[home.hospital] += [(f"{series}.nii", whose, one) for one in candidates[series]]
        progress(number, len(wanted))
    if not rows:
        raise DataError(
            f"expected volumes <series>.mhd of the candidates in {root}/subset0 to subset9, found none "
            f"that can be used{'; the first: ' + done.failed[0] if done.failed else ''}; unpack at least "
            f"one subset there"
        )
    for hospital, listed in rows.items():
        write_findings(out / HOSPITALS / hospital, "file", listed, classes)
    return done
