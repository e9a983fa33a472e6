"""Synthetic vital signs of ward patients: each hospital has its own ward."""

from pathlib import Path

from client.data.sequences import SIDES
from client.data.split import is_validation_patient
from common.phantom_vitals import HOURS, WARDS, phantom_stays, vitals_of, write_stays
from common.tasks.sequence.study import SequenceStudy


def write(
    protocol: SequenceStudy, folder: Path, patients: list[str], hospital: int, seed: int
) -> None:
    """See `simulation.phantoms.Phantoms`; one stay for each patient, as long as the study's grid."""
    sequences, wards = protocol.sequences, list(WARDS.values())
    stays = phantom_stays(
        len(patients),
        vitals_of(sequences),
        hours=sequences.window * HOURS[sequences.time.unit],
        seed=seed,
        ward=wards[hospital % len(wards)],
    )
    fraction = sequences.validation_fraction
    sides = [SIDES[is_validation_patient(patient, fraction)] for patient in patients]
    write_stays(folder, stays, sequences, patients, sides)
