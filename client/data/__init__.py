"""A hospital's images on disk -> its patients in memory, split by patient, without their names."""

from client.data.cohort import Cohort, Patients
from client.data.image_folder import count_patients, hospital_folders, open_cohort

__all__ = ["Cohort", "Patients", "count_patients", "hospital_folders", "open_cohort"]
