"""How a command line says no: one red line on the error output, and exit code 2."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from common.errors import EXIT_REFUSED, IntramuralError


@contextmanager
def refusing() -> Iterator[None]:
    """Turn an IntramuralError in the block into its sentence and exit code 2; no traceback."""
    try:
        yield
    except IntramuralError as error:
        Console(stderr=True).print(
            f"[red]{error.code}[/red]: {escape(str(error))}", highlight=False, soft_wrap=True
        )
        raise typer.Exit(EXIT_REFUSED) from error
