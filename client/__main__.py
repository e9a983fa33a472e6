"""`intramural-client`: what a hospital's own people do at the hospital.

Exit codes: 0 well, 2 refused: a setting, a key, the ledger or the data is not as it must be.
"""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from client import gate_commands
from client.evaluation_command import evaluate
from client.keys import make_hospital_key
from client.ledger_commands import SITE, Site, reading
from client.ledger_commands import app as ledger_app
from client.pack.command import pack
from client.prediction.command import export_onnx, predict
from client.studies import chosen_study
from common import outbound
from common.errors import EXIT_REFUSED, RunError
from common.refusing import refusing
from common.supervisor import stop_when_told

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

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


app.command()(gate_commands.approve)


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
    data_report: Annotated[
        Path | None,
        typer.Option(
            help="Also write what is said of the data as a page, for this hospital alone."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A folder of patients' data to look at alone, with --protocol."),
    ] = None,
    protocol: Annotated[Path | None, typer.Option(help="The study to look at them for.")] = None,
    hospital: Annotated[
        str | None,
        typer.Option(help="Whose they are, as in the protocol.", show_default="the folder's name"),
    ] = None,
) -> None:
    """Look at everything that a study needs, before any budget is spent; say what is wrong and what to do.

    With --data and --protocol the data alone: before anything else is set up here.
    """
    from client.check import findings, planted_canary
    from client.data_check import DataLook, findings_of_data
    from client.finding import print_findings

    look = DataLook(data_report)
    if (data is None) != (protocol is None):
        raise typer.BadParameter("--data and --protocol belong together")
    if data is not None and protocol is not None:
        fine = print_findings(findings_of_data(data, protocol, hospital, look))
    else:
        fine = print_findings(findings(site, connection, look))
    if canary and not planted_canary(site):
        fine = False
    if not fine:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def start(site: Site = SITE, connection: ConnectionFile = CONNECTION) -> None:
    """Serve the coordinator: the vault without network, the relay without patients, until SIGTERM."""
    from client.check import findings
    from client.finding import print_findings

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
    out: Annotated[Path, typer.Option(help="Folder for statement and report.")] = Path(),
) -> None:
    """Write privacy-statement.md and .json, to be signed, and report.html for the hospital's own people.

    From ledger, egress log and the scores that the vault kept: nothing is sent, no budget is spent.
    """
    with reading(site) as (policy, ledger):
        names = {r.study: str(r.terms["study-name"]) for r in ledger.reservations()}
        digest = chosen_study(study, names, "in the ledger", "the ledger holds")
        from client.hospital_report.gathering import gather  # loads torch, which takes seconds
        from client.hospital_report.page import write_report
        from client.statement_text import MARKDOWN, write_statement

        if not out.is_dir():
            raise RunError(
                f"expected the folder {out} for the privacy statement and found none; make it, or "
                f"choose another --out"
            )
        found = gather(site, policy, ledger, digest)
        write_statement(out, [found.statement])
        page = write_report(out, found, datetime.now(UTC))
    typer.echo(
        f"written: {out / MARKDOWN} and the same facts as .json\n"
        f"written: {page}, for this hospital alone: exact figures of your patients"
    )


app.command()(gate_commands.verify)
app.command()(pack)
app.command()(evaluate)
app.command()(predict)
app.command()(export_onnx)
app.add_typer(ledger_app, name="ledger")


def main() -> None:
    """Entry point of `intramural-client`."""
    app()


if __name__ == "__main__":
    main()
