"""A finished rehearsal as facts, and the files in the run folder."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from client.statement import Statement
from client.statement_text import write_statement
from common.arrays import Arrays
from common.files import write_atomic
from common.judging.judge import Judge, Reading
from common.tasks import judge_of, task_of
from server.checkpoint import RoundRecord
from server.deployed_facts import discrimination, released
from server.facts import HospitalFacts, PooledFacts, ReportFacts, RoundFacts
from server.gain import gains, pooled_against
from server.model_card import write_card
from server.plots import write_tensorboard
from server.report import write_report
from server.rounds import Outcome
from server.tracking import write_mlflow
from simulation.rehearsal import Rehearsal
from simulation.summary_json import as_json


@dataclass(frozen=True)
class LocalOnly:
    """A model that one hospital trained alone, on its own and on all hospitals' validation patients.

    The first two are the discrimination; `scores` are its exact scores on each hospital's.
    """

    own: float | None
    pooled: float | None
    scores: dict[str, Any]


def judge_alone(rehearsal: Rehearsal, models: dict[str, Arrays]) -> dict[str, LocalOnly]:
    """How the local-only `models` (by hospital) do where the federated model is measured."""
    judge, judged = judge_of(rehearsal.protocol), {}
    for hospital, arrays in models.items():
        scores = rehearsal.scores_of(arrays)
        judged[hospital] = LocalOnly(
            own=judge.discrimination(scores[hospital]),
            pooled=judge.discrimination(judge.concatenate(list(scores.values()))),
            scores=scores,
        )
    return judged


def gather(
    rehearsal: Rehearsal,
    outcome: Outcome,
    local_only: dict[str, LocalOnly],
    pooled: dict[str, Any] | None = None,
) -> ReportFacts:
    """The facts of a run, finished or not: what the report, the JSON and the summary are made of.

    `pooled` are the exact scores of the pooled baseline on each hospital's validation patients.
    """
    protocol, judge = rehearsal.protocol, task_of(rehearsal.protocol).judge
    judged: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    if judge is not None:
        judged_after, scores = _last_judged(rehearsal, outcome)
        judged = _judged(rehearsal, outcome, judge, judged_after, scores)
        judged["gains"] = gains(
            judge, scores, {h: alone.scores for h, alone in local_only.items() if h in scores}
        )
        if pooled and scores.keys() <= pooled.keys():
            judged["pooled_baseline"] = pooled_against(judge, scores, pooled)
    return ReportFacts(
        protocol=protocol,
        backend=rehearsal.backend,
        stopped=outcome.stopped,
        rounds=tuple(_rounds(rehearsal, outcome, judge)),
        hospitals=_hospitals(rehearsal, judge, scores, local_only),
        noise_seeded=any(p.noise_seed is not None for p in rehearsal.policies().values()),
        closing=RoundFacts.of(outcome.last) if outcome.last not in outcome.state.records else None,
        result=outcome.state.result if outcome.stopped == "finished" else {},
        **judged,
    )


def _judged(
    rehearsal: Rehearsal,
    outcome: Outcome,
    judge: Judge[Any],
    judged_after: int,
    scores: dict[str, Any],
) -> dict[str, Any]:
    """What is known of the model after `judged_after` rounds, under the names of `ReportFacts`."""
    protocol, together = rehearsal.protocol, judge.concatenate(list(scores.values()))
    judging = _judging(outcome).get(judged_after)
    return {
        "zero_shot": judge.discrimination(judge.concatenate(list(rehearsal.scores(0).values()))),
        "pooled": PooledFacts(
            discrimination=judge.discrimination(together),
            interval=judge.interval(together),
            unnoised=judge.read(protocol, judge.histogram(protocol, together), 0.0),
            scores=together,
        ),
        "released": _released(rehearsal, outcome, judged_after),
        "judged_after": judged_after,
        "judging": RoundFacts.of(judging) if judging else None,
    }


def _hospitals(
    rehearsal: Rehearsal,
    judge: Judge[Any] | None,
    scores: dict[str, Any],
    local_only: dict[str, LocalOnly],
) -> tuple[HospitalFacts, ...]:
    spent = {statement.hospital: _spent(statement) for statement in rehearsal.statements()}
    found = []
    for hospital in rehearsal.protocol.hospitals:
        name, about = hospital.name, dict[str, Any]()
        if rehearsal.protocol.privacy.mechanism != "none":
            about |= spent[name]
        if judge is not None and name in scores:
            about |= {
                "validation_patients": judge.patients(scores[name]),
                "discrimination": judge.discrimination(scores[name]),
                "interval": judge.interval(scores[name]),
                "scores": scores[name],
            }
        if (alone := local_only.get(name)) is not None:
            about |= {"local_only": alone.own, "local_only_pooled": alone.pooled}
        found.append(HospitalFacts(name, hospital.nominal_patients, **about))
    return tuple(found)


def _last_judged(rehearsal: Rehearsal, outcome: Outcome) -> tuple[int, dict[str, Any]]:
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


def _rounds(
    rehearsal: Rehearsal, outcome: Outcome, judge: Judge[Any] | None
) -> Iterator[RoundFacts]:
    """Each closed round with the discrimination of the model that came out of it.

    It is judged one message later. Where the protocol does not evaluate that model there are neither
    scores nor a histogram.
    """
    for record in outcome.state.records:
        if judge is None:
            yield RoundFacts.of(record)
            continue
        scores = judge.concatenate(list(rehearsal.scores(record.round).values()))
        yield RoundFacts.of(
            record,
            discrimination=judge.discrimination(scores),
            interval=judge.interval(scores),
            released_discrimination=discrimination(_released(rehearsal, outcome, record.round)),
        )


def write_files(rehearsal: Rehearsal, facts: ReportFacts) -> dict[str, Any]:
    """Report, model card, statement, events, MLflow's store and `summary.json`; returns the summary."""
    write_report(rehearsal.folder, facts)
    write_card(rehearsal.folder, facts)
    write_tensorboard(rehearsal.folder / "tensorboard", facts)
    write_statement(rehearsal.folder, rehearsal.statements(), rehearsal=True)
    summary = as_json(rehearsal.folder, facts)
    text = json.dumps(summary, indent=2, allow_nan=False)
    write_atomic(rehearsal.folder / "summary.json", text.encode())
    write_mlflow(rehearsal.folder, facts)
    return summary
