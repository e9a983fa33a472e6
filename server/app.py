"""The ServerApp: the run's last state on disk -> rounds -> final model in the run folder.

A run begins with `server.beginning.begin`, which puts round 0 on disk; from there on every process
that carries it out, the first or one after a crash, does the same.
"""

import json
from collections.abc import Callable
from pathlib import Path
from threading import Event

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from safetensors.numpy import save

from common.arrays import Spec
from common.errors import RunError
from common.files import locked, write_atomic
from common.protocol import StudyProtocol
from server.asking import Asker, Attendance, Observer
from server.checkpoint import Checkpoints
from server.rounds import Outcome, run_rounds

FINAL_MODEL = "model.safetensors"
LOCK = "run.lock"
UPDATE_SPEC = "update-spec.json"

Attend = Callable[[Grid, StudyProtocol], Attendance]


class Run:
    """One run of one study in one folder; `outcome` is set when its ServerApp has returned.

    `update_spec` is what an update of this study must be, `attend` finds out which hospital is
    connected at which node, `poll_seconds` is the least pause between two looks for replies.
    Setting `stop` ends the run at the last closed round, from another thread.
    """

    def __init__(
        self,
        protocol: StudyProtocol,
        folder: Path,
        observer: Observer,
        update_spec: Spec,
        attend: Attend,
        poll_seconds: float,
    ) -> None:
        self.protocol = protocol
        self.folder = folder
        self.observer = observer
        self.update_spec = update_spec
        self.attend = attend
        self.poll_seconds = poll_seconds
        self.stop = Event()
        self.outcome: Outcome | None = None

    def app(self) -> ServerApp:
        """The Flower app that carries this run out."""
        app = ServerApp()

        @app.main()
        def main(grid: Grid, context: Context) -> None:  # noqa: ARG001  (Flower's signature)
            self.carry_out(grid)

        return app

    def carry_out(self, grid: Grid) -> None:
        """Go on behind the newest whole checkpoint; never from a new start (see `Checkpoints.load`)."""
        with locked(self.folder / LOCK):
            checkpoints = Checkpoints(self.folder, self.protocol)
            state = checkpoints.load()
            if state is None:
                raise RunError(
                    f"expected the state of a run in {self.folder / 'checkpoints'} and found none; "
                    f"put it back, or begin a new run under another name"
                )
            attendance = self.attend(grid, self.protocol)
            asker = Asker(
                self.protocol,
                grid,
                attendance,
                self.update_spec,
                self.observer,
                self.stop,
                self.poll_seconds,
            )
            outcome = run_rounds(asker, state, checkpoints, self.observer)
            write_atomic(self.folder / FINAL_MODEL, save(outcome.state.result))
            self.outcome = outcome


def kept_update_spec(folder: Path) -> Spec:
    """What an update of the run in `folder` must be, as `begin` wrote it down: needs no torch."""
    try:
        rows = json.loads((folder / UPDATE_SPEC).read_bytes())
        return {str(name): tuple(int(n) for n in shape) for name, shape in rows}
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"expected the study's array shapes in {folder / UPDATE_SPEC} and could not read them "
            f"({error}); begin the run again under another name"
        ) from error
