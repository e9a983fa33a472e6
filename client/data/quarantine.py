"""What is set aside: files and findings that cannot be used, each with its reason; the others load."""

from dataclasses import dataclass


class NotUsable(Exception):  # noqa: N818 - it ends no work: it becomes an entry of a list
    """Why one file, series or finding cannot be used: a fixed text, never a value of a header."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """One file, or one row of the findings, that is not used.

    Its name may be a patient's, so it is for the hospital's own screen and leaves by no way.
    """

    what: str  # a path relative to the hospital's folder, or "findings.csv row 7"
    reason: str
