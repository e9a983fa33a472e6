"""Synthetic records with an outcome that a logistic model of them explains."""

from pathlib import Path

import numpy as np

from common.tasks.risk.study import RiskStudy
from simulation.phantoms.tables import drawn, write_table


def write(
    protocol: RiskStudy,
    folder: Path,
    patients: list[str],
    hospital: int,  # noqa: ARG001  (all hospitals have the same kind of patients)
    seed: int,
) -> None:
    """See `simulation.phantoms.Phantoms`; one row for each patient."""
    rng = np.random.default_rng(seed)
    values, score = drawn(protocol.records, len(patients), rng)
    positive = rng.random(len(patients)) < 1 / (1 + np.exp(-score))
    outcome = [protocol.records.classes[int(each)] for each in positive]
    write_table(folder, protocol.records, patients, values, {protocol.records.outcome: outcome})
