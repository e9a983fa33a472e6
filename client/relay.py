"""The relay's two processes: Flower's SuperNode, and the executor of its messages.

Started by client/node.py, as a user who can open no patient file. Neither loads any code but what is
installed here: bundles are never unpacked (client/tasks.py), and the import guard refuses every module
under the bundle folder all the same (client/guard).
"""

import argparse
import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from client.connection import Connection, load_connection
from common import outbound
from common.supervisor import end_with_parent

BUNDLES = "apps"  # below Flower's home: the folder into which Flower itself would unpack bundles
POLL_SECONDS = 0.3


def supernode(connection: Connection, port: int, secret: Path) -> None:
    """Run Flower's SuperNode against the coordinator's gateway, until it ends."""
    from flwr.supernode.cli import flower_supernode  # after what phones home is switched off

    sys.argv = [
        "flower-supernode",
        *("--superlink", connection.coordinator),
        *("--root-certificates", str(connection.ca)),
        *("--auth-supernode-private-key", str(connection.key)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
    ]
    code = 1
    try:
        flower_supernode()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        # An exception here leaves Flower's web server running in its thread, and a process that
        # looks alive and does nothing (FLOWER.md 4f): end, so that it is started anew.
        sys.stdout.flush()
        os._exit(code)


def executor(port: int, secret: Path) -> None:
    """Carry out the SuperNode's messages, one process each, until SIGTERM."""
    from flwr.supercore.constant import TaskType

    from client.tasks import carry_out
    from common.executor import Executor, RuntimeApi

    address = f"127.0.0.1:{port}"
    tasks = Executor(
        RuntimeApi(address, secret.read_bytes()),
        TaskType.CLIENT_APP,
        lambda token: carry_out(address, token),
    )

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  (signal's signature)
        tasks.end()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    while True:
        tasks.step()
        time.sleep(POLL_SECONDS)


def main() -> None:
    """Entry point of `python -m client.relay`."""
    end_with_parent()
    outbound.switch_off()
    words = argparse.ArgumentParser(prog="client.relay")
    words.add_argument("process", choices=("supernode", "executor"))
    words.add_argument("--connection", type=Path, required=True)
    words.add_argument("--port", type=int, required=True)
    words.add_argument("--secret", type=Path, required=True)
    given = words.parse_args()
    if given.process == "supernode":
        supernode(load_connection(given.connection), given.port, given.secret)
    else:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        executor(given.port, given.secret)


if __name__ == "__main__":
    main()
