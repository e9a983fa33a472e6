"""What the gateway does with a request: refuse it, or carry it to the SuperLink and the answer back.

The allow-list is exact and compares the path's bytes as they arrived; what goes upstream is written
anew, with addresses of our own (FLOWER.md 0.6: a rule on prefixes let `/v1/fleet/../control/` pass).
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import httpx
from starlette.types import Receive, Scope, Send

from server.gateway_exchange import Exchange, Gone
from server.gateway_limits import (
    PUBLIC_KEY_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    Caller,
    Guard,
    Refused,
)

log = logging.getLogger("intramural.gateway")

_FLEET = b"/v1/fleet/"
_PULL_MESSAGES = _FLEET + b"pull-messages"
_HEALTH = b"/health"

# Bytes of a request's body. An object is an array's chunk of 5 MiB (FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
# in flwr/common/constant.py) and what names it; the largest of the others is the list of a reply's
# objects, about 150 bytes for each.
MAX_OBJECT_BYTES = 8 << 20
MAX_BODY_BYTES = 1 << 20
_BODY_LIMITS: Mapping[bytes, int] = {
    _FLEET + b"activate-node": MAX_BODY_BYTES,
    _FLEET + b"deactivate-node": MAX_BODY_BYTES,
    _FLEET + b"send-node-heartbeat": MAX_BODY_BYTES,
    _PULL_MESSAGES: MAX_BODY_BYTES,
    _FLEET + b"push-messages": MAX_BODY_BYTES,
    _FLEET + b"get-run": MAX_BODY_BYTES,
    _FLEET + b"get-fab": MAX_BODY_BYTES,
    _FLEET + b"pull-object": MAX_BODY_BYTES,
    _FLEET + b"push-object": MAX_OBJECT_BYTES,
    _FLEET + b"confirm-message-received": MAX_BODY_BYTES,
}
# With each of these a SuperNode goes on with a message that it has received
# (flwr/supernode/start_client_internal.py _pull_and_store_message: at least the last is sent).
_MESSAGE_ARRIVED = frozenset(
    _FLEET + name for name in (b"get-run", b"get-fab", b"pull-object", b"confirm-message-received")
)

# What Flower reads of a request (flwr/supercore/protobuf, superlink/routers/fleet/node_auth.py,
# runtime_version_compatibility.py) and a SuperNode of an answer.
_REQUEST_HEADERS = frozenset(
    {
        *(b"content-type", b"accept"),
        *(PUBLIC_KEY_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER),
        *(b"flwr-package-name", b"flwr-package-version", b"flwr-component-name"),
    }
)
_RESPONSE_HEADERS = frozenset(
    {b"content-type", b"content-length", b"flwr-version-incompatibility-message"}
)
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})

UPSTREAM_TIMEOUT = httpx.Timeout(30.0, connect=5.0, pool=10.0)  # seconds
# A SuperNode that was silent for twice its heartbeat interval is lost to the SuperLink, which then
# answers the message in its place; it must not get that message later.
_UNCONFIRMED_S = 60.0


@dataclass(frozen=True)
class _Answer:
    """What upstream said, all of it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def is_a_message(self) -> bool:
        """A PullMessagesResponse without a message is zero bytes: all its fields are at their default."""
        return self.status == 200 and self.body != b""


class Gateway:
    """The ASGI application. `client` is used for `upstream`, the SuperLink's https://127.0.0.1:PORT.

    A pull of messages that finds none is held for up to `hold_seconds` and asked again every
    `poll_seconds`, since a SuperNode sleeps 3 s after an empty answer; its own time limit is 30 s. A
    body must be there within `body_seconds`, and an answer taken within as many.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        upstream: str,
        guard: Guard,
        *,
        poll_seconds: float = 0.5,
        hold_seconds: float = 12.0,
        body_seconds: float = 120.0,
    ) -> None:
        self._client = client
        self._upstream = upstream
        self._guard = guard
        self._poll = poll_seconds
        self._hold = hold_seconds
        self._seconds = body_seconds
        self._version = version("intramural")
        # By key: when the last message was pulled for it, until the SuperNode goes on with it.
        self._unconfirmed: dict[bytes, tuple[float, _Answer]] = {}
        self._unlogged = 0
        self.closing = False  # once set, no pull of messages is held any longer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(receive, send, self._seconds)
        path = _allowed(scope)
        try:
            await self._answer(exchange, path, scope["headers"])
        except Gone:
            pass
        finally:
            self._log(exchange, path)

    async def _answer(
        self, exchange: Exchange, path: bytes | None, arrived: Iterable[tuple[bytes, bytes]]
    ) -> None:
        try:
            if path is None:
                raise self._guard.stranger(404)
            if path == _HEALTH:
                await self._health(exchange)
                return
            headers = self._wanted(arrived)
            caller = self._guard.identify(headers)
            exchange.caller = caller.label
            if int(headers.get(b"content-length", b"0")) > _BODY_LIMITS[path]:
                raise Refused(413)
            await self._carry(exchange, path, headers, caller)
        except Refused as refused:
            # An answer that is under way is broken off instead: uvicorn then closes the connection.
            if not exchange.status:
                await exchange.refuse(refused.status)

    def _wanted(self, headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
        """The headers that matter, each there at most once; Refused when a body has two lengths."""
        pairs = [pair for pair in headers if pair[0] in _REQUEST_HEADERS | _FRAMING]
        wanted = dict(pairs)
        if len(wanted) < len(pairs) or wanted.keys() >= _FRAMING:
            raise self._guard.stranger(400)
        return wanted

    async def _health(self, exchange: Exchange) -> None:
        if not self._guard.stranger_may():
            raise Refused(429)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        about = {"service": "intramural gateway", "version": self._version, "time": now}
        body = json.dumps(about).encode()
        await exchange.answer(200, [(b"content-type", b"application/json")], body)

    async def _carry(
        self, exchange: Exchange, path: bytes, headers: Mapping[bytes, bytes], caller: Caller
    ) -> None:
        body = exchange.body(_BODY_LIMITS[path])
        upward = [pair for pair in headers.items() if pair[0] in _REQUEST_HEADERS]
        upward.append((b"accept-encoding", b"identity"))
        if path == _PULL_MESSAGES:
            content = b"".join([chunk async for chunk in body])
            await self._pull_messages(exchange, upward, content, caller)
            return
        if path in _MESSAGE_ARRIVED:
            self._unconfirmed.pop(caller.key, None)
        if b"transfer-encoding" not in headers:
            upward.append((b"content-length", headers.get(b"content-length", b"0")))
        with _upstream_trouble():
            response = await self._client.send(self._request(path, upward, body), stream=True)
            try:
                await exchange.start(response.status_code, _kept(response))
                async for chunk in response.aiter_raw():
                    await exchange.write(chunk)
                await exchange.end()
            finally:
                await response.aclose()

    async def _pull_messages(
        self, exchange: Exchange, headers: list[tuple[bytes, bytes]], body: bytes, caller: Caller
    ) -> None:
        """Answer with a message as soon as there is one.

        Pulling marks a message as delivered at the SuperLink, for good. So nothing is pulled for a
        caller known to have gone; and since a broken connection can go unnoticed, a message is kept
        and given again until the caller shows that it has it.
        """
        gone = asyncio.create_task(exchange.gone())
        until = time.monotonic() + self._hold
        try:
            while True:
                answer = self._message_again(caller)
                if answer is None:
                    with _upstream_trouble():
                        request = self._request(_PULL_MESSAGES, headers, body)
                        response = await self._client.send(request)
                    answer = _Answer(response.status_code, _kept(response), response.content)
                    if answer.is_a_message:
                        self._unconfirmed[caller.key] = (time.monotonic(), answer)
                held = answer.status == 200 and not answer.is_a_message and not self.closing
                if not held or time.monotonic() + self._poll > until:
                    break
                await asyncio.wait({gone}, timeout=self._poll)
                if gone.done():
                    raise Gone
                if caller.key not in self._guard.allowed():
                    raise Refused(401)
        finally:
            gone.cancel()
        await exchange.answer(answer.status, answer.headers, answer.body)

    def _message_again(self, caller: Caller) -> _Answer | None:
        """The message that the caller has pulled lately and not gone on with."""
        pulled, answer = self._unconfirmed.get(caller.key, (0.0, None))
        if answer is not None and time.monotonic() - pulled > _UNCONFIRMED_S:
            del self._unconfirmed[caller.key]
            return None
        return answer

    def _request(
        self, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes | AsyncIterator[bytes]
    ) -> httpx.Request:
        """A request with these headers alone, where the client's own methods would add some."""
        return httpx.Request(
            "POST",
            self._upstream + path.decode("ascii"),  # one of our own constants
            headers=headers,
            content=body,
            extensions={"timeout": UPSTREAM_TIMEOUT.as_dict()},
        )

    def _log(self, exchange: Exchange, path: bytes | None) -> None:
        """One line, of our own words and numbers only.

        Strangers cannot fill the disk: those beyond their rate are counted, and told in the next line.
        """
        if exchange.status == 429:
            self._unlogged += 1
            return
        what = "- refused"
        if path is not None:
            name = path.rpartition(b"/")[2].decode("ascii")
            what = f"{'GET' if path == _HEALTH else 'POST'} {name}"
        log.info(
            "%s %d in=%d out=%d key=%s%s",
            what,
            exchange.status or 499,  # as nginx says that the client went away
            exchange.received,
            exchange.sent,
            exchange.caller,
            f" (and {self._unlogged} refused with 429)" if self._unlogged else "",
        )
        self._unlogged = 0


def _allowed(scope: Scope) -> bytes | None:
    """The path on the allow-list that the request is for, byte by byte; None for any other request."""
    path: bytes = scope["raw_path"]
    if scope["query_string"]:
        return None
    if scope["method"] == "POST":
        return path if path in _BODY_LIMITS else None
    return path if (scope["method"], path) == ("GET", _HEALTH) else None


def _kept(response: httpx.Response) -> list[tuple[bytes, bytes]]:
    pairs = ((name.lower(), value) for name, value in response.headers.raw)
    return [(name, value) for name, value in pairs if name in _RESPONSE_HEADERS]


@contextmanager
def _upstream_trouble() -> Iterator[None]:
    """Say what went wrong upstream by a status after which a SuperNode asks again."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise Refused(503) from error
    except httpx.TimeoutException as error:
        raise Refused(504) from error
    except httpx.TransportError as error:
        raise Refused(502) from error
