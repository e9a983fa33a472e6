"""Codes, states and times in words."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from common.errors import IntramuralError
from server.admission import REASONS
from server.answers import NODE_ERROR
from server.page import epsilon, runs

# The states of `server.status`, each as the end of "Run NAME ...".
STATES = {
    "under way": "is under way",
    "waits for the coordinator": "waits: no coordinator is at work",
    "finished": "has finished",
    "quorum-missed": "has ended: a round did not get the answers that it needs",
    "mandatory-missing": "has ended: a hospital that must answer did not",
    "interrupted": "was interrupted",
    "stopped": "was stopped by the coordinator’s operator",
    "failed": "has failed",
}


def code_in_words(code: str) -> str:
    """Why a hospital's answer was not given or not used."""
    return _CODES.get(code, "for a reason that this version does not know")


def failure_in_words(detail: str) -> str:
    """What of a failure's `detail` may be shown: its code in words, and never the detail itself.

    That is an exception's text, with paths of this machine in it.
    """
    code = detail.partition(":")[0]
    return f"{_CODES[code]} ({code})" if code in _CODES else "its process did not go on"


def span(seconds: float) -> str:
    """A length of time: "42 s", "7 min", "5 h", "3 days"; below 0 it is none."""
    seconds = max(0.0, seconds)
    for unit, length, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def moment(seconds: float, now: float) -> str:
    """A moment as people at the coordinator write it, with the day when it is not today; UTC."""
    at, today = datetime.fromtimestamp(seconds, UTC), datetime.fromtimestamp(now, UTC)
    return f"{at:%H:%M} UTC" if at.date() == today.date() else f"{at:%Y-%m-%d %H:%M} UTC"


def in_rounds(numbers: Sequence[int]) -> str:
    """ "round 3" or "rounds 3–5, 7", of rising numbers."""
    return f"{'round' if len(numbers) == 1 else 'rounds'} {runs(numbers)}"


def epsilon_in_words(value: float) -> str:
    """As in the report; ∞ for a hospital that states no noise."""
    return "∞" if value == float("inf") else epsilon(value)


def above(stated: float, promised: float) -> bool:
    """Whether a stated epsilon is more than the protocol promises, and not by rounding alone."""
    return stated > promised * (1 + 1e-6)


def _errors(kind: type[IntramuralError]) -> Iterator[type[IntramuralError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _errors(below)


_CODES = {
    **{error.code: error.public_text for error in _errors(IntramuralError)},
    **REASONS,
    NODE_ERROR: "its processes ended meanwhile",
}
