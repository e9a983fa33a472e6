"""What the live page reads from disk, and reads again only when a file changed.

`server.status` says how things stand; this adds the rounds one by one, the other runs of the home and
the room on the disk. The run writes all these files anyway and nobody waits for a reader.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from common.errors import IntramuralError
from common.files import is_locked
from common.protocol import StudyProtocol, load_protocol
from server.checkpoint import RoundRecord
from server.coordinator import running
from server.home import OUTCOME, SERVER_CERTIFICATE, Home, Outcome, Wanted
from server.status import closed_rounds, run_status, status

_FRESH_SECONDS = 30.0  # days left and disk change without any file of ours
_OF_A_RUN = ("protocol.toml", "rounds.jsonl", "status.json", OUTCOME)


@dataclass(frozen=True)
class OtherRun:
    """A run of the home that the coordinator is not on; `state` is None when it cannot be read."""

    name: str
    state: str | None = None
    closed: int = 0
    rounds: int = 0


@dataclass(frozen=True)
class Look:
    """How things stand. `found` is what `server.status.status` says, without epsilon.

    `protocol` is that of the run in `folder`, or of the home when there is no run. `records` are the closed
    rounds, `disk` the free and all bytes where the run is written. In a `rehearsal` nobody is connected
    to anything, and there are no certificates.
    """

    found: dict[str, Any]
    folder: Path | None
    protocol: StudyProtocol
    records: tuple[RoundRecord, ...]
    outcome: Outcome | None
    disk: tuple[int, int]
    others: tuple[OtherRun, ...] = ()
    rehearsal: bool = False

    @property
    def run(self) -> dict[str, Any] | None:
        """What `found` says of the run; None before there is one."""
        run: dict[str, Any] | None = self.found["run"]
        return run

    @property
    def under_way(self) -> bool:
        return self.run is not None and self.run["state"] == "under way"


class Source(Protocol):
    """Something to look at."""

    def stamp(self) -> object:
        """Equal as long as nothing that `look` reads has changed."""

    def look(self) -> Look:
        """IntramuralError, OSError or ValueError when a file is absent, damaged or half-written."""


class OfHome:
    """The coordinator's home: the run that it is on, or none yet."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def stamp(self) -> object:
        home = self._home
        fixed = (home.protocol, home.roster, home.state, home.wanted, home.runs, home.ca)
        return (
            running(home),
            *map(_stamp, (*fixed, home.path / SERVER_CERTIFICATE)),
            *map(_stamp, _files(self._folder())),
        )

    def look(self) -> Look:
        home, folder = self._home, self._folder()
        protocol = load_protocol(home.protocol if folder is None else folder / "protocol.toml")
        return Look(
            found=status(home, epsilon=False),
            folder=folder,
            protocol=protocol,
            records=() if folder is None else tuple(closed_rounds(folder)),
            outcome=None if folder is None else Outcome.load(folder),
            disk=_disk(home.path),
            others=_others(home, folder),
        )

    def _folder(self) -> Path | None:
        wanted = Wanted.load(self._home)
        return None if wanted is None else self._home.runs / wanted.run


class OfRehearsal:
    """The run folder of a rehearsal, which has rounds and neither coordinator nor roster."""

    def __init__(self, folder: Path) -> None:
        from server.app import (
            FINAL_MODEL,
            LOCK,
        )  # loads Flower, which the coordinator's page needs not

        self._folder = folder
        self._lock, self._model = folder / LOCK, folder / FINAL_MODEL

    def stamp(self) -> object:
        return self._alive(), *map(_stamp, _files(self._folder))

    def look(self) -> Look:
        alive, folder = self._alive(), self._folder
        hospitals: dict[str, Any] = {}
        run = run_status(folder, alive, hospitals, epsilon=False)
        if not alive:
            run["state"] = "finished" if self._model.exists() else "interrupted"
        return Look(
            found={"coordinator": "none", "run": run, "hospitals": hospitals},
            folder=folder,
            protocol=load_protocol(folder / "protocol.toml"),
            records=tuple(closed_rounds(folder)),
            outcome=None,
            disk=_disk(folder),
            rehearsal=True,
        )

    def _alive(self) -> bool:
        """Whether a process carries the run out now."""
        return is_locked(self._lock)


class Kept:
    """The last look at `source`, as long as it holds."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: tuple[object, float, Look] | None = None

    def look(self) -> Look:
        """As `Source.look`. The stamp is taken first: what changes meanwhile is seen the next time."""
        stamp, now = self._source.stamp(), time.monotonic()
        if self._kept is not None:
            before, since, look = self._kept
            if before == stamp and now - since < _FRESH_SECONDS:
                return look
        look = self._source.look()
        self._kept = stamp, now, look
        return look


def _files(folder: Path | None) -> tuple[Path, ...]:
    return () if folder is None else tuple(folder / name for name in _OF_A_RUN)


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
        return found.st_mtime_ns, found.st_ino, found.st_size
    except FileNotFoundError:
        return None


def _disk(folder: Path) -> tuple[int, int]:
    usage = shutil.disk_usage(folder)
    return usage.free, usage.total


def _others(home: Home, current: Path | None) -> tuple[OtherRun, ...]:
    """In the order of their names; one that cannot be read does not hide the rest."""
    if not home.runs.is_dir():
        return ()
    folders = sorted(folder for folder in home.runs.iterdir() if folder.is_dir())
    return tuple(_other(folder) for folder in folders if folder != current)


def _other(folder: Path) -> OtherRun:
    try:
        protocol, ended = load_protocol(folder / "protocol.toml"), Outcome.load(folder)
        state = "not ended" if ended is None else ended.stopped
        return OtherRun(folder.name, state, len(closed_rounds(folder)), protocol.rounds)
    except (IntramuralError, OSError, ValueError):
        return OtherRun(folder.name)
