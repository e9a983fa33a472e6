"""Which hospital of a rehearsal a series, a nodule or a patient belongs to."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError
from simulation.convert.candidates import table_rows

_SERIES = ("series_uid", "seriesuid", "SeriesInstanceUID")
_SITE = ("hospital", "Manufacturer")
_PATIENT = "patient_id"


@dataclass(frozen=True, slots=True)
class Home:
    """Where a series belongs, and whose it is where somebody says so."""

    hospital: str
    patient_id: str = ""


# Where a series belongs (None: nowhere), by its UID, the group that it was found in and its patient.
Homes = Callable[[str, str, str], Home | None]


def hospital_name(text: str) -> str:
    """`text` as a hospital's name: "GE MEDICAL SYSTEMS" -> "ge-medical-systems"."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63]
    return name or "unknown"


def by_hash(key: str, hospitals: int) -> str:
    """One of "hospital-001" to `hospitals`, from SHA-256 of `key`: the same whatever else there is."""
    digest = hashlib.sha256(b"intramural/convert/hospitals/v1\x00" + key.encode()).digest()
    return f"hospital-{int.from_bytes(digest[:8]) % hospitals + 1:03d}"


def read_sites(path: Path) -> dict[str, Home]:
    """The table `path`: a series and its hospital, and if it has `patient_id` whose series it is.

    The columns are named series_uid and hospital, or SeriesInstanceUID and Manufacturer as in
    FLamby's table for Fed-LIDC-IDRI. DataError for a row that lacks one, or names a series twice.
    """
    found: dict[str, Home] = {}
    for row, where in table_rows(path):
        series = next((row[name] for name in _SERIES if row.get(name)), "")
        site = next((row[name] for name in _SITE if row.get(name)), "")
        if not series or not site:
            raise DataError(
                f"{where}: expected a series and a hospital in columns named {_SERIES[0]} and "
                f"{_SITE[0]}, found one missing; name both in every row"
            )
        home = Home(hospital_name(site), row.get(_PATIENT, ""))
        if found.setdefault(series, home) != home:
            raise DataError(
                f"{where}: expected each series at one hospital, found it at two; take one row out"
            )
    return found


def chosen_homes(sites: Path | None, hospitals: int | None) -> Homes:
    """By the table `sites`, by a hash of the patient over so many `hospitals`, or by the group.

    What is not in the table is at no hospital. DataError for both.
    """
    if sites is not None and hospitals is not None:
        raise DataError("expected --sites or --hospitals, found both; choose one")
    if sites is not None:
        table = read_sites(sites)
        return lambda series, _group, _patient: table.get(series)
    if hospitals is not None:
        return lambda _series, _group, patient: Home(by_hash(patient, hospitals))
    return lambda _series, group, _patient: Home(hospital_name(group))
