"""The coordinator's processes: SuperLink on loopback, executor, the gateway on the public port, a page.

    intramural-server start
      ├── superlink   127.0.0.1 only, TLS, node keys, SQLite
      ├── executor    registers hospitals, starts runs, forks the ServerApp
      ├── gateway     the only public port: an exact list of paths, and nothing else
      └── live        the live page, on loopback: reads, and no other process needs it

What ends is started again; all end together. A run goes on behind its last closed round.
"""

import secrets
import sys
from threading import Event

from common import outbound
from common.errors import CoordinatorError
from common.files import is_locked, locked, write_atomic
from common.supervisor import Service, Supervisor, free_port
from server.home import (
    INTERNAL_CERTIFICATE,
    INTERNAL_KEY,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    Home,
)


def run_coordinator(home: Home, listen: str, stop: Event, page: str | None = None) -> int:
    """Keep its processes alive until `stop`; 0, or 2 when one refused to start.

    `listen` is host:port of the public port, `page` that of the live page (None: there is none).
    CoordinatorError when the home is not complete, RunError when a coordinator runs in it already.
    """
    check_home(home)
    with locked(home.lock):
        home.superlink.mkdir(exist_ok=True, mode=0o700)
        home.runs.mkdir(exist_ok=True, mode=0o700)
        write_atomic(home.secret, secrets.token_hex(32).encode())
        return Supervisor(services(home, listen, free_port(), page), home.logs, home.state).run(
            stop
        )


def services(home: Home, listen: str, port: int, page: str | None) -> list[Service]:
    """The processes; `port` is the SuperLink's on loopback, `page` where the live page is, if at all."""
    flower = {**outbound.SWITCHES, "FLWR_HOME": str(home.superlink / "flwr")}
    where = ["--home", str(home.path), "--port", str(port)]
    gateway = [
        *("--listen", listen),
        *("--upstream", f"https://127.0.0.1:{port}"),
        *("--ca", str(home.ca)),
        *("--certificate", str(home.path / SERVER_CERTIFICATE)),
        *("--key", str(home.path / SERVER_KEY)),
        *("--roster", str(home.roster)),
    ]

    def python(name: str, words: list[str], environment: dict[str, str]) -> Service:
        return Service(name, [sys.executable, "-P", "-m", f"server.{name}", *words], environment)

    found = [
        python("superlink", where, flower),
        python("executor", where, flower),
        python("gateway", gateway, dict(outbound.SWITCHES)),
    ]
    if page is not None:
        shown = ["--home", str(home.path), "--listen", page]
        found.append(python("live", shown, dict(outbound.SWITCHES)))
    return found


def check_home(home: Home) -> None:
    """CoordinatorError unless everything that `intramural-server provision init` makes is there."""
    needed = (
        home.protocol,
        home.roster,
        home.ca,
        *(home.path / path for path in (SERVER_CERTIFICATE, SERVER_KEY)),
        *(home.path / path for path in (INTERNAL_CERTIFICATE, INTERNAL_KEY)),
    )
    for path in needed:
        if not path.is_file():
            raise CoordinatorError(
                f"expected {path} and found none; make the coordinator's home with "
                f"`intramural-server provision init protocol.toml`, or name it with --home"
            )


def running(home: Home) -> bool:
    """Whether a coordinator runs in `home`."""
    return is_locked(home.lock)
