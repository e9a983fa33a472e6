"""What `intramural-simulate` does with a prepared run, from the first round to the summary."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from client.privacy.budget import protocol_noise
from common.protocol import StudyProtocol
from common.tasks import task_of
from simulation.disturbance import too_much
from simulation.live import LiveTable, Silent
from simulation.prepare import Options
from simulation.rehearsal import Rehearsal
from simulation.results import (
    LocalOnly,
    gather,
    judge_alone,
    write_files,
)
from simulation.summary import print_summary


def carry_out(
    options: Options, protocol: StudyProtocol, sites: dict[str, Path], console: Console
) -> dict[str, Any]:
    """Rehearse what `prepare` prepared and write the run folder; the summary that `--json` prints."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    rehearsal = Rehearsal(protocol, options.folder, sites, options.backend, options.ray_address)
    if protocol.privacy.mechanism != "none":
        sigma = protocol_noise(protocol)["training"]
        if too_high := too_much(protocol, sigma):
            console.print(f"[yellow]{too_high}[/yellow]", highlight=False, soft_wrap=True)
    with LiveTable(rehearsal, console) as table:
        outcome = rehearsal.carry_out(table, resume=options.resume, progress=table.preparing)
    local_only: dict[str, LocalOnly] = {}
    pooled: dict[str, Any] = {}
    judged = task_of(protocol).judge is not None
    if options.baselines and judged and outcome.stopped == "finished":
        local_only = train_alone(rehearsal, console)
        console.print("pooled: training on all patients in one place ...", highlight=False)
        pooled = rehearsal.scores_of(rehearsal.pooled(Silent()))
    facts = gather(rehearsal, outcome, local_only, pooled)
    summary = write_files(rehearsal, facts)
    print_summary(console, rehearsal.folder, facts)
    if outcome.stopped == "quorum-missed":
        console.print(
            f"[red]stopped: round {outcome.last.round} had {len(outcome.last.answered)} of "
            f"{rehearsal.protocol.participation.quorum} required replies[/red] "
            f"(refused: {_coded(outcome.last.refused) or 'none'}, "
            f"missing: {', '.join(outcome.last.missing) or 'none'})",
            highlight=False,
            soft_wrap=True,
        )
        for sentence in rehearsal.unreadable(outcome.last.refused):
            console.print(escape(sentence), highlight=False, soft_wrap=True)
    return summary


def _coded(refused: Mapping[str, str]) -> str:
    """ "north E-DATA, west E-BUDGET"."""
    return ", ".join(f"{hospital} {code}" for hospital, code in refused.items())


def train_alone(rehearsal: Rehearsal, console: Console) -> dict[str, LocalOnly]:
    """Train each hospital without the others and judge it where the federated model is judged."""
    models = {}
    for hospital in rehearsal.protocol.hospital_names:
        console.print(f"local-only: training {hospital} alone ...", highlight=False)
        models[hospital] = rehearsal.alone(hospital, Silent())
    return judge_alone(rehearsal, models)
