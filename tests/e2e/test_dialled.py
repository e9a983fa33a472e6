"""A whole study between real processes: what they dialled, and where a planted patient's name came to lie.

Every Python process of the hospital, however it was started, has an audit hook that writes down what it
dials, and speaks at level DEBUG. Both come with the interpreter: no line of the product knows of it.
Where strace is at hand, the kernel's own account is held against the same list.
"""

import csv
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from client.canary.names import NAME, PLANTED, found_in
from client.connection import Connection
from client.node import relay_environment
from common.tasks.nodule_classification.study import NoduleStudy
from tests.consortium import Consortium, deployable

SmallStudy = Callable[..., NoduleStudy]
Row = Callable[[str, str, str], None]

pytestmark = [pytest.mark.e2e, pytest.mark.crash, pytest.mark.timeout(400)]

CALLS = "trace=connect,sendto,sendmsg,sendmmsg"  # that strace looks at

# Python imports it before anything else. A process that the executor forks tells about itself too.
WITNESS = """
import json, logging, os, sys

def note(event, *about):
    with open(os.environ["WITNESSED"], "a") as file:
        file.write(json.dumps([os.getpid(), event, *map(str, about)]) + chr(10))

def hook(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        note(event, args[1])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        note(event, args[0], *args[1:2])

def started():
    note("started", open("/proc/self/cmdline").read().replace(chr(0), " "))

if "WITNESSED" in os.environ:
    started()
    os.register_at_fork(after_in_child=started)
    sys.addaudithook(hook)
    logging.Logger.isEnabledFor = lambda logger, level: True
"""


class Witnessed:
    """A Python like that of the tests, with the hook in it, and what was written down."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, folder / "witnessed"
        self.python = folder / "bin" / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = folder / "lib" / version / "site-packages"
        packages.mkdir(parents=True)
        self.python.parent.mkdir()
        real = Path(sys.executable).resolve()
        self.python.symlink_to(real)
        (folder / "pyvenv.cfg").write_text(f"home = {real.parent}\n")
        ours = next(path for path in sys.path if path.endswith("site-packages"))
        (packages / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
        (packages / "sitecustomize.py").write_text(WITNESS)

    def lines(self) -> list[tuple[int, str, list[str]]]:
        """(process, event, about) of all that was noted."""
        notes = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [(pid, event, about) for pid, event, *about in map(json.loads, notes)]

    def roles(self) -> dict[int, str]:
        """Which of the hospital's processes each process was."""
        words = {
            "client.vault_process": "vault",
            "client.relay supernode": "supernode",
            "client.relay executor": "executor",
            "intramural-client": "start",
        }
        found: dict[int, str] = {}
        for pid, event, about in self.lines():
            if event == "started":
                named = [role for word, role in words.items() if word in about[0]]
                found[pid] = named[0] if named else about[0]
        return found

    def dialled(self) -> set[tuple[str, str]]:
        """(process, address) of all that was dialled or looked up, by the audit hooks."""
        roles = self.roles()
        return {
            (roles[pid], f"{event.removeprefix('socket.')} {' '.join(about)}")
            for pid, event, about in self.lines()
            if event != "started"
        }


def strangers(dialled: set[tuple[str, str]], allowed: dict[str, set[str]]) -> set[tuple[str, str]]:
    """What no process of its kind may dial; a Unix socket without a name is the process' own."""
    named = {(role, what) for role, what in dialled if not what.startswith(r"connect b'\x00")}
    return {(role, what) for role, what in named if what not in allowed.get(role, set())}


def by_the_kernel(trace: Path, roles: dict[int, str]) -> set[tuple[str, str]]:
    """(process, address) of each connect, sendto and sendmsg to anything but a Unix socket, by strace."""
    found = set()
    for line in trace.read_text(errors="replace").splitlines():
        role = roles.get(int(line.split()[0]), "a thread")
        inet = re.search(r'htons\((\d+)\).*?inet_(?:addr\(|pton\(AF_INET6, )"([^"]+)"', line)
        if inet is not None:
            found.add((role, f"connect ('{inet[2]}', {inet[1]})"))
        elif "sa_family=" in line and "AF_UNIX" not in line:
            found.add((role, line))
    return found


@pytest.fixture
def witnessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Witnessed:
    found = Witnessed(tmp_path / "python")
    monkeypatch.setenv("WITNESSED", str(found.notes))
    monkeypatch.setenv("FLWR_LOG_LEVEL", "DEBUG")
    return found


@pytest.fixture
def consortium(small_study: SmallStudy) -> Iterator[Consortium]:
    study = small_study(north=8, quorum=1)
    found = Consortium(deployable(study, **{"retry-seconds": 2.0}))
    yield found
    found.close()


def plant(consortium: Consortium) -> Path:
    """Give north's patients the name wherever one can stand; the folder that they are in now."""
    data = consortium.folder / "phantoms" / "north" / "data"
    with (data / "manifest.csv").open(newline="") as file:
        old = list(csv.DictReader(file))
    rows = [["image", "label", "patient_id", "referrer"]]
    for number, row in enumerate(old):
        form = PLANTED[number % len(PLANTED)]
        about = PngInfo()
        about.add_text("PatientName", NAME)
        name = f"{number} {form}.png"
        with Image.open(data / row["image"]) as image:
            image.save(data / name, pnginfo=about)
        (data / row["image"]).unlink()
        rows.append([name, row["label"], f"{row['patient_id']} {NAME}", NAME])
    with (data / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    planted = data.rename(data.with_name(" ".join(PLANTED)))
    consortium.edit(consortium.hospital("north") / "site.toml", data=str(planted))
    consortium.approve("north")
    return planted


def test_a_patients_name_comes_to_lie_nowhere_and_only_the_coordinator_is_dialled(
    consortium: Consortium,
    witnessed: Witnessed,
    tmp_path: Path,
    row: Row,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    north, trace = consortium.hospital("north"), tmp_path / "trace"
    planted = plant(consortium)
    consortium.prefix = [str(witnessed.python)]
    with monkeypatch.context() as coordinators:
        coordinators.setenv("WITNESSED", str(tmp_path / "of-the-coordinator"))
        consortium.start("coordinator")
    consortium.until(consortium.serving, 60, "the coordinator serves")
    if strace := shutil.which("strace"):
        consortium.prefix[:0] = [strace, "-D", "-f", "-qq", "-e", CALLS, "-o", str(trace)]
    consortium.start("north")
    consortium.prefix = []
    consortium.until_ready("north")
    consortium.run_detached()
    consortium.until_closed(1)

    # A patient's file is spoilt, and the vault, which is started anew, has to read it again.
    image = sorted(planted.glob("*.png"))[0]
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    consortium.kill("north", "vault")
    consortium.until(lambda: "E-DATA" in consortium.log("north", "vault"), 90, "it is refused")
    image.write_bytes(whole)
    consortium.until(lambda: consortium.outcome() is not None, 60, "the round misses its quorum")
    code, said = consortium.run()
    assert (code, "finished" in said) == (0, True), said + consortium.story()
    assert consortium.spends("north")[0] >= 3
    port = runtime_port(consortium)
    assert consortium.stop("north") == 0
    assert consortium.stop("coordinator") == 0

    searched, bytes_searched = 0, 0
    kept = [consortium.home, north / "state", north / "relay", north / "socket"]
    files = [file for folder in kept for file in folder.rglob("*")]
    for file in [*files, *consortium.folder.glob("*.said")]:
        data = file.read_bytes() if file.is_file() else b""
        searched, bytes_searched = searched + 1, bytes_searched + len(data)
        assert found_in(data) == [], file
        assert found_in(os.fsencode(file)) == [], file
    assert searched > 30
    assert "DEBUG" in consortium.log("north", "relay")  # the switch was on
    vault = consortium.log("north", "vault")
    assert "run intramural-client check to see it" in vault
    assert found_in((planted / "manifest.csv").read_bytes())  # it was there to be found

    for file in [*(north / "state").rglob("*"), *(north / "relay").rglob("*")]:
        mode = stat.S_IMODE(file.lstat().st_mode)
        assert mode & 0o077 == 0 or (file.name == "apps" and mode == 0o555), (file, oct(mode))

    assert consortium.study.coordinator is not None
    gate = consortium.study.coordinator.port
    coordinator = {f"connect ('127.0.0.1', {gate})", f"getaddrinfo 127.0.0.1 {gate}"}
    runtime = {f"connect ('127.0.0.1', {port})", f"getaddrinfo 127.0.0.1 {port}"}
    door = {f"connect {north / 'socket' / 'vault.sock'}"}
    allowed = {
        "start": coordinator,
        "vault": door,  # before it listens: is another vault there?
        "supernode": coordinator | runtime,
        "executor": runtime | door,
    }
    dialled = witnessed.dialled()
    assert strangers(dialled, allowed) == set()
    assert {role for role, _ in dialled} >= {"start", "supernode", "executor"}
    assert set(witnessed.roles().values()) >= set(allowed)
    assert not any(role == "vault" and "connect (" in what for role, what in dialled)
    if strace:
        kernels = by_the_kernel(trace, witnessed.roles())
        assert {what for _, what in kernels} == {
            what for what in coordinator | runtime if "(" in what
        }
        assert not any(role == "vault" for role, _ in kernels)
    row("T13 T14", "a patient's name planted, DEBUG, a spoilt file", f"0 in {searched} files")
    row("T21", "all that a hospital dials in a study", "the coordinator and loopback, nothing else")


def runtime_port(consortium: Consortium) -> int:
    """Where the relay's SuperNode listens, on loopback, for its own executor."""
    pid = consortium.processes("north")["relay"]
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return int(words[words.index("--port") + 1])


EXTRA = """
import contextlib, socket
socket.socket(socket.AF_INET).connect_ex(("127.0.0.1", 9))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("127.0.0.1", 9))
with contextlib.suppress(OSError):
    socket.getaddrinfo("telemetry.invalid", 443)
"""


def test_one_dial_too_many_is_seen(witnessed: Witnessed, tmp_path: Path) -> None:
    """In a process with the relay's own environment, which has an import hook of ours before it."""
    files = dict.fromkeys(("ca", "certificate", "key", "socket", "home"), tmp_path / "none")
    connection = Connection(hospital="north", coordinator="127.0.0.1:9", **files)
    subprocess.run(
        [witnessed.python, "-P", "-c", EXTRA],
        env={**os.environ, **relay_environment(connection)},
        check=True,
    )
    seen = {what for _, what in strangers(witnessed.dialled(), {})}
    assert seen == {
        "connect ('127.0.0.1', 9)",
        "sendto ('127.0.0.1', 9)",
        "getaddrinfo telemetry.invalid 443",
    }
    if strace := shutil.which("strace"):
        trace = tmp_path / "trace"
        subprocess.run(
            [strace, "-f", "-qq", "-e", CALLS, "-o", trace, witnessed.python, "-c", EXTRA],
            check=True,
        )
        kernels = {what for _, what in by_the_kernel(trace, {})}
        assert "connect ('127.0.0.1', 9)" in kernels
