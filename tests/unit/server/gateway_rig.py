"""A gateway as it runs (uvicorn, TLS, loopback) before a SuperLink that only writes down what it gets."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h11
import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import RosterError
from common.keys import PrivateKey, PublicKey, make_private_key, pem_private
from server import gateway
from server.authority import issue_server, make_authority, pem
from server.gateway_app import Gateway
from server.gateway_limits import Guard, encode_key

NAMES = (
    *("activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages"),
    *("get-run", "get-fab", "pull-object", "push-object", "confirm-message-received"),
)
PROTOBUF = {"content-type": "application/protobuf", "accept": "application/protobuf"}


@dataclass(frozen=True)
class Files:
    """A study CA and a server certificate of it for 127.0.0.1, as files."""

    ca: Path
    certificate: Path
    key: Path

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))


def make_files(folder: Path) -> Files:
    now = datetime.now(UTC)
    authority, key = make_authority("a-study", now), make_private_key()
    files = Files(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    files.ca.write_bytes(pem(authority.certificate))
    files.certificate.write_bytes(
        pem(issue_server(authority, ["127.0.0.1"], key.public_key(), 30, now))
    )
    files.key.write_bytes(pem_private(key))
    return files


def signed(
    key: PrivateKey,
    *,
    age: float = 0.0,
    encoded: bytes | None = None,
    signer: PrivateKey | None = None,
) -> dict[str, str]:
    """The headers by which a SuperNode says who it is, signed `age` seconds ago."""
    timestamp = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
    signature = (signer or key).sign(timestamp.encode(), ec.ECDSA(hashes.SHA256()))
    return {
        "flwr-public-key": b64encode(encoded or encode_key(key.public_key())).decode(),
        "flwr-timestamp": timestamp,
        "flwr-signature": b64encode(signature).decode(),
    }


@dataclass(frozen=True)
class Seen:
    """A request as it arrived at the SuperLink."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass
class Reply:
    """What the SuperLink says; `cut` ends the connection after so many bytes of the body."""

    body: bytes = b""
    status: int = 200
    headers: list[tuple[bytes, bytes]] = field(
        default_factory=lambda: [(b"content-type", b"application/protobuf")]
    )
    cut: int | None = None
    delay: float = 0.0


class SuperLink:
    """Answers by `reply`; keeps every byte of every connection in `raw`, requests in `seen`."""

    def __init__(self, files: Files) -> None:
        self.raw = bytearray()
        self.seen: list[Seen] = []
        self.reply: Callable[[Seen], Reply] = lambda _seen: Reply()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(files.certificate, files.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._talk, args=(plain,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _talk(self, plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError, h11.RemoteProtocolError),
            self._tls.wrap_socket(plain, server_side=True) as line,
        ):
            self._open.append(line)
            connection = h11.Connection(h11.SERVER)
            while self._one(line, connection):
                connection.start_next_cycle()

    def _one(self, line: ssl.SSLSocket, connection: h11.Connection) -> bool:
        request, body = None, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                data = line.recv(1 << 16)
                self.raw += data
                connection.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert request is not None
        headers = [(bytes(name), bytes(value)) for name, value in request.headers]
        seen = Seen(bytes(request.method), bytes(request.target), headers, body)
        self.seen.append(seen)
        reply = self.reply(seen)
        time.sleep(reply.delay)
        length = (b"content-length", b"%d" % len(reply.body))
        head = h11.Response(status_code=reply.status, headers=[*reply.headers, length])
        line.sendall(connection.send(head) or b"")
        if reply.cut is not None:
            line.sendall(reply.body[: reply.cut])
            return False
        line.sendall(connection.send(h11.Data(data=reply.body)) or b"")
        connection.send(h11.EndOfMessage())
        return connection.our_state is h11.DONE

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed already, by a test
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in self._open:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)


class Rig:
    """The gateway, the SuperLink behind it, and two hospitals of which one is on the roster."""

    def __init__(self, files: Files, superlink: SuperLink, **limits: Any) -> None:
        self.files = files
        self.superlink = superlink
        self.hospital, self.unknown = make_private_key(), make_private_key()
        self.keys: dict[bytes, PublicKey] | None = {
            encode_key(self.hospital.public_key()): self.hospital.public_key()
        }
        rates = {name: limits.pop(name) for name in ("hospital", "strangers") if name in limits}
        self.guard = Guard(self._allowed, **rates)
        self._limits = limits
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, verify=files.trust(), timeout=20)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def _allowed(self) -> Mapping[bytes, PublicKey]:
        if self.keys is None:
            raise RosterError("the roster cannot be used")
        return self.keys

    async def _run(self) -> None:
        tls = gateway.server_tls(self.files.certificate, self.files.key)
        async with gateway.upstream_client(gateway.upstream_trust(self.files.ca)) as client:
            app = Gateway(client, self.superlink.url, self.guard, **self._limits)
            self.app, self.server = app, gateway.Server(app, tls)
            self._ready.set()
            await self.server.serve([self._socket])

    def post(self, name: str, body: bytes = b"", **headers: str) -> httpx.Response:
        """A call of the hospital, as its SuperNode makes it."""
        known = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(
            f"/v1/fleet/{name}", content=body, headers=PROTOBUF | signed(self.hospital) | known
        )

    @contextlib.contextmanager
    def line(self) -> Iterator[ssl.SSLSocket]:
        """A TLS connection for bytes that no client would send."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=20) as plain,
            self.files.trust().wrap_socket(plain, server_hostname="127.0.0.1") as line,
        ):
            yield line

    def say(self, *pieces: bytes) -> bytes:
        """All that comes back for `pieces`, until the gateway ends the connection or is silent."""
        with self.line() as line:
            with contextlib.suppress(OSError):  # cut off while there was more to send
                for piece in pieces:
                    line.sendall(piece)
            return heard(line)

    def close(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()


def heard(line: ssl.SSLSocket, silence: float = 1.0) -> bytes:
    """What comes over `line` until it ends or nothing comes for `silence` seconds."""
    line.settimeout(silence)
    found = bytearray()
    with contextlib.suppress(TimeoutError, ConnectionError, ssl.SSLError):
        while data := line.recv(1 << 16):
            found += data
    return bytes(found)


def raw_request(
    target: bytes, headers: Mapping[str, str], body: bytes = b"", *, method: bytes = b"POST"
) -> bytes:
    """A request as bytes, with exactly these headers, Host and (for a body) Content-Length."""
    lines = [method + b" " + target + b" HTTP/1.1", b"host: gateway"]
    lines += [f"{name}: {value}".encode() for name, value in headers.items()]
    if body:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


def status_of(answer: bytes) -> int:
    """The status of an answer as bytes; 0 when there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def wait_for(condition: Callable[[], bool]) -> None:
    """Until `condition`, 5 s at most."""
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until, "waited 5 s in vain"
        time.sleep(0.005)
