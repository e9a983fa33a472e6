"""The ServerApp: protocol -> checkpoint or initial model -> rounds -> final model in the run folder."""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp
from safetensors.numpy import save

from common import messages, records
from common.arrays import Arrays
from common.errors import RunError
from common.files import locked, write_atomic
from common.protocol import StudyProtocol
from server.admission import NotAdmitted
from server.asking import POLL_SECONDS, Observer, Roster, opened
from server.checkpoint import Checkpoints, State
from server.initial import initial_arrays
from server.rounds import Outcome, run_rounds

INITIAL_MODEL = "initial-model.safetensors"
FINAL_MODEL = "model.safetensors"
HELLO_SECONDS = 60.0


class Run:
    """One run of one study in one folder; `outcome` is set when its ServerApp has returned.

    `initial` takes the place of the protocol's initial model: a comparison starts where another run
    did. `progress` hears the share done (0..1) of a long pre-training. Setting `stop` ends the run
    at the last closed round, from another thread.
    """

    def __init__(
        self,
        protocol: StudyProtocol,
        folder: Path,
        observer: Observer,
        *,
        resume: bool = False,
        initial: Arrays | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.protocol = protocol
        self.folder = folder
        self.observer = observer
        self.resume = resume
        self.initial = initial
        self.progress = progress
        self.stop = Event()
        self.outcome: Outcome | None = None

    def app(self) -> ServerApp:
        """The Flower app that carries this run out."""
        app = ServerApp()

        @app.main()
        def main(grid: Grid, context: Context) -> None:  # noqa: ARG001  (Flower's signature)
            with locked(self.folder / "run.lock"):
                self.outcome = self._run(grid)

        return app

    def _run(self, grid: Grid) -> Outcome:
        checkpoints = Checkpoints(self.folder, self.protocol)
        state = checkpoints.load()
        if state is not None and not self.resume:
            raise RunError(
                f"{self.folder} holds a run that stopped after round {state.round}; "
                f"continue it with --resume, or choose another --name"
            )
        if state is None:
            arrays = self.initial or initial_arrays(self.protocol, self.progress)
            state = State(round=0, arrays=arrays)
            write_atomic(self.folder / INITIAL_MODEL, save(state.arrays))
            checkpoints.save(state)
        roster = find_hospitals(grid, self.protocol)
        outcome = run_rounds(
            self.protocol, state, grid, roster, checkpoints, self.observer, self.stop
        )
        write_atomic(self.folder / FINAL_MODEL, save(outcome.state.result))
        return outcome


def find_hospitals(grid: Grid, protocol: StudyProtocol) -> Roster:
    """Which node is which hospital, by asking every connected node for its name.

    For a rehearsal, where all nodes are ours: a name is claimed and not proven. RunError when two
    nodes claim one name, or when fewer than the quorum have answered within a minute.
    """
    hello = records.to_records(messages.HelloRequest())
    asked: set[str] = set()
    nodes: set[int] = set()
    roster: dict[str, int] = {}
    until = time.monotonic() + min(HELLO_SECONDS, protocol.participation.deadline_seconds)
    while time.monotonic() < until and len(roster) < len(protocol.hospitals):
        new = set(grid.get_node_ids()) - nodes
        nodes |= new
        asked |= set(
            grid.push_messages(
                [Message(hello, dst_node_id=node, message_type="query") for node in sorted(new)]
            )
        )
        arrived = list(grid.pull_messages(list(asked)))
        for message in arrived:
            asked.discard(message.metadata.reply_to_message_id)
            try:
                reply = opened(message)
            except NotAdmitted:
                continue
            if isinstance(reply, messages.HelloReply) and reply.hospital in protocol.hospital_names:
                if reply.hospital in roster:
                    raise RunError(f"two nodes say that they are hospital '{reply.hospital}'")
                roster[reply.hospital] = message.metadata.src_node_id
        if not arrived:
            time.sleep(POLL_SECONDS)
    if len(roster) < protocol.participation.quorum:
        raise RunError(
            f"expected at least {protocol.participation.quorum} of the hospitals "
            f"{', '.join(protocol.hospital_names)}, found {', '.join(sorted(roster)) or 'none'}"
        )
    return roster
