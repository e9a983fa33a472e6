"""`intramural-simulate`: rehearse a study with many simulated hospitals on one machine."""

import json
import logging
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from click.core import ParameterSource
from rich.console import Console
from rich.markup import escape

from client.policy import Device, Engine
from common import outbound
from common.errors import IntramuralError
from common.refusing import refusing
from simulation.convert.commands import app as convert_app
from simulation.phantom_export.command import phantom_export

EXIT_REFUSED = 2
EXIT_QUORUM = 3
EXIT_AUDIT_FAILED = 4
EXIT_INTERRUPTED = 130

_GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.add_typer(convert_app, name="convert")
app.command()(phantom_export)


@app.callback(invoke_without_command=True)
def simulate(
    context: typer.Context,
    protocol: Annotated[
        Path | None,
        typer.Option(help="Study protocol to rehearse.", show_default="a shipped example"),
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(
            help="A shipped example in its place: heart, breast-survival, vital-signs ..."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with one sub-folder a hospital; without it, synthetic patients are made."
        ),
    ] = None,
    patient_id_pattern: Annotated[
        str | None,
        typer.Option(
            help="For class folders without manifest.csv: a regular expression for the whole file "
            "name without its ending, with a group (?P<patient>...)."
        ),
    ] = None,
    hospitals: Annotated[
        int | None, typer.Option(min=1, help="Number of phantom hospitals.", show_default="roster")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Server rounds instead of the protocol's.")
    ] = None,
    no_dp: Annotated[
        bool, typer.Option("--no-dp", help="No clipping and no noise: what privacy costs.")
    ] = False,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Also train each hospital alone, and all in one place."),
    ] = False,
    backend: Annotated[
        str, typer.Option(help="local (in process) or ray (Flower's engine).")
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="An existing Ray cluster, for --backend ray.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run.", show_default="study and time")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder for runs.")] = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run of this --name.")
    ] = False,
    device: Annotated[Device, typer.Option(help="Where hospitals train.")] = "auto",
    engine: Annotated[
        Engine, typer.Option(help="Per-patient gradients: our own or Opacus' hooks, the reference.")
    ] = "book-keeping",
    noise_seed: Annotated[
        int | None,
        typer.Option(help="Test mode: noise and sampling from this seed. NOT private, repeatable."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on the last line instead of tables.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show logs and tracebacks.")] = False,
) -> None:
    """Rehearse a study: every hospital trains behind its own wall, here in one process or on Ray.

    Exit codes: 0 finished, 2 refused before or during the run, 3 a round missed its quorum,
    130 interrupted.
    """
    if context.invoked_subcommand is not None:
        given = [n for n in context.params if context.get_parameter_source(n) in _GIVEN]
        if given:
            option = "--" + given[0].replace("_", "-")
            raise typer.BadParameter(f"{option} belongs to a rehearsal, not to a subcommand")
        return
    console = Console(stderr=as_json)
    outbound.switch_off()
    logging.basicConfig(level=logging.INFO if debug else logging.ERROR)
    run_name = name or time.strftime("%Y%m%d-%H%M%S")
    try:
        from simulation.prepare import (  # torch takes seconds: not before --help
            Options,
            prepare,
            protocol_of,
        )

        options = Options(
            protocol=protocol_of(protocol, example),
            data=data,
            patient_id_pattern=patient_id_pattern,
            hospitals=hospitals,
            rounds=rounds,
            no_dp=no_dp,
            baselines=baselines,
            backend=backend,
            ray_address=ray_address,
            folder=runs / run_name,
            resume=resume,
            device=device,
            engine=engine,
            noise_seed=noise_seed,
        )
        study, sites = prepare(options, console)

        from simulation.command import carry_out  # Flower and Opacus, after what prepare refuses

        summary = carry_out(options, study, sites, console)
        if as_json:
            typer.echo(json.dumps(summary))
        code = 0 if summary["stopped"] == "finished" else EXIT_QUORUM
    except IntramuralError as error:
        if debug:
            raise
        console.print(
            f"[red]{error.code}[/red]: {escape(str(error))}", highlight=False, soft_wrap=True
        )
        code = EXIT_REFUSED
    except KeyboardInterrupt:
        how = resume_command(runs / run_name, baselines=baselines, backend=backend)
        console.print(f"interrupted; continue with: {how}", highlight=False, soft_wrap=True)
        code = EXIT_INTERRUPTED
    raise typer.Exit(code)


@app.command()
def plan(
    protocol: Annotated[Path, typer.Argument(help="Study protocol to plan.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with one sub-folder a hospital, to count patients.")
    ] = None,
    patient_id_pattern: Annotated[
        str | None, typer.Option(help="For class folders without manifest.csv, as in a rehearsal.")
    ] = None,
    rehearsal: Annotated[
        bool,
        typer.Option(
            "--rehearsal/--no-rehearsal",
            help="Rehearse the study on phantoms three times for a band of AUROC (minutes).",
        ),
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on the last line instead of tables.")
    ] = False,
) -> None:
    """What a study will cost and can achieve at each hospital, before anything is trained.

    Exit codes: 0 planned, 2 refused.
    """
    console = Console(stderr=as_json)
    outbound.switch_off()
    logging.basicConfig(level=logging.ERROR)
    try:
        from common.tasks import task_of
        from simulation import plan as planning  # Flower and Opacus take seconds: not before --help

        study, found = planning.planned(protocol, data, patient_id_pattern)
        planning.print_plan(console, found)
        if rehearsal and task_of(study).judge is not None:
            console.print("rehearsing on phantoms (--no-rehearsal leaves this out) ...")
            outlook = planning.rehearsed(study)
            planning.print_outlook(console, study, outlook)
            found = replace(found, outlook=outlook)
        if as_json:
            typer.echo(json.dumps(found.as_json()))
    except IntramuralError as error:
        console.print(
            f"[red]{error.code}[/red]: {escape(str(error))}", highlight=False, soft_wrap=True
        )
        raise typer.Exit(EXIT_REFUSED) from error


@app.command()
def audit(
    protocol: Annotated[
        Path | None,
        typer.Option(help="Study protocol to audit.", show_default="the shipped main job"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report.", show_default="runs/audit-<time>")
    ] = None,
    no_dp: Annotated[
        bool, typer.Option("--no-dp", help="Switch privacy off, to see the audit fail.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on the last line instead of tables.")
    ] = False,
) -> None:
    """Try to break the privacy of a study, on phantoms: exact tests, canaries, recovered images.

    No real patient and no ledger is touched. A pass is no proof. Exit codes: 0 everything held,
    2 refused, 4 the audit failed.
    """
    console = Console(stderr=as_json)
    outbound.switch_off()
    logging.basicConfig(level=logging.ERROR)
    with refusing():
        from simulation.audit.command import carry_out  # Opacus takes seconds: not before --help

        folder = out or Path("runs") / time.strftime("audit-%Y%m%d-%H%M%S")
        found = carry_out(protocol, folder, console, no_dp=no_dp)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    raise typer.Exit(0 if found.passed else EXIT_AUDIT_FAILED)


def resume_command(folder: Path, *, baselines: bool, backend: str) -> str:
    """The command line that continues the run in `folder`."""
    words = ["intramural-simulate", "--runs", str(folder.parent), "--name", folder.name, "--resume"]
    words += ["--baselines"] if baselines else []
    words += ["--backend", backend] if backend != "local" else []
    return shlex.join(words)


def main() -> None:
    """Entry point of `intramural-simulate`."""
    app()


if __name__ == "__main__":
    main()
