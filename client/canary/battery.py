"""Runs the canary's battery in a process of its own, and says what it found.

    planted hospital ── one fault at a time ──> vault, relay ──> Flower
                                                  │ log, files     │ bytes
                                                  └── searched ────┘

A fault that did not strike shows nothing, and a search that does not find what was leaked on purpose is
blind: both fail the battery like a hit.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from common import outbound
from common.errors import HospitalError

SAID, ROWS, ELSEWHERE = "said", "rows", "elsewhere"  # below the folder of a battery
CONTROL = "control"
PLACES = {"reply", "log", "leak"}  # where the control leaks to
SECONDS = 240.0  # of one task


@dataclass(frozen=True)
class Row:
    """What came of one fault.

    `struck` times it did, `answered` rounds of the study thereafter; `sent` bytes that the relay gave
    to Flower, `said` bytes of log at DEBUG, `files` that were searched; `found`: place and form.
    """

    task: str
    group: str
    fault: str
    struck: int
    answered: int
    sent: int
    said: int
    files: int
    found: list[str]


def run_battery(
    beside: Path | None, tasks: Sequence[str], program: Sequence[str] = ("-m", "client.canary")
) -> list[Row]:
    """The rows of the batteries of `tasks`, one after the other, as each belongs to a study's task.

    In a temporary folder in `beside`; None: where temporary files are.

    HospitalError when it cannot be made there, or when it breaks off.
    """
    try:
        with TemporaryDirectory(prefix="canary-", dir=beside) as name:
            folder = Path(name)
            elsewhere = folder / ELSEWHERE
            elsewhere.mkdir()
            home = dict.fromkeys(("TMPDIR", "HOME"), str(elsewhere))
            with (folder / SAID).open("wb") as said:
                done = subprocess.run(  # noqa: S603  (a command of our own)
                    [sys.executable, "-P", *program, str(folder), *tasks],
                    env={**os.environ, **outbound.SWITCHES, **home},
                    cwd=elsewhere,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    timeout=SECONDS * len(tasks),
                    check=False,
                )
            if done.returncode != 0:
                tail = (folder / SAID).read_text(errors="replace")[-500:]
                raise HospitalError(
                    f"expected the canary's process to go through all faults and found that it ended "
                    f"({done.returncode}): {tail}"
                )
            return [Row(**json.loads(row)) for row in (folder / ROWS).read_text().splitlines()]
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HospitalError(
            f"cannot run the canary in {beside or 'the folder of temporary files'}: {error}"
        ) from error


def problems(rows: Sequence[Row]) -> Iterator[str]:
    """What speaks against this host, a sentence each; none when all is as it should be."""
    for task in dict.fromkeys(row.task for row in rows):
        control = {
            found.partition(":")[0]
            for row in rows
            if (row.task, row.group) == (task, CONTROL)
            for found in row.found
        }
        if control != PLACES:
            yield (
                f"a leak on purpose was found in {sorted(control)} and not in all of {sorted(PLACES)}, in "
                f"a study of {task}"
            )
    for row in rows:
        if row.struck == 0:
            yield (
                f"the fault '{row.fault}' never struck, so nothing is known about it here, in a study of "
                f"{row.task}"
            )
        if row.group != CONTROL and row.found:
            yield (
                f"a patient's name was found after the fault '{row.fault}' in {row.found}, in a study of "
                f"{row.task}"
            )


def tables(rows: Sequence[Row]) -> Iterator[Table]:
    """For each task a line for each group of faults: what was searched, how often the name was found."""
    for task in dict.fromkeys(row.task for row in rows):
        shown = Table(
            *("faults", "injected", "struck", "bytes left", "bytes of log", "files", "found"),
            title=f"in a study of {task}",
        )
        for group in dict.fromkeys(row.group for row in rows if row.task == task):
            of_it = [row for row in rows if (row.task, row.group) == (task, group)]
            figures = (
                len(of_it),
                sum(row.struck > 0 for row in of_it),
                sum(row.sent for row in of_it),
                sum(row.said for row in of_it),
                sum(row.files for row in of_it),
                sum(len(row.found) for row in of_it),
            )
            shown.add_row(group, *(f"{figure:,}" for figure in figures))
        yield shown
