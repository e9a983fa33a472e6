"""Records of which a mean is stated, of a patient two rows."""

from pathlib import Path

from client.canary import table_damage as broken
from client.canary import tables
from client.canary.table_faults import A_RECORD, table_faults
from client.canary.tables import FOR_VALIDATION, LAYOUTS, PATIENTS
from client.data import records
from common.protocol import parse_protocol

__all__ = ["FAULTS", "LAYOUTS", "STUDY", "plant"]

STUDY = parse_protocol(f"""
study = "canary"
task = "summary"
rounds = 1
training = {{ views-per-patient = 2 }}
privacy = {{ max-grad-norm = 1.7321 }}
participation = {{ quorum = 1, deadline-seconds = 60 }}
hospitals = [{{ name = "north", nominal-patients = {PATIENTS - FOR_VALIDATION} }}]
[records]
{tables.COLUMNS}
""")
FAULTS = table_faults(
    records, A_RECORD, [("a patient on both sides", broken.cell("split", "validation"))]
)


def plant(folder: Path, layout: str) -> tuple[list[Path], Path]:
    """See `Planted`."""
    return tables.plant_records(folder, layout, lambda _: {}, visits=2)
