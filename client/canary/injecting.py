"""Ways to make something fail, or speak, at the planted hospital."""

import io
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from client import readers
from client.canary.hospital import DATA, Hospital
from client.canary.names import NAME, found_in
from client.data import PATCHES, SetAside
from client.vault import Vault
from common import messages


@dataclass
class Reached:
    """How often a fault has struck: one that never did shows nothing."""

    times: int = 0


Arm = Callable[[Hospital, Reached], AbstractContextManager[None]]
When = Callable[..., bool]  # of the hospital and the arguments of a call: whether it fails
Make = Callable[[], BaseException]


@dataclass(frozen=True)
class Fault:
    """`arm` has it strike inside its block, and counts the strikes; `layout` None: the usual one.

    Of damage the round's end tells more. "refused": it has struck when the vault refuses the data.
    "answered": what `arm` counts holds only when the vault goes on without what is damaged.
    """

    name: str
    arm: Arm
    layout: str | None = None
    ends: Literal["refused", "answered", "in any way"] = "in any way"


# Asked while they themselves are made to fail.
_readlink, _fdopen, _close, _connect = os.readlink, os.fdopen, os.close, sqlite3.connect


def _path(target: Any) -> str:
    """`target`, a path or the descriptor of an open file, as a path; empty for a file in memory."""
    if isinstance(target, io.IOBase):
        return ""
    path = _readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
    return os.fsdecode(path)


def of_data(hospital: Hospital, target: Any, *_: object, **__: object) -> bool:
    return _path(target).startswith(str(hospital.data))


def of_state(hospital: Hospital, target: Any, *_: object, **__: object) -> bool:
    return _path(target).startswith(str(hospital.state))


def of_series(_: Hospital, target: Any, *__: object, **___: object) -> bool:
    return _path(target).endswith(".dcm")


def of_patches(hospital: Hospital, target: Any, *_: object, **__: object) -> bool:
    return _path(target).startswith(str(hospital.state / PATCHES))


def state_itself(hospital: Hospital, target: Any, *_: object, **__: object) -> bool:
    return _path(target) == str(hospital.state)


def always(*_: object, **__: object) -> bool:
    return True


@contextmanager
def _in_place_of(owner: Any, name: str, instead: object) -> Iterator[None]:
    real = getattr(owner, name)
    setattr(owner, name, instead)
    try:
        yield
    finally:
        setattr(owner, name, real)


def fails(owner: Any, name: str, make: Make, when: When = always) -> Arm:
    """Calls of `owner.name` for which `when` holds raise what `make` makes."""

    def arm(hospital: Hospital, reached: Reached) -> AbstractContextManager[None]:
        real = getattr(owner, name)

        def instead(*args: Any, **named: Any) -> Any:
            if when(hospital, *args, **named):
                reached.times += 1
                raise make()
            return real(*args, **named)

        return _in_place_of(owner, name, instead)

    return arm


def clock_fails(module: Any, make: Make) -> Arm:
    """`datetime.now` fails in `module`."""

    def arm(_: Hospital, reached: Reached) -> AbstractContextManager[None]:
        class Clock:
            @staticmethod
            def now(*_: object) -> object:
                reached.times += 1
                raise make()

        return _in_place_of(module, "datetime", Clock)

    return arm


def stream_fails(make: Make, when: When) -> Arm:
    """An open file for which `when` holds can be opened, but neither read nor written."""

    def arm(hospital: Hospital, reached: Reached) -> AbstractContextManager[None]:
        class Torn(io.RawIOBase):
            def readable(self) -> bool:
                return True

            writable = readable

            def readinto(self, _: Any) -> int:
                reached.times += 1
                raise make()

            write = readinto

            def __init__(self, descriptor: int) -> None:
                self._descriptor = descriptor

            def fileno(self) -> int:
                return self._descriptor

            def close(self) -> None:
                if not self.closed:
                    _close(self._descriptor)
                super().close()

        def instead(descriptor: int, *args: Any, **named: Any) -> Any:
            if not when(hospital, descriptor):
                return _fdopen(descriptor, *args, **named)
            torn = Torn(descriptor)
            return io.BufferedReader(torn) if args == ("rb",) else torn

        return _in_place_of(os, "fdopen", instead)

    return arm


def database_fails(make: Make, *, at: str) -> Arm:
    """SQLite fails at a statement that begins with `at`, or with `at` "commit" when it writes."""

    def arm(_: Hospital, reached: Reached) -> AbstractContextManager[None]:
        class Failing(sqlite3.Connection):
            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
                if statement.startswith(at):
                    reached.times += 1
                    raise make()
                return super().execute(statement, *values)

            def __exit__(self, *what: Any) -> Any:
                if at != "commit":
                    return super().__exit__(*what)
                self.rollback()
                reached.times += 1
                raise make()

        def instead(*args: Any, **named: Any) -> sqlite3.Connection:
            return _connect(*args, **named, factory=Failing)

        return _in_place_of(sqlite3, "connect", instead)

    return arm


def meanwhile(
    act: Callable[[], object], owner: Any = torch.nn.Module, name: str = "__call__"
) -> Arm:
    """`act` whenever `owner.name` is called, by default any model's layer: a library speaks, or raises."""

    def arm(_: Hospital, reached: Reached) -> AbstractContextManager[None]:
        real = getattr(owner, name)

        def instead(*args: Any, **named: Any) -> Any:
            reached.times += 1
            act()
            return real(*args, **named)

        return _in_place_of(owner, name, instead)

    return arm


def set_to(owner: Any, name: str, value: object) -> Arm:
    """A library's setting is another one; this alone never counts as a strike."""
    return lambda _hospital, _reached: _in_place_of(owner, name, value)


def together(*arms: Arm) -> Arm:
    """All of `arms`, from the first to the last."""

    @contextmanager
    def arm(hospital: Hospital, reached: Reached) -> Iterator[None]:
        with ExitStack() as stack:
            for one in arms:
                stack.enter_context(one(hospital, reached))
            yield

    return arm


def quoted(owner: Any, name: str, under: Arm) -> Arm:
    """Strikes whenever, `under` another fault, a library gives the name to `owner.name`."""

    @contextmanager
    def arm(hospital: Hospital, reached: Reached) -> Iterator[None]:
        real = getattr(owner, name)

        def instead(*args: Any, **named: Any) -> Any:
            reached.times += bool(found_in(repr(args).encode()))
            return real(*args, **named)

        with under(hospital, Reached()), _in_place_of(owner, name, instead):
            yield

    return arm


def damaged(change: Callable[[Hospital], object]) -> Arm:
    """The patients' folder is changed, and whole again at the end of the block."""

    @contextmanager
    def arm(hospital: Hospital, _: Reached) -> Iterator[None]:
        change(hospital)
        try:
            yield
        finally:
            hospital.renew(DATA)

    return arm


def set_aside(change: Callable[[Hospital], object], reason: str) -> Arm:
    """As `damaged`; strikes for each file or finding that is then set aside for `reason`.

    Who asks for that list is the hospital itself: it is told before anything is searched.
    """
    whole = damaged(change)

    @contextmanager
    def arm(hospital: Hospital, reached: Reached) -> Iterator[None]:
        with whole(hospital, reached):
            apart: list[SetAside] = []
            readers.open_cohort(hospital.study, hospital.policy, state=None, set_aside=apart)
            reached.times += sum(reason in one.reason for one in apart)
            yield

    return arm


def leaks(hospital: Hospital, reached: Reached) -> AbstractContextManager[None]:
    """The vault says the name to the relay, to its log and to a file."""

    def handle(_: Vault, frame: bytes) -> bytes:  # noqa: ARG001  (the vault's signature)
        reached.times += 1
        os.write(2, NAME.encode())
        (hospital.state / "leak").write_text(NAME)
        return messages.encode(messages.HelloReply(hospital=NAME))

    return _in_place_of(Vault, "handle", handle)
