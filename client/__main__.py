"""`intramural-client`: what a hospital's own people do at the hospital.

Exit codes: 0 well, 2 refused: a setting, a key, the ledger or the data is not as it must be.
"""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from client import gate_commands
from client.evaluation_command import evaluate
from client.keys import make_hospital_key
from client.ledger_commands import SITE, Site, reading
from client.ledger_commands import app as ledger_app
from client.pack.command import pack
from client.studies import chosen_study
from common import outbound
from common.errors import EXIT_REFUSED, RunError
from common.refusing import refusing
from common.supervisor import stop_when_told

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.add_typer(ledger_app, name="ledger")
app.command()(gate_commands.approve)
app.command()(gate_commands.verify)
app.command()(pack)
app.command()(evaluate)

ConnectionFile = Annotated[Path, typer.Option("--connection", help="The relay's settings.")]
CONNECTION = Path("connection.toml")


@app.callback()
def hospital() -> None:
    """The hospital's own tools: keys, checks, the two walled processes, ledger and statement."""
    outbound.switch_off()


@app.command()
def keygen(
    name: Annotated[
        str, typer.Option("--hospital", help="The hospital's name as in the study protocol.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the key and the request.")],
) -> None:
    """Make the hospital's private key, which stays here, and the request to send to the coordinator."""
    with refusing():
        made = make_hospital_key(name, out)
        typer.echo(
            f"made the private key {made.key}: it stays here, send it to nobody\n"
            f"fingerprint: {made.fingerprint}\n"
            f"next: send {made.request} to the coordinator, and read out the fingerprint on the "
            f"telephone when they call"
        )


@app.command()
def check(
    site: Site = SITE,
    connection: ConnectionFile = CONNECTION,
    canary: Annotated[
        bool,
        typer.Option(
            "--canary", help="Also plant a patient's name and search for it in all that leaves."
        ),
    ] = False,
) -> None:
    """Look at everything that a study needs, before any budget is spent; say what is wrong and what to do."""
    from client.check import findings, planted_canary, print_findings

    fine = print_findings(findings(site, connection))
    if canary and not planted_canary(site):
        fine = False
    if not fine:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def start(site: Site = SITE, connection: ConnectionFile = CONNECTION) -> None:
    """Serve the coordinator: the vault without network, the relay without patients, until SIGTERM."""
    from client.check import findings, print_findings

    if not print_findings(findings(site, connection), kept=True):
        raise typer.Exit(EXIT_REFUSED)
    _serve(site, connection, None)


@app.command()
def vault(site: Site = SITE) -> None:
    """The vault's side alone: for a unit or container of its own, without network."""
    _serve(site, CONNECTION, "vault")


@app.command()
def relay(connection: ConnectionFile = CONNECTION) -> None:
    """The relay's side alone: for a unit or container of its own, without patients."""
    _serve(SITE, connection, "relay")


def _serve(site: Path, connection: Path, only: Literal["vault", "relay"] | None) -> None:
    from client.node import run_node

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with refusing():
        raise typer.Exit(run_node(site, connection, stop_when_told(), only=only))


@app.command()
def report(
    site: Site = SITE,
    study: Annotated[
        str | None,
        typer.Option(help="Name or digest of one study.", show_default="all studies"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the statement.")] = Path(),
) -> None:
    """Write privacy-statement.md and .json: what ran and what is promised, from the ledger."""
    with reading(site) as (policy, ledger):
        names = {r.study: str(r.terms["study-name"]) for r in ledger.reservations()}
        digest = chosen_study(study, names, "in the ledger", "the ledger holds")
        from client.statement import statement_of  # loads torch, which takes seconds
        from client.statement_text import MARKDOWN, write_statement

        if not out.is_dir():
            raise RunError(
                f"expected the folder {out} for the privacy statement and found none; make it, or "
                f"choose another --out"
            )
        write_statement(out, [statement_of(ledger, policy.hospital, digest)])
        typer.echo(f"written: {out / MARKDOWN} and the same facts as .json")


def main() -> None:
    """Entry point of `intramural-client`."""
    app()


if __name__ == "__main__":
    main()
