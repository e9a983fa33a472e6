"""Carries out Flower's tasks of one kind, each in a process forked from one that has Flower loaded.

In the place of Flower's SuperExec, which starts a new Python for every message, and which also runs
kinds of tasks (agents, models, connectors) that no study needs. This one asks for one kind only.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient

from common.supervisor import end_with_parent

log = logging.getLogger("intramural.executor")

ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


@dataclass(frozen=True)
class RuntimeApi:
    """Where tasks come from: Flower's Runtime API on loopback, host:port, with TLS when `ca` is given.

    `secret` is what SuperLink or SuperNode was started with: without it no task is handed out.
    """

    address: str
    secret: bytes
    ca: Path | None = None

    def client(self) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=self.ca is None,
            root_certificates=None if self.ca is None else self.ca.read_bytes(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(
                    master_secret=self.secret, protected_methods=frozenset({ACQUIRE})
                ),
            ],
        )


class Executor:
    """Acquires tasks of `kind` and carries each out by `work(token)` in a forked process.

    A task of a run that `ours` (run id -> bool) does not know is left to expire.
    """

    def __init__(
        self,
        api: RuntimeApi,
        kind: TaskType,
        work: Callable[[str], None],
        ours: Callable[[int], bool],
    ) -> None:
        self._request = AcquireTaskRequest(supported_task_types=[kind])
        self._client = api.client()
        self._work = work
        self._ours = ours
        self.children: set[int] = set()
        self.crashed = False  # whether a child was killed, or ended in an error

    def step(self) -> bool:
        """Reap what has ended and start at most one task; whether one was started."""
        self.reap()
        try:
            found = self._client.AcquireTask(self._request)
        except httpx.HTTPError as error:  # not up yet, or being restarted
            log.debug("no task: %s", type(error).__name__)
            return False
        if not (found.HasField("task") and found.token):
            return False
        if not self._ours(found.task.run_id):
            log.warning(
                "a task of run %d, which is not ours, is not carried out", found.task.run_id
            )
            return False
        self.children.add(self._fork(found.token))
        return True

    def end(self) -> None:
        """Kill what is at work: whatever it was doing is asked again (crashing is its way to stop)."""
        for child in self.children:
            os.kill(child, signal.SIGKILL)
        for child in self.children:
            os.waitpid(child, 0)
        self.children.clear()

    def reap(self) -> None:
        """Take note of the children that have ended."""
        for child in list(self.children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                self.children.discard(child)
                self.crashed = self.crashed or status != 0

    def _fork(self, token: str) -> int:
        """The process id of a child that works on the task; the child never returns."""
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        if child := os.fork():
            return child
        code = 1
        try:
            end_with_parent(signal.SIGKILL, parent)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._work(token)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            log.exception("a task ended by an unexpected error")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # nothing of the parent's is torn down a second time
