"""`intramural-client pack`: everything that a data-protection officer needs to judge, in one zip."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from client.ledger_commands import SITE, Site
from common.errors import EXIT_REFUSED
from common.refusing import refusing


def pack(
    site: Site = SITE,
    study: Annotated[
        str | None,
        typer.Option(help="Name or digest of one study.", show_default="all studies"),
    ] = None,
    rounds: Annotated[
        Path | None,
        typer.Option(
            help="The coordinator's rounds.jsonl of that study, to compare with the ledger."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The zip to write.", show_default="reviewer-pack-HOSPITAL-TIME.zip"),
    ] = None,
) -> None:
    """Write the reviewer pack: policy, studies in plain words, statement, what left, rounds, model card.

    No patient data in it. Refused when the books do not verify; exit code 2 also when the coordinator's
    rounds do not agree with the ledger, though the pack, which says so, is written.
    """
    with refusing():
        from client.pack.archive import pack_files, write_new, zipped
        from client.pack.dossier import gather  # loads torch, which takes seconds
        from client.pack.quorum import compare, read_rounds

        now = datetime.now(UTC).replace(microsecond=0)
        dossier = gather(site, study)
        quorum = None if rounds is None else compare(dossier, read_rounds(rounds))
        path = out or Path(f"reviewer-pack-{dossier.policy.hospital}-{now:%Y%m%d-%H%M%S}.zip")
        files = pack_files(dossier, quorum, now)
        write_new(path, zipped(files, now))
    typer.echo(f"written: {path}, {len(files)} files; unpack it and open index.html")
    if quorum is not None and quorum.disagreements:
        for sentence in quorum.disagreements:
            Console(stderr=True).print(
                f"[red]disagreement[/red]: {escape(sentence)}", highlight=False, soft_wrap=True
            )
        raise typer.Exit(EXIT_REFUSED)
