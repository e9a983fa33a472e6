"""Epsilon and discrimination for the live page, worked out beside it: it never waits for an accountant."""

import json
import logging
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

from common.supervisor import PARENT
from server.live.look import Look

log = logging.getLogger("intramural.page")


@dataclass(frozen=True)
class Judged:
    """What `rounds` closed rounds of a run add up to.

    `epsilon` by hospital, as stated; None without differential privacy. `discrimination` is value, low and
    high as released, of the model `after` so many rounds; None when there is nothing to read. `curve` is SVG,
    None when there is nothing to draw.
    """

    run: str
    rounds: int
    epsilon: dict[str, float | None]
    discrimination: list[float] | None
    after: int | None
    curve: str | None


class Figures:
    """The newest figures of the run that is looked at; worked out only when somebody looks.

    Use as a context manager: it ends with what it has begun.
    """

    def __init__(self) -> None:
        self._work: tuple[subprocess.Popen[bytes], IO[bytes]] | None = None  # and what it has said
        self._given: object = None  # what the last process began with
        self._judged: Judged | None = None
        # matplotlib's list of fonts: a service's home cannot be written, and to make it takes a second.
        self._fonts = TemporaryDirectory(prefix="intramural-page-")

    def __enter__(self) -> "Figures":
        return self

    def __exit__(self, *_: object) -> None:
        if self._work is not None:
            process, said = self._work
            process.kill()
            process.wait()
            said.close()
        self._fonts.cleanup()

    def of(self, look: Look) -> Judged | None:
        """The figures of `look`, or of fewer rounds of the same run while the newest are worked out.

        None when there are none yet. What failed is not tried again before something has changed.
        """
        if look.folder is None:
            return None
        self._take()
        given = (look.folder, look.records, look.outcome)
        if self._work is None and given != self._given:
            self._given = given
            try:
                self._begin(str(look.folder))
            except OSError as error:  # no room, no process: the rest of the page is shown
                log.warning("the figures cannot be worked out: %s", error)
        judged = self._judged
        return judged if judged is not None and judged.run == look.folder.name else None

    def _begin(self, folder: str) -> None:
        with ExitStack() as undo:
            said = undo.enter_context(TemporaryFile())
            process = subprocess.Popen(  # noqa: S603  (a command of our own)
                [sys.executable, "-P", "-m", "server.live.judging", folder],
                env={"MPLCONFIGDIR": self._fonts.name, **os.environ, PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=said,
                start_new_session=True,  # Ctrl-C is for the page, and it ends with the page
            )
            undo.pop_all()
        self._work = process, said

    def _take(self) -> None:
        """Read what the process said, if it has ended."""
        if self._work is None:
            return
        process, said = self._work
        if process.poll() is None:
            return
        self._work = None
        with said:
            said.seek(0)
            if process.returncode == 0:
                self._judged = Judged(**json.load(said))
            else:
                log.warning("the figures could not be worked out (%d)", process.returncode)
