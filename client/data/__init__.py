"""A hospital's images on disk -> its patients in memory, split by patient, without their names."""

from client.data.cohort import Cohort, Patients
from client.data.image_folder import count_patients, hospital_folders, open_cohort
from client.data.quarantine import SetAside

__all__ = [
    "PATCHES",
    "Cohort",
    "Patients",
    "SetAside",
    "count_patients",
    "hospital_folders",
    "open_cohort",
]

PATCHES = "patches"  # below the state folder: patches of CT series, decoded once
