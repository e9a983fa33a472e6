"""The coordinator's only public port: TLS 1.2 or newer in front of Flower's SuperLink on loopback.

The SuperLink has no users: who reaches its port can send code to every hospital (FLOWER.md 0.1). The
gateway lets through the ten calls that a SuperNode makes, from keys on the roster, and nothing else.
    gateway_app.py       the allow-list, the way to the SuperLink and back
    gateway_exchange.py  one request and its answer
    gateway_limits.py    keys, signatures, rates
"""

import argparse
import asyncio
import logging
import re
import socket
import ssl
import sys
from asyncio import BaseTransport, TimerHandle
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import h11
import httpx
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.errors import EXIT_REFUSED, CoordinatorError, RosterError
from common.keys import PublicKey, parse_public_key
from common.supervisor import end_with_parent
from server.gateway_app import Gateway
from server.gateway_limits import Guard, encode_key
from server.roster import load_roster

log = logging.getLogger("intramural.gateway")

# A hospital has about four connections. One address cannot take them all.
MAX_CONNECTIONS = 512
MAX_CONNECTIONS_PER_ADDRESS = 128
# Seconds. Longer idle than the 5 s after which a SuperNode's HTTP client drops a connection itself:
# otherwise a request may meet a connection that is being closed.
KEEP_ALIVE_S = 15
HEAD_S = 10.0  # to finish the TLS handshake; and then the request line and headers
TLS_CLOSE_S = 5.0
STOP_S = 3
# The SuperLink drops idle connections after 5 s, so they are used again for less than that.
_UPSTREAM_LIMITS = httpx.Limits(
    max_connections=64, max_keepalive_connections=32, keepalive_expiry=3
)


class RosterKeys:
    """The keys of the roster's members that have not expired; the file is read again when it changes.

    A roster that cannot be used lets nobody in: each call raises RosterError until it is repaired.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: object = None
        self._members: list[tuple[bytes, PublicKey, datetime]] | None = None

    def __call__(self) -> Mapping[bytes, PublicKey]:
        """Flower's encoding of each key that is valid now -> the key."""
        try:
            found = self._path.stat()
            stamp: object = (found.st_mtime_ns, found.st_ino, found.st_size)
        except OSError:
            stamp = "absent"
        if stamp != self._stamp:
            self._stamp = stamp
            self._load()
        if self._members is None:
            raise RosterError(f"cannot use the roster {self._path}, so no hospital gets in")
        now = datetime.now(UTC)
        return {encoded: key for encoded, key, expires in self._members if now < expires}

    def _load(self) -> None:
        self._members = None
        try:
            roster = load_roster(self._path)
        except RosterError as error:
            log.error("no hospital gets in until this is repaired: %s", error)
            return
        keys = [(parse_public_key(m.public_key), m.expires) for m in roster.members]
        self._members = [(encode_key(key), key, expires) for key, expires in keys]
        log.info("read the roster: %d hospitals", len(keys))


class Connection(H11Protocol):
    """A connection that must say what it wants: uvicorn has no time limit for a request's head."""

    _timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  (for the type checker)
        super().connection_made(transport)
        address = self.client and self.client[0]
        beside = sum(1 for c in self.connections if c.client and c.client[0] == address)
        if beside > MAX_CONNECTIONS_PER_ADDRESS:
            transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_timer()

    def _watch(self) -> None:
        """Run the clock from the first moment, or byte, of a head to its last byte."""
        if self.conn.their_state is not h11.IDLE:
            self._unset_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _unset_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """uvicorn with a TLS context of ours, time limits for TLS, and an end to held pulls at the stop."""

    def __init__(self, gateway: Gateway, tls: ssl.SSLContext) -> None:
        super().__init__(
            uvicorn.Config(
                gateway,
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S,
            )
        )
        self._gateway = gateway
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the first of `sockets`."""
        assert sockets is not None  # noqa: S101  (for the type checker: `serve` below gives one)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self.config, self.server_state, {}),
            sock=sockets[0],
            ssl=self._tls,
            ssl_handshake_timeout=HEAD_S,
            ssl_shutdown_timeout=TLS_CLOSE_S,
            backlog=MAX_CONNECTIONS,
        )
        self.servers = [server]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gateway.closing = True
        await super().shutdown(sockets)


def server_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with forward secrecy and authenticated encryption; CoordinatorError without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        raise CoordinatorError(
            f"expected a certificate in {certificate} and its key in {key} and cannot use them: "
            f"{error}; name the files that were made together"
        ) from error
    return context


def upstream_trust(ca: Path) -> ssl.SSLContext:
    """Trust in the study CA in `ca` and in nobody else; CoordinatorError when it cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise CoordinatorError(
            f"expected the study CA's certificate in {ca} and cannot use it: {error}; name the "
            f"coordinator's ca.crt"
        ) from error
    return context


def upstream_client(trust: ssl.SSLContext) -> httpx.AsyncClient:
    """The client for the SuperLink. It reads no environment: a proxy set there would get it all."""
    return httpx.AsyncClient(verify=trust, trust_env=False, limits=_UPSTREAM_LIMITS)


def run(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT, which then end the process. 2: a setting is wrong. 1: no port."""
    words = argparse.ArgumentParser(prog="server.gateway")
    words.add_argument("--listen", required=True, metavar="HOST:PORT")
    words.add_argument("--upstream", required=True, metavar="https://127.0.0.1:PORT")
    words.add_argument("--ca", required=True, type=Path, help="the study CA, for --upstream")
    words.add_argument("--certificate", required=True, type=Path, help="for --listen")
    words.add_argument("--key", required=True, type=Path, help="of --certificate")
    words.add_argument("--roster", required=True, type=Path)
    given = words.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Strangers could fill the disk with uvicorn's warnings; and httpx would say ours once more.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    keys = RosterKeys(given.roster)
    try:
        host, port = _address(given.listen)
        if not re.fullmatch(r"https://127\.0\.0\.1:\d{1,5}", given.upstream):
            raise CoordinatorError(
                f"expected --upstream https://127.0.0.1:PORT and found {given.upstream}; the "
                f"SuperLink listens on loopback, with a certificate of the study CA"
            )
        tls, trust = server_tls(given.certificate, given.key), upstream_trust(given.ca)
        keys()
    except (CoordinatorError, RosterError) as error:
        log.error("%s", error)
        return EXIT_REFUSED
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family)
    except OSError as error:
        log.error("cannot listen on %s: %s; free the port, or choose another", given.listen, error)
        return 1
    log.info("listening on port %d", sock.getsockname()[1])
    asyncio.run(serve(sock, tls, trust, given.upstream, Guard(keys)))
    return 0


async def serve(
    sock: socket.socket, tls: ssl.SSLContext, trust: ssl.SSLContext, upstream: str, guard: Guard
) -> None:
    """Be the gateway on `sock` until a signal, in front of `upstream`, known by `trust`."""
    async with upstream_client(trust) as client:
        await Server(Gateway(client, upstream, guard), tls).serve([sock])


def _address(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        if parts.hostname and parts.port is not None and parts.netloc == text:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise CoordinatorError(f"expected --listen HOST:PORT and found {text}; give both")


def main() -> None:
    """Entry point of `python -m server.gateway`."""
    end_with_parent()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
