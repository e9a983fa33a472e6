"""A hospital's files on disk -> its patients in memory, split by patient, without their names."""

from client.data.cohort import Cohort, ImagePatients, Patients
from client.data.quarantine import SetAside

__all__ = [
    "PATCHES",
    "Cohort",
    "ImagePatients",
    "Patients",
    "SetAside",
]

PATCHES = "patches"  # below the state folder: patches of CT series, decoded once
