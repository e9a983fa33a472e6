"""A run folder with everything that a rehearsal needs, and every refusal that can come before it runs.

Loads neither Opacus nor Flower: those take seconds, which pass in a thread while phantoms are made.
"""

from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import tomli_w
import torch
from rich.console import Console

from client.policy import Device, Engine
from common.errors import RunError
from common.files import write_atomic
from common.protocol import StudyProtocol, load_protocol, parse_protocol
from server.checkpoint import Checkpoints
from simulation.hospitals import from_folder, from_phantoms, many, settle

EXAMPLES = Path(__file__).parent.parent / "common" / "examples"
FIRST_RUN = EXAMPLES / "first-run.toml"  # phantom hospitals
LUNG_NODULES = EXAMPLES / "lung-nodules.toml"  # a data folder
PHANTOM_SEED = 1


@dataclass(frozen=True)
class Options:
    """The command line, checked for type only."""

    protocol: Path | None
    data: Path | None
    patient_id_pattern: str | None
    hospitals: int | None
    rounds: int | None
    no_dp: bool
    baselines: bool
    backend: str
    ray_address: str | None
    folder: Path
    resume: bool
    device: Device
    engine: Engine
    noise_seed: int | None


def protocol_of(protocol: Path | None, example: str | None) -> Path | None:
    """The protocol's file, given as such or as the name of a shipped example; RunError for neither's."""
    if example is None:
        return protocol
    if protocol is not None:
        raise RunError("--example names a protocol already; leave out --protocol, or --example")
    known = sorted(path.stem for path in EXAMPLES.glob("*.toml"))
    if example not in known:
        raise RunError(f"--example is '{example}' but must be one of {', '.join(known)}")
    return EXAMPLES / f"{example}.toml"


def prepare(options: Options, console: Console) -> tuple[StudyProtocol, dict[str, Path]]:
    """The study, and each hospital's `site.toml` by name; data, policies and ledgers are in place.

    IntramuralError when something does not fit, and then nothing has run.
    """
    if options.backend not in ("local", "ray"):
        raise RunError(f"--backend is '{options.backend}' but must be 'local' or 'ray'")
    if options.ray_address is not None and options.backend != "ray":
        raise RunError("--ray-address needs --backend ray")
    if options.patient_id_pattern is not None and options.data is None:
        raise RunError("--patient-id-pattern needs --data with class folders")
    if options.hospitals is not None and options.data is not None:
        raise RunError("--hospitals makes phantom hospitals and cannot be used with --data")
    torch.set_num_threads(1)  # making phantoms, too, loses more than it gains by a second thread
    return resumed(options, console) if options.resume else new_run(options, console)


def new_run(options: Options, console: Console) -> tuple[StudyProtocol, dict[str, Path]]:
    """A run folder with its protocol and hospitals; RunError when there is one already."""
    kept = options.folder / "protocol.toml"
    if kept.exists():
        raise RunError(
            f"{options.folder} holds a run already; continue it with --resume, "
            f"or choose another --name"
        )
    usual = FIRST_RUN if options.data is None else LUNG_NODULES
    protocol = adapted(load_protocol(options.protocol or usual), options)
    hospitals = options.folder / "hospitals"
    calibrate_beside(protocol)
    if options.data is not None:
        protocol, data = from_folder(protocol, options.data, options.patient_id_pattern)
    else:
        patients = sum(hospital.nominal_patients for hospital in protocol.hospitals)
        console.print(
            f"making synthetic patients: {len(protocol.hospitals)} hospitals, {patients} to train on",
            highlight=False,
        )
        data = from_phantoms(protocol, hospitals, PHANTOM_SEED)
    sites = settle(
        protocol,
        hospitals,
        data,
        device=options.device,
        engine=options.engine,
        noise_seed=options.noise_seed,
        patient_id_pattern=options.patient_id_pattern,
    )
    write_atomic(kept, protocol.to_toml().encode())  # last: a run exists when it can be resumed
    return protocol, sites


def calibrate_beside(protocol: StudyProtocol) -> None:
    """Load Opacus and find the noise multiplier in a thread while data is made or listed.

    The vaults then have it: it depends on epsilon, delta, rate and steps, and on no hospital.
    """

    def calibrate() -> None:
        from client.privacy.budget import protocol_noise

        protocol_noise(protocol)

    Thread(target=calibrate, daemon=True).start()


def resumed(options: Options, console: Console) -> tuple[StudyProtocol, dict[str, Path]]:
    """The run in the folder as it was left, with the options that it was started with."""
    changes = (options.protocol, options.data, options.hospitals, options.rounds)
    if any(c is not None for c in (*changes, options.noise_seed)) or options.no_dp:
        raise RunError(
            "--resume continues a run with its own protocol, data and noise; "
            "leave those options out"
        )
    if not (options.folder / "protocol.toml").exists():
        raise RunError(f"there is no run to resume in {options.folder}; give its --runs and --name")
    protocol = load_protocol(options.folder / "protocol.toml")
    state = Checkpoints(options.folder, protocol).load()
    console.print(f"continues after round {state.round if state else 0}", highlight=False)
    sites = {n: options.folder / "hospitals" / n / "site.toml" for n in protocol.hospital_names}
    return protocol, sites


def adapted(protocol: StudyProtocol, options: Options) -> StudyProtocol:
    """`protocol` with what the options change; the result is a study of its own, with its own digest."""
    fields = protocol.model_dump(by_alias=True, exclude_none=True, mode="json")
    if options.rounds is not None:
        fields["rounds"] = options.rounds
    if options.no_dp:
        fields["privacy"]["mechanism"] = "none"
        fields["training"] = fields.pop("without-dp", fields["training"])
    protocol = parse_protocol(tomli_w.dumps(fields))
    return protocol if options.hospitals is None else many(protocol, options.hospitals)
