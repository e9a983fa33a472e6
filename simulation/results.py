"""A finished rehearsal as facts: the report, the files in the run folder and the JSON."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.statement import Statement
from client.statement_text import write_statement
from common.arrays import Arrays
from common.clinical.delong import auroc_interval
from common.clinical.evaluation import evaluate, groups_of
from common.files import write_atomic
from common.histogram import score_histogram
from common.messages import HISTOGRAM_BINS
from common.metrics import (
    Scores,
    auroc,
    average_precision,
    roc_curve_points,
)
from common.released import Reading, read
from server.checkpoint import RoundRecord
from server.deployed_facts import released
from server.facts import HospitalFacts, PooledFacts, ReportFacts, RoundFacts
from server.gain import Pooled, gains, pooled_against
from server.model_card import write_card
from server.plots import write_tensorboard
from server.report import write_report
from server.rounds import Outcome
from server.tracking import write_mlflow
from simulation.rehearsal import Rehearsal

SHOWN_FROM = 10  # patients of a group in the report's tables


@dataclass(frozen=True)
class LocalOnly:
    """A model that one hospital trained alone, on its own and on all hospitals' validation patients.

    `scores` are its exact scores on each hospital's.
    """

    own: float | None
    pooled: float | None
    scores: dict[str, Scores]


def judge_alone(rehearsal: Rehearsal, models: dict[str, Arrays]) -> dict[str, LocalOnly]:
    """How the local-only `models` (by hospital) do where the federated model is measured."""
    judged = {}
    for hospital, arrays in models.items():
        scores = rehearsal.scores_of(arrays)
        judged[hospital] = LocalOnly(
            own=auroc(scores[hospital]),
            pooled=auroc(Scores.concatenate(list(scores.values()))),
            scores=scores,
        )
    return judged


def gather(
    rehearsal: Rehearsal,
    outcome: Outcome,
    local_only: dict[str, LocalOnly],
    pooled: dict[str, Scores] | None = None,
) -> ReportFacts:
    """The facts of a run, finished or not: what the report, the JSON and the summary are made of.

    `pooled` are the exact scores of the pooled baseline on each hospital's validation patients.
    """
    protocol = rehearsal.protocol
    judged_after, scores = _last_judged(rehearsal, outcome)
    together = Scores.concatenate(list(scores.values()))
    zero_shot = Scores.concatenate(list(rehearsal.scores(0).values()))
    spent = {statement.hospital: _spent(statement) for statement in rehearsal.statements()}
    judging = _judging(outcome).get(judged_after)
    return ReportFacts(
        protocol=protocol,
        backend=rehearsal.backend,
        stopped=outcome.stopped,
        rounds=tuple(_rounds(rehearsal, outcome)),
        hospitals=tuple(
            HospitalFacts(
                name=hospital.name,
                nominal_patients=hospital.nominal_patients,
                validation_patients=_patients(scores, hospital.name),
                auroc=auroc(scores[hospital.name]) if hospital.name in scores else None,
                interval=auroc_interval(scores[hospital.name]) if hospital.name in scores else None,
                local_only_auroc=_of(local_only, hospital.name, "own"),
                local_only_pooled_auroc=_of(local_only, hospital.name, "pooled"),
                **(spent[hospital.name] if protocol.privacy.mechanism != "none" else {}),
            )
            for hospital in protocol.hospitals
        ),
        noise_seeded=any(p.noise_seed is not None for p in rehearsal.policies().values()),
        zero_shot_auroc=auroc(zero_shot),
        pooled=PooledFacts(
            auroc=auroc(together),
            interval=auroc_interval(together),
            average_precision=average_precision(together),
            roc=roc_curve_points(together),
            by_patient=read(
                score_histogram(together, HISTOGRAM_BINS), 0.0, protocol.evaluation.prevalence
            ),
        ),
        released=_released(rehearsal, outcome, judged_after),
        judged_after=judged_after,
        evaluation=evaluate(together, SHOWN_FROM, groups_of(together, protocol.images.classes)),
        gains=gains(scores, {h: alone.scores for h, alone in local_only.items() if h in scores}),
        pooled_baseline=pooled_against(scores, pooled)
        if pooled and scores.keys() <= pooled.keys()
        else None,
        judging=RoundFacts.of(judging) if judging else None,
        closing=RoundFacts.of(outcome.last),
    )


def _last_judged(rehearsal: Rehearsal, outcome: Outcome) -> tuple[int, dict[str, Scores]]:
    """The newest model that was judged, as its number of rounds, and the hospitals' exact scores.

    The final one, unless the run ended between two evaluations.
    """
    for done in range(outcome.state.round, 0, -1):
        if scores := rehearsal.scores(done):
            return done, scores
    return 0, rehearsal.scores(0)


def _judging(outcome: Outcome) -> dict[int, RoundRecord]:
    """The round that judged the model after so many rounds: the next one."""
    return {record.round - 1: record for record in (*outcome.state.records, outcome.last)}


def _released(rehearsal: Rehearsal, outcome: Outcome, after_round: int) -> Reading | None:
    """What the hospitals' histograms of the model after so many rounds say."""
    return released(rehearsal.protocol, _judging(outcome), after_round)


def _spent(statement: Statement) -> dict[str, Any]:
    """What a hospital's ledger says of this study, under the names of `HospitalFacts`."""
    if not statement.studies:
        return {"epsilon": 0.0, "validation_epsilon": 0.0, "histograms": 0}
    said: dict[str, Any] = {}
    for account, facts in statement.studies[0].accounts.items():
        noise = facts.mechanisms[0][0]  # constant over a study
        if account == "training":
            said["epsilon"], said["delta"] = facts.epsilon.value, facts.epsilon.delta
            said["accountant"] = facts.epsilon.accountant
            said["second_accountant"] = facts.epsilon.second.accountant
            said["noise_multiplier"] = noise
        else:
            said["validation_epsilon"], said["validation_noise"] = facts.epsilon.value, noise
            said["histograms"] = sum(steps for _, _, steps in facts.mechanisms)
    return said


def _patients(scores: dict[str, Scores], name: str) -> int | None:
    return scores[name].patients if name in scores else None


def _of(local_only: dict[str, LocalOnly], name: str, where: str) -> float | None:
    found: float | None = getattr(local_only.get(name), where, None)
    return found


def _rounds(rehearsal: Rehearsal, outcome: Outcome) -> list[RoundFacts]:
    """Each closed round with the AUROC of the model that came out of it, judged one message later.

    Where the protocol does not evaluate that model there are neither scores nor a histogram.
    """
    facts = []
    for record in outcome.state.records:
        scores = Scores.concatenate(list(rehearsal.scores(record.round).values()))
        reading = _released(rehearsal, outcome, record.round)
        facts.append(
            RoundFacts.of(
                record,
                pooled_auroc=auroc(scores),
                pooled_interval=auroc_interval(scores),
                released_auroc=reading.auroc if reading else None,
            )
        )
    return facts


def write_files(rehearsal: Rehearsal, facts: ReportFacts) -> dict[str, Any]:
    """Report, model card, statement, events, MLflow's store and `summary.json`; returns the summary."""
    write_report(rehearsal.folder, facts)
    write_card(rehearsal.folder, facts)
    write_tensorboard(rehearsal.folder / "tensorboard", facts.rounds)
    write_statement(rehearsal.folder, rehearsal.statements(), rehearsal=True)
    summary = as_json(rehearsal.folder, facts)
    text = json.dumps(summary, indent=2, allow_nan=False)
    write_atomic(rehearsal.folder / "summary.json", text.encode())
    write_mlflow(rehearsal.folder, facts)
    return summary


def as_json(folder: Path, facts: ReportFacts) -> dict[str, Any]:
    """The run for machines; None where a figure is not defined."""
    pooled = facts.pooled
    return {
        "run": str(folder),
        "study": facts.protocol.digest,
        "rounds": len(facts.rounds),
        "stopped": facts.stopped,
        "test_mode_noise": facts.noise_seeded,
        "flags": {str(r.round): dict(r.flags) for r in facts.rounds if r.flags},
        "pooled": {
            "auroc": pooled.auroc if pooled else None,
            "auroc_ci": list(pooled.interval) if pooled and pooled.interval else None,
            "average_precision": pooled.average_precision if pooled else None,
            "judged_after_round": facts.judged_after,
            # Beside each other: what hospitals released, and the same histogram without its noise.
            **_as_json("released_", facts.released),
            **_as_json("exact_by_patient_", pooled.by_patient if pooled else None),
        },
        "zero_shot": {"auroc": facts.zero_shot_auroc},
        "pooled_baseline": _baseline_as_json(facts.pooled_baseline),
        "hospitals": {
            hospital.name: {
                "auroc": hospital.auroc,
                "auroc_ci": list(hospital.interval) if hospital.interval else None,
                "local_only_auroc": hospital.local_only_auroc,
                "local_only_pooled_auroc": hospital.local_only_pooled_auroc,
                "pooled_baseline_auroc": _on_own(facts.pooled_baseline, hospital.name),
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


def _baseline_as_json(found: Pooled | None) -> dict[str, Any]:
    """The pooled baseline on all validation patients; all None when it was not trained."""
    less = found.difference if found else None
    return {
        "auroc": found.auroc if found else None,
        "auroc_ci": list(found.interval) if found and found.interval else None,
        "federated_less_pooled": less.value if less else None,
        "federated_less_pooled_ci": list(less.interval) if less and less.interval else None,
    }


def _on_own(found: Pooled | None, hospital: str) -> float | None:
    return found.own.get(hospital) if found else None


def _as_json(prefix: str, reading: Reading | None) -> dict[str, Any]:
    """The figures of a histogram; all None when noise leaves nothing to say."""
    calibration = reading.calibration if reading else None
    point = reading.operating_point if reading else None
    heat = reading.temperature if reading else None
    sensitivity, specificity = (point.sensitivity, point.specificity) if point else (None, None)
    return {
        f"{prefix}auroc": reading.auroc.value if reading else None,
        f"{prefix}auroc_ci": list(reading.auroc.interval) if reading else None,
        f"{prefix}prevalence": calibration.prevalence if calibration else None,
        f"{prefix}brier": calibration.brier if calibration else None,
        f"{prefix}calibration_error": calibration.expected_error if calibration else None,
        f"{prefix}temperature": heat.value if heat else None,
        f"{prefix}temperature_ci": list(heat.interval) if heat else None,
        f"{prefix}threshold": point.threshold if point else None,
        f"{prefix}sensitivity": sensitivity.value if sensitivity else None,
        f"{prefix}sensitivity_ci": list(sensitivity.interval) if sensitivity else None,
        f"{prefix}specificity": specificity.value if specificity else None,
        f"{prefix}specificity_ci": list(specificity.interval) if specificity else None,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
