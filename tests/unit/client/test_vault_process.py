"""The vault as a process of its own: unreachable but by its relay, killed and asked again."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from client import channel, vault_process, walls
from client.approval import approve
from client.channel import ask
from client.ledger import Ledger
from client.policy import load_policy
from common import messages
from common.errors import ChannelError, HospitalError, RunError
from common.files import locked
from common.messages import HelloReply, HelloRequest, TrainReply, TrainRequest
from common.models import build_model
from common.tasks.nodule_classification.study import NoduleStudy
from simulation.hospitals import from_phantoms, settle

SmallStudy = Callable[..., NoduleStudy]

NOBODY = 65534
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
REAL = [pytest.mark.e2e, pytest.mark.slow]


class Site:
    """A hospital whose training takes seconds, and the processes of its vault."""

    def __init__(self, folder: Path, study: NoduleStudy) -> None:
        self.folder, self.study = folder, study
        self.data = from_phantoms(study, folder / "data", seed=4)["north"]
        sites = settle(study, folder, {"north": self.data}, device="cpu", noise_seed=None)
        self.path = sites["north"]
        self.socket = folder / "door" / "vault"
        self.socket.parent.mkdir(mode=0o750)
        self.log = folder / "vault.log"
        self.data.chmod(0o700)
        self.write(socket=str(self.socket))
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = build_model(study.model.name, study.images.channels, 2)
        self._arrays = {name: value.numpy() for name, value in model.state_dict().items()}
        self.vaults: list[subprocess.Popen[bytes]] = []

    @property
    def state(self) -> Path:
        return load_policy(self.path).state

    def write(self, **keys: str) -> None:
        """Add `keys` to site.toml."""
        fields = tomllib.loads(self.path.read_text()) | keys
        self.path.write_text(tomli_w.dumps(fields))
        approve(self.path, None)

    def start(self) -> subprocess.Popen[bytes]:
        vault = self._vault()
        until = time.monotonic() + 60
        while not isinstance(self._hello(), HelloReply):
            assert vault.poll() is None, self.log.read_text()
            assert time.monotonic() < until
        return vault

    def _vault(self) -> subprocess.Popen[bytes]:
        threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
        with self.log.open("ab") as log:
            vault = subprocess.Popen(
                [sys.executable, "-P", "-m", "client.vault_process", str(self.path)],
                stdout=log,
                stderr=log,
                env={**os.environ, **threads},
            )
        self.vaults.append(vault)
        return vault

    def refused(self) -> str:
        """What a vault says that does not start."""
        before = len(self.log.read_bytes()) if self.log.exists() else 0
        assert self._vault().wait(60) == 2
        return self.log.read_text()[before:]

    def _hello(self) -> object:
        try:
            frame = messages.encode(HelloRequest())
            return messages.decode(ask(self.socket, frame, connect_seconds=0.1))
        except ChannelError:
            return None

    def frame(self, server_round: int) -> bytes:
        text = self.study.to_toml()
        return messages.encode(TrainRequest(protocol=text, round=server_round, arrays=self._arrays))

    def counted(self) -> tuple[int, int]:
        """(reserved, sealed) requests in the ledger."""
        with Ledger.read(self.state) as ledger:
            kinds = [entry.kind for entry in ledger.entries]
        return kinds.count("reserved"), kinds.count("sealed")

    def wait_for(self, counted: tuple[int, int]) -> None:
        until = time.monotonic() + 30
        while self.counted() != counted:
            assert time.monotonic() < until, (self.counted(), self.log.read_text())
            time.sleep(0.01)

    def close(self) -> None:
        for vault in self.vaults:
            vault.kill()
            vault.wait()
        shutil.rmtree(self.folder)


@pytest.fixture
def site(small_study: SmallStudy) -> Iterator[Site]:
    study = small_study(north=6)
    training = study.training.model_copy(update={"steps_per_round": 100})
    folder = Path(tempfile.mkdtemp(prefix="im"))  # short, as the path of a Unix socket must be
    folder.chmod(0o755)
    site = Site(folder, study.model_copy(update={"training": training}))
    yield site
    site.close()


# Python itself may lie where only root can read it, so all imports come first.
HOSTILE = """
import json, os, socket, struct, sys, time
from pathlib import Path
from client import walls
from client.approval import approve
from client.channel import ask
from common import messages
from common.messages import MAX_FRAME_BYTES, HelloRequest

path, given = Path(sys.argv[1]), json.loads(sys.argv[2])
hello = messages.encode(HelloRequest())
if given["user"] == "nobody":
    walls.become("nobody")
else:  # in the group for which the socket is open, and still not the relay
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(given["user"], given["user"], given["user"])

def said(attempt):
    try:
        return str(attempt())
    except Exception as error:
        return type(error).__name__

def opened(data=b""):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    connection.sendall(data)
    return connection

def answer(data):
    with opened(data) as connection:
        return connection.recv(100)

def code(frame):
    reply = messages.decode(ask(path, frame))
    return getattr(reply, "code", reply.kind)

def flood():
    kept = [opened() for _ in range(100)]
    halves = [connection.send(struct.pack(">Q", 1000) + b"half") for connection in kept]
    for connection in kept:
        connection.close()

unapproved = Path(given["frame"]).read_bytes()
frames = [b"", b"x", os.urandom(5000), hello[:-1], hello + b"x", hello.replace(b"hello", b"shell")]
lengths = [MAX_FRAME_BYTES + 1, 1 << 62, 2**64 - 1]
found = {"files": {name: said(lambda: os.open(name, os.O_RDONLY)) for name in given["files"]}}
found["vault"] = [said(lambda: os.kill(given["vault"], 0)),
                  said(lambda: open(f"/proc/{given['vault']}/mem"))]
if given["asks"]:
    found["garbage"] = [said(lambda: code(frame)) for frame in [*frames, unapproved]]
    found["lengths"] = [said(lambda: answer(struct.pack(">Q", length))) for length in lengths]
    found["flood"] = said(flood)
    halves = [opened(struct.pack(">Q", 1000) + b"half") for _ in range(3)]
began = time.monotonic()
found["hello"] = said(lambda: code(hello))
found["seconds"] = time.monotonic() - began
print(json.dumps(found))
"""


def hostile(site: Site, vault: int, user: str | int, *, asks: bool = True) -> Any:
    """What a relay's process sees whose every line somebody else wrote."""
    files = [site.path, site.data, site.data / "manifest.csv", site.data / "00000.png", site.state]
    files += [*site.state.iterdir(), site.folder / "control"]
    (site.folder / "control").write_text("for all to read")
    other = site.study.model_copy(update={"rounds": 2})  # a study that nobody approved
    frame = site.folder / "frame"
    frame.write_bytes(messages.encode(TrainRequest(protocol=other.to_toml(), round=1)))
    given = {"user": user, "vault": vault, "files": [*map(str, files)], "frame": str(frame)}
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, str(site.socket), json.dumps(given | {"asks": asks})],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert int(found["files"].pop(str(site.folder / "control"))) > 0  # the way there is open
    return found


def network_of(process: int | str) -> tuple[str, list[str]]:
    """The network namespace of `process`, and all its routes, loopback's left aside."""
    folder = Path(f"/proc/{process}")
    routes = folder.joinpath("net", "route").read_text().splitlines()[1:]
    return str(folder.joinpath("ns", "net").readlink()), routes


@ROOT
@pytest.mark.e2e
@pytest.mark.slow
def test_a_hostile_relay_gets_refusals_and_sees_no_patient(site: Site) -> None:
    os.chown(site.socket.parent, -1, NOBODY)
    site.write(**{"relay-user": "nobody"})
    vault = site.start()
    assert "wall" not in site.log.read_text()
    namespace, routes = network_of(vault.pid)
    assert namespace != network_of("self")[0]
    assert routes == []

    found = hostile(site, vault.pid, "nobody")
    assert set(found["files"].values()) == {"PermissionError"}
    assert len(found["files"]) > 6
    assert found["vault"] == ["PermissionError", "PermissionError"]
    assert found["garbage"] == ["E-MESSAGE"] * 6 + ["E-POLICY-STUDY"]
    assert found["lengths"] in ([str(b"")] * 3, ["ConnectionResetError"] * 3)
    assert found["flood"] == "None"
    assert found["hello"] == "hello-reply"
    assert found["seconds"] < 10

    stranger = hostile(site, vault.pid, 4711, asks=False)
    assert set(stranger["files"].values()) == {"PermissionError"}
    assert stranger["hello"] == "ChannelError"

    assert "is locked by another process" in site.refused()
    assert site.counted() == (0, 0)
    began = time.monotonic()
    vault.send_signal(signal.SIGTERM)
    assert vault.wait(20) == 0
    assert time.monotonic() - began < 3
    assert not site.socket.exists()


ASKS = (
    "import sys; from pathlib import Path; from client.channel import ask; "
    "Path(sys.argv[3]).write_bytes(ask(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()))"
)


class Relay(threading.Thread):
    """Asks one request and keeps what it got."""

    def __init__(self, site: Site, frame: bytes) -> None:
        super().__init__(daemon=True)
        self._site, self._frame = site, frame
        self.got: bytes | ChannelError | None = None

    def run(self) -> None:
        try:
            self.got = ask(self._site.socket, self._frame, connect_seconds=30)
        except ChannelError as error:
            self.got = error


@pytest.mark.e2e
@pytest.mark.slow
def test_relay_and_vault_killed_at_work_a_round_is_spent_once(site: Site, tmp_path: Path) -> None:
    asked, reply = tmp_path / "asked", tmp_path / "reply"
    vault = site.start()

    # The relay is killed while the vault trains: the reply is sealed, and the next relay gets it.
    asked.write_bytes(site.frame(1))
    command = [sys.executable, "-c", ASKS, str(site.socket), str(asked), str(reply)]
    relay = subprocess.Popen(command)
    site.wait_for((1, 0))
    relay.kill()
    relay.wait()
    assert site.counted() == (1, 0)
    first = ask(site.socket, site.frame(1))
    assert isinstance(messages.decode(first), TrainReply)
    assert site.counted() == (1, 1)
    assert ask(site.socket, site.frame(1)) == first
    assert not reply.exists()

    # The vault is killed while it trains: the relay waits and asks the next vault the same.
    waits = Relay(site, site.frame(2))
    waits.start()
    site.wait_for((2, 1))
    vault.kill()
    vault.wait()
    assert site.counted() == (2, 1)
    vault = site.start()
    waits.join(60)
    assert isinstance(waits.got, bytes)
    assert isinstance(messages.decode(waits.got), TrainReply)
    assert site.counted() == (2, 2)  # one spend, and one reply that it paid for

    # Told to end while it trains: what takes less than the grace is sealed.
    last = Relay(site, site.frame(3))
    last.start()
    site.wait_for((3, 2))
    vault.send_signal(signal.SIGTERM)
    assert vault.wait(vault_process.GRACE_SECONDS + 5) == 0
    assert not site.socket.exists()
    assert site.counted() == (3, 2 if "ended at work" in site.log.read_text() else 3)


ENDS = """
import sys, time
from threading import Event
from client import vault_process

vault_process.GRACE_SECONDS = 0.3
stop = Event()
vault_process._stop_when_told(stop)
print("ready", flush=True)
if sys.argv[1] == "idle":
    while not stop.is_set():
        time.sleep(0.01)
    sys.exit(7)
time.sleep(60)
"""


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("state", "code"), [("idle", 7), ("at work", 0)])
def test_a_vault_that_is_told_ends_in_time(told: signal.Signals, state: str, code: int) -> None:
    vault = subprocess.Popen([sys.executable, "-c", ENDS, state], stdout=subprocess.PIPE)
    with vault:
        assert vault.stdout is not None
        assert vault.stdout.readline() == b"ready\n"
        vault.send_signal(told)
        assert vault.wait(5) == code


# --------------------------------------------------------------------------- in this very process


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What `main` would serve. It installs signal handlers, which are put back."""
    calls: list[dict[str, Any]] = []

    def serve(path: Path, handle: Callable[[bytes], bytes], **words: Any) -> None:
        calls.append({"path": path, "reply": handle(messages.encode(HelloRequest())), **words})

    monkeypatch.setattr(channel, "serve", serve)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield calls
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_host_that_keeps_the_network_is_warned_about(
    site: Site,
    served: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[int | None] = []

    def refuses(other_uid: int | None) -> None:
        asked.append(other_uid)
        raise HospitalError("this host forbids it")

    monkeypatch.setattr(walls, "leave_network", refuses)
    site.write(**{"relay-user": "nobody"})
    with caplog.at_level(logging.WARNING):
        vault_process.main(site.path)
    assert asked == [walls.uid_of("nobody")]
    assert "the wall between patients and network does not stand: this host forbids" in caplog.text
    (call,) = served
    assert call["path"] == site.socket
    assert call["allowed_uids"] == {walls.uid_of("nobody")}
    assert messages.decode(call["reply"]) == HelloReply(hospital="north")


def test_where_no_network_is_none_is_left(
    site: Site, served: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(walls, "has_network", lambda: False)
    monkeypatch.setattr(walls, "leave_network", never)
    vault_process.main(site.path)
    assert served[0]["allowed_uids"] == set()


def test_a_second_vault_of_one_state_is_refused(
    site: Site, served: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walls, "has_network", lambda: False)
    with (
        locked(site.state / vault_process.LOCK),
        pytest.raises(RunError, match="is locked by another process"),
    ):
        vault_process.main(site.path)
    assert served == []


def test_a_policy_that_names_no_socket_serves_nobody(site: Site) -> None:
    fields = tomllib.loads(site.path.read_text())
    del fields["socket"]
    site.path.write_text(tomli_w.dumps(fields))
    with pytest.raises(
        HospitalError, match=r"path of the vault's socket as 'socket' in .*site\.toml"
    ):
        vault_process.main(site.path)


def test_a_relay_user_who_does_not_exist_is_named(site: Site) -> None:
    site.write(**{"relay-user": "no-such-user"})
    with pytest.raises(HospitalError, match="expected a user 'no-such-user'"):
        vault_process.main(site.path)


@pytest.mark.parametrize("words", [[], ["--user", "no-such-user"]])
def test_a_vault_that_refuses_to_start_says_so_by_its_exit_code(
    tmp_path: Path, words: list[str]
) -> None:
    command = [sys.executable, "-m", "client.vault_process", str(tmp_path / "absent.toml"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    says = "E-HOSPITAL: expected a user 'no-such-user'" if words else "E-POLICY: cannot read"
    assert says in done.stderr
    assert "Traceback" not in done.stderr
