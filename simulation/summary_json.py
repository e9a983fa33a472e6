"""A rehearsal for machines: `summary.json`, and what `--json` prints.

The discrimination has the key that the study's judge gives it; what else is said of the model, the task's
part of the report knows.
"""

import math
from pathlib import Path
from typing import Any

from common.histogram import Interval
from common.judging.judge import Reading
from common.tasks import judge_of, task_of
from server.deployed_facts import discrimination
from server.facts import HospitalFacts, PooledFacts, ReportFacts
from server.gain import Pooled
from server.sections import part_of


def as_json(folder: Path, facts: ReportFacts) -> dict[str, Any]:
    """The run for machines; None where a figure is not defined."""
    return {
        "run": str(folder),
        "study": facts.protocol.digest,
        "rounds": len(facts.rounds),
        "stopped": facts.stopped,
        "test_mode_noise": facts.noise_seeded,
        "flags": {str(r.round): dict(r.flags) for r in facts.rounds if r.flags},
        **_judged_as_json(facts),
        "hospitals": {
            hospital.name: {
                **_hospital_as_json(facts, hospital),
                "epsilon": _finite(hospital.epsilon),
                "delta": hospital.delta,
                "accountant": hospital.accountant,
                "second_accountant": hospital.second_accountant,
                "noise_multiplier": hospital.noise_multiplier,
                "validation_epsilon": _finite(hospital.validation_epsilon),
                "validation_noise": hospital.validation_noise,
                "histograms": hospital.histograms,
                "nominal_patients": hospital.nominal_patients,
                "validation_patients": hospital.validation_patients,
            }
            for hospital in facts.hospitals
        },
    }


def _judged_as_json(facts: ReportFacts) -> dict[str, Any]:
    """The figures of all hospitals together; nothing where nothing is judged."""
    judge = task_of(facts.protocol).judge
    if judge is None:
        return {}
    pooled, one_place = facts.pooled, facts.pooled_baseline
    unnoised = pooled.unnoised if pooled else None
    less = one_place.difference if one_place else None
    return {
        "pooled": {
            **_figure(judge.key, pooled),
            **part_of(facts.protocol).exact_numbers(
                facts.protocol, pooled.scores if pooled else None
            ),
            "judged_after_round": facts.judged_after,
            # Beside each other: what hospitals released, and the same histogram without its noise.
            **_read("released_", facts, facts.released),
            **_read("exact_by_patient_", facts, unnoised),
        },
        "zero_shot": {judge.key: facts.zero_shot},
        # The pooled baseline on all validation patients; all None when it was not trained.
        "pooled_baseline": {
            **_figure(judge.key, one_place),
            "federated_less_pooled": less.value if less else None,
            "federated_less_pooled_ci": _pair(less.interval if less else None),
        },
    }


def _hospital_as_json(facts: ReportFacts, hospital: HospitalFacts) -> dict[str, Any]:
    judge, one_place = task_of(facts.protocol).judge, facts.pooled_baseline
    if judge is None:
        return {}
    return {
        **_figure(judge.key, hospital),
        f"local_only_{judge.key}": hospital.local_only,
        f"local_only_pooled_{judge.key}": hospital.local_only_pooled,
        f"pooled_baseline_{judge.key}": one_place.own.get(hospital.name) if one_place else None,
        **part_of(facts.protocol).hospital_numbers(facts.protocol, hospital.scores),
    }


def _figure(key: str, found: PooledFacts | Pooled | HospitalFacts | None) -> dict[str, Any]:
    """The discrimination with its interval."""
    return {
        key: found.discrimination if found else None,
        f"{key}_ci": _pair(found.interval if found else None),
    }


def _read(prefix: str, facts: ReportFacts, reading: Reading | None) -> dict[str, Any]:
    """The figures of a histogram; all None when noise leaves nothing to say."""
    key = judge_of(facts.protocol).key
    found = discrimination(reading)
    numbers = {
        key: found.value if found else None,
        f"{key}_ci": _pair(found.interval if found else None),
        **part_of(facts.protocol).numbers(reading),
    }
    return {f"{prefix}{name}": value for name, value in numbers.items()}


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
