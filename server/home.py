"""The coordinator's home folder: what lies where, and the three small files by which its processes agree.

protocol.toml  roster.toml  ca/  tls/  packages/     server/provision.py
coordinator.json    who runs, written by the supervisor
wanted.json         the run that is to be carried out, or stopped
runs/<name>/        protocol, checkpoints, status.json, outcome.json, report
superlink/  logs/   Flower's database and secrets; what the processes say
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from common.errors import CoordinatorError
from common.files import write_atomic

Stopped = Literal[
    "finished", "quorum-missed", "mandatory-missing", "interrupted", "stopped", "failed"
]

# Below the home.
PROTOCOL = Path("protocol.toml")
ROSTER = Path("roster.toml")
CA_CERTIFICATE, CA_KEY = Path("ca/ca.crt"), Path("ca/ca.key")
SERVER_CERTIFICATE, SERVER_KEY = Path("tls/server.crt"), Path("tls/server.key")
INTERNAL_CERTIFICATE, INTERNAL_KEY = Path("tls/internal.crt"), Path("tls/internal.key")
PACKAGES = Path("packages")

OUTCOME = "outcome.json"  # below a run's folder
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Home:
    """Paths below the coordinator's home folder."""

    path: Path

    @property
    def protocol(self) -> Path:
        return self.path / PROTOCOL

    @property
    def roster(self) -> Path:
        return self.path / ROSTER

    @property
    def ca(self) -> Path:
        return self.path / CA_CERTIFICATE

    @property
    def tls(self) -> Path:
        return self.path / SERVER_KEY.parent

    @property
    def superlink(self) -> Path:
        return self.path / "superlink"

    @property
    def secret(self) -> Path:
        return self.superlink / "superexec.secret"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def lock(self) -> Path:
        return self.path / "coordinator.lock"

    @property
    def state(self) -> Path:
        return self.path / "coordinator.json"

    @property
    def wanted(self) -> Path:
        return self.path / "wanted.json"


@dataclass(frozen=True)
class Wanted:
    """The run that the coordinator is on; `stop` asks it to end that run."""

    run: str  # the run's folder, relative to runs/
    stop: bool = False

    def save(self, home: Home) -> None:
        write_atomic(home.wanted, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, home: Home) -> "Wanted | None":
        """None when no run was ever wanted; CoordinatorError when the file is damaged."""
        return _load(home.wanted, cls)


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `round` is the last closed one or the one that could not be closed."""

    stopped: Stopped
    round: int = 0
    last: dict[str, Any] | None = None  # the record of that round, or of the final evaluation
    detail: str = ""

    def save(self, run: Path) -> None:
        write_atomic(run / OUTCOME, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, run: Path) -> "Outcome | None":
        """None while the run has not ended; CoordinatorError when the file is damaged."""
        return _load(run / OUTCOME, cls)


def _load(path: Path, kind: Callable[..., Kind]) -> Kind | None:
    try:
        return kind(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise CoordinatorError(
            f"expected one of the coordinator's own files in {path} and could not read it ({error}); "
            f"remove it and run the study again"
        ) from error
