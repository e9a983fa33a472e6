"""`intramural-server provision`: who may take part in a study, one hospital at a time.

Exit codes: 0 well, 2 refused, with one line that says why.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from common.errors import RunError
from common.keys import days_left, fingerprint
from common.protocol import load_protocol
from common.refusing import refusing
from server import provision
from server.authority import certificate_fingerprint
from server.home import CA_KEY, PACKAGES, PROTOCOL, ROSTER
from server.roster import load_roster

app = typer.Typer(
    help="Make the study CA; approve, renew and revoke hospitals, one at a time.",
    no_args_is_help=True,
)

Home = Annotated[Path, typer.Option(help="The coordinator's home folder.")]
Days = Annotated[int, typer.Option(min=1, max=3650, help="Days until the certificate expires.")]
HOME = Path("coordinator")


@app.command()
def init(
    protocol: Annotated[Path, typer.Argument(help="The study protocol, with [coordinator].")],
    home: Home = HOME,
) -> None:
    """Make the coordinator's home: study CA, server certificates, an empty roster."""
    with refusing():
        provision.initialise(home, protocol)
        study = load_protocol(home / PROTOCOL)
        typer.echo(
            f"made {home} for study '{study.study}', digest {study.digest}\n"
            f"keep {home / CA_KEY} secret: who has it can let anyone in\n"
            f"next: approve the hospitals ({', '.join(study.hospital_names)}) as their requests "
            f"arrive: intramural-server provision approve hospital.csr"
        )


@app.command()
def approve(
    request: Annotated[Path, typer.Argument(help="The hospital's request, hospital.csr.")],
    heard: Annotated[
        str | None,
        typer.Option(
            "--fingerprint",
            help="SHA256:... as the hospital reads it out on the telephone.",
            show_default="asked for",
        ),
    ] = None,
    days: Days = provision.DAYS,
    home: Home = HOME,
) -> None:
    """Give a hospital access, once its request's fingerprint was compared by telephone."""
    with refusing():
        if heard is None:
            asking = provision.check_request(home, request)
            typer.echo(
                f"the request is of '{asking.common_name}' with fingerprint "
                f"{fingerprint(asking.public_key)}\n"
                f"call the hospital on a number that you know, and let them read theirs"
            )
            heard = typer.prompt("fingerprint as heard").strip()
        member = provision.approve(home, request, heard, days)
        ca = provision.certificates(home)["ca"]
        typer.echo(
            f"approved '{member.hospital}' until {member.expires:%Y-%m-%d}\n"
            f"send the folder {home / PACKAGES / member.hospital}; it holds no secret\n"
            f"the hospital compares by telephone the CA's fingerprint {certificate_fingerprint(ca)}"
        )


@app.command()
def renew(
    hospital: Annotated[str | None, typer.Argument(help="A hospital on the roster.")] = None,
    server: Annotated[
        bool, typer.Option("--server", help="The coordinator's own certificates instead.")
    ] = False,
    days: Days = provision.DAYS,
    home: Home = HOME,
) -> None:
    """Issue a new certificate for the same key; no other hospital notices."""
    with refusing():
        if (hospital is None) != server:
            raise RunError(
                "expected either a hospital or --server and found both or neither; name one of them"
            )
        if hospital is None:
            provision.renew_server(home, days)
            until = provision.certificates(home)["server"].not_valid_after_utc
            typer.echo(f"renewed the coordinator's certificates until {until:%Y-%m-%d}")
            return
        member = provision.renew(home, hospital, days)
        certificate = home / PACKAGES / hospital / "hospital.crt"
        typer.echo(
            f"renewed '{hospital}' until {member.expires:%Y-%m-%d}\n"
            f"send {certificate}; it takes the place of the old one"
        )


@app.command()
def revoke(
    hospital: Annotated[str, typer.Argument(help="A hospital on the roster.")],
    home: Home = HOME,
) -> None:
    """Take a hospital off the roster; its key never comes back."""
    with refusing():
        gone = provision.revoke(home, hospital)
        typer.echo(f"revoked '{hospital}', key {gone}; to come back it makes a new key with keygen")


@app.command()
def show(
    home: Home = HOME,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON value instead.")] = False,
) -> None:
    """The hospitals of the study, the revoked keys, and when each certificate expires."""
    with refusing():
        facts = overview(home, datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(facts))
        return
    console = Console()
    hospitals = Table(show_edge=False, title="hospitals", title_justify="left")
    for column in (
        "hospital",
        "fingerprint",
        "node id",
        "nominal patients",
        "expires",
        "days left",
    ):
        hospitals.add_column(column, overflow="fold")
    for row in facts["hospitals"]:
        hospitals.add_row(
            row["hospital"],
            row["fingerprint"] or "not approved",
            _shown(row["node_id"]),
            _shown(row["nominal_patients"]),
            _shown(row["expires"])[:10],
            _days(row["days_left"]),
        )
    console.print(hospitals)
    if facts["revoked"]:
        revoked = Table(show_edge=False, title="revoked", title_justify="left")
        for column in ("hospital", "fingerprint", "when"):
            revoked.add_column(column, overflow="fold")
        for row in facts["revoked"]:
            revoked.add_row(row["hospital"], row["fingerprint"], row["when"][:10])
        console.print(revoked)
    own = Table(show_edge=False, title="coordinator", title_justify="left")
    for column in ("certificate", "expires", "days left"):
        own.add_column(column)
    for name, row in facts["certificates"].items():
        own.add_row(name, row["expires"][:10], _days(row["days_left"]))
    console.print(own)
    typer.echo(f"fingerprint of ca: {facts['certificates']['ca']['fingerprint']}")


def overview(home: Path, now: datetime) -> dict[str, Any]:
    """What `show --json` prints: every hospital of the study, revoked keys, own certificates.

    A hospital that has no access has null for all but its name and nominal cohort size.
    """
    roster = load_roster(home / ROSTER)
    members = {member.hospital: member for member in roster.members}
    study = load_protocol(home / PROTOCOL)
    # Who has access is shown, whatever became of the protocol since.
    cohorts = {hospital.name: hospital.nominal_patients for hospital in study.hospitals}
    cohorts |= {member.hospital: member.nominal_patients for member in roster.members}
    hospitals = []
    for hospital, nominal_patients in cohorts.items():
        member = members.get(hospital)
        hospitals.append(
            {
                "hospital": hospital,
                "fingerprint": member and member.fingerprint,
                "node_id": member and member.node_id,
                "nominal_patients": nominal_patients,
                "approved": member and member.approved.isoformat(),
                "expires": member and member.expires.isoformat(),
                "days_left": member and member.days_left(now),
            }
        )
    return {
        "hospitals": hospitals,
        "revoked": [revoked.model_dump(mode="json") for revoked in roster.revoked],
        "certificates": {
            name: {
                "expires": certificate.not_valid_after_utc.isoformat(),
                "days_left": days_left(certificate, now),
                "fingerprint": certificate_fingerprint(certificate),
            }
            for name, certificate in provision.certificates(home).items()
        },
    }


def _shown(value: object) -> str:
    return "" if value is None else str(value)


def _days(left: int | None) -> str:
    return "expired" if left is not None and left < 0 else _shown(left)
