"""Where the live page may listen: loopback and nothing else, since whoever reaches it can read it."""

import errno
import re
import socket

from common.errors import CoordinatorError

DEFAULT = "127.0.0.1:9444"
_LOOPBACK = re.compile(r"(127\.0\.0\.1|\[::1\]):([0-9]{1,5})")


def loopback(text: str) -> tuple[str, int]:
    """(address, port) of `text`; CoordinatorError for anything but 127.0.0.1:PORT and [::1]:PORT."""
    match = _LOOPBACK.fullmatch(text)
    if match is None or not 1 <= int(match[2]) <= 65_535:
        raise CoordinatorError(
            f"expected 127.0.0.1:PORT or [::1]:PORT for the live page and found {text}; it has no "
            f"users and no passwords, so it listens on loopback only (from afar: ssh -L)"
        )
    return match[1].strip("[]"), int(match[2])


def listening(text: str) -> socket.socket:
    """A socket that listens at `text`, see `loopback`; OSError when the port is taken."""
    host, port = loopback(text)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def offered(text: str, public: str) -> tuple[str | None, str]:
    """Where the page of a coordinator is to be (None: nowhere), and the line that says so.

    `public` is host:port of the gateway, which goes before: a page must not take its port. A port that
    cannot be had, such as another program's, is waited for. CoordinatorError as for `loopback`.
    """
    _, port = loopback(text)
    if public.rpartition(":")[2] == str(port):
        return None, f"live page: none, port {port} is the public one; name another with --page"
    try:
        listening(text).close()
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is taken by another program" if taken else f"cannot be had ({error.strerror})"
        return text, (
            f"live page: {text} {why}; the page comes when it is free, or name another with --page"
        )
    return text, f"live page: http://{text}"
