"""A hospital's two processes: the vault and the relay, each started with only what it needs.

    intramural-client start
      ├── vault   site.toml, patients, ledger, GPU; no network
      └── relay   connection.toml, the key; the network; no patient

What ends is started again. A vault that trains outlives a relay that dies: the reply is sealed and
waits until it is asked for again.
"""

import os
import pwd
import secrets
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Literal

from client import guard
from client.channel import VAULT_SOCKET
from client.connection import Connection, load_connection
from client.policy import SitePolicy, load_policy
from client.relay import BUNDLES
from common import outbound
from common.errors import HospitalError
from common.files import locked, write_atomic
from common.supervisor import Service, Supervisor, free_port

LOCK, STATE, SECRET = "node.lock", "node.json", "superexec.secret"


def vault_service(site: Path, user: str | None = None) -> Service:
    """The vault's process under the policy in `site`; `user` None: as whoever starts it.

    Another user is become by the process itself, after it has left the network as root.
    """
    command = [sys.executable, "-P", "-m", "client.vault_process", str(site.resolve())]
    command += [] if user is None else ["--user", user]
    return Service("vault", command, dict(outbound.SWITCHES))


def relay_service(connection_file: Path, user: str | None = None) -> Service:
    """The relay's process; makes Flower's home, with a bundle folder that it cannot write."""
    connection = load_connection(connection_file)
    make_home(connection, user)
    command = [sys.executable, "-P", "-m", "client.relay", "supernode"]
    command += ["--connection", str(connection_file.resolve()), "--port", str(free_port())]
    command += ["--secret", str(connection.home / SECRET)]
    return Service("relay", command, relay_environment(connection), user)


def relay_environment(connection: Connection) -> dict[str, str]:
    """What the relay's processes have in their environment beyond that of whoever starts them."""
    return {
        **outbound.SWITCHES,
        "FLWR_HOME": str(connection.home),
        "PYTHONPATH": str(guard.FOLDER),
        guard.BUNDLES: str(connection.home / BUNDLES),
        VAULT_SOCKET: str(connection.socket),
        "PYDANTIC_DISABLE_PLUGINS": "__all__",  # entry points could name what a bundle brings
    }


def make_home(connection: Connection, user: str | None) -> None:
    """Flower's home with its bundle folder, which is empty; another `user` can write neither."""
    home = connection.home
    bundles = home / BUNDLES
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not bundles.is_dir() or any(bundles.iterdir()):
        shutil.rmtree(bundles, ignore_errors=True)  # nothing of ours is ever in it
        bundles.mkdir()
        bundles.chmod(0o555)
    secret = home / SECRET
    write_atomic(secret, secrets.token_hex(32).encode())
    connection.node_id.touch(mode=0o600)
    if user is not None:
        account = pwd.getpwnam(user)
        for path in (secret, connection.node_id):
            os.chown(path, account.pw_uid, account.pw_gid)
        os.chown(home, -1, account.pw_gid)
        home.chmod(0o750)  # it may look, and only we may put anything here


def users_of(policy: SitePolicy) -> tuple[str | None, str | None]:
    """As whom the vault and the relay run: two users where we are root and the policy names one."""
    if os.geteuid() != 0 or policy.relay_user is None:
        return None, None
    owner = policy.state.stat().st_uid
    return (None if owner == 0 else pwd.getpwuid(owner).pw_name), policy.relay_user


def run_node(
    site: Path, connection_file: Path, stop: Event, *, only: Literal["vault", "relay"] | None = None
) -> int:
    """Keep this hospital's processes alive until `stop`; 0, or 2 when one refused to start.

    `only` "vault" or "relay" runs one side, where two units or containers hold the two.
    HospitalError when they run here already, or when a setting does not fit.
    """
    services: Sequence[Service]
    if only == "relay":
        home = load_connection(connection_file).home
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        services, folder = [relay_service(connection_file)], home
    else:
        policy = load_policy(site)
        vault_user, relay_user = users_of(policy)
        services, folder = [vault_service(site, vault_user)], policy.state
        if only is None:
            connection = load_connection(connection_file)
            check_fit(policy, connection)
            services = [*services, relay_service(connection_file, relay_user)]
    with locked(folder / LOCK):
        return Supervisor(services, folder / "logs", folder / STATE).run(stop)


def check_fit(policy: SitePolicy, connection: Connection) -> None:
    """HospitalError unless site.toml and connection.toml are of one hospital and one socket."""
    if policy.hospital != connection.hospital:
        raise HospitalError(
            f"expected one hospital in site.toml and connection.toml, found '{policy.hospital}' and "
            f"'{connection.hospital}'; use the two files of one package"
        )
    if policy.socket is None or policy.socket.resolve() != connection.socket.resolve():
        raise HospitalError(
            f"expected the same socket in site.toml and connection.toml, found {policy.socket} and "
            f"{connection.socket}; the relay finds the vault by it"
        )
