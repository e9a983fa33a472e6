"""Synthetic records with times to an event under proportional hazards, and patients lost from sight."""

from math import log
from pathlib import Path

import numpy as np

from common.tasks.survival.study import SurvivalStudy
from simulation.phantoms.tables import drawn, write_table


def write(
    protocol: SurvivalStudy,
    folder: Path,
    patients: list[str],
    hospital: int,  # noqa: ARG001  (all hospitals have the same kind of patients)
    seed: int,
) -> None:
    """See `simulation.phantoms.Phantoms`.

    Half of all patients of hazard ratio 1 have the event before the last edge; one in three is lost
    from sight at some time before twice that.
    """
    rng, follow = np.random.default_rng(seed), protocol.survival
    values, score = drawn(protocol.records, len(patients), rng)
    last = follow.edges[-1]
    event = rng.exponential(last / log(2), len(patients)) * np.exp(-score)
    seen = np.where(
        rng.random(len(patients)) < 1 / 3, rng.uniform(0, 2 * last, len(patients)), 2 * last
    )
    time = np.minimum(event, seen)
    more = {
        follow.time: [f"{each:.6g}" for each in time.tolist()],
        follow.event: [follow.events[int(happened)] for happened in event <= seen],
    }
    write_table(folder, protocol.records, patients, values, more)
