"""The relay's settings, `connection.toml`: how this hospital reaches the coordinator, and its own vault.

Nothing in it concerns patients: the relay's user can read this file and need not read `site.toml`.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from common.documents import Document, Name, first_problem, tables_of
from common.errors import ConnectionFileError

Address = Annotated[str, Field(pattern=r"^(\[[0-9a-f:.]+\]|[a-z0-9.-]+):[0-9]{1,5}$")]


class Connection(Document):
    """One hospital's `connection.toml`, frozen; relative paths are relative to the file.

    `coordinator` is host:port of the gateway, `ca` the study's certificate authority, the only one
    that is trusted; `key` the hospital's private key and `certificate` what the coordinator issued
    for it. `socket` is the vault's, `home` the folder of Flower's files, with the bundle folder
    below it.
    """

    hospital: Name
    coordinator: Address
    ca: Path
    certificate: Path
    key: Path
    socket: Path
    home: Path

    @property
    def node_id(self) -> Path:
        """Where the relay keeps what Flower calls this hospital, from one start to the next."""
        return self.home / "node-id"

    @property
    def host(self) -> str:
        return self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.coordinator.rpartition(":")[2])


def load_connection(path: Path) -> Connection:
    """The settings in `path` (TOML); ConnectionFileError when absent or not valid."""
    try:
        found = Connection.model_validate(
            tables_of(path.read_text(encoding="utf-8")), by_name=False
        )
    except ValidationError as error:
        raise ConnectionFileError(f"{path}: {first_problem(error, Connection)}") from error
    except (OSError, ValueError) as error:
        raise ConnectionFileError(f"cannot read the connection file {path}: {error}") from error
    if not 0 < found.port < 1 << 16:
        raise ConnectionFileError(
            f"{path}: expected a port from 1 to 65535 in 'coordinator' and found {found.port}; copy the "
            f"address that the coordinator gave"
        )
    folder = path.resolve().parent
    paths = ("ca", "certificate", "key", "socket", "home")
    return found.model_copy(update={name: folder / getattr(found, name) for name in paths})
