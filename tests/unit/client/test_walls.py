"""Behind its walls a process reaches nothing and opens nothing; without them the same code does."""

import json
import os
import pwd
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from client import guard, walls
from client.walls import Wall
from common.errors import HospitalError

Server = tuple[str, int, int, Any]  # name, family, type and address

NOBODY = 65534
OUR_NETWORK = str(Path("/proc/self/ns/net").readlink())
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

# To be a user other than root; Python itself may lie where only root can read it, so that all
# imports come first. PR_SET_DUMPABLE is what an exec would set: /proc/self is ours.
AS_USER = """
def as_user(user):
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
"""
IMPORTS = "import ctypes, errno, fcntl, json, os, pwd, socket, struct, sys, threading\n"
IMPORTS += "from pathlib import Path\nfrom client import walls\nfrom common.errors import *\n"


def run(script: str, *words: object) -> Any:
    """What `script` prints as JSON, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS + AS_USER + script, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ----------------------------------------------------------------------------------- the network

REACHES = """
how, addresses = json.loads(sys.argv[1]), json.loads(sys.argv[2])
if how["user"]:
    as_user(how["user"])
if how["leaves"]:
    walls.leave_network()
reached = []
for name, family, kind, address in addresses:
    with socket.socket(family, kind) as probe:
        probe.settimeout(5)
        try:
            probe.connect(address if family == socket.AF_UNIX else tuple(address))
            probe.send(name.encode())
            if probe.recv(100) == name.encode():
                reached.append(name)
        except OSError:
            pass
print(json.dumps({"reached": reached, "network": walls.has_network(), "uid": os.geteuid(),
                  "space": os.readlink("/proc/self/ns/net")}))
"""


def own_addresses() -> list[str]:
    """Those at which this host is reached from outside, if any (nothing is sent)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.200", 9))
        except OSError:
            return []
        return [asked.getsockname()[0]]


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        if isinstance(self.request, socket.socket):
            self.request.sendall(self.request.recv(100))
        else:
            data, answers = self.request
            answers.sendto(data, self.client_address)


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    """Servers of this host that send back what they get: TCP, UDP (as DNS is), abstract Unix."""
    places = [(socket.AF_INET, address) for address in ("127.0.0.1", *own_addresses())]
    if socket.has_dualstack_ipv6():
        places.append((socket.AF_INET6, "::1"))
    found: list[Server] = []
    with ExitStack() as opened:

        def serve(name: str, server: socketserver.TCPServer) -> None:
            opened.enter_context(server)
            threading.Thread(target=server.serve_forever, args=(0.05,)).start()
            opened.callback(server.shutdown)
            address, kind = server.socket.getsockname(), server.socket.type
            text = address.decode() if isinstance(address, bytes) else address
            found.append((name, server.socket.family, kind, text))

        for family, address in places:
            for base in (socketserver.TCPServer, socketserver.UDPServer):
                its_own = type("Server", (base,), {"address_family": family})
                serve(f"{base.__name__} {address}", its_own((address, 0), Echo))
        serve("abstract", socketserver.UnixStreamServer("", Echo))
        yield found


@pytest.mark.parametrize("user", [0, pytest.param(4711, marks=ROOT)], ids=["as-is", "no-root"])
def test_what_left_the_network_reaches_no_address(servers: list[Server], user: int) -> None:
    names = {name for name, *_ in servers}
    assert {"TCPServer 127.0.0.1", "UDPServer 127.0.0.1", "abstract"} <= names
    addresses = json.dumps(servers)
    before = run(REACHES, json.dumps({"user": user, "leaves": False}), addresses)
    assert set(before["reached"]) == names  # the same code, where there is a network
    assert (before["network"], before["space"]) == (True, OUR_NETWORK)
    after = run(REACHES, json.dumps({"user": user, "leaves": True}), addresses)
    assert after["reached"] == []
    assert after["network"] is False
    assert after["space"] != OUR_NETWORK
    assert after["uid"] == before["uid"] == (user or os.geteuid())


REFUSED = """
def said(attempt):
    try:
        attempt()
    except HospitalError as error:
        return str(error)

def forbid(name, *arguments):
    raise PermissionError(errno.EPERM, "Operation not permitted")

def with_threads():
    waits = threading.Event()
    threading.Thread(target=waits.wait, daemon=True).start()
    return said(walls.leave_network)

found = {"threads": with_threads()} if sys.argv[1] == "threads" else {}
if sys.argv[1] == "forbidden":
    walls._system_call = forbid
    found = {"forbidden": said(walls.leave_network)}
if sys.argv[1] == "other":
    as_user(4711)
    found = {"other": said(lambda: walls.leave_network(65534)),
             "own": said(lambda: walls.leave_network(4711))}
print(json.dumps(found | {"space": os.readlink("/proc/self/ns/net")}))
"""


def test_with_threads_that_would_keep_it_the_network_is_not_left() -> None:
    found = run(REFUSED, "threads")
    assert "before there are threads, found 2" in found["threads"]
    assert found["space"] == OUR_NETWORK


def test_a_host_that_keeps_the_network_is_an_error_that_says_what_to_do() -> None:
    found = run(REFUSED, "forbidden")
    assert "this one forbids it (Operation not permitted); start it as root" in found["forbidden"]
    assert "PrivateNetwork=yes" in found["forbidden"]


@ROOT
def test_a_network_is_not_left_where_that_would_hide_who_the_relay_is() -> None:
    found = run(REFUSED, "other")
    assert "user 4711 cannot have both by itself" in found["other"]
    assert found["own"] is None


LOOPBACK = """
walls.leave_network()
found = [walls.has_network()]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
    fcntl.ioctl(asked, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
found.append(walls.has_network())
with socket.create_server(("127.0.0.1", 0)) as server:
    found.append(walls.has_network())
    with socket.create_connection(server.getsockname()):
        pass
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
    server.bind("")  # abstract
    found.append(walls.has_network())
with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    found.append(walls.has_network())
    server.listen()
    found.append(walls.has_network())
print(json.dumps(found))
"""


@ROOT
def test_a_loopback_is_a_network_where_somebody_else_is(hospital: Path) -> None:
    """Containers without network and PrivateNetwork=yes have one, on which nobody listens."""
    found = run(LOOPBACK, hospital / "socket")
    assert found == [False, False, True, True, False, True]


def test_the_network_wall_is_tried_out() -> None:
    assert walls.has_network()
    wall = walls.network_wall()
    assert wall == Wall("network", True, "a vault that is started from here reaches nobody")
    assert walls.has_network()  # only a child left it


def test_a_host_that_keeps_the_network_has_no_network_wall(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbid(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(walls, "_system_call", forbid)
    wall = walls.network_wall()
    assert not wall.stands
    assert "this one forbids it" in wall.why
    monkeypatch.setattr(walls, "leave_network", lambda _: None)  # it says so, and stays
    wall = walls.network_wall()
    assert not wall.stands
    assert "still reaches this host" in wall.why


def test_where_no_network_is_its_wall_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walls, "has_network", lambda: False)
    assert walls.network_wall().stands


# ------------------------------------------------------------------------------------- the users

BECOMES = """
os.setgroups([0, 4])
walls.become("nobody")
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
def fails(attempt):
    try:
        attempt()
    except PermissionError:
        return True
    return False
back = [lambda: os.setuid(0), lambda: os.seteuid(0), lambda: os.setresuid(0, 0, 0),
        lambda: os.setgid(0), lambda: os.setgroups([0])]
print(json.dumps({
    "users": os.getresuid(), "groups": [*os.getresgid(), *os.getgroups()],
    "new": status["NoNewPrivs"].strip(), "powers": int(status["CapPrm"], 16),
    "back": [fails(way) for way in back], "home": os.environ["HOME"],
}))
"""


@ROOT
def test_who_became_another_user_stays_it() -> None:
    account = pwd.getpwnam("nobody")
    found = run(BECOMES)
    assert found["users"] == [account.pw_uid] * 3
    assert set(found["groups"]) == {account.pw_gid}
    assert (found["new"], found["powers"]) == ("1", 0)
    assert found["back"] == [True] * 5
    assert found["home"] == account.pw_dir


def test_nobody_becomes_a_user_that_is_not() -> None:
    for attempt in (walls.become, walls.uid_of):
        with pytest.raises(HospitalError, match="expected a user 'no-such-user' on this host"):
            attempt("no-such-user")


def test_nobody_becomes_root() -> None:
    with pytest.raises(HospitalError, match="who should become 'root'"):
        walls.become("root")


def test_only_root_becomes_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(HospitalError, match=r"expected root, .* found user 4711"):
        walls.become("nobody")


@pytest.fixture
def hospital() -> Iterator[Path]:
    """A hospital's folder to which others have the way, but no more."""
    folder = Path(tempfile.mkdtemp(prefix="im"))
    folder.chmod(0o755)
    for name in ("data", "state"):
        (folder / name / "deep").mkdir(parents=True)
        (folder / name / "deep" / "file").write_text("a patient")
        (folder / name / "deep" / "file").chmod(0o644)
        (folder / name).chmod(0o700)
    yield folder
    shutil.rmtree(folder)


@ROOT
def test_the_user_wall_stands_where_the_relay_opens_nothing(hospital: Path) -> None:
    wall = walls.user_wall([hospital / "data", hospital / "state"], "nobody")
    assert wall == Wall("users", True, "user 'nobody' can open none of 6 files")
    assert os.geteuid() == 0  # only a child became it


@ROOT
@pytest.mark.parametrize(
    ("path", "mode", "says"),
    [
        ("data", 0o755, "can open .*/data;"),
        ("data", 0o711, "can open .*/data/deep;"),  # who guesses a name
        ("state", 0o704, "can open .*/state;"),
        ("", 0o757, "can put another in place of .*/data; take"),
    ],
)
def test_the_user_wall_falls_by_one_right_too_many(
    hospital: Path, path: str, mode: int, says: str
) -> None:
    (hospital / path).chmod(mode)
    wall = walls.user_wall([hospital / "data", hospital / "state"], "nobody")
    assert not wall.stands
    assert re.search(says, wall.why)


@ROOT
def test_in_a_sticky_folder_only_the_owner_replaces_a_path(hospital: Path) -> None:
    hospital.chmod(0o1777)
    assert walls.user_wall([hospital / "data"], "nobody").stands
    os.chown(hospital, NOBODY, -1)
    assert not walls.user_wall([hospital / "data"], "nobody").stands


def test_what_is_not_there_is_behind_no_wall(hospital: Path) -> None:
    own = pwd.getpwuid(os.geteuid()).pw_name
    other = "nobody" if own != "nobody" else "root"
    wall = walls.user_wall([hospital / "data", hospital / "absent"], other)
    assert not wall.stands
    assert f"expected {hospital / 'absent'} and found nothing" in wall.why


def test_one_user_for_both_is_no_wall(hospital: Path) -> None:
    own = pwd.getpwuid(os.geteuid()).pw_name
    for user in (None, own):
        wall = walls.user_wall([hospital / "data"], user)
        assert not wall.stands
        assert f"vault and relay are one user, '{own}'" in wall.why


def test_a_wall_that_only_root_could_try_out_does_not_stand(
    hospital: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    wall = walls.user_wall([hospital / "data"], "nobody")
    assert not wall.stands
    assert "expected root" in wall.why


def test_a_trial_that_dies_is_no_wall(hospital: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walls, "become", lambda _: os._exit(3))
    wall = walls.user_wall([hospital / "data"], "nobody")
    assert wall == Wall(
        "users", False, "it could not be tried out: the process that did it was killed"
    )


# ------------------------------------------------------------------------- the bundles, and imports


@pytest.fixture
def bundles(hospital: Path) -> Path:
    folder = hospital / "home" / "apps"
    (folder / "thin").mkdir(parents=True)
    (folder / "thin" / "pyproject.toml").write_text("")
    return folder


@ROOT
def test_the_bundle_wall_stands_where_the_relay_writes_nothing(bundles: Path) -> None:
    wall = walls.bundle_wall(bundles, "nobody")
    assert wall == Wall("bundles", True, f"user 'nobody' can put nothing into {bundles}")
    assert sorted(bundles.rglob("*")) == [bundles / "thin", bundles / "thin" / "pyproject.toml"]


@ROOT
@pytest.mark.parametrize(
    "opened", ["apps", "apps/thin", "apps/thin/pyproject.toml", "."], ids=lambda name: name
)
def test_the_bundle_wall_falls_where_the_relay_can_write(bundles: Path, opened: str) -> None:
    path = bundles.parent / opened
    os.chown(path, NOBODY, -1)
    wall = walls.bundle_wall(bundles, "nobody")
    assert not wall.stands
    assert str(path.resolve()) in wall.why


def test_who_asks_is_judged_where_no_user_is_named(bundles: Path) -> None:
    own = pwd.getpwuid(os.geteuid()).pw_name
    wall = walls.bundle_wall(bundles, None)
    assert wall == Wall(
        "bundles", False, f"user '{own}' can write to {bundles}; take the right away from it"
    )


def test_without_a_bundle_folder_there_is_no_bundle_wall(hospital: Path) -> None:
    wall = walls.bundle_wall(hospital / "absent", None)
    assert not wall.stands
    assert "found none; make it first" in wall.why


def environment(home: Path, **changes: str) -> dict[str, str]:
    guarded = {guard.BUNDLES: str(home / "apps"), "FLWR_HOME": str(home)}
    return {**os.environ, **guarded, "PYTHONPATH": str(guard.FOLDER), **changes}


def test_the_import_wall_is_tried_out(hospital: Path) -> None:
    wall = walls.import_wall(environment(hospital))
    assert wall.stands, wall.why


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"PYTHONPATH": ""}, "PYTHONPATH must begin with"),
        ({"PYTHONPATH": "/nowhere"}, "PYTHONPATH must begin with"),
        ({guard.BUNDLES: "/elsewhere/apps"}, "found '/elsewhere/apps'"),
        ({guard.BUNDLES: ""}, "found ''"),
        ({"FLWR_HOME": ""}, "to be the folder apps below FLWR_HOME"),
    ],
)
def test_the_import_wall_falls_by_one_wrong_variable(
    hospital: Path, changes: dict[str, str], says: str
) -> None:
    wall = walls.import_wall(environment(hospital, **changes))
    assert not wall.stands
    assert says in wall.why
