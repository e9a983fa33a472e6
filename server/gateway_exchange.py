"""One request and its answer in ASGI's messages: bounded in bytes and seconds, counted for the log."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.types import Message, Receive, Send

from server.gateway_limits import Refused

# What is still read of a refused body, in bytes and seconds. A client that is cut off while it
# sends may never see the answer, and a SuperNode then takes a refusal for a broken line.
_DRAIN_BYTES = 8 << 20
_DRAIN_SECONDS = 5.0


class Gone(Exception):  # noqa: N818  (the name reads as what happened to the client)
    """The client has closed the connection, or takes its answer too slowly."""


class Exchange:
    """Reads the body and writes the answer, each within `seconds`.

    For the log: `status` is 0 until an answer has begun; `received` and `sent` are bytes of the
    bodies; `caller` is the hospital's key in short, once it is known.
    """

    def __init__(self, receive: Receive, send: Send, seconds: float) -> None:
        self._receive = receive
        self._send = send
        self._seconds = seconds
        self._until = 0.0
        self._more = True  # of the request's body
        self.status = 0
        self.received = 0
        self.sent = 0
        self.caller = "-"

    async def body(self, limit: int) -> AsyncIterator[bytes]:
        """The body in pieces. Refused (413) beyond `limit` bytes, (503) when it takes too long."""
        deadline = asyncio.get_running_loop().time() + self._seconds
        while self._more:
            try:
                async with asyncio.timeout_at(deadline):
                    chunk = await self._read()
            except TimeoutError as error:
                # A stalled line may recover, so the SuperNode may ask again (see gateway_limits).
                raise Refused(503) from error
            if self.received > limit:
                raise Refused(413)
            if chunk:
                yield chunk

    async def _read(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Gone
        chunk: bytes = message.get("body", b"")
        self._more = message.get("more_body", False)
        self.received += len(chunk)
        return chunk

    async def gone(self) -> None:
        """Wait until the client, whose body was read to its end, closes the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole answer; its length is that of `body`."""
        others = [pair for pair in headers if pair[0] != b"content-length"]
        await self.start(status, [*others, (b"content-length", b"%d" % len(body))])
        await self.write(body)
        await self.end()

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send an answer's head; an answer before the end of the body ends the connection, too."""
        self.status = status
        self._until = asyncio.get_running_loop().time() + self._seconds
        if self._more:
            headers = [*headers, (b"connection", b"close")]
        await self._say({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, chunk: bytes) -> None:
        await self._say({"type": "http.response.body", "body": chunk, "more_body": True})
        self.sent += len(chunk)

    async def end(self) -> None:
        await self._say({"type": "http.response.body", "body": b"", "more_body": False})

    async def _say(self, message: Message) -> None:
        """Send, which waits while the client takes nothing; Gone when it does so for too long."""
        try:
            async with asyncio.timeout_at(self._until):
                await self._send(message)
        except TimeoutError as error:
            raise Gone from error

    async def refuse(self, status: int) -> None:
        """Send `status` with an empty body; the connection ends unless the request had none, too."""
        headers = [(b"content-length", b"0")]
        if status in (429, 503):
            headers.append((b"retry-after", b"1"))
        await self.start(status, headers)
        await self.write(b"")  # has the head sent
        end = self.received + _DRAIN_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while self._more and self.received < end:
                    await self._read()
        await self.end()
