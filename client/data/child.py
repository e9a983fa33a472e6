"""Work that may crash or never end, in a child process that can do nothing but answer (THREATS.md T18).

Decoders of compressed images are C and C++ on bytes that anybody wrote. In the vault's own process one
crash would end the vault, again after each start; here it costs one image.
"""

import contextlib
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

MOST_SECONDS = 20.0  # of one image: its decoder needs a tenth of a second
_MORE_MEMORY = (
    256 << 20
)  # bytes, and _TIMES_MEMORY times the answer: JPEG 2000 works in 32-bit planes
_TIMES_MEMORY = 32
_MOST_FILES = 1 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


def in_child(work: Callable[[], bytes], length: int) -> bytes | None:
    """What `work` returns, `length` bytes of it; None when it failed, crashed, took too long or too much.

    The child has no open file but its answer's pipe, so neither the vault's socket nor its ledger. It
    is a fork: `work` must need no thread and no lock that another thread may hold.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(work, length, write)
    os.close(write)
    try:
        answer = _heard(read, length, time.monotonic() + MOST_SECONDS)
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # it has answered, or never will
        os.waitpid(child, 0)
    return answer


def _answer(work: Callable[[], bytes], length: int, write: int) -> None:
    """The child's whole life."""
    try:
        most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        os.closerange(0, write)
        os.closerange(write + 1, _MOST_FILES if most_files < 0 else most_files)  # below 0: no limit
        memory = _memory() + _MORE_MEMORY + _TIMES_MEMORY * length
        for limit, most in (
            (resource.RLIMIT_AS, memory),
            (resource.RLIMIT_CPU, int(MOST_SECONDS)),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 1),  # and not 0, which a crash reporter behind a pipe ignores
        ):
            hard = resource.getrlimit(limit)[1]
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(limit, (least, hard))
        data = memoryview(work())
        while data:
            data = data[os.write(write, data) :]
    finally:
        os._exit(0)  # whatever happened: an answer of another length says so


def _memory() -> int:
    """Bytes of address space that this process has."""
    with Path("/proc/self/statm").open("rb") as file:
        return int(file.read().split()[0]) * _PAGE


def _heard(read: int, length: int, until: float) -> bytes | None:
    heard = bytearray()
    while len(heard) <= length:
        left = until - time.monotonic()
        if left <= 0 or not select.select([read], [], [], left)[0]:
            return None
        part = os.read(read, 1 << 20)
        if not part:
            return bytes(heard) if len(heard) == length else None
        heard += part
    return None
