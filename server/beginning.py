"""How a run begins: its initial model and round 0 on disk, before anybody is asked.

This needs torch and may take long (pre-training); what runs afterwards needs neither and only ever
continues.
"""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.numpy import save

from common.arrays import Arrays, Spec
from common.errors import RunError
from common.files import locked, write_atomic
from common.model_spec import update_spec
from common.protocol import StudyProtocol
from server.app import LOCK, UPDATE_SPEC
from server.checkpoint import Checkpoints, State
from server.initial import initial_arrays

INITIAL_MODEL = "initial-model.safetensors"


def begin(
    protocol: StudyProtocol,
    folder: Path,
    *,
    resume: bool,
    initial: Arrays | None = None,
    progress: Callable[[float], None] | None = None,
) -> Spec:
    """Put round 0 into `folder` unless a run is there already; what an update of the study must be.

    RunError when a run is there and `resume` is not set. `initial` takes the place of the protocol's
    initial model: a comparison starts where another run did. `progress` hears the share done (0..1)
    of a long pre-training.
    """
    spec = update_spec(protocol)
    with locked(folder / LOCK):
        checkpoints = Checkpoints(folder, protocol)
        state = checkpoints.load()
        if state is not None and not resume:
            raise RunError(
                f"{folder} holds a run that stopped after round {state.round}; "
                f"continue it with --resume, or choose another --name"
            )
        if state is None:
            arrays = initial or initial_arrays(protocol, progress)
            write_atomic(folder / INITIAL_MODEL, save(arrays))
            write_atomic(folder / UPDATE_SPEC, json.dumps(list(spec.items())).encode())
            checkpoints.save(State(round=0, arrays=arrays))
    return spec
