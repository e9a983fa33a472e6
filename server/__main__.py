"""`intramural-server`: the coordinator's tools.

Exit codes of `run`: 0 finished, 2 refused, 3 a round missed its quorum, 4 a mandatory hospital was
missing, 5 stopped by the operator, 6 failed, 130 interrupted (the run itself goes on).
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import Progress

from common import outbound
from common.errors import RunError
from common.protocol import load_protocol
from common.refusing import refusing
from common.supervisor import stop_when_told
from server.home import Home, Stopped, Wanted
from server.live.address import DEFAULT, offered
from server.provision_commands import app as provision_app

EXIT_INTERRUPTED = 130
EXIT_CODES: dict[Stopped, int] = {
    "finished": 0,
    "quorum-missed": 3,
    "mandatory-missing": 4,
    "stopped": 5,
    "interrupted": 5,
    "failed": 6,
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.add_typer(provision_app, name="provision")

HomeOption = Annotated[Path, typer.Option("--home", help="The coordinator's home folder.")]
HOME = Path("coordinator")


@app.callback()
def coordinator() -> None:
    """Provision a study, serve its hospitals, run it, and see how it stands."""
    outbound.switch_off()


@app.command()
def start(
    home: HomeOption = HOME,
    listen: Annotated[
        str | None,
        typer.Option(
            help="host:port of the public port.", show_default="0.0.0.0 and the protocol's port"
        ),
    ] = None,
    page_at: Annotated[
        str, typer.Option("--page", help="127.0.0.1:port or [::1]:port of the live page.")
    ] = DEFAULT,
    no_page: Annotated[bool, typer.Option("--no-page", help="No live page.")] = False,
) -> None:
    """Start SuperLink, executor, gateway and live page, and keep them alive until Ctrl-C or SIGTERM."""
    from server.coordinator import check_home, run_coordinator

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with refusing():
        where = Home(home.resolve())
        check_home(where)
        at = load_protocol(where.protocol).coordinator
        port = at.port if at is not None else 9443
        public, shown = listen or f"0.0.0.0:{port}", None
        if not no_page:
            shown, said = offered(page_at, public)
            typer.echo(said)
        raise typer.Exit(run_coordinator(where, public, stop_when_told(), shown))


@app.command()
def page(
    home: HomeOption = HOME,
    run_folder: Annotated[
        Path | None,
        typer.Option("--run", help="A rehearsal's run folder, in place of a coordinator's home."),
    ] = None,
    listen: Annotated[
        str, typer.Option(help="127.0.0.1:port or [::1]:port; nothing else.")
    ] = DEFAULT,
) -> None:
    """Show how a study stands as a page that updates itself, read-only, until Ctrl-C.

    `start` does so by itself; this is for where it does not, and for a rehearsal.
    """
    from server.live.command import show

    with refusing():
        show(Home(home.resolve()), run_folder, listen)


@app.command()
def run(
    protocol: Annotated[Path, typer.Argument(help="Study protocol to run.")],
    home: HomeOption = HOME,
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not wait for the end of the run.")
    ] = False,
) -> None:
    """Run a study with the hospitals on the roster, or go on with one that stopped; wait for its end."""
    from server.study import put_run, wait_for_end

    console, where = Console(), Home(home.resolve())
    with refusing():
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("preparing the initial model", total=1.0)
            folder = put_run(where, protocol, lambda share: progress.update(task, completed=share))
        console.print(f"run {folder.name} in {folder}", highlight=False, soft_wrap=True)
        if detach:
            return
        try:
            outcome = wait_for_end(where, folder, _printed_changes(folder, console))
        except KeyboardInterrupt:
            console.print(
                f"no longer watching; the run goes on (see `intramural-server status --home {home}`)",
                highlight=False,
                soft_wrap=True,
            )
            raise typer.Exit(EXIT_INTERRUPTED) from None
        last = outcome.last or {}
        named = "; ".join(
            f"{what}: {last[what]}" for what in ("refused", "missing") if last.get(what)
        )
        console.print(
            f"{outcome.stopped}: {' '.join(filter(None, (outcome.detail, named)))}".rstrip(": "),
            highlight=False,
            soft_wrap=True,
        )
        if outcome.stopped == "finished":
            from server.deployed_facts import write_deployed_report

            written = write_deployed_report(folder)
            said = f"model: {folder / 'model.safetensors'}, report: {written}"
            console.print(said, highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_CODES[outcome.stopped])


def _printed_changes(folder: Path, console: Console) -> Callable[[], None]:
    from server.status import one_line

    protocol, said = load_protocol(folder / "protocol.toml"), [""]

    def look() -> None:
        if (line := one_line(folder, protocol)) != said[0]:
            said[0] = line
            console.print(line, highlight=False, soft_wrap=True)

    return look


@app.command()
def status(
    home: HomeOption = HOME,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it live until Ctrl-C.")] = False,
) -> None:
    """Run, round, who is in, who is late and since when, epsilon, certificates.

    Exit codes: 0, 1 when no coordinator runs here, 2 when the home cannot be read.
    """
    from server.status import as_table, status

    where = Home(home.resolve())
    with refusing():
        found = status(where)
        if as_json:
            typer.echo(json.dumps(found))
        elif watch:
            try:
                with Live(as_table(found), refresh_per_second=2) as live:
                    while not Event().wait(1.0):
                        live.update(as_table(status(where)))
            except KeyboardInterrupt:
                return
        else:
            Console().print(as_table(found))
        raise typer.Exit(0 if found["coordinator"] == "running" else 1)


@app.command()
def report(home: HomeOption = HOME) -> None:
    """Write report.html of the last run, from what hospitals released and stated, finished or not."""
    from server.deployed_facts import write_deployed_report

    where = Home(home.resolve())
    with refusing():
        wanted = Wanted.load(where)
        if wanted is None:
            raise RunError(f"expected a run in {where.path} and found none; run a study first")
        typer.echo(f"written: {write_deployed_report(where.runs / wanted.run)}")


@app.command()
def stop(home: HomeOption = HOME) -> None:
    """End the run that is under way; its closed rounds stay, and `run` goes on behind them."""
    from server.study import stop_run

    with refusing():
        typer.echo(f"run {stop_run(Home(home.resolve()))} is being stopped")


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder for the weights and their description.")],
) -> None:
    """Make the shipped initial model again: the compact CNN, pre-trained on synthetic lung CT."""
    from server.pretraining import make_shipped  # torch takes seconds, so not before --help

    console = Console()
    with Progress(console=console) as progress:
        task = progress.add_task("pre-training on phantoms", total=1.0)
        about = make_shipped(out, lambda share: progress.update(task, completed=share))
    console.print_json(data=about)


def main() -> None:
    """Entry point of `intramural-server`."""
    app()


if __name__ == "__main__":
    main()
