"""Everything that exact survival scores say of a model, put together for a page and for machines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.histogram import Estimate, Interval
from common.survival.brier import integrated_brier
from common.survival.concordance import harrell, harrell_interval, uno, uno_interval
from common.survival.groups import RiskGroup, exact_groups, thirds
from common.survival.scores import SurvivalScores


@dataclass(frozen=True, eq=False)
class SurvivalEvaluation:
    """Exact figures of `patients`, of whom `events` had one up to the last edge; they stay where they are.

    What is not defined is None: a concordance index where no pair can be compared, the integrated Brier
    score of a model that predicts no survival. `groups` are up to three, split at the risks `cuts`.
    """

    patients: int
    events: int
    harrell: float | None
    harrell_interval: Interval | None
    uno: float | None
    uno_interval: Interval | None
    brier: Estimate | None
    cuts: tuple[float, float]
    groups: tuple[RiskGroup, ...]


def evaluate(
    scores: SurvivalScores, edges: Sequence[float], cuts: tuple[float, float] | None = None
) -> SurvivalEvaluation | None:
    """What the scores say up to the last of the study's `edges`; None without a patient.

    Groups are split at the risks `cuts`, such as those of a released table, or else into thirds.
    """
    if scores.risk.size == 0:
        return None
    seen = scores.up_to(edges[-1])
    split = thirds(seen) if cuts is None else cuts
    return SurvivalEvaluation(
        patients=seen.risk.size,
        events=int(seen.event.sum()),
        harrell=harrell(seen),
        harrell_interval=harrell_interval(seen),
        uno=uno(seen),
        uno_interval=uno_interval(seen),
        brier=integrated_brier(seen, edges),
        cuts=split,
        groups=exact_groups(seen, split, edges),
    )


def as_json(found: SurvivalEvaluation) -> dict[str, Any]:
    """The figures for machines; curves are left out."""
    return {
        "patients": found.patients,
        "events": found.events,
        "concordance": found.harrell,
        "concordance_ci": found.harrell_interval,
        "concordance_uno": found.uno,
        "concordance_uno_ci": found.uno_interval,
        "integrated_brier": found.brier.value if found.brier else None,
        "integrated_brier_ci": found.brier.interval if found.brier else None,
        "groups": [
            {
                "name": group.name,
                "risk": [group.low, group.high],
                "patients": int(group.at_risk[0]),
                "predicted": group.predicted if found.brier is not None else None,
                "observed": group.observed.value if group.observed else None,
                "observed_ci": group.observed.interval if group.observed else None,
            }
            for group in found.groups
        ],
    }
