"""A consortium on loopback, of real processes: one coordinator and its hospitals, started as people do.

Everything goes through the two commands. Tests kill processes by the ids that the supervisors write
down, and only those.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from client.ledger import Ledger
from common.tasks.nodule_classification.study import NoduleStudy
from simulation.hospitals import from_phantoms
from tests.hospital import LIMITS
from tests.studies import nodule_study

BIN = Path(sys.executable).parent
SEED = 11  # of the noise, where a test compares models bit for bit


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command(program: str, *words: str | Path) -> list[str]:
    return [str(BIN / program), *map(str, words)]


def deployable(study: NoduleStudy, **participation: Any) -> NoduleStudy:
    """`study` with a coordinator on a free port of loopback, impatient enough for a test."""
    fields = study.model_dump(by_alias=True, exclude_none=True, mode="json")
    fields["coordinator"] = {"names": ["127.0.0.1", "localhost"], "port": free_port()}
    patience = {"deadline-seconds": 240.0, "retry-seconds": 30.0, "grace-seconds": 5.0}
    fields["participation"] |= patience | participation
    return nodule_study(tomli_w.dumps(fields))


class Consortium:
    """Provisioned on construction; `start` and the rest act on the real processes."""

    def __init__(self, study: NoduleStudy, *, noise_seed: int | None = SEED) -> None:
        self.study = study
        self.prefix: list[str] = []  # before every command
        # Unix sockets have short names: pytest's own folders are too deep.
        self.folder = Path(tempfile.mkdtemp(prefix="im"))
        self.home = self.folder / "coordinator"
        self.protocol = self.folder / "protocol.toml"
        self.protocol.write_text(study.to_toml())
        self.noise_seed = noise_seed
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        data = from_phantoms(study, self.folder / "phantoms", seed=1)
        self.must("intramural-server", "provision", "init", self.protocol, "--home", self.home)
        for hospital in study.hospital_names:
            self.join(hospital, data[hospital])

    def hospital(self, name: str) -> Path:
        return self.folder / name

    def join(self, name: str, data: Path) -> None:
        """Keys at the hospital, approval at the coordinator, package back, policy and ledger."""
        mine = self.hospital(name)
        keys = self.must("intramural-client", "keygen", "--hospital", name, "--out", mine)
        heard = re.search(r"SHA256:[A-Za-z0-9+/]{43}", keys)
        assert heard is not None, keys
        self.must(
            "intramural-server", "provision", "approve", mine / "hospital.csr",
            "--fingerprint", heard.group(), "--home", self.home,
        )  # fmt: skip
        for file in (self.home / "packages" / name).iterdir():
            shutil.copy(file, mine / file.name)
        state, shared = mine / "state", mine / "socket"
        state.mkdir(mode=0o700)
        shared.mkdir(mode=0o700)
        policy = {
            "data": str(data),
            "state": str(state),
            "socket": str(shared / "vault.sock"),
            "max-epsilon": 20.0,
            "limits": LIMITS,
            "device": "cpu",
        }
        if self.noise_seed is not None:
            policy |= {"rehearsal": True, "noise-seed": self.noise_seed}
        self.edit(mine / "site.toml", **policy)
        self.edit(mine / "connection.toml", socket=str(shared / "vault.sock"))
        self.must("intramural-client", "ledger", "create", "--site", mine / "site.toml")
        self.approve(name, self.home / "protocol.toml")

    def approve(self, name: str, *protocol: Path) -> None:
        """The hospital approves a study, or without one its policy as it was edited."""
        site = self.hospital(name) / "site.toml"
        self.must("intramural-client", "approve", *protocol, "--site", site, "--yes")

    @staticmethod
    def edit(file: Path, **changes: Any) -> None:
        fields = tomllib.loads(file.read_text()) | {
            k.replace("_", "-"): v for k, v in changes.items()
        }
        file.write_text(tomli_w.dumps(fields))

    # --- commands ------------------------------------------------------------------------------

    def call(self, program: str, *words: str | Path, timeout: float = 240) -> tuple[int, str]:
        """(exit code, what it said) of one command, to its end."""
        done = subprocess.run(
            [*self.prefix, *command(program, *words)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def must(self, program: str, *words: str | Path, timeout: float = 240) -> str:
        code, said = self.call(program, *words, timeout=timeout)
        assert code == 0, (program, words, code, said)
        return said

    def start(self, name: str, *words: str | Path) -> subprocess.Popen[bytes]:
        """Start "coordinator" or a hospital, as one does: one command, and it stays."""
        if name == "coordinator":
            port = self.study.coordinator.port if self.study.coordinator else 0
            line = command(
                "intramural-server", "start", "--home", self.home,
                "--listen", f"127.0.0.1:{port}", *words,
            )  # fmt: skip
        else:
            mine = self.hospital(name)
            line = command(
                "intramural-client", "start", "--site", mine / "site.toml",
                "--connection", mine / "connection.toml", *words,
            )  # fmt: skip
        with (self.folder / f"{name}.said").open("ab") as said:
            self._started[name] = subprocess.Popen(
                [*self.prefix, *line], stdout=said, stderr=subprocess.STDOUT, env=threads()
            )
        return self._started[name]

    def start_all(self) -> None:
        for name in ("coordinator", *self.study.hospital_names):
            self.start(name)
        self.until(self.serving, 60, "the coordinator serves")

    def run(self, timeout: float = 280, protocol: Path | None = None) -> tuple[int, str]:
        """`intramural-server run`, to the end of the run."""
        return self.call(
            "intramural-server", "run", protocol or self.protocol, "--home", self.home,
            timeout=timeout,
        )  # fmt: skip

    def run_detached(self) -> None:
        self.must("intramural-server", "run", self.protocol, "--home", self.home, "--detach")

    # --- what stands where ---------------------------------------------------------------------

    def serving(self) -> bool:
        """Whether the gateway listens."""
        assert self.study.coordinator is not None
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.study.coordinator.port)) == 0

    def until_ready(self, *names: str) -> None:
        """Wait until these hospitals are connected and their vaults listen."""
        for name in names:
            self.until(lambda n=name: self.ready(n), 90, f"{name} is ready")  # type: ignore[misc]

    def ready(self, name: str) -> bool:
        listens = "listens at" in self.log(name, "vault")
        return listens and "SuperNode ID" in self.log(name, "relay")

    def processes(self, name: str) -> dict[str, int]:
        """Process id of each service of "coordinator" or a hospital that is alive now."""
        home = self.home if name == "coordinator" else self.hospital(name) / "state"
        file = home / ("coordinator.json" if name == "coordinator" else "node.json")
        try:
            services = json.loads(file.read_bytes())["services"]
        except (FileNotFoundError, ValueError):
            return {}
        return {service: about["pid"] for service, about in services.items() if about["pid"]}

    @property
    def run_folder(self) -> Path:
        return self.home / "runs" / f"{self.study.study}-{self.study.digest[:8]}"

    def status(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.run_folder / "status.json").read_bytes())
            return found
        except (FileNotFoundError, ValueError):
            return {}

    def outcome(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.run_folder / "outcome.json").read_bytes())
            return found
        except FileNotFoundError:
            return None

    def closed(self) -> int:
        try:
            return len((self.run_folder / "rounds.jsonl").read_text().splitlines())
        except FileNotFoundError:
            return 0

    def records(self) -> list[dict[str, Any]]:
        lines = (self.run_folder / "rounds.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def model(self) -> bytes:
        return (self.run_folder / "model.safetensors").read_bytes()

    def rehearsed(self) -> bytes:
        """The model that this study ends with when nothing goes wrong, in one process: same noise."""
        folder = self.folder / "rehearsed"
        words = ["--protocol", self.protocol, "--runs", folder, "--name", "same", "--device", "cpu"]
        subprocess.run(
            [sys.executable, "-m", "simulation", *map(str, words), "--noise-seed", str(SEED)],
            check=True,
            capture_output=True,
            timeout=280,
        )
        return (folder / "same" / "model.safetensors").read_bytes()

    def spends(self, name: str) -> tuple[int, int]:
        """(reservations that train, sealed replies) in a hospital's ledger, which must be whole."""
        with Ledger.read(self.hospital(name) / "state") as ledger:
            sealed = [e.body["request"] for e in ledger.entries if e.kind == "sealed"]
            assert len(sealed) == len(set(sealed))
            return len(ledger.spends("training")), len(sealed)

    def reserved(self, name: str) -> int:
        """Rounds that a hospital has reserved so far, while it is at work."""
        return self.spends(name)[0]

    def log(self, name: str, service: str) -> str:
        home = self.home if name == "coordinator" else self.hospital(name) / "state"
        file = home / "logs" / f"{service}.log"
        return file.read_text() if file.exists() else ""

    def until(self, true: Callable[[], object], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"not within {seconds} s: {what}\n{self.story()}"
            time.sleep(0.05)

    def until_closed(self, rounds: int, seconds: float = 180) -> None:
        self.until(lambda: self.closed() >= rounds, seconds, f"round {rounds} closes")

    def story(self) -> str:
        """The ends of all logs, for a test that failed."""
        parts = []
        for file in sorted(self.folder.glob("*.said")) + sorted(self.folder.rglob("*.log")):
            tail = file.read_text(errors="replace")[-1500:]
            parts.append(f"--- {file.relative_to(self.folder)}\n{tail}")
        return "\n".join(parts)

    # --- ends ----------------------------------------------------------------------------------

    def kill(self, name: str, service: str | None = None) -> None:
        """SIGKILL one service of `name`, or all that `name` has, its supervisor first."""
        if service is not None:
            os.kill(self.processes(name)[service], signal.SIGKILL)
            return
        pids = self.processes(name)
        supervisor = self._started.pop(name)
        supervisor.kill()
        supervisor.wait()
        for pid in pids.values():
            kill(pid)
        for pid in pids.values():
            gone(pid)

    def kill_forked(self, name: str) -> int:
        """SIGKILL what an executor has forked: the ServerApp, or a hospital's ClientApp; how many."""
        forked = self.forked(name)
        for child in forked:
            kill(child)
        return len(forked)

    def forked(self, name: str) -> list[int]:
        return [child for pid in [self.executor(name)] if pid for child in children_of(pid)]

    def executor(self, name: str) -> int | None:
        """The process id of the executor: the coordinator's own, or below a hospital's relay."""
        processes = self.processes(name)
        if name == "coordinator":
            return processes.get("executor")
        return next(iter(children_of(processes["relay"])), None) if "relay" in processes else None

    def stop(self, name: str) -> int:
        """SIGTERM, as a person or systemd does; the exit code."""
        supervisor = self._started.pop(name)
        supervisor.terminate()
        return supervisor.wait(30)

    def close(self) -> None:
        for name in list(self._started):
            pids = self.processes(name)
            supervisor = self._started.pop(name)
            supervisor.terminate()
            try:
                supervisor.wait(15)
            except subprocess.TimeoutExpired:
                supervisor.kill()
                supervisor.wait()
            for pid in pids.values():
                kill(pid)
        shutil.rmtree(self.folder, ignore_errors=True)


def threads() -> Mapping[str, str]:
    """One thread each: two cores have enough to do, and bitwise comparisons need a fixed number."""
    one = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    return {**os.environ, **one}


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def gone(pid: int, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists() and state_of(pid) != "Z":
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.02)


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]
