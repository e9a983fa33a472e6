"""What somebody looked at before a study, how it is, and how it is said on a terminal or in a log."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape

Verdict = Literal["good", "look", "bad"]  # "look": it works, and somebody should know


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and in one sentence why and what to do.

    `in_log` takes the place of a sentence that names files of patients where it would be kept.
    """

    what: str
    verdict: Verdict
    said: str
    in_log: str | None = None


def print_findings(found: Iterator[Finding], *, kept: bool = False) -> bool:
    """Print each finding as it is made; whether none is bad. `kept`: what is printed goes to a log."""
    console, fine = Console(), True
    colours = {"good": "green", "look": "yellow", "bad": "red"}
    for finding in found:
        fine = fine and finding.verdict != "bad"
        verdict = f"[{colours[finding.verdict]}]{finding.verdict}[/]"
        said = finding.in_log if kept and finding.in_log is not None else finding.said
        line = f"{verdict}  [bold]{finding.what}[/]: {escape(said)}"
        console.print(line, highlight=False, soft_wrap=True)
    return fine
