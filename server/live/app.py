"""One request to the live page and its answer: two paths, GET and HEAD, loopback's own names.

A page of another site in the same browser can send requests here. It can read no answer, since browsers
keep origins apart; a name of its own that it lets point to 127.0.0.1 (DNS rebinding) is refused by the
Host header, and a frame around this page by its headers.
"""

import logging
import re
import time

from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from server.live.document import STILL, document, unreadable
from server.live.figures import Figures
from server.live.look import Kept, Look, Source
from server.live.style import STYLE_HASH

log = logging.getLogger("intramural.page")

# Any port: through `ssh -L` the browser names another one.
_OWN_NAMES = re.compile(rb"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?")
_PATHS = {b"/": False, STILL.encode(): True}  # whether it is held still
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; img-src data:; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class LivePage:
    """The ASGI application, for one `source` and what is worked out of it."""

    def __init__(self, source: Source, figures: Figures) -> None:
        self._source = Kept(source)
        self._figures = figures
        self._last: Look | None = None  # the newest that could be shown
        self._old_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope)(scope, receive, send)

    def _answer(self, scope: Scope) -> Response:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not _OWN_NAMES.fullmatch(hosts[0]):
            return _said("this page answers to 127.0.0.1, localhost and [::1] only", 403)
        still = _PATHS.get(scope["raw_path"])
        if still is None or scope["query_string"]:
            return _said("there is no such page", 404)
        if scope["method"] not in ("GET", "HEAD"):
            return _said("this page can be read only", 405, Allow="GET, HEAD")
        status, text = self._page(time.time(), still)
        return HTMLResponse(text, status, HEADERS)

    def _page(self, now: float, still: bool) -> tuple[int, str]:
        """Status and HTML; when the files cannot be read, what they said before."""
        try:
            look = self._source.look()
            text = document(look, self._figures.of(look), now, still=still)
        except Exception as error:  # whatever is in a damaged file: it ends no answer
            if self._old_since is None:
                self._old_since = now
                log.warning("cannot show how things stand: %s: %s", type(error).__name__, error)
            if self._last is None:
                return 503, unreadable(now, still=still)
            judged = self._figures.of(self._last)
            return 200, document(self._last, judged, now, still=still, old_since=self._old_since)
        self._last, self._old_since = look, None
        return 200, text


def _said(words: str, status: int, **headers: str) -> Response:
    return PlainTextResponse(f"{words}\n", status, HEADERS | headers)
