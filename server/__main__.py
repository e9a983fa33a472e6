"""`intramural-server`: what the coordinator does outside of a running study."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from common import outbound

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def coordinator() -> None:
    """The coordinator's tools. Starting a server for real hospitals is not part of this version."""


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder for the weights and their description.")],
) -> None:
    """Make the shipped initial model again: the compact CNN, pre-trained on synthetic lung CT."""
    outbound.switch_off()
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
