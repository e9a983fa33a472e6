"""The relay: Flower's SuperNode, and below it the executor of its messages.

Started by client/node.py, as a user who can open no patient file. Neither loads any code but what is
installed here: bundles are never unpacked (client/flower_task.py), and the import guard refuses every module
under the bundle folder all the same (client/guard). Whatever dies here, all of it ends and is started
anew: the coordinator sees a node that was started again and asks at once for what was lost, where
Flower alone would wait a minute for a heartbeat.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from types import FrameType

from client.connection import Connection, load_connection
from client.redaction import install
from common import outbound
from common.supervisor import PARENT, end_with_parent, run_and_end

log = logging.getLogger("intramural")

BUNDLES = "apps"  # below Flower's home: the folder into which Flower itself would unpack bundles
POLL_SECONDS = 0.3
RETRY_SECONDS = 2.0  # between two tries to reach the coordinator


def supernode(connection: Connection, port: int, secret: Path, words: Sequence[str]) -> None:
    """Run Flower's SuperNode against the coordinator's gateway, until it or the executor ends."""
    from flwr.supernode.cli import flower_supernode  # after what phones home is switched off

    worker = subprocess.Popen(  # noqa: S603  (a command of our own)
        [sys.executable, "-P", "-m", "client.relay", "executor", *words],
        env={**os.environ, PARENT: str(os.getpid())},
    )
    Thread(target=lambda: os._exit(max(1, abs(worker.wait()))), daemon=True).start()
    take_over(connection)
    run_and_end(
        flower_supernode,
        "flower-supernode",
        *("--superlink", connection.coordinator),
        *("--root-certificates", str(connection.ca)),
        *("--auth-supernode-private-key", str(connection.key)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
    )


def take_over(connection: Connection) -> None:
    """Give back our node if a process before us was killed; returns when the coordinator has answered.

    Flower lets nobody activate a node that it believes to be online, and believes so for a minute
    after a kill. So the node's id is kept from the first start on, and given back at each.
    """
    import httpx

    while True:
        try:
            give_back(connection)
            return
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.UNAUTHORIZED:
                log.error(
                    "the coordinator does not know this hospital's key: it was not approved, has "
                    "expired or was revoked, or the clock is wrong; see intramural-client check"
                )
                os._exit(1)
            connection.node_id.write_text("")  # not online, or registered anew: learn it again
            log.info("the coordinator answers %d, trying again", error.response.status_code)
        except httpx.HTTPError as error:
            log.info("no answer of the coordinator (%s), trying again", type(error).__name__)
        time.sleep(RETRY_SECONDS)


def give_back(connection: Connection) -> None:
    """Deactivate our node, whose id is kept or, at the first start, learnt by activating it."""
    from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
    from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    from common.keys import load_private_key

    key = load_private_key(connection.key)
    with FleetHttpClient.from_server_address(
        connection.coordinator,
        insecure=False,
        root_certificates=connection.ca.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key, key.public_key()),
        ],
    ) as client:
        if not (node := connection.node_id.read_text()).isdigit():
            request = ActivateNodeRequest(
                public_key=public_key_to_bytes(key.public_key()),
                heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL,
            )
            node = str(client.ActivateNode(request).node_id)
            connection.node_id.write_text(node)
        client.DeactivateNode(DeactivateNodeRequest(node_id=int(node)))


def executor(port: int, secret: Path) -> None:
    """Carry out the SuperNode's messages, one process each, until SIGTERM or until one crashes."""
    from flwr.supercore.constant import TaskType

    from client.flower_task import carry_out
    from common.executor import Executor, RuntimeApi

    address = f"127.0.0.1:{port}"
    tasks = Executor(
        RuntimeApi(address, secret.read_bytes()),
        TaskType.CLIENT_APP,
        lambda token: carry_out(address, token),
        ours=lambda _: True,  # a foreign run's bundle is refused, in words, by `carry_out`
    )

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  (signal's signature)
        tasks.end()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    while not tasks.crashed:
        tasks.step()
        time.sleep(POLL_SECONDS)
    log.warning("the process of a message was killed; the relay starts anew")
    sys.exit(1)


def main() -> None:
    """Entry point of `python -m client.relay`."""
    end_with_parent()
    outbound.switch_off()
    # An operator needs the lines of Flower and its web server (connected, run, sent), and no patient is
    # in them: none comes here. Their errors may hold what others said: those are in words, like ours.
    install(logging.INFO, "flwr", "uvicorn")
    words = argparse.ArgumentParser(prog="client.relay")
    words.add_argument("process", choices=("supernode", "executor"))
    words.add_argument("--connection", type=Path, required=True)
    words.add_argument("--port", type=int, required=True)
    words.add_argument("--secret", type=Path, required=True)
    given = words.parse_args()
    if given.process == "supernode":
        connection = load_connection(given.connection)
        supernode(connection, given.port, given.secret, sys.argv[2:])
    else:
        executor(given.port, given.secret)


if __name__ == "__main__":
    main()
