"""`intramural-client ledger`: look at the privacy ledger, and start one, once in a hospital's life."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from client.approval import begin
from client.chain import Entry
from client.ledger import Ledger
from client.policy import SitePolicy, load_policy
from common.refusing import refusing

app = typer.Typer(help="The privacy ledger. From here it is begun and looked at, never changed.")

Site = Annotated[Path, typer.Option(help="The hospital's site policy.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON value instead of a table.")]
SITE = Path("site.toml")


@app.command()
def create(site: Site = SITE) -> None:
    """Start ledger and egress log, once: what is spent is spent for these patients' life."""
    with refusing():
        policy = load_policy(site)
        policy.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        begin(policy.state)
        typer.echo(
            f"ledger and egress log begin in {policy.state}; back them up with the state folder"
        )


@app.command()
def show(site: Site = SITE, as_json: AsJson = False) -> None:
    """Every entry, oldest first. Loads no accountant: see `epsilon`."""
    with reading(site) as (_, ledger):
        if as_json:
            typer.echo(json.dumps([asdict(entry) for entry in ledger.entries]))
            return
        table = Table(show_edge=False)
        for column in ("entry", "time (UTC)", "kind", "study", "round", "what", "hash"):
            table.add_column(column, justify="right" if column in ("entry", "round") else "left")
        for entry in ledger.entries:
            table.add_row(*_row(entry))
        Console().print(table)


@app.command()
def epsilon(
    site: Site = SITE,
    delta: Annotated[
        float | None,
        typer.Option(help="Delta of the guarantee.", show_default="the reservations' smallest"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What each account has spent, in its life and in each study, by two accountants."""
    with reading(site) as (policy, ledger):
        from client.privacy.accounting import epsilon_of  # loads torch, which takes seconds
        from client.statement import ACCOUNTS, delta_of, epsilon_json
        from client.statement_text import rounded_up

        reservations = ledger.reservations()
        at = delta if delta is not None else delta_of(reservations)
        if at is None:
            typer.echo("[]" if as_json else "nothing is spent: the ledger holds no reservation")
            return
        names = {r.study: str(r.terms["study-name"]) for r in reservations}
        spent = {
            (account, study): epsilon_of(ledger.spends(account, study), at)
            for account in ACCOUNTS
            for study in (None, *names)
        }
    cap = policy.max_epsilon
    if as_json:
        rows: list[dict[str, Any]] = []
        for (account, study), cost in spent.items():
            rows.append({"account": account, "study": study, **epsilon_json(cost)})
            if study is None:
                rows[-1] |= {"cap": cap, "left": max(0.0, cap - cost.value)}
        typer.echo(json.dumps(rows))
        return
    table = Table(show_edge=False, title=f"epsilon at delta {at:g}", title_justify="left")
    for column in ("account", "of", "epsilon", "accountant", "second", "cap", "left"):
        table.add_column(column)
    for (account, study), cost in spent.items():
        left = max(0.0, cap - cost.value)
        table.add_row(
            account,
            "its life" if study is None else f"{names[study]} {study[:12]}",
            rounded_up(cost.value),
            cost.accountant,
            f"{cost.second.accountant} {rounded_up(cost.second.value)}",
            f"{cap:g}" if study is None else "",
            f"{math.floor(1000 * left) / 1000:.3f}" if study is None else "",
        )
    Console().print(table)


@contextmanager
def reading(site: Path) -> Iterator[tuple[SitePolicy, Ledger]]:
    """The policy in `site` and its ledger; what goes wrong is one sentence and exit code 2."""
    with refusing():
        policy = load_policy(site)
        with Ledger.read(policy.state) as ledger:
            yield policy, ledger


def _row(entry: Entry) -> list[str]:
    body, what = entry.body, ""
    if entry.kind == "created":
        what = f"ledger {body['name'][:12]}"
    elif entry.kind == "reserved":
        what = "; ".join(
            f"{account}: sigma {spend['noise_multiplier']:.4g}, q {spend['sampling_rate']:g}, "
            f"T {spend['steps']}"
            for account, spend in sorted(body["spends"].items())
        )
    elif entry.kind == "sealed":
        what = f"reply {body['reply'][:12]}"
    study, server_round = str(body.get("study", ""))[:12], str(body.get("round", ""))
    return [str(entry.number), entry.time, entry.kind, study, server_round, what, entry.hash[:12]]
