"""A deployed run as facts for the report: what hospitals released and stated, and nothing else.

Exact scores stay in the hospitals, so every figure of the model is read from noised histograms.
"""

from dataclasses import replace
from pathlib import Path

from common.histogram import Estimate
from common.judging.judge import Reading
from common.protocol import StudyProtocol, load_protocol
from common.tasks import task_of
from common.weights import parse_weights, read_weights
from server.app import FINAL_MODEL
from server.checkpoint import RoundRecord
from server.facts import HospitalFacts, ReportFacts, RoundFacts
from server.home import Outcome
from server.model_card import write_card
from server.plots import write_tensorboard
from server.report import write_report
from server.spent import epsilon_stated
from server.status import closed_rounds
from server.tracking import write_mlflow


def write_deployed_report(folder: Path) -> Path:
    """Write report, TensorBoard's events and MLflow's store of the run in `folder`; the report's path.

    With its end come model card and checklist: before, and after `stop` or a failure, which leave no last
    record, the weights on disk may be those of an earlier end.
    """
    outcome = Outcome.load(folder)
    facts = gather(load_protocol(folder / "protocol.toml"), closed_rounds(folder), outcome)
    model = folder / FINAL_MODEL
    if outcome is not None and outcome.stopped == "finished" and model.is_file():
        facts = replace(facts, result=parse_weights(read_weights(model), model))
    write_report(folder, facts)
    if outcome is not None and outcome.last is not None:
        write_card(folder, facts)
    write_tensorboard(folder / "tensorboard", facts)
    write_mlflow(folder, facts)
    return folder / "report.html"


def gather(
    protocol: StudyProtocol, records: list[RoundRecord], outcome: Outcome | None
) -> ReportFacts:
    """The facts of a run from its closed rounds and how it ended (None: it has not)."""
    every = list(records)
    if outcome is not None and outcome.last is not None:
        last = RoundRecord.read(outcome.last)
        every += [last] * (last.round > len(records))
    judging = {
        record.round - 1: record for record in every if record.histogram or record.suppressed
    }
    judged_after = max((done for done in judging if done <= len(records)), default=None)
    spent = {name: epsilon_stated(protocol, records, name) for name in protocol.hospital_names}
    return ReportFacts(
        protocol=protocol,
        backend="deployment",
        stopped="under way" if outcome is None else outcome.stopped,
        rounds=tuple(
            RoundFacts.of(
                record,
                released_discrimination=discrimination(released(protocol, judging, record.round)),
            )
            for record in records
        ),
        hospitals=tuple(
            HospitalFacts(
                name=hospital.name,
                nominal_patients=hospital.nominal_patients,
                epsilon=spent[hospital.name],
                delta=protocol.privacy.delta,
                accountant="PLD (dp-accounting), from the noise that each hospital states",
                noise_multiplier=_noise(records, hospital.name),
            )
            for hospital in protocol.hospitals
        ),
        noise_seeded=False,
        released=None if judged_after is None else released(protocol, judging, judged_after),
        judged_after=judged_after,
        judging=None if judged_after is None else RoundFacts.of(judging[judged_after]),
        closing=RoundFacts.of(every[-1]) if len(every) > len(records) else None,
    )


def released(
    protocol: StudyProtocol, judging: dict[int, RoundRecord], after_round: int
) -> Reading | None:
    """What the histograms of the model after so many rounds say to the study's judge, if it was judged.

    `judging` is the record of the round that judged the model, by the number of rounds before it.
    """
    judge, record = task_of(protocol).judge, judging.get(after_round)
    if (
        judge is None
        or record is None
        or record.histogram is None
        or record.histogram_noise is None
    ):
        return None
    others = [
        other.histogram
        for other in judging.values()
        if other is not record and other.histogram and other.released == record.released
    ]
    return judge.read(protocol, record.histogram, record.histogram_noise, others)


def discrimination(reading: Reading | None) -> Estimate | None:
    """The figure that a reading is asked for first."""
    return None if reading is None else reading.discrimination


def _noise(records: list[RoundRecord], hospital: str) -> float | None:
    stated = [record.noise[hospital] for record in records if hospital in record.noise]
    return stated[-1] if stated else None
