"""A stranger at the public port, a coordinator that has been taken over, and a relay that has been.

Each attack goes against the real processes. What must not happen leaves a marker file where it does.
"""

import contextlib
import io
import json
import os
import pwd
import re
import socket
import ssl
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from flwr.app import Message
from flwr.common.serde import run_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from client.data.image_folder import count_patients
from common import messages, records
from common.bundle import bundle
from common.executor import RuntimeApi
from common.files import sha256
from common.keys import make_private_key, pem_private
from common.messages import Refusal, TrainRequest
from common.tasks.nodule_classification.study import NoduleStudy
from server.authority import issue_server, load_authority, make_authority, pem
from server.initial import initial_arrays
from tests.consortium import Consortium, command, deployable

SmallStudy = Callable[..., NoduleStudy]
Row = Callable[[str, str, str], None]

pytestmark = [pytest.mark.crash, pytest.mark.timeout(400)]


@pytest.fixture
def consortium(small_study: SmallStudy) -> Iterator[Consortium]:
    found = Consortium(deployable(small_study(north=8, quorum=1)))
    yield found
    found.close()


@pytest.fixture
def ends() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def foreign_bundle(marker: Path) -> bytes:
    """A bundle with code of its own, under the names of ours and of torch: each leaves `marker`."""
    ran = f"open({str(marker)!r}, 'a').write(__name__ + ' ran\\n')\n"
    about = b"""[project]
name = "study"
version = "0.1.0"
[tool.flwr.app]
publisher = "intramural"
[tool.flwr.app.components]
serverapp = "evil:app"
clientapp = "client.app:app"
"""
    files = {"pyproject.toml": about}
    for name in ("client/__init__.py", "client/app.py", "torch.py", "evil.py", "sitecustomize.py"):
        files[name] = ran.encode()
    manifest = "\n".join(f"{n},{sha256(d)},{8 * len(d)}" for n, d in files.items())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in {**files, ".info/CONTENT": manifest.encode()}.items():
            archive.writestr(name, data)
    return out.getvalue()


class TakenOver:
    """Whoever holds the coordinator's host: its executor stands still, and runs are theirs to start."""

    def __init__(self, consortium: Consortium, ends: contextlib.ExitStack) -> None:
        self._ends = ends
        home = consortium.home
        pid = consortium.processes("coordinator")["superlink"]
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        self.address = f"127.0.0.1:{words[words.index('--port') + 1]}"
        self.ca = home / "ca" / "ca.crt"
        self.secret = (home / "superlink" / "superexec.secret").read_bytes()

    def grid(self, fab: bytes) -> HttpGrid:
        """A run of `fab`, and the place of its ServerApp."""
        control = ControlHttpClient.from_server_address(
            self.address,
            insecure=False,
            root_certificates=self.ca.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )
        self._ends.callback(control.close)
        request = StartRunRequest(
            fab=Fab(hash_str=sha256(fab), content=fab), override_config=user_config_to_proto({})
        )
        assert control.StartRun(request).run_id
        api = RuntimeApi(self.address, self.secret, self.ca).client()
        self._ends.callback(api.close)
        kinds = [TaskType.SERVER_APP]
        token = api.AcquireTask(AcquireTaskRequest(supported_task_types=kinds)).token
        assert token
        grid = HttpGrid(
            runtime_api_address=self.address, root_certificates=self.ca.read_bytes(), token=token
        )
        self._ends.callback(grid.close)
        given = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
        TaskIdentity.node_id = given.context.node_id
        grid.set_run(run_from_proto(given.run))
        return grid


def answer(grid: HttpGrid, request: messages.Request, seconds: float = 90) -> messages.Message:
    """The hospital's answer; asked again when its node, which is starting, was not there for a moment."""
    until = time.monotonic() + seconds
    content, kind = records.to_records(request), records.MESSAGE_TYPES[request.kind]
    while True:
        assert time.monotonic() < until, "no answer"
        for node in grid.get_node_ids():
            message = Message(content, dst_node_id=node, message_type=kind)
            sent = [pushed for pushed in grid.push_messages([message]) if pushed]
            while sent and time.monotonic() < until:
                if arrived := list(grid.pull_messages(sent)):
                    if not arrived[0].has_error():
                        return records.from_records(arrived[0].content)
                    break
                time.sleep(0.2)
        time.sleep(0.5)


def test_a_coordinator_that_was_taken_over_gets_no_code_into_a_hospital_and_no_study_past_it(
    consortium: Consortium, tmp_path: Path, ends: contextlib.ExitStack, row: Row
) -> None:
    consortium.start_all()
    consortium.until(
        lambda: "Created node_id" in consortium.log("coordinator", "superlink"), 60, ""
    )
    os.kill(consortium.processes("coordinator")["executor"], 19)  # SIGSTOP: its tasks are ours
    enemy, marker = TakenOver(consortium, ends), tmp_path / "marker"
    study = consortium.study
    request = TrainRequest(protocol=study.to_toml(), round=1, arrays=initial_arrays(study))

    said = answer(enemy.grid(foreign_bundle(marker)), request)
    assert isinstance(said, Refusal)
    assert said.code == "E-VERSION"
    assert not marker.exists()
    apps = consortium.hospital("north") / "relay" / "apps"
    assert list(apps.iterdir()) == []  # it was not even unpacked

    # Our own bundle, and a study that this hospital never approved; then one with less noise.
    grid = enemy.grid(bundle())
    other = study.model_copy(update={"study": "another"})
    loud = study.model_copy(update={"privacy": study.privacy.model_copy(update={"epsilon": 100.0})})
    for changed in (other, loud):
        refused = answer(grid, request.model_copy(update={"protocol": changed.to_toml()}))
        assert isinstance(refused, Refusal)
        assert refused.code == "E-POLICY-STUDY"
    assert consortium.spends("north") == (0, 0)
    row(
        "T5 R14",
        "coordinator taken over, foreign bundle",
        "E-VERSION, nothing unpacked, nothing ran",
    )
    row("T3", "coordinator taken over, other studies", "E-POLICY-STUDY, nothing spent")


def test_a_stranger_at_the_public_port_finds_nothing(consortium: Consortium, row: Row) -> None:
    """Through the real gateway, in front of the real SuperLink (every path: test_gateway.py)."""
    consortium.start("coordinator")
    consortium.until(consortium.serving, 60, "the coordinator serves")
    consortium.until(
        lambda: "Created node_id" in consortium.log("coordinator", "superlink"), 60, ""
    )
    assert consortium.study.coordinator is not None
    port = consortium.study.coordinator.port
    before = consortium.log("coordinator", "superlink")
    paths = (
        "/v1/control/start-run", "/v1/control/register-node", "/v1/control/list-runs",
        "/v1/control/stream-logs", "/v1/runtime/acquire-task", "/v1/runtime/pull-task-input",
        "/v1/fleet/register-node", "/v1/fleet/../control/start-run", "/docs", "/openapi.json",
        "/v1/fleet/%2e%2e/control/start-run", "/v1/fleet//pull-messages", "/", "/v1/fleet/",
    )  # fmt: skip
    context = ssl.create_default_context(cafile=consortium.home / "ca" / "ca.crt")
    for path in paths:
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        with context.wrap_socket(raw, server_hostname="127.0.0.1") as link:
            head = (
                f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            link.sendall(head.encode())
            status = link.recv(100).split(b"\r\n")[0]
        assert status.split()[1] == b"404", (path, status)
    new = consortium.log("coordinator", "superlink").removeprefix(before)
    seen = set(re.findall(r"POST (\S+) ", new))
    assert seen <= {"/v1/control/list-nodes"}, seen  # the coordinator's own look at its roster
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP/1.1 200")
    row(
        "T11",
        f"stranger at the public port, {len(paths)} paths",
        "404, and nothing behind it asked",
    )


def served_by(home: Path, certificate: x509.Certificate, key: bytes) -> None:
    """Put another certificate, and its key, in the place of the coordinator's."""
    (home / "tls" / "server.crt").write_bytes(pem(certificate))
    (home / "tls" / "server.key").write_bytes(key)


def another_authority(home: Path) -> None:
    key = make_private_key()
    other = make_authority("another study", datetime.now(UTC))
    issued = issue_server(other, ["127.0.0.1"], key.public_key(), 100, datetime.now(UTC))
    served_by(home, issued, pem_private(key))


def self_signed(home: Path) -> None:
    other = make_authority("another study", datetime.now(UTC))
    served_by(home, other.certificate, pem_private(other.key))


def expired(home: Path) -> None:
    key, then = make_private_key(), datetime.now(UTC) - timedelta(days=100)
    own = load_authority(home / "ca" / "ca.key", home / "ca" / "ca.crt")
    issued = issue_server(own, ["127.0.0.1"], key.public_key(), 99, then)
    served_by(home, issued, pem_private(key))


def another_name(home: Path) -> None:
    key = make_private_key()
    own = load_authority(home / "ca" / "ca.key", home / "ca" / "ca.crt")
    issued = issue_server(own, ["other.example.org"], key.public_key(), 100, datetime.now(UTC))
    served_by(home, issued, pem_private(key))


@pytest.mark.parametrize("spoil", [another_authority, self_signed, expired, another_name])
def test_a_hospital_sends_nothing_to_who_is_not_its_coordinator(
    consortium: Consortium, spoil: Callable[[Path], None], row: Row
) -> None:
    """Neither `start`, which looks first, nor the relay's processes themselves, which do not."""
    north = consortium.hospital("north")
    spoil(consortium.home)
    consortium.start("coordinator")
    consortium.until(consortium.serving, 60, "the coordinator serves")
    connection = ["--connection", str(north / "connection.toml")]
    files = ["--site", str(north / "site.toml"), *connection]
    code, told = consortium.call("intramural-client", "start", *files)
    assert (code, "is not the coordinator" in told) == (2, True), told
    relay = subprocess.Popen(
        command("intramural-client", "relay", *connection), stdout=-3, stderr=-3
    )
    time.sleep(8)
    relay.terminate()
    relay.wait(20)
    assert " 200 " not in consortium.log("coordinator", "gateway")
    assert "activate-node" not in consortium.log("coordinator", "gateway")
    row("T11", f"coordinator's certificate: {spoil.__name__}", "refused, nothing sent")


# In a mount namespace of its own: a home folder of root's that others may pass through, with only the
# Python in it. On a hospital's host Python lies where every user may run it.
PASSABLE = """
set -e
kept=$(mktemp -d) && mount --bind "$0" "$kept" && mount -t tmpfs -o mode=0755 tmpfs /root
mkdir -p "$0" && mount --bind "$kept" "$0" && umount "$kept" && exec "$@"
"""


def for_every_user() -> list[str]:
    """What goes before a command so that every user may run this Python; skips where none may."""
    python = Path(sys.executable).resolve().parent.parent
    prefix: list[str] = []
    if python.is_relative_to("/root"):
        prefix = ["unshare", "--mount", "sh", "-c", PASSABLE, str(python)]
    tried = subprocess.run(
        [*prefix, "setpriv", "--reuid", "nobody", "--clear-groups", sys.executable, "-c", ""],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if tried.returncode != 0:
        pytest.skip(f"no other user can run this Python: {tried.stderr.strip()}")
    return prefix


@pytest.mark.skipif(os.geteuid() != 0, reason="two users need root to start them")
def test_with_two_users_all_walls_stand_and_the_study_runs(
    consortium: Consortium, row: Row
) -> None:
    """The vault as one user, the relay as another: what `check` says is so, and nothing is in the way."""
    north, nobody = consortium.hospital("north"), pwd.getpwnam("nobody")
    consortium.prefix = for_every_user()
    consortium.edit(north / "site.toml", relay_user="nobody")
    consortium.approve("north")
    consortium.folder.chmod(0o711)
    north.chmod(0o711)
    for file in ("connection.toml", "hospital.key", "hospital.crt", "ca.crt"):
        os.chown(north / file, nobody.pw_uid, nobody.pw_gid)
    os.chown(north / "socket", 0, nobody.pw_gid)
    (north / "socket").chmod(0o750)
    for folder in (consortium.folder / "phantoms").rglob("*"):
        folder.chmod(0o700 if folder.is_dir() else 0o600)
    consortium.start("coordinator")
    consortium.until(consortium.serving, 60, "the coordinator serves")
    time.sleep(4)
    consortium.start("north")
    consortium.until(lambda: "relay" in consortium.processes("north"), 60, "north starts")
    checked = consortium.must(
        "intramural-client", "check",
        "--site", north / "site.toml", "--connection", north / "connection.toml",
    )  # fmt: skip
    for wall in ("network", "users", "bundles", "imports"):
        assert re.search(rf"good  wall: {wall}", checked), checked
    code, said = consortium.run()
    assert code == 0, said + consortium.story()
    vault, relay = (consortium.processes("north")[name] for name in ("vault", "relay"))
    assert Path(f"/proc/{relay}").stat().st_uid == nobody.pw_uid
    assert Path(f"/proc/{vault}").stat().st_uid == 0
    interfaces = Path(f"/proc/{vault}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
    assert (
        count_patients(consortium.folder / "phantoms/north/data", consortium.study.images)[0] == 8
    )
    reading = f"open({str(consortium.folder / 'phantoms/north/data/manifest.csv')!r})"
    intruder = subprocess.run(
        [*consortium.prefix, "setpriv", "--reuid", "nobody", "--clear-groups", sys.executable, "-c", reading],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "PermissionError" in intruder.stderr
    for kept in (north / "state").glob("ledger.*"):
        assert not kept.stat().st_mode & 0o077
    assert json.loads((consortium.run_folder / "outcome.json").read_text())["stopped"] == "finished"
    row("T5 T21", "vault and relay as two users", "all four walls stand, the study finishes")
