"""The coordinator's executor: registers the roster's hospitals and keeps the wanted run's ServerApp alive.

Flower loses a run with its ServerApp. Here a run is a folder: as long as one is wanted and has not
ended, a ServerApp is at work on it, in a new run of Flower's after each crash, behind the last closed
round.
"""

import argparse
import logging
import os
import signal
import time
from pathlib import Path
from types import FrameType

import httpx
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest, StopRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.constant import TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from common import outbound
from common.bundle import bundle, bundle_hash
from common.errors import IntramuralError
from common.executor import Executor, RuntimeApi
from common.supervisor import end_with_parent
from server import deployed
from server.home import Home, Outcome, Wanted
from server.register import keep_register

log = logging.getLogger("intramural.executor")

POLL_SECONDS = 0.3
REGISTER_SECONDS = 30.0  # between two looks at the register while the roster stays as it is
MOST_CRASHES = 5  # of a ServerApp, one after the other, without a round closed in between


class Conductor:
    """Between the wanted run, Flower's runs and the ServerApp's process; `step` is called for ever."""

    def __init__(self, home: Home, address: str) -> None:
        self._home = home
        secret = home.secret.read_bytes()
        self._control = ControlHttpClient.from_server_address(
            address,
            insecure=False,
            root_certificates=home.ca.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )
        self._address = address
        self._executor = Executor(
            RuntimeApi(address, secret, home.ca),
            TaskType.SERVER_APP,
            self._serverapp,
            ours=lambda run_id: run_id == self._flower_run,
        )
        self._flower_run = 0  # Flower's id of the run that we started
        self._run: Path | None = None  # whose ServerApp is at work, or about to be
        self._crashes = 0
        self._closed_before = -1
        self._due = 0.0
        self._registered = 0.0
        self._roster = 0  # when the roster that is registered was written

    def step(self) -> None:
        """One look at everything; what the SuperLink does not answer is tried again."""
        try:
            changed = self._home.roster.stat().st_mtime_ns
            if changed != self._roster or time.monotonic() - self._registered >= REGISTER_SECONDS:
                keep_register(self._control, self._home.roster)
                self._roster, self._registered = changed, time.monotonic()
            self._follow(Wanted.load(self._home))
            self._executor.reap()
            if self._run is not None and not self._executor.children and self._executor.step():
                self._due = 0.0  # the ServerApp is at work: when it ends, that is seen at once
        except httpx.HTTPError as error:
            log.debug("the SuperLink does not answer: %s", type(error).__name__)
        except IntramuralError as error:  # a damaged roster or file: nobody gets in until repaired
            log.error("%s: %s", error.code, error)
        except OSError as error:  # a full disk, for example
            log.error("cannot go on for now: %s", error)

    def end(self) -> None:
        self._executor.end()

    def _follow(self, wanted: Wanted | None) -> None:
        run = None if wanted is None else self._home.runs / wanted.run
        if run is None or Outcome.load(run) is not None:
            self._run = None
            return
        if wanted is not None and wanted.stop:
            self._executor.end()
            self._stop_flower_runs()
            Outcome(stopped="stopped", detail="by the coordinator's operator").save(run)
            return
        if self._run == run and (self._executor.children or time.monotonic() < self._due):
            return
        if self._run == run and not self._go_on(run):
            return
        self._stop_flower_runs()
        self._run = run
        self._due = time.monotonic() + 15.0  # to hand the task out and fork
        fab = Fab(hash_str=bundle_hash(), content=bundle())
        request = StartRunRequest(fab=fab, override_config=user_config_to_proto({}))
        self._flower_run = self._control.StartRun(request).run_id

    def _go_on(self, run: Path) -> bool:
        """Whether a ServerApp that crashed is started again; else the run has failed."""
        closed = rounds_closed(run)
        self._crashes = self._crashes + 1 if closed == self._closed_before else 0
        self._closed_before = closed
        log.warning("the ServerApp ended without an outcome; started again")
        if self._crashes < MOST_CRASHES:
            return True
        detail = f"the ServerApp crashed {MOST_CRASHES} times in round {closed + 1}"
        Outcome(stopped="failed", round=closed, detail=detail).save(run)
        return False

    def _stop_flower_runs(self) -> None:
        """End Flower's runs of before: their messages must not be trained for any more."""
        listed = self._control.ListRuns(ListRunsRequest()).run_dict
        for run_id, run in listed.items():
            if run.status.status != "finished":
                self._control.StopRun(StopRunRequest(run_id=run_id))

    def _serverapp(self, token: str) -> None:
        """In the forked process: Flower's ServerApp, which loads `server.deployed`."""
        from queue import Queue

        from flwr.superlink.runtime import run_serverapp

        assert self._run is not None  # noqa: S101  (a task exists only after _follow)
        os.environ |= {deployed.HOME: str(self._home.path), deployed.RUN: str(self._run)}
        run_serverapp(
            runtime_api_address=self._address,
            log_queue=Queue(),
            token=token,
            insecure=False,
            certificates=self._home.ca.read_bytes(),
            runtime_dependency_install=False,
        )


def rounds_closed(run: Path) -> int:
    """The number of closed rounds in the folder `run`, 0 when nothing can be read."""
    try:
        return len((run / "rounds.jsonl").read_text().splitlines())
    except OSError:
        return 0


def main() -> None:
    """Entry point of `python -m server.executor`."""
    end_with_parent()
    outbound.switch_off()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    words = argparse.ArgumentParser(prog="server.executor")
    words.add_argument("--home", type=Path, required=True)
    words.add_argument("--port", type=int, required=True)
    given = words.parse_args()
    conductor = Conductor(Home(given.home), f"127.0.0.1:{given.port}")

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  (signal's signature)
        conductor.end()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    while True:
        conductor.step()
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
