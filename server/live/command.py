"""What `intramural-server page` does: the live page alone, in the foreground."""

import contextlib
from pathlib import Path

import typer

from common.errors import CoordinatorError, RunError
from common.protocol import load_protocol
from server.home import Home
from server.live.address import listening
from server.live.look import OfHome, OfRehearsal, Source
from server.live.serve import serve


def show(home: Home, rehearsal: Path | None, listen: str) -> None:
    """Serve the page of `home`, or of the run folder `rehearsal`, until Ctrl-C.

    CoordinatorError when it cannot listen there, ProtocolError when there is no study, RunError for a run
    folder that is not a rehearsal's.
    """
    source: Source
    if rehearsal is None:
        load_protocol(home.protocol)
        source = OfHome(home)
    else:
        load_protocol(rehearsal / "protocol.toml")
        if not (rehearsal / "hospitals").is_dir():
            raise RunError(
                f"expected a rehearsal's run folder with its simulated hospitals and found none in "
                f"{rehearsal}; for a coordinator's run name its home with --home"
            )
        source = OfRehearsal(rehearsal)
    try:
        sock = listening(listen)
    except OSError as error:
        raise CoordinatorError(
            f"expected to listen at {listen} and could not ({error.strerror}); the page may be there "
            f"already, from `intramural-server start`, or name another port with --listen"
        ) from error
    typer.echo(f"live page: http://{listen}")
    with contextlib.suppress(KeyboardInterrupt):
        serve(sock, source)
