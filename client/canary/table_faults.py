"""The faults of the canary's battery at a hospital with tables, whatever they say of a patient."""

import csv
import unicodedata
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from client.canary import damage, sayings, tables
from client.canary import table_damage as broken
from client.canary.injecting import Fault, damaged, fails, meanwhile, set_aside
from client.canary.names import NAME, TEXT
from client.canary.sayings import of

Damage = Sequence[tuple[str, broken.Change, str]]

UNEVEN = "a row with too few cells"  # which Parquet has not

# What is left out, why, and the round is answered from what is left.
ANY_ROW: Damage = [
    ("a row without a patient", broken.cell("patient_id", ""), "names no"),
    ("a patient that is a formula", broken.cell("patient_id", f"={TEXT}"), "names no"),
    ("a patient whose id is endless", broken.cell("patient_id", TEXT * 9), "names no"),
    ("a patient whose id is no text", broken.cell("patient_id", f"{NAME}\a"), "names no"),
    (UNEVEN, broken.edited(broken.cell_more), "more cells"),
    ("a side named so", broken.cell("split", TEXT), "none of its categories"),
]
A_RECORD: Damage = [
    ("a category named so", broken.cell("pain", TEXT), "none of its categories"),
    ("a number that is a name", broken.cell("age", NAME), "not a plain number"),
    ("a number outside of its range", broken.cell("age", "1000"), "outside of its public range"),
    ("a number that is endless", broken.cell("pressure", "9" * 100), "not a plain number"),
    ("an age that is missing", broken.cell("age", ""), "is missing"),
]
_REFUSED = [
    ("a quote that is not closed", broken.edited(broken.open_quote)),
    ("a header's quote that is not closed", broken.edited(broken.open_quote_of_a_column)),
    ("a table not in UTF-8", broken.edited(broken.no_utf8)),
    ("a row that is endless", broken.edited(broken.endless)),
    ("a table of other columns", damage.columns(f"{TEXT},{NAME},age")),
    ("a column that is there twice", broken.edited(broken.a_column_twice)),
    ("a table without a row", broken.alone("patient_id", f"={TEXT}")),
    ("a table without training patients", broken.alone("split", "validation")),
    ("a table as CSV and as Parquet", broken.as_both),
    ("a table of 2 GB", broken.too_large),
    ("a table that is a pipe", damage.pipe),
    ("a table that leads outside", damage.link_to_outside),
    ("a table that is gone", damage.no_file),
    ("a data folder that is gone", damage.no_folder),
]


def table_faults(
    reader: ModuleType, aside: Damage, refused: Sequence[tuple[str, broken.Change]]
) -> dict[str, list[Fault]]:
    """The groups of faults at tables that `reader` reads, with what only its task sets aside or refuses."""
    groups = {
        "rows": [
            Fault(name, set_aside(change, reason), ends="answered")
            for name, change, reason in [*ANY_ROW, *aside]
        ],
        "tables": [
            Fault(name, damaged(change), ends="refused") for name, change in [*_REFUSED, *refused]
        ],
        "libraries of tables": _injected(reader),
    }
    if "parquet" in tables.LAYOUTS:
        from client.canary.parquet_faults import PARQUET

        groups["Parquet"] = [*(_in_parquet(*one) for one in ANY_ROW if one[0] != UNEVEN), *PARQUET]
    return groups


def _in_parquet(name: str, change: broken.Change, reason: str) -> Fault:
    return Fault(f"{name}, in Parquet", set_aside(change, reason), "parquet", ends="answered")


def _injected(reader: ModuleType) -> list[Fault]:
    return [
        Fault("csv cannot read", fails(csv, "reader", of(csv.Error))),
        Fault("csv fails otherwise", fails(csv, "reader", of(KeyError, NAME))),
        Fault("csv panics", fails(csv, "reader", of(sayings.Panic))),
        Fault("a csv that prints", meanwhile(sayings.print_it, csv, "reader")),
        Fault("a csv that warns", meanwhile(sayings.warn, csv, "reader")),
        Fault("a text cannot be composed", fails(unicodedata, "normalize", of(ValueError))),
        Fault("cells cannot be read", fails(reader, "values_of", sayings.caused_from_afar)),
        Fault("values cannot be encoded", fails(reader, "encode", of(FloatingPointError))),
        Fault("no patient's side", fails(reader, "patient_of", of(MemoryError))),
        Fault("NumPy cannot put together", fails(np, "concatenate", of(MemoryError))),
    ]
