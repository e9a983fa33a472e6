"""Synthetic records, of which a summary states a figure for each column."""

from pathlib import Path

import numpy as np

from common.tasks.summary.study import SummaryStudy
from simulation.phantoms.tables import drawn, write_table


def write(
    protocol: SummaryStudy,
    folder: Path,
    patients: list[str],
    hospital: int,  # noqa: ARG001  (all hospitals have the same kind of patients)
    seed: int,
) -> None:
    """See `simulation.phantoms.Phantoms`; one row for each patient."""
    values, _ = drawn(protocol.records, len(patients), np.random.default_rng(seed))
    write_table(folder, protocol.records, patients, values, {})
