"""The seam holds whoever is at the other end: one frame in, one out, one at a time, nobody blocked."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client import app, channel
from client.channel import ask, serve
from common import messages, records
from common.errors import ChannelError
from common.messages import MAX_FRAME_BYTES, HelloReply, HelloRequest, Refusal

pytestmark = pytest.mark.slow  # all of them together

NOBODY = 65534
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

Handle = Callable[[bytes], bytes]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, as the path of a Unix socket must be."""
    made = Path(tempfile.mkdtemp(prefix="im"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "vault"


@contextmanager
def served(
    path: Path, handle: Handle, *allowed: int
) -> Iterator[tuple[threading.Thread, threading.Event]]:
    """The thread that serves, and what stops it."""
    stop, failed = threading.Event(), []

    def run() -> None:
        try:
            serve(path, handle, allowed_uids=set(allowed), stop=stop)
        except BaseException as error:
            failed.append(error)

    vault = threading.Thread(target=run)
    vault.start()
    try:
        until = time.monotonic() + 10
        while not answers(path) and time.monotonic() < until:
            time.sleep(0.01)
        yield vault, stop
    finally:
        stop.set()
        vault.join(30)
        assert not vault.is_alive()
        assert not failed


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def connected(path: Path, sent: bytes = b"") -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(str(path))
    connection.sendall(sent)
    return connection


def framed(frame: bytes) -> bytes:
    return struct.pack(">Q", len(frame)) + frame


def everything_from(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    got = b""
    try:
        while chunk := connection.recv(1 << 16):
            got += chunk
    except ConnectionResetError:  # closed with something of ours unread
        pass
    return got


def reverse(frame: bytes) -> bytes:
    return frame[::-1]


def wait_for(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


class Work:
    """A `handle` that the test keeps at work until `let_go`."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.ended: list[bytes] = []
        self.let_go = threading.Event()

    def __call__(self, frame: bytes) -> bytes:
        self.begun.append(frame)
        assert self.let_go.wait(30)
        self.ended.append(frame)
        return reverse(frame)


# ------------------------------------------------------------------------------------ the frames


@pytest.mark.parametrize("size", [0, 1, 8, 70_000, 5_000_000])
def test_a_frame_goes_in_and_another_comes_back(path: Path, size: int) -> None:
    frame = os.urandom(size)
    with served(path, reverse):
        assert ask(path, frame) == frame[::-1]
        assert ask(path, frame) == frame[::-1]


def test_the_wire_is_a_length_and_the_frame(path: Path) -> None:
    with served(path, reverse), connected(path, b"\0\0\0\0\0\0\0\3abc") as connection:
        assert everything_from(connection) == b"\0\0\0\0\0\0\0\3cba"


def test_a_request_that_arrives_byte_by_byte_is_a_request(path: Path) -> None:
    with served(path, reverse), connected(path) as connection:
        for byte in framed(b"slow"):
            connection.sendall(bytes([byte]))
            time.sleep(0.005)
        assert everything_from(connection) == framed(b"wols")


@pytest.mark.parametrize("length", [MAX_FRAME_BYTES + 1, 1 << 40, 2**64 - 1])
def test_a_length_beyond_every_frame_is_dropped(path: Path, length: int) -> None:
    with served(path, reverse):
        with connected(path, struct.pack(">Q", length) + b"x" * 1000) as connection:
            assert everything_from(connection) == b""
        assert ask(path, b"good") == b"doog"


def test_memory_is_taken_for_what_came_and_not_for_what_was_said(path: Path) -> None:
    with served(path, reverse):
        tracemalloc.start()
        try:
            said = struct.pack(">Q", MAX_FRAME_BYTES)
            hostile = [connected(path, said + b"x" * 1000) for _ in range(channel.CONNECTIONS)]
            time.sleep(0.3)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        for connection in hostile:
            connection.close()
        assert ask(path, b"good") == b"doog"
    assert peak < 16_000_000  # a gigabyte was said, four times


# ------------------------------------------------------------------- hostile at the relay's end


def test_half_requests_hold_nobody_up_for_longer_than_their_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "REQUEST_SECONDS", 0.4)
    halves = [b"", b"\0", b"\0" * 7, framed(b"half")[:-1]]
    with served(path, reverse):
        hostile = [connected(path, half) for half in 2 * halves]
        began = time.monotonic()
        assert ask(path, b"good") == b"doog"
        assert time.monotonic() - began < 5
        for connection in hostile:
            assert everything_from(connection) == b""
            connection.close()


def test_who_sends_on_and_on_has_no_more_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "REQUEST_SECONDS", 0.4)
    with served(path, reverse), connected(path, struct.pack(">Q", 1000)) as connection:
        began = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - began < 10:
                connection.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - began < 3


def test_who_never_reads_its_reply_holds_nobody_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "REPLY_SECONDS", 1.0)
    long = b"x" * 8_000_000
    with served(path, lambda frame: long if frame == b"hostile" else reverse(frame)):
        hostile = [connected(path, framed(b"hostile")) for _ in range(channel.CONNECTIONS - 1)]
        time.sleep(0.2)
        began = time.monotonic()
        assert ask(path, b"good") == b"doog"
        assert time.monotonic() - began < 0.8
        hostile += [connected(path, framed(b"hostile")) for _ in range(channel.CONNECTIONS)]
        time.sleep(0.2)
        assert ask(path, b"good") == b"doog"  # their time was over
        for connection in hostile:
            connection.close()


def test_a_hundred_connections_at_once(path: Path) -> None:
    kinds = [b"", b"\xff" * 8, framed(b"half")[:-1], framed(b"garbage"), os.urandom(4000)]
    with served(path, reverse):
        hostile = [connected(path, kinds[i % len(kinds)]) for i in range(100)]
        replies: list[bytes] = []
        honest = threading.Thread(target=lambda: replies.append(ask(path, b"good")))
        honest.start()
        time.sleep(0.2)
        for connection in hostile:
            connection.close()
        honest.join(20)
        assert replies == [b"doog"]


def test_an_error_of_the_vault_is_a_closed_connection_without_a_word(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: bytes) -> bytes:
        raise RuntimeError("SECRET")

    with served(path, fails):
        with connected(path, framed(b"x")) as connection:
            assert everything_from(connection) == b""
        with connected(path, framed(b"x")) as connection:  # and goes on
            assert everything_from(connection) == b""
        wait_for(lambda: "SECRET" in caplog.text)  # the hospital's own log


# ------------------------------------------------------------------------------ one at a time


def test_one_is_answered_at_a_time_and_all_are(path: Path) -> None:
    at_work, most, lock = 0, 0, threading.Lock()

    def handle(frame: bytes) -> bytes:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.02)
        with lock:
            at_work -= 1
        return reverse(frame)

    replies: dict[int, bytes] = {}
    with served(path, handle):
        relays = [
            threading.Thread(target=lambda i=i: replies.update({i: ask(path, b"%d" % i)}))
            for i in range(100, 120)
        ]
        for relay in relays:
            relay.start()
        for relay in relays:
            relay.join(30)
    assert replies == {i: str(i)[::-1].encode() for i in range(100, 120)}
    assert most == 1


def test_work_goes_on_when_the_relay_that_asked_is_gone(path: Path) -> None:
    work = Work()
    with served(path, work):
        connected(path, framed(b"first")).close()  # all sent, and gone
        wait_for(lambda: work.begun == [b"first"])
        replies: list[bytes] = []
        again = threading.Thread(target=lambda: replies.append(ask(path, b"first")))
        again.start()
        time.sleep(0.2)
        assert work.begun == [b"first"]
        work.let_go.set()
        again.join(20)
    assert work.ended == [b"first", b"first"]
    assert replies == [b"tsrif"]


def test_who_is_gone_before_its_turn_is_not_answered(path: Path) -> None:
    work = Work()
    with served(path, work):
        first = connected(path, framed(b"first"))
        wait_for(lambda: work.begun == [b"first"])
        gone = [connected(path, framed(b"gone")) for _ in range(3 * channel.CONNECTIONS)]
        time.sleep(0.2)
        for connection in gone:
            connection.close()
        time.sleep(0.5)
        late = connected(path, framed(b"late"))
        time.sleep(0.5)
        work.let_go.set()
        assert everything_from(first) == framed(b"tsrif")
        assert everything_from(late) == framed(b"etal")
        first.close()
        late.close()
    assert work.ended[0] == b"first"
    assert work.ended[-1] == b"late"
    assert b"gone" not in work.ended


def test_a_vault_that_is_told_to_stop_ends_its_work_and_takes_no_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "LAST_SECONDS", 0.0)
    work = Work()
    with served(path, work) as (vault, stop):
        first = connected(path, framed(b"first"))
        wait_for(lambda: work.begun == [b"first"])
        second = connected(path, framed(b"second"))
        time.sleep(0.2)
        stop.set()
        time.sleep(0.3)
        assert not path.exists()
        assert vault.is_alive()
        work.let_go.set()
        assert everything_from(first) == framed(b"tsrif")
        assert everything_from(second) == b""
        first.close()
        second.close()
    assert work.ended == [b"first"]


@pytest.mark.parametrize("reads", [True, False])
def test_a_vault_that_ends_lets_a_reply_get_away_but_waits_for_nobody(
    path: Path, reads: bool
) -> None:
    long = b"x" * 8_000_000
    with (
        served(path, lambda _: long) as (vault, stop),
        connected(path, framed(b"x")) as connection,
    ):
        assert connection.recv(8) == framed(long)[:8]  # it is being sent
        stop.set()
        time.sleep(0.5)
        assert vault.is_alive()
        if reads:
            assert len(everything_from(connection)) == len(long)
        vault.join(5)
        assert not vault.is_alive()


# ------------------------------------------------------------------------------- whose socket


def test_the_socket_is_open_to_nobody_else_unless_somebody_else_may_ask(path: Path) -> None:
    with served(path, reverse):
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()
    with served(path, reverse, os.geteuid() + 1):
        assert path.stat().st_mode & 0o777 == 0o660
        assert path.stat().st_gid == path.parent.stat().st_gid


def test_the_socket_of_a_vault_that_was_killed_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.is_socket()
    with served(path, reverse):
        assert ask(path, b"good") == b"doog"


def test_a_second_vault_at_one_socket_is_refused(path: Path) -> None:
    with served(path, reverse):
        with pytest.raises(ChannelError, match="found another vault; stop it first"):
            serve(path, reverse, allowed_uids=set(), stop=threading.Event())
        assert ask(path, b"good") == b"doog"


def test_a_file_that_is_no_socket_stays(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(ChannelError, match="expected a socket or nothing"):
        serve(path, reverse, allowed_uids=set(), stop=threading.Event())
    assert path.read_text() == "mine"


def test_without_its_folder_no_vault_listens(folder: Path) -> None:
    with pytest.raises(ChannelError, match=r"expected the folder .*absent .*make it"):
        serve(folder / "absent" / "vault", reverse, allowed_uids=set(), stop=threading.Event())


@ROOT
def test_in_a_folder_of_somebody_else_no_vault_listens(folder: Path) -> None:
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(ChannelError, match=f"found user {NOBODY}, who could put another socket"):
        serve(folder / "vault", reverse, allowed_uids=set(), stop=threading.Event())


def test_a_path_that_no_unix_socket_can_have_is_named(folder: Path) -> None:
    fits = folder / ("x" * (channel.MOST_PATH_BYTES - len(str(folder)) - 1))
    with served(fits, reverse):
        assert ask(fits, b"good") == b"doog"
    long = folder / (fits.name + "x")
    with pytest.raises(ChannelError, match=r"at most 107 bytes .* found 108: .*; choose a shorter"):
        serve(long, reverse, allowed_uids=set(), stop=threading.Event())
    with pytest.raises(ChannelError, match="choose a shorter"):
        ask(long, b"good")


# Python itself may lie where only root can read it, so everything is loaded before.
CONNECTS_AS = """
import os, socket, struct, sys
path, user = sys.argv[1], int(sys.argv[2])
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(user, user, user)
connection = socket.socket(socket.AF_UNIX)
connection.connect(path)
try:
    connection.sendall(struct.pack(">Q", 4) + b"good")
    print(connection.recv(12, socket.MSG_WAITALL))
except ConnectionError:
    print(b"")
"""


@ROOT
@pytest.mark.parametrize(
    ("user", "heard"), [(NOBODY, True), (4711, False), (0, True)], ids=["relay", "neither", "own"]
)
def test_only_the_relays_user_and_our_own_are_heard(path: Path, user: int, heard: bool) -> None:
    os.chown(path.parent, -1, NOBODY)
    path.parent.chmod(0o750)
    asked: list[bytes] = []

    def handle(frame: bytes) -> bytes:
        asked.append(frame)
        return reverse(frame)

    with served(path, handle, NOBODY):
        done = subprocess.run(
            [sys.executable, "-c", CONNECTS_AS, str(path), str(user)],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    assert done.stdout.strip() == str(framed(b"doog") if heard else b"")
    assert asked == ([b"good"] if heard else [])


SERVES_IN_A_USER_NAMESPACE = """
import ctypes, os, sys, threading
from pathlib import Path
from client import walls
from client.channel import serve
from common.errors import ChannelError
user, allowed = int(sys.argv[2]), set(map(int, sys.argv[3:]))
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as after an exec: /proc/self is ours
if os.fork() == 0:  # one thread: numpy has started another
    walls.leave_network()
    stop = threading.Event()
    stop.set()
    try:
        serve(Path(sys.argv[1]), bytes, allowed_uids=allowed, stop=stop)
        print("serves", flush=True)
    except ChannelError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


@ROOT
@pytest.mark.parametrize(
    ("user", "allowed", "says"),
    [
        (4711, [], "serves"),
        (4711, [0], "expected to tell user 0 from others"),
        (4711, [NOBODY], f"expected to tell user {NOBODY} from others"),
        (NOBODY, [], f"expected to tell user {NOBODY} from others"),
    ],
)
def test_where_strangers_look_alike_nobody_else_is_heard(
    path: Path, user: int, allowed: list[int], says: str
) -> None:
    """In a user namespace whoever is not in its map has the id of nobody."""
    os.chown(path.parent, user, user)
    done = subprocess.run(
        [sys.executable, "-c", SERVES_IN_A_USER_NAMESPACE, str(path), str(user)]
        + [str(other) for other in allowed],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(says), done.stdout + done.stderr


# -------------------------------------------------------------------------------- the relay's end


def test_without_a_vault_a_relay_gives_up_and_says_so(path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ChannelError, match=r"none for 0\.5 s \(No such file or directory\); start"):
        ask(path, b"x", connect_seconds=0.5)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(ChannelError, match=r"none for 0\.5 s \(Connection refused\)"):
        ask(path, b"x", connect_seconds=0.5)
    assert time.monotonic() - began < 3


def test_a_vault_that_comes_later_is_found(path: Path) -> None:
    replies: list[bytes] = []
    relay = threading.Thread(target=lambda: replies.append(ask(path, b"good")))
    relay.start()
    time.sleep(0.5)
    with served(path, reverse):
        relay.join(20)
    assert replies == [b"doog"]


@pytest.mark.parametrize("sent", [b"", b"\0\0", framed(b"half a reply")[:-4]])
def test_a_vault_that_dies_is_asked_the_same_again(path: Path, sent: bytes) -> None:
    replies: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as dies:
        dies.bind(str(path))
        dies.listen()
        relay = threading.Thread(target=lambda: replies.append(ask(path, b"good")))
        relay.start()
        connection, _ = dies.accept()
    with connection:
        assert connection.recv(12, socket.MSG_WAITALL) == framed(b"good")
        connection.sendall(sent)
    path.unlink()
    with served(path, reverse):
        relay.join(20)
    assert replies == [b"doog"]


def test_a_vault_that_always_closes_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "_POLL_SECONDS", 0.01)
    asked: list[bytes] = []

    def fails(frame: bytes) -> bytes:
        asked.append(frame)
        raise RuntimeError

    with served(path, fails), pytest.raises(ChannelError, match="ended 5 connections without one"):
        ask(path, b"x")
    assert len(asked) == channel.MOST_BREAKS


def test_frames_that_are_too_long_are_neither_sent_nor_received(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    def handle(frame: bytes) -> bytes:
        asked.append(frame)
        return b"x" * (10 * len(frame))

    monkeypatch.setattr(channel, "MAX_FRAME_BYTES", 99)
    with served(path, handle):
        with pytest.raises(ChannelError, match="at most 99 bytes, found 100"):
            ask(path, b"x" * 100)
        assert asked == []
        with pytest.raises(ChannelError, match="at most 99 bytes, found 110"):
            ask(path, b"x" * 11)
        assert len(ask(path, b"x" * 9)) == 90


# ------------------------------------------------------------------- the relay of a deployed hospital


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], messages.Message]:
    """Asks `client.app.app` a hello, as Flower's runtime would in a process of its own."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    hello = records.to_records(HelloRequest())

    def asked() -> messages.Message:
        answer = app.app(Message(hello, dst_node_id=2, message_type="query"), context)
        return records.from_records(answer.content)

    return asked


def test_a_deployed_relay_asks_the_vault_whose_socket_its_environment_names(
    path: Path, deployed: Callable[[], messages.Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(channel.VAULT_SOCKET, str(path))
    asked: list[bytes] = []

    def handle(frame: bytes) -> bytes:
        asked.append(frame)
        return messages.encode(HelloReply(hospital="north"))

    with served(path, handle):
        assert deployed() == HelloReply(hospital="north")
    assert asked == [messages.encode(HelloRequest())]


@pytest.mark.parametrize("socket_path", [None, "", "/" + 200 * "x", "absent"])
def test_without_a_vault_the_coordinator_gets_a_code(
    deployed: Callable[[], messages.Message],
    monkeypatch: pytest.MonkeyPatch,
    socket_path: str | None,
) -> None:
    monkeypatch.setattr(ask, "__kwdefaults__", {"connect_seconds": 0.2})
    if socket_path is None:
        monkeypatch.delenv(channel.VAULT_SOCKET, raising=False)
    else:
        monkeypatch.setenv(channel.VAULT_SOCKET, socket_path)
    assert deployed() == Refusal.of(ChannelError())
