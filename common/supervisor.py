"""Keeps a few processes alive, writes down what they say, and ends them together.

A process that ends is started again, at once the first time and after a growing pause when it goes on
ending. One that refuses to start (exit code 2: a setting is wrong, and will be wrong the next time
too) ends all of them.
"""

import ctypes
import json
import logging
import logging.handlers
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from common.errors import EXIT_REFUSED
from common.files import write_atomic

log = logging.getLogger("intramural.supervisor")

LOG_BYTES, LOG_FILES = 10_000_000, 5  # rotation of each process's log
PAUSES = (0.2, 30.0)  # seconds before a restart: the first, the longest
STEADY_SECONDS = 10.0  # after so long a life the pauses start anew
GRACE_SECONDS = 8.0  # between SIGTERM and SIGKILL
PR_SET_PDEATHSIG = 1


def end_with_parent(number: int = signal.SIGTERM, parent: int | None = None) -> None:
    """Have the kernel send this process signal `number` when its parent process dies (Linux).

    `parent` is the process id that the parent had when it started us; without it, it is read from
    the environment, where `Supervisor` puts it. A parent that is gone already ends us now.
    """
    expected = parent if parent is not None else int(os.environ.get(PARENT, os.getppid()))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != expected:
        os.kill(os.getpid(), number)


PARENT = "INTRAMURAL_PARENT"


def stop_when_told() -> threading.Event:
    """An event that SIGTERM and SIGINT set, in place of ending this process."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def run_and_end(main: Callable[[], None], *words: str) -> NoReturn:
    """Run another program's `main` with these command words, and end this process with it.

    Whatever it raises: Flower's programs leave a web server running in a thread, and a process
    that looks alive and does nothing (FLOWER.md 4f).
    """
    sys.argv = list(words)
    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Service:
    """A process to keep alive: its command, what its environment has more, and as which user it runs."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None


@dataclass
class _Life:
    """One service over its restarts."""

    service: Service
    process: subprocess.Popen[bytes] | None = None
    since: float = 0.0
    starts: int = 0
    pause: float = PAUSES[0]
    due: float = 0.0


class Supervisor:
    """Runs `services` until stopped; their output goes to `logs`, who lives is written to `state`."""

    def __init__(self, services: Sequence[Service], logs: Path, state: Path) -> None:
        self._lives = [_Life(service) for service in services]
        self._logs = logs
        self._state = state
        self._pumps: list[threading.Thread] = []
        logs.mkdir(parents=True, exist_ok=True, mode=0o700)

    def run(self, stop: threading.Event) -> int:
        """Keep them alive until `stop`; 0, or `EXIT_REFUSED` when one refused to start.

        From here on whatever this process and its services write is for their user's eyes only.
        """
        os.umask(0o077)
        code = 0
        try:
            while not stop.is_set() and code == 0:
                changed = False
                for life in self._lives:
                    if life.process is not None and (ended := life.process.poll()) is not None:
                        code = max(code, self._buried(life, ended))
                        changed = True
                    if life.process is None and time.monotonic() >= life.due and code == 0:
                        code = self._start(life)
                        changed = True
                if changed:
                    self._write_state()
                stop.wait(0.05)
        finally:
            self._end()
        return code

    def _start(self, life: _Life) -> int:
        """Start the service; `EXIT_REFUSED` when this host does not let it start at all."""
        service = life.service
        user: dict[str, Any] = {}
        environment = {**os.environ, **service.environment, PARENT: str(os.getpid())}
        try:
            if service.user is not None:
                account = pwd.getpwnam(service.user)
                user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
                environment |= {"HOME": account.pw_dir, "USER": account.pw_name}
            life.process = subprocess.Popen(  # noqa: S603  (a command of our own)
                list(service.command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                **user,
            )
        except (OSError, KeyError) as error:
            log.error(
                "expected to start %s as user '%s' and could not (%s); the user must exist and be "
                "able to run %s",
                service.name,
                service.user or "who we are",
                error,
                service.command[0],
            )
            return EXIT_REFUSED
        life.since = time.time()
        life.starts += 1
        pump = threading.Thread(
            target=self._pump, args=(service.name, life.process), daemon=True, name=service.name
        )
        pump.start()
        self._pumps = [p for p in self._pumps if p.is_alive()] + [pump]
        log.info("%s started, process %d", service.name, life.process.pid)
        return 0

    def _pump(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Copy what a process says to its log, line by line, until it ends."""
        path = self._logs / f"{name}.log"
        path.touch(mode=0o600)
        handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8"
        )
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        assert process.stdout is not None  # noqa: S101  (for the type checker: it is a pipe)
        with process.stdout as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                handler.emit(logging.LogRecord(name, logging.INFO, "", 0, "%s", (text,), None))
        handler.close()

    def _buried(self, life: _Life, code: int) -> int:
        """Plan the restart of a process that ended; `EXIT_REFUSED` when it is of no use."""
        name, lived = life.service.name, time.time() - life.since
        life.process = None
        if code == EXIT_REFUSED:
            log.error("%s refused to start; see %s", name, self._logs / f"{name}.log")
            return EXIT_REFUSED
        if lived >= STEADY_SECONDS:
            life.pause = PAUSES[0]
        life.due = time.monotonic() + life.pause
        log.warning("%s ended (%d) after %.0f s, started again", name, code, lived)
        life.pause = min(2 * life.pause, PAUSES[1])
        return 0

    def _write_state(self) -> None:
        about = {
            "pid": os.getpid(),
            "services": {
                life.service.name: {
                    "pid": None if life.process is None else life.process.pid,
                    "since": life.since,
                    "restarts": max(0, life.starts - 1),
                }
                for life in self._lives
            },
        }
        try:
            write_atomic(self._state, json.dumps(about).encode())
        except OSError as error:  # a full disk ends no process
            log.error("cannot write %s: %s", self._state, error)

    def _end(self) -> None:
        alive = [life.process for life in self._lives if life.process is not None]
        for process in alive:
            process.terminate()
        until = time.monotonic() + GRACE_SECONDS
        for process in alive:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pump in self._pumps:
            pump.join(timeout=2.0)
        self._state.unlink(missing_ok=True)
