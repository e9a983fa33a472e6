"""The walls between patients and network on this host, and which of them stand.

A process puts itself behind a wall by `leave_network` or `become`, for good. The functions that end
in `_wall` try one out, in a child process that does what an intruder would, and say what they saw.

Without network a process still reaches the Unix sockets in the file system that its user may open (a
resolver's or a message bus', for example) and, in a virtual machine, its host's vsock. A container
or a service manager takes those away.

Knows no torch, no Flower and no policy: a process leaves the network before it loads anything that
starts threads, and numpy does.
"""

import ctypes
import fcntl
import os
import pwd
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from client import guard
from common.errors import HospitalError

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_NO_NEW_PRIVS = 38
_SIOCGIFFLAGS, _IFF_UP, _IFF_LOOPBACK = 0x8913, 0x1, 0x8
_ACCEPTS = "00010000"  # flags of a Unix socket that listens, in /proc/net/unix
_LIBC = ctypes.CDLL(None, use_errno=True)

_OTHER_WAYS = (
    "start it as root, by a service manager that takes the network away (PrivateNetwork=yes) or in "
    "a container without network"
)


@dataclass(frozen=True)
class Wall:
    """A wall, whether it stands, and in one sentence why, or what is to be done."""

    name: str
    stands: bool
    why: str


def leave_network(other_uid: int | None = None) -> None:
    """Take the network from this process for good: no interface is left but a loopback that is down.

    Root does it by a network namespace, another user by that and a user namespace in which nobody
    but itself is known. `other_uid` is a user whom the process must recognise all the same.
    HospitalError when the host does not allow it, when it would hide `other_uid`, or when the
    process has threads already, which would keep the network.
    """
    user, group = os.geteuid(), os.getegid()
    if (threads := len(list(Path("/proc/self/task").iterdir()))) != 1:
        raise HospitalError(
            f"expected to leave the network before there are threads, found {threads}; leave it first"
        )
    if user != 0 and other_uid not in (None, user):
        raise HospitalError(
            f"expected a vault that has no network and knows user {other_uid}, its relay; user "
            f"{user} cannot have both by itself: {_OTHER_WAYS}"
        )
    try:
        if user == 0:
            _system_call("unshare", _CLONE_NEWNET)
        else:
            _system_call("unshare", _CLONE_NEWUSER | _CLONE_NEWNET)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError as error:
        raise HospitalError(
            f"expected a host on which user {user} may leave the network, and this one forbids it "
            f"({error.strerror}); {_OTHER_WAYS}"
        ) from error


def has_network() -> bool:
    """Whether anybody can be reached from this process, which has made no sockets yet.

    By an interface that is up, or on a loopback that it shares with somebody. A loopback with nobody
    there (a container without network, PrivateNetwork=yes) is no network.
    """
    interfaces = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    flags = [_flags_of(line.partition(":")[0].strip()) for line in interfaces]
    if any(flag & _IFF_UP and not flag & _IFF_LOOPBACK for flag in flags):
        return True
    internet = [row for name in ("tcp", "tcp6", "udp", "udp6") for row in _sockets(name)]
    unix = [row for row in _sockets("unix") if row[3] == _ACCEPTS or row[-1].startswith("@")]
    return bool(internet or unix)


def become(user: str) -> None:
    """Become `user`, in all its groups, for good: no set-user-ID program leads back either.

    Ask for `common.supervisor.end_with_parent` after this, at which the kernel forgets it.
    HospitalError when there is no such user, when it is root, when we are not root, or when a way
    back is left.
    """
    account = _account(user)
    if account.pw_uid == 0 or os.geteuid() != 0:
        raise HospitalError(
            f"expected root, who becomes another user, and found user {os.geteuid()}, who should "
            f"become '{user}'; start this as root, and not for root"
        )
    _system_call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.setgroups(os.getgrouplist(user, account.pw_gid))
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    os.environ |= {"HOME": account.pw_dir, "USER": user, "LOGNAME": user}
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return
    raise HospitalError(f"user '{user}' can become root again on this host; nothing was started")


def uid_of(user: str) -> int:
    """The id of `user`; HospitalError when this host has no such user."""
    return _account(user).pw_uid


def network_wall(other_uid: int | None = None) -> Wall:
    """Whether a vault that we start reaches nobody; `other_uid` is its relay's user, if another."""
    if not has_network():
        return Wall("network", True, "there is no network here, and so none for a vault")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # the kernel chooses an abstract name, which belongs to our network
        listener.listen()
        address = listener.getsockname()

        def reached() -> str:
            leave_network(other_uid)
            with socket.socket(socket.AF_UNIX) as probe:
                met = probe.connect_ex(address) == 0
            return "what left the network still reaches this host" if met else ""

        why = _in_a_child(reached)
    return Wall("network", not why, why or "a vault that is started from here reaches nobody")


def user_wall(paths: Iterable[Path], relay_user: str | None) -> Wall:
    """Whether the relay's user can neither open nor replace `paths`: the patients, the vault's state
    and its policy, each with all that is below it."""
    if relay_user is None or uid_of(relay_user) == os.geteuid():
        why = (
            f"vault and relay are one user, '{relay_user or _own_name()}', who reads the patients; "
            f"give each a user of its own (relay-user in site.toml), or a container"
        )
        return Wall("users", False, why)
    tops = list(paths)
    if absent := [str(path) for path in tops if not path.exists()]:
        return Wall(
            "users", False, f"expected {', '.join(absent)} and found nothing; make it first"
        )
    every = [found for top in tops for found in (top, *top.rglob("*"))]
    ways = _ways_in(tops)

    def opened() -> str:
        become(relay_user)
        for path in every:
            if _opens(path):
                return (
                    f"user '{relay_user}' can open {path}; take the rights of others away from it"
                )
        return _replaced(ways, relay_user)

    why = _in_a_child(opened)
    return Wall("users", not why, why or f"user '{relay_user}' can open none of {len(every)} files")


def bundle_wall(folder: Path, relay_user: str | None) -> Wall:
    """Whether the relay's user (None: who we are) cannot put code into the bundle folder."""
    user = relay_user or _own_name()
    if not folder.is_dir():
        return Wall("bundles", False, f"expected the folder {folder} and found none; make it first")
    every, ways = [folder, *folder.rglob("*")], _ways_in([folder])

    def wrote() -> str:
        if uid_of(user) != os.geteuid():
            become(user)
        for path in every:
            if os.access(path, os.W_OK, effective_ids=True):
                return f"user '{user}' can write to {path}; take the right away from it"
        return _replaced(ways, user)

    why = _in_a_child(wrote)
    return Wall("bundles", not why, why or f"user '{user}' can put nothing into {folder}")


def import_wall(environment: Mapping[str, str]) -> Wall:
    """Whether Python, started in a relay's `environment`, refuses the code of a bundle."""
    guarded, home = environment.get(guard.BUNDLES), environment.get("FLWR_HOME")
    if not guarded or not home or os.path.realpath(guarded) != os.path.realpath(f"{home}/apps"):
        why = f"expected {guard.BUNDLES} to be the folder apps below FLWR_HOME, found '{guarded}'"
        return Wall("imports", False, f"{why}; start the relay with intramural-client start")
    with tempfile.TemporaryDirectory() as bundles:
        Path(bundles, "brought_code.py").write_text("print('brought code ran')\n")
        asked = "import sys; sys.path.insert(0, sys.argv[1]); import brought_code"
        tried = subprocess.run(  # noqa: S603  (a command of our own)
            [sys.executable, "-c", asked, bundles],
            env={**environment, guard.BUNDLES: bundles},
            capture_output=True,
            text=True,
            check=False,
        )
    if tried.returncode != 0 and not tried.stdout and guard.REFUSED in tried.stderr:
        return Wall("imports", True, "Python refuses the code of a bundle in the relay's processes")
    why = f"a bundle's code was not refused; PYTHONPATH must begin with {guard.FOLDER}"
    return Wall("imports", False, why)


def _in_a_child(attempt: Callable[[], str]) -> str:
    """What `attempt` says, or the HospitalError that it raises, in a child process of its own."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = attempt()
        except HospitalError as error:
            said = str(error)
        except BaseException as error:
            said = f"it could not be tried out: {error}"
        with os.fdopen(writes, "w") as pipe:
            pipe.write(said)
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        said = pipe.read()
    if os.waitpid(child, 0)[1] != 0:
        return "it could not be tried out: the process that did it was killed"
    return said


def _opens(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _ways_in(paths: Iterable[Path]) -> list[tuple[Path, set[int] | None]]:
    """All of `paths` and the folders above, with the users who could move each away from where it is
    if they could write to its folder; None: any such user."""
    ways: list[tuple[Path, set[int] | None]] = []
    for chain in dict.fromkeys(way for path in paths for way in (path.absolute(), path.resolve())):
        for entry in (chain, *chain.parents):
            if not entry.is_mount():
                folder = entry.parent.stat()
                owners = {folder.st_uid, entry.lstat().st_uid}
                ways.append((entry, owners if folder.st_mode & stat.S_ISVTX else None))
    return ways


def _replaced(ways: Iterable[tuple[Path, set[int] | None]], user: str) -> str:
    """Says in which of `ways` our user could put another thing in place of a path; "" for none."""
    for entry, owners in ways:
        may_write = os.access(entry.parent, os.W_OK | os.X_OK, effective_ids=True)
        if may_write and (owners is None or os.geteuid() in owners):
            return f"user '{user}' can put another in place of {entry}; take {entry.parent} from it"
    return ""


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError as error:
        raise HospitalError(
            f"expected a user '{user}' on this host and found none; make it, or name another"
        ) from error


def _own_name() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _flags_of(interface: str) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asked:
        answer = fcntl.ioctl(asked, _SIOCGIFFLAGS, struct.pack("16s16x", interface.encode()))
    flags: int = struct.unpack_from("16xH", answer)[0]
    return flags


def _sockets(kind: str) -> list[list[str]]:
    """The rows of our network's sockets of this kind; none where the kernel does not know the kind."""
    try:
        return [row.split() for row in Path("/proc/self/net", kind).read_text().splitlines()[1:]]
    except FileNotFoundError:
        return []


def _system_call(name: str, *arguments: int) -> None:
    if getattr(_LIBC, name)(*map(ctypes.c_ulong, arguments)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
