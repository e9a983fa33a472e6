"""What `intramural-server run` does: put a run where the executor finds it, and watch it to its end."""

import time
from collections.abc import Callable
from pathlib import Path

from common.errors import RunError
from common.files import write_atomic
from common.protocol import StudyProtocol, load_protocol
from server.coordinator import running
from server.home import OUTCOME, Home, Outcome, Wanted
from server.roster import Roster, load_roster

LOOK_SECONDS = 0.2


def put_run(home: Home, protocol_file: Path, progress: Callable[[float], None]) -> Path:
    """The folder of the protocol's run, begun or taken up again, and wanted from now on.

    RunError, with nothing changed, when no coordinator runs, when it is on another run, when this
    one has finished, or when the roster does not bear it. `progress` hears of a long pre-training.
    """
    protocol = load_protocol(protocol_file)
    if not running(home):
        raise RunError(
            f"expected a coordinator at work in {home.path} and found none; start it with "
            f"`intramural-server start --home {home.path}`"
        )
    check_deployable(protocol, load_protocol(home.protocol), load_roster(home.roster))
    name = f"{protocol.study}-{protocol.digest[:8]}"
    folder = home.runs / name
    before = Wanted.load(home)
    if before is not None and before.run != name and Outcome.load(home.runs / before.run) is None:
        raise RunError(
            f"the coordinator is on run {before.run}; wait for its end, or end it with "
            f"`intramural-server stop --home {home.path}`"
        )
    ended = Outcome.load(folder)
    if before is not None and before.run == name and not before.stop and ended is None:
        return folder  # under way: its end can be waited for
    if ended is not None and ended.stopped == "finished":
        raise RunError(
            f"run {name} has finished and its model is in {folder}; a study that goes on is "
            f"another one, with a protocol of its own"
        )
    from server.beginning import begin  # torch takes seconds: after what can be refused

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(folder / "protocol.toml", protocol.to_toml().encode())
    begin(protocol, folder, resume=True, progress=progress)
    (folder / OUTCOME).unlink(missing_ok=True)
    Wanted(run=name).save(home)
    return folder


def check_deployable(protocol: StudyProtocol, provisioned: StudyProtocol, roster: Roster) -> None:
    """RunError unless this coordinator and its roster are those that `protocol` speaks of."""
    if protocol.coordinator is None or protocol.coordinator != provisioned.coordinator:
        raise RunError(
            f"expected the coordinator of {protocol.study} to be {provisioned.coordinator}, found "
            f"{protocol.coordinator}; hospitals dial what the protocol names"
        )
    known = {member.hospital: member for member in roster.members}
    approved = [name for name in protocol.hospital_names if name in known]
    lacking = [name for name in protocol.participation.mandatory if name not in known]
    if len(approved) < protocol.participation.quorum or lacking:
        raise RunError(
            f"expected at least {protocol.participation.quorum} approved hospitals, among them "
            f"{', '.join(protocol.participation.mandatory) or 'no mandatory one'}, and found "
            f"{', '.join(approved) or 'none'}; approve their requests first"
        )
    for name in approved:
        agreed = protocol.hospital(name).nominal_patients
        if known[name].nominal_patients != agreed:
            raise RunError(
                f"expected the nominal cohort of {name} to be {agreed}, as in the protocol, and "
                f"found {known[name].nominal_patients} on the roster; provision and protocol differ"
            )


def stop_run(home: Home) -> str:
    """Ask the coordinator to end the wanted run; its name. RunError when there is none to end."""
    wanted = Wanted.load(home)
    if wanted is None or Outcome.load(home.runs / wanted.run) is not None:
        raise RunError(f"expected a run under way in {home.path} and found none")
    Wanted(run=wanted.run, stop=True).save(home)
    return wanted.run


def wait_for_end(home: Home, folder: Path, look: Callable[[], None]) -> Outcome:
    """Call `look` now and then until the run in `folder` has ended; how it ended.

    RunError when the coordinator is gone meanwhile: the run waits for it to be started again.
    """
    while (outcome := Outcome.load(folder)) is None:
        if not running(home):
            raise RunError(
                f"the coordinator in {home.path} has ended and run {folder.name} has not; start it "
                f"again, and the run goes on behind its last closed round"
            )
        look()
        time.sleep(LOOK_SECONDS)
    look()
    return outcome
