"""`intramural-client evaluate`: how good the shared model is on this hospital's own patients."""

from pathlib import Path
from typing import Annotated

import typer

from client.ledger_commands import SITE, Site, reading
from common.errors import RunError


def evaluate(
    site: Site = SITE,
    study: Annotated[
        str | None,
        typer.Option(help="Name or digest of one study.", show_default="the only one"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the page.")] = Path(),
) -> None:
    """Write evaluation.html and .json: the newest model on your own patients, exact, for you alone.

    From scores that the vault kept: no patient is looked at, nothing is sent, no budget is spent.
    """
    with reading(site) as (policy, ledger):
        from client.evaluation import (
            PAGE,
            own_look,
            rounds_in_words,
            write_look,
        )  # loads scikit-learn and matplotlib

        if not out.is_dir():
            raise RunError(
                f"expected the folder {out} for the evaluation and found none; make it, or choose "
                f"another --out"
            )
        look = own_look(policy, ledger, study)
        write_look(out, look)
        after = rounds_in_words(look.after_round)
    typer.echo(
        f"written: {out / PAGE} and the same facts as .json, about the model of '{look.study}' after "
        f"{after}; exact figures of your patients: they stay in the hospital"
    )
