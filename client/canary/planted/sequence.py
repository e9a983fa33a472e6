"""What was measured in a patient's two stays, and how they ended."""

from pathlib import Path

from client.canary import table_damage as broken
from client.canary.names import NAME, TEXT, patient_id
from client.canary.table_faults import table_faults
from client.canary.tables import FOR_VALIDATION, LAYOUTS, PATIENTS, measurements, plant_table
from client.data import sequences
from client.data.sequences import OUTCOMES, SERIES
from common.protocol import parse_protocol

__all__ = ["FAULTS", "LAYOUTS", "STUDY", "plant"]

_SERIES = 1  # which of the two tables
CLASSES = ("no", "yes")

STUDY = parse_protocol(f"""
study = "canary"
task = "sequence"
rounds = 1
training = {{ steps-per-round = 1, learning-rate = 0.5, sampling-rate = 0.9, views-per-patient = 2 }}
model = {{ hidden = 4 }}
participation = {{ quorum = 1, deadline-seconds = 60 }}
hospitals = [{{ name = "north", nominal-patients = {PATIENTS - FOR_VALIDATION} }}]
[sequences]
classes = {list(CLASSES)}
stay = "stay"
split = "split"
steps = 3
variables = [{{ name = "pulse", unit = "/min", range = [20, 220] }}]
""")
FAULTS = table_faults(
    sequences,
    [
        ("an outcome named so", broken.cell("outcome", TEXT), "none of its categories"),
        ("a stay without a measurement", broken.cell("stay", TEXT), "has no measurement"),
        ("a stay with two outcomes", broken.cell("outcome", "no"), "has another row"),
        ("a stay that is a formula", broken.cell("stay", f"={NAME}"), "names nobody"),
        (
            "a value that is a name",
            broken.cells({"variable": "pulse", "value": NAME}, _SERIES),
            "not a plain number",
        ),
        (
            "a value outside of its range",
            broken.cells({"variable": "pulse", "value": "999"}, _SERIES),
            "outside of its public range",
        ),
        (
            "a time that is a name",
            broken.cells({"variable": "pulse", "time": NAME}, _SERIES),
            "not a plain number",
        ),
        (
            "a measurement of an unknown stay",
            broken.cells({"variable": "pulse", "value": "80", "stay": TEXT}, _SERIES),
            "no outcome",
        ),
        (
            "a measurement of nobody",
            broken.cells({"variable": "pulse", "value": "80", "patient_id": "#REF!"}, _SERIES),
            "names nobody",
        ),
    ],
    [("a patient on both sides", broken.cells({"split": "validation", "stay": TEXT}))],
)


def plant(folder: Path, layout: str) -> tuple[list[Path], Path]:
    """See `Planted`; the table that says whose stays there are is that of their outcomes."""
    stays = [(n, f"{2 * n + m} {TEXT}") for n in range(PATIENTS) for m in range(2)]
    outcomes = [
        {
            "patient_id": patient_id(patient),
            "stay": stay,
            "outcome": CLASSES[patient % 2],
            "split": "validation" if patient < FOR_VALIDATION else "training",
        }
        for patient, stay in stays
    ]
    series = [row for patient, stay in stays for row in measurements(patient, stay)]
    files = [
        plant_table(folder, stem, layout, rows)
        for stem, rows in ((OUTCOMES, outcomes), (SERIES, series))
    ]
    return files, files[0]
