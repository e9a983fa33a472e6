"""The seam between relay and vault: a Unix socket over which one frame goes in and one comes back.

    relay: ask() ── 8 bytes of length, the frame of a request ──> vault: serve()
                <── 8 bytes of length, the frame of a reply ────

Frames are those of common/messages.py and opaque here: no pickle, nothing that names code. One
request and one reply a connection. The vault answers one request at a time; it believes no length
before the bytes are there and waits some seconds for a relay and no longer, since whoever took over
the relay may be at the other end.
"""

import errno
import logging
import os
import select
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import BoundedSemaphore, Event, Lock, Thread

from common.errors import ChannelError
from common.messages import MAX_FRAME_BYTES

log = logging.getLogger("intramural.channel")

VAULT_SOCKET = "INTRAMURAL_VAULT_SOCKET"  # in a relay's environment: the path of the socket
CONNECTIONS = 4  # that the vault reads, answers or keeps waiting at a time
REQUEST_SECONDS = 30.0  # for a whole request; a gigabyte takes a few
REPLY_SECONDS = 30.0
LAST_SECONDS = 1.0  # for replies on their way when the vault ends
CONNECT_SECONDS = 60.0  # how long a relay looks for a vault, which may be starting
MOST_BREAKS = 5  # connections that end without a reply, after which a relay gives up
MOST_PATH_BYTES = 107  # of a Unix socket's address on Linux
OVERFLOW_UID = 65534  # as whom Linux shows any user that a user namespace does not know

_POLL_SECONDS = 0.1
_CHUNK_BYTES = 1 << 20
_LENGTH = struct.Struct(">Q")
_PEER = struct.Struct("3i")  # process, user, group


def serve(
    socket_path: Path,
    handle: Callable[[bytes], bytes],
    *,
    allowed_uids: set[int],
    stop: Event,
) -> None:
    """Answer requests at `socket_path` with `handle` until `stop` is set and the work begun is done.

    Only processes of our own user and of `allowed_uids` are heard; where there is another than our
    own, the socket is open to the group of its folder (mode 0660). `handle` is called by one at a
    time, and goes on to its end when the relay that asked is gone. ChannelError when the folder is
    not ours, when another vault listens there, or when a user who is allowed could not be told from
    others.
    """
    own = os.geteuid()
    allowed = {own, *allowed_uids}
    _check_known(allowed)
    slots, at_work = BoundedSemaphore(CONNECTIONS), Lock()

    def attend(connection: socket.socket) -> None:
        try:
            with connection:
                _answer(connection, handle, at_work, stop)
        except (OSError, EOFError, ChannelError) as error:
            log.warning("a connection was dropped: %s", error)
        except Exception:
            log.exception("unexpected error, a connection was dropped")
        finally:
            slots.release()

    with _listening(socket_path, for_group=allowed != {own}) as listener:
        while not stop.is_set():
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                if (user := _user_of(connection)) not in allowed:
                    log.warning("a connection of user %d was dropped, who may not ask", user)
                    connection.close()
                elif _taken(slots, stop):
                    Thread(target=attend, args=(connection,), daemon=True).start()
                else:
                    connection.close()
    with at_work:  # what is under way is sealed before the caller ends this process
        until = time.monotonic() + LAST_SECONDS
    for _ in range(CONNECTIONS):
        slots.acquire(timeout=max(0.0, until - time.monotonic()))


def ask(socket_path: Path, frame: bytes, *, connect_seconds: float = CONNECT_SECONDS) -> bytes:
    """The frame of the vault's reply to the request in `frame`, however long the vault works on it.

    A vault that ends meanwhile is asked again when it is there again: it answers the same request
    once, and after that with the bytes that it sealed. ChannelError when there is no vault for
    `connect_seconds`, when `MOST_BREAKS` connections end without a reply, or when frame or reply
    are too long.
    """
    _check_frame(len(frame))
    for attempt in range(MOST_BREAKS):
        time.sleep(_POLL_SECONDS * (2**attempt - 1))
        with _connected(socket_path, connect_seconds) as connection:
            try:
                _send(connection, frame)
                return _receive(connection)
            except (OSError, EOFError) as error:
                log.warning("the vault ended the connection without a reply: %s", error)
    raise ChannelError(
        f"expected a reply of the vault at {socket_path}, which ended {MOST_BREAKS} connections "
        f"without one; see its log: it keeps ending, or may not be asked by user {os.geteuid()}"
    )


def _answer(
    connection: socket.socket, handle: Callable[[bytes], bytes], at_work: Lock, stop: Event
) -> None:
    frame = _receive(connection, time.monotonic() + REQUEST_SECONDS)
    while not at_work.acquire(timeout=_POLL_SECONDS):
        if _hung_up(connection):
            return  # nobody would get the reply, and the place is needed by who asks again
    try:
        if stop.is_set():
            return  # the vault that is started next will be asked
        reply = handle(frame)
    finally:
        at_work.release()
    connection.settimeout(REPLY_SECONDS)
    _send(connection, reply)


def _taken(slots: BoundedSemaphore, stop: Event) -> bool:
    """Wait for one of `slots` and take it; False when `stop` is set before."""
    while not slots.acquire(timeout=_POLL_SECONDS):
        if stop.is_set():
            return False
    return True


def _send(connection: socket.socket, frame: bytes) -> None:
    connection.sendall(_LENGTH.pack(len(frame)))
    connection.sendall(frame)


def _receive(connection: socket.socket, until: float | None = None) -> bytes:
    """The next frame. ChannelError when it is too long, EOFError when it breaks off, TimeoutError
    when it is not there `until` (seconds of the monotonic clock; None: there is no limit)."""
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size, until))
    _check_frame(length)
    return _exactly(connection, length, until)


def _exactly(connection: socket.socket, length: int, until: float | None) -> bytes:
    """`length` bytes; memory is taken as they arrive, whatever length was said."""
    data = bytearray()
    while len(data) < length:
        if until is not None:
            connection.settimeout(max(1e-3, until - time.monotonic()))
        chunk = connection.recv(min(_CHUNK_BYTES, length - len(data)))
        if not chunk:
            raise EOFError("it ended before the frame did")
        data += chunk
    return bytes(data)


def _check_frame(length: int) -> None:
    if length > MAX_FRAME_BYTES:
        raise ChannelError(f"expected a frame of at most {MAX_FRAME_BYTES} bytes, found {length}")


def _user_of(connection: socket.socket) -> int:
    """The user of the process that connected, as the kernel noted it then."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    user: int = _PEER.unpack(peer)[1]
    return user


def _hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def _check_known(users: set[int]) -> None:
    """ChannelError when one of `users` could not be told from others.

    In a user namespace everybody whom its map leaves out looks like `OVERFLOW_UID`.
    """
    rows = [row.split() for row in Path("/proc/self/uid_map").read_text().splitlines()]
    ranges = [range(int(first), int(first) + int(count)) for first, _, count in rows]
    everybody = any(len(known) >= 2**32 - 1 for known in ranges)
    for user in users:
        if not any(user in known for known in ranges) or (user == OVERFLOW_UID and not everybody):
            raise ChannelError(
                f"expected to tell user {user} from others at the vault's socket, and cannot in "
                f"this user namespace; start the vault as root, by a service manager that takes "
                f"the network away (PrivateNetwork=yes), or in a container without network"
            )


@contextmanager
def _listening(path: Path, *, for_group: bool) -> Iterator[socket.socket]:
    """A socket that listens at `path`, which is taken away at the end."""
    _check_path(path)
    _check_folder(path.parent)
    _clear(path)
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(str(path))
            if for_group:
                os.chown(path, -1, path.parent.stat().st_gid)
            path.chmod(0o660 if for_group else 0o600)
            listener.listen()
            listener.settimeout(_POLL_SECONDS)
        except OSError as error:
            raise ChannelError(
                f"cannot make the vault's socket {path} ({error.strerror}); its folder must be "
                f"writable, and of a group that the vault's user is in"
            ) from error
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _check_path(path: Path) -> None:
    if (length := len(os.fsencode(path))) > MOST_PATH_BYTES:
        raise ChannelError(
            f"expected a path of at most {MOST_PATH_BYTES} bytes for the vault's socket, found "
            f"{length}: {path}; choose a shorter one"
        )


def _check_folder(folder: Path) -> None:
    try:
        owner = folder.stat().st_uid
    except OSError as error:
        raise ChannelError(
            f"expected the folder {folder} for the vault's socket ({error.strerror}); make it, "
            f"owned by the vault's user"
        ) from error
    if owner != os.geteuid():
        raise ChannelError(
            f"expected the folder {folder} of the vault's socket to belong to the vault's user "
            f"{os.geteuid()}, found user {owner}, who could put another socket there; change it"
        )


def _clear(path: Path) -> None:
    """Take away the socket of a vault that was killed; ChannelError for any other thing at `path`."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ChannelError(
            f"expected a socket or nothing at {path}, found another file; take it away"
        )
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.setblocking(False)  # a vault whose queue is full is alive as well
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink()
            return
    raise ChannelError(f"expected nobody to listen at {path}, found another vault; stop it first")


@contextmanager
def _connected(path: Path, seconds: float) -> Iterator[socket.socket]:
    """A connection to the socket at `path`; looks for one for `seconds`, with growing pauses."""
    _check_path(path)
    until, pause = time.monotonic() + seconds, _POLL_SECONDS
    with socket.socket(socket.AF_UNIX) as connection:
        # Absent, with nobody behind it, not open to our group yet: a vault that is starting.
        while (found := connection.connect_ex(str(path))) != 0:
            if time.monotonic() + pause > until:
                raise ChannelError(
                    f"expected a vault at {path} and found none for {seconds:g} s "
                    f"({os.strerror(found)}); start it, or see its log"
                )
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
        yield connection
