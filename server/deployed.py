"""The ServerApp of a deployment: carries on the run that the coordinator is on, and says how it ended.

The executor forks the process and puts the run's folder into the environment; nothing depends on
Flower's run configuration. Loads no torch.
"""

import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import IntramuralError
from common.files import write_atomic
from common.protocol import load_protocol
from server.app import Run, kept_update_spec
from server.attendance import rostered
from server.checkpoint import RoundRecord
from server.home import Home, Outcome

log = logging.getLogger("intramural.serverapp")

HOME = "INTRAMURAL_COORDINATOR"  # the coordinator's home folder
RUN = "INTRAMURAL_RUN"  # the run's folder
POLL_SECONDS = 0.25

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:  # noqa: ARG001  (Flower's signature)
    """Carry the run on to its end, and write down how it ended."""
    home, folder = Home(Path(os.environ[HOME])), Path(os.environ[RUN])
    protocol = load_protocol(folder / "protocol.toml")
    observer = StatusFile(folder, protocol.rounds)
    try:
        run = Run(
            protocol,
            folder,
            observer,
            kept_update_spec(folder),
            rostered(home.roster),
            POLL_SECONDS,
        )
        run.carry_out(grid)
        assert run.outcome is not None  # noqa: S101  (carry_out sets it or raises)
        last = run.outcome.last
        ended = Outcome(stopped=run.outcome.stopped, round=last.round, last=asdict(last))
    except IntramuralError as error:
        log.error("%s: %s", error.code, error)
        ended = Outcome(stopped="failed", detail=f"{error.code}: {error}")
    ended.save(folder)


class StatusFile:
    """An observer that keeps `status.json` in the run folder: who has answered, who is late, since when."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self._path = folder / "status.json"
        self._now: dict[str, Any] = {"round": 0, "rounds": rounds, "hospitals": {}}
        self._changed(started=time.time())

    def round_started(self, server_round: int, asked: list[str]) -> None:  # noqa: ARG002
        hospitals = self._now["hospitals"]
        for about in hospitals.values():
            about.pop("code", None)
            about["state"] = "asked" if about["connected"] else "absent"
        self._changed(round=server_round, round_started=time.time())

    def connected(self, hospitals: list[str]) -> None:
        now = time.time()
        for name in hospitals:
            about = self._now["hospitals"].setdefault(name, {"connected": False, "state": "asked"})
            if not about["connected"]:
                about |= {"connected": True, "since": now}
        for name, about in self._now["hospitals"].items():
            if name not in hospitals and about["connected"]:
                about |= {"connected": False, "since": now}
        self._changed()

    def answered(self, hospital: str, code: str | None) -> None:
        about = self._now["hospitals"].setdefault(
            hospital, {"connected": True, "since": time.time()}
        )
        about["state"] = "answered" if code is None else "refused"
        about["code"] = code
        self._changed()

    def round_closed(self, record: RoundRecord) -> None:
        for name in record.missing:
            self._now["hospitals"].setdefault(name, {"connected": False, "since": time.time()})
            self._now["hospitals"][name]["state"] = "missing"
        self._changed()

    def _changed(self, **news: Any) -> None:
        self._now |= news
        write_atomic(self._path, json.dumps({**self._now, "updated": time.time()}).encode())
