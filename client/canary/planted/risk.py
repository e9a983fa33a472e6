"""Records with an outcome, of a patient two rows."""

from pathlib import Path

from client.canary import table_damage as broken
from client.canary import tables
from client.canary.names import TEXT
from client.canary.table_faults import A_RECORD, table_faults
from client.canary.tables import FOR_VALIDATION, LAYOUTS, PATIENTS
from client.data import records
from common.protocol import parse_protocol

__all__ = ["FAULTS", "LAYOUTS", "STUDY", "plant"]

CLASSES = ("no", "yes")
STUDY = parse_protocol(f"""
study = "canary"
task = "risk"
rounds = 1
training = {{ steps-per-round = 1, learning-rate = 0.5, sampling-rate = 0.9, views-per-patient = 2 }}
participation = {{ quorum = 1, deadline-seconds = 60 }}
hospitals = [{{ name = "north", nominal-patients = {PATIENTS - FOR_VALIDATION} }}]
[records]
classes = {list(CLASSES)}
{tables.COLUMNS}
""")
FAULTS = table_faults(
    records,
    [*A_RECORD, ("an outcome named so", broken.cell("outcome", TEXT), "none of its categories")],
    [("a patient on both sides", broken.cell("split", "validation"))],
)


def plant(folder: Path, layout: str) -> tuple[list[Path], Path]:
    """See `Planted`."""
    return tables.plant_records(
        folder, layout, lambda patient: {"outcome": CLASSES[patient % 2]}, visits=2
    )
