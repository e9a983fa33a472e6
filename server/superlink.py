"""Flower's SuperLink as the coordinator needs it: on loopback, with TLS and node keys, in SQLite.

Isolation "process" and a shared secret: a run survives a crash of the SuperLink, and a stranger on
this machine gets no task (FLOWER.md 0.2 and 0.3). Hospitals reach it through the gateway alone.
"""

import argparse
from pathlib import Path

from common import outbound
from common.supervisor import end_with_parent, run_and_end
from server.home import Home


def main() -> None:
    """Entry point of `python -m server.superlink`."""
    end_with_parent()
    outbound.switch_off()
    words = argparse.ArgumentParser(prog="server.superlink")
    words.add_argument("--home", type=Path, required=True)
    words.add_argument("--port", type=int, required=True)
    given = words.parse_args()
    home = Home(given.home)

    from flwr.superlink.cli import flower_superlink

    run_and_end(
        flower_superlink,
        "flower-superlink",
        *("--host", "127.0.0.1", "--port", str(given.port)),
        *("--ssl-ca-certfile", str(home.ca)),
        *("--ssl-certfile", str(home.tls / "internal.crt")),
        *("--ssl-keyfile", str(home.tls / "internal.key")),
        "--enable-supernode-auth",
        *("--database", str(home.superlink / "state.db")),
        *("--isolation", "process", "--superexec-auth-secret-file", str(home.secret)),
        "--disable-runtime-dependency-installation",
    )


if __name__ == "__main__":
    main()
