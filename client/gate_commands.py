"""`intramural-client approve` and `verify`: the hospital's own yes, and the proof of what left."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.approval import approve as approve_now
from client.ledger import Ledger
from client.ledger_commands import SITE, Site
from client.policy import check_limits, load_policy, permit_of
from client.verification import verify as verify_now
from common.protocol import load_protocol
from common.refusing import refusing


def approve(
    protocol: Annotated[
        Path | None,
        typer.Argument(help="Study protocol to read and approve.", show_default="the policy alone"),
    ] = None,
    site: Site = SITE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, approve.")] = False,
) -> None:
    """Show a study in plain words and approve it, with the site policy as it stands; both are pinned."""
    console = Console()
    with refusing():
        policy = load_policy(site)
        study = None
        if protocol is not None:
            study = load_protocol(protocol)
            check_limits(study, policy)
            from client.plain_words import in_plain_words  # loads torch, which takes seconds
            from client.privacy.budget import study_noise

            with Ledger.read(policy.state) as ledger:
                noise = study_noise(study, ledger, permit_of(policy))
            for heading, sentences in in_plain_words(study, policy, noise).items():
                console.print(f"\n[bold]{heading}[/bold]")
                for sentence in sentences:
                    console.print(f"  • {sentence}", highlight=False, markup=False)
            console.print()
        what = "this site policy" if study is None else f"study '{study.study}' and this policy"
        if not yes and not typer.confirm(f"Approve {what} for '{policy.hospital}'?"):
            raise typer.Exit(1)
        policy = approve_now(site, study)
    if study is not None:
        typer.echo(f"approved: study {study.digest}")
    typer.echo(
        f"approved: site policy {policy.digest} ({site}); a changed byte in it stops the vault"
    )


def verify(
    site: Site = SITE,
    head: Annotated[
        str | None, typer.Option(help="A hash that a coordinator holds: is it in this ledger?")
    ] = None,
) -> None:
    """Check policy, ledger, egress log and sealed replies against each other: offline, changes nothing."""
    with refusing():
        found = verify_now(site, head)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.released.items()))
    for line in (
        f"policy    {site} is, byte for byte, what was approved on {found.approved}",
        f"ledger    whole: {found.ledger_entries} entries since {found.since}, head {found.ledger_head}; "
        f"{found.kept_replies} kept replies have their digest",
        f"egress    whole: {found.log_entries} entries, head {found.log_head}",
        f"left      {found.released_bytes:,} bytes: {kinds or 'nothing'}; every answer was paid for and "
        f"sealed before",
        f"open      {found.unsealed} reservations without a reply, {found.unsent} sealed replies not "
        f"known to have left: both count as spent",
    ):
        typer.echo(line)
