"""`python -m server.gateway` as the coordinator starts it: its roster, its memory, its end."""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from common.errors import RosterError
from common.files import write_atomic
from common.keys import PrivateKey, make_private_key, public_text
from server.gateway import RosterKeys
from server.gateway_limits import encode_key
from server.roster import Member, Roster
from tests.unit.server.gateway_rig import (
    PROTOBUF,
    Files,
    SuperLink,
    make_files,
    raw_request,
    signed,
    status_of,
    wait_for,
)

REPOSITORY = Path(__file__).parents[3]
MEBIBYTE = 1 << 20


def member(key: PrivateKey, name: str = "north", *, days: float = 30) -> Member:
    now = datetime.now(UTC)
    return Member(
        hospital=name,
        public_key=public_text(key.public_key()),
        nominal_patients=60,
        approved=now,
        expires=now + timedelta(days=days),
    )


def write_roster(path: Path, *members: Member) -> None:
    write_atomic(path, Roster(members=members).to_toml().encode())


def test_the_keys_are_those_of_members_that_have_not_expired(tmp_path: Path) -> None:
    north, south = make_private_key(), make_private_key()
    path = tmp_path / "roster.toml"
    write_roster(path, member(north), member(south, "south", days=-0.1))
    keys = RosterKeys(path)
    assert list(keys()) == [encode_key(north.public_key())]
    write_roster(path, member(south, "south"))
    assert list(keys()) == [encode_key(south.public_key())]


def test_a_key_expires_while_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "roster.toml"
    write_roster(path, member(make_private_key(), days=0.3 / 86400))
    keys = RosterKeys(path)
    assert len(keys()) == 1
    wait_for(lambda: not keys())


def test_a_roster_that_cannot_be_used_keeps_all_out_until_it_is_repaired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "roster.toml"
    good = Roster(members=(member(make_private_key()),)).to_toml()
    keys = RosterKeys(path)
    for broken in (None, good.replace("public-key", "key"), "rubbish"):
        if broken is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(broken)
        caplog.clear()
        for _ in range(3):
            with pytest.raises(RosterError, match="no hospital gets in"):
                keys()
        assert len(caplog.records) == 1  # said once, not at every request
    path.write_text(good)
    assert len(keys()) == 1


class Process:
    """The gateway in a process of its own."""

    def __init__(self, files: Files, roster: Path, upstream: str, log: Path) -> None:
        self.log = log
        self.files = files
        command = [
            *(sys.executable, "-m", "server.gateway"),
            *("--listen", "127.0.0.1:0", "--upstream", upstream),
            *("--ca", str(files.ca), "--certificate", str(files.certificate)),
            *("--key", str(files.key), "--roster", str(roster)),
        ]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, cwd=REPOSITORY, stdout=out, stderr=out)
        until = time.monotonic() + 20
        while not (found := re.search(r"listening on port (\d+)", log.read_text())):
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < until
            time.sleep(0.02)
        self.port = int(found[1])

    def peak_mebibytes(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path)


@pytest.fixture
def superlink(files: Files) -> Iterator[SuperLink]:
    superlink = SuperLink(files)
    yield superlink
    superlink.close()


def upload(process: Process, head: bytes, piece: bytes, count: int) -> tuple[int, int]:
    """Send `head` and `count` times `piece`: the status, and how many bytes were taken."""
    sent = 0
    with (
        socket.create_connection(("127.0.0.1", process.port), timeout=10) as plain,
        process.files.trust().wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        with suppress(OSError):
            line.sendall(head)
            for _ in range(count):
                line.sendall(piece)
                sent += len(piece)
        answer = b""
        with suppress(OSError, ssl.SSLError):
            answer = line.recv(1000)
    return status_of(answer), sent


@pytest.mark.slow
def test_the_process_from_start_to_end(files: Files, superlink: SuperLink, tmp_path: Path) -> None:
    """One process for all of it, since each start takes a second or two."""
    key, roster = make_private_key(), tmp_path / "roster.toml"
    write_roster(roster, member(key))
    gateway = Process(files, roster, superlink.url, tmp_path / "gateway.log")
    try:
        url = f"https://127.0.0.1:{gateway.port}"
        with httpx.Client(base_url=url, verify=files.trust(), timeout=20) as client:

            def call(name: str, body: bytes = b"call") -> httpx.Response:
                headers = PROTOBUF | signed(key)
                return client.post(f"/v1/fleet/{name}", content=body, headers=headers)

            # The roster as it changes.
            assert call("get-run").status_code == 200
            write_roster(roster, member(make_private_key()))
            assert call("get-run").status_code == 401
            write_atomic(roster, b"rubbish")
            assert call("get-run").status_code == 503
            write_roster(roster, member(key))
            assert call("push-object", os.urandom(5 * MEBIBYTE)).status_code == 200

            # 300 MB that nobody wants, with a length and without, from a stranger and from a hospital.
            superlink.raw.clear()
            before = gateway.peak_mebibytes()
            piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
            for who, status in ((key, 413), (make_private_key(), 401)):
                for framing in ({"content-length": "300000000"}, {"transfer-encoding": "chunked"}):
                    head = raw_request(b"/v1/fleet/push-object", signed(who) | framing)
                    found, sent = upload(gateway, head, piece, 300_000_000 // len(piece))
                    assert found in (status, 0)  # 0: cut off while it went on sending
                    assert sent < 40 * MEBIBYTE
            assert gateway.peak_mebibytes() - before < 20
            assert len(superlink.raw) < 9 * MEBIBYTE

            # The end, with a pull that waits and a line that is kept open.
            with ThreadPoolExecutor(1) as pool:
                seen = len(superlink.seen)
                pull = pool.submit(call, "pull-messages")
                wait_for(lambda: len(superlink.seen) > seen)
                began = time.monotonic()
                gateway.process.send_signal(signal.SIGTERM)
                assert (pull.result().status_code, pull.result().content) == (200, b"")
                assert gateway.process.wait(10) == -signal.SIGTERM
                assert time.monotonic() - began < 5
    finally:
        gateway.process.kill()
        gateway.process.wait()
    said = gateway.log.read_text()
    assert "Traceback" not in said
    assert re.search(
        r"^\d{4}-\d\d-\d\d .* POST get-run 200 in=4 out=0 key=SHA256:\S{8}$", said, re.M
    )


@pytest.mark.slow
def test_a_wrong_setting_ends_it_at_once(files: Files, tmp_path: Path) -> None:
    roster = tmp_path / "roster.toml"
    write_roster(roster, member(make_private_key()))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        good = {
            "--listen": "127.0.0.1:0",
            "--upstream": "https://127.0.0.1:28443",
            "--ca": str(files.ca),
            "--certificate": str(files.certificate),
            "--key": str(files.key),
            "--roster": str(roster),
        }
        wrong = (
            ({"--listen": "127.0.0.1"}, 2, "expected --listen HOST:PORT and found 127.0.0.1"),
            ({"--listen": f"127.0.0.1:{taken.getsockname()[1]}"}, 1, "cannot listen on"),
            ({"--upstream": "http://127.0.0.1:1"}, 2, "expected --upstream https://127.0.0.1:PORT"),
            ({"--upstream": "https://127.0.0.1:1/x"}, 2, "expected --upstream"),
            ({"--upstream": "https://10.0.0.1:1"}, 2, "expected --upstream"),
            ({"--key": str(files.ca)}, 2, "expected a certificate in"),
            ({"--ca": str(files.key)}, 2, "expected the study CA's certificate"),
            ({"--roster": str(tmp_path / "absent")}, 2, "no hospital gets in"),
        )
        started = []
        for change, code, message in wrong:
            words = [word for pair in (good | change).items() for word in pair]
            started.append(
                (
                    subprocess.Popen(
                        [sys.executable, "-m", "server.gateway", *words],
                        cwd=REPOSITORY,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE,
                        text=True,
                    ),
                    code,
                    message,
                )
            )
        for process, code, message in started:
            _, said = process.communicate(timeout=60)
            assert message in said
            assert process.returncode == code
            assert "Traceback" not in said
