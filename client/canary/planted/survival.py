"""Records with the time of an event, one row for each patient."""

from pathlib import Path

from client.canary import table_damage as broken
from client.canary import tables
from client.canary.names import NAME, TEXT
from client.canary.table_faults import A_RECORD, table_faults
from client.canary.tables import FOR_VALIDATION, LAYOUTS, PATIENTS
from client.data import records
from common.protocol import parse_protocol

__all__ = ["FAULTS", "LAYOUTS", "STUDY", "plant"]

STUDY = parse_protocol(f"""
study = "canary"
task = "survival"
rounds = 1
training = {{ steps-per-round = 1, learning-rate = 0.5, sampling-rate = 0.9 }}
participation = {{ quorum = 1, deadline-seconds = 60 }}
hospitals = [{{ name = "north", nominal-patients = {PATIENTS - FOR_VALIDATION} }}]
survival = {{ edges = [100, 200, 400] }}
[records]
{tables.COLUMNS}
""")
FAULTS = table_faults(
    records,
    [
        *A_RECORD,
        ("a time that is a name", broken.cell("time", NAME), "not a plain number"),
        ("a time before all", broken.cell("time", "-1"), "outside of its public range"),
        ("an event named so", broken.cell("event", TEXT), "none of its categories"),
        ("a second row of a patient", broken.cell("age", "40"), "an earlier row"),
    ],
    [("a patient on both sides", broken.cell("split", "validation"))],
)


def plant(folder: Path, layout: str) -> tuple[list[Path], Path]:
    """See `Planted`."""
    return tables.plant_records(
        folder,
        layout,
        lambda patient: {"time": f"{50 * (patient + 1)}", "event": f"{patient % 2}"},
    )
