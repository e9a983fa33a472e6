"""Errors that name a patient in each way there is, and what libraries may say without any."""

import errno
import json
import logging
import os
import sqlite3
import sys
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn

from client.canary.names import NAME, TEXT
from common.errors import DataError, LedgerError, ModelError

PATH = f"/archive/{NAME}/1.png"


def of(kind: type[BaseException], *args: object) -> Callable[[], BaseException]:
    """Makes errors of `kind` with the name in `args`, by default as text, and in a note."""

    def make() -> BaseException:
        error = kind(*(args or (f"cannot use {TEXT}",)))
        error.add_note(TEXT)
        return error

    return make


def system(number: int = errno.EIO) -> Callable[[], OSError]:
    """Makes errors of the operating system about a path with the name, which say it themselves too."""
    return lambda: OSError(number, f"{os.strerror(number)}: {TEXT}", PATH, None, PATH)


def database(code: int) -> Callable[[], sqlite3.Error]:
    """Makes errors of SQLite with a result code."""

    def make() -> sqlite3.Error:
        error = sqlite3.OperationalError(f"near {TEXT}")
        error.sqlite_errorcode = code
        return error

    return make


class MuteError(Exception):
    """Fails again when it is asked what it is."""

    def __str__(self) -> str:
        raise RuntimeError(TEXT)

    __repr__ = __str__


class Panic(BaseException):
    """No Exception: what a bug in a library written in Rust raises."""


def named_class() -> BaseException:
    kind: type[Exception] = type(NAME, (ValueError,), {})
    return kind(TEXT)


def grouped() -> BaseException:
    return ExceptionGroup(TEXT, [KeyError(NAME), ExceptionGroup(TEXT, [system()()])])


def caused() -> BaseException:
    """A sentence of ours that quotes what caused it."""
    error = LedgerError(f"expected a ledger and found {TEXT}")
    error.__cause__ = ValueError(TEXT)
    return error


def caused_from_afar() -> BaseException:
    error, between = RuntimeError("cannot go on"), DataError(TEXT)
    error.__cause__, between.__context__ = between, system()()
    return error


def caused_by_data() -> BaseException:
    """A sentence of ours that quotes a sentence about data."""
    error = ModelError(f"expected a model and found {TEXT}")
    error.__context__ = DataError(TEXT)
    return error


def undecodable() -> BaseException:
    return UnicodeDecodeError("utf-8", TEXT.encode(), 0, 3, f"invalid start byte in {TEXT}")


def malformed() -> BaseException:
    return json.JSONDecodeError(f"expected a patient: {TEXT}", TEXT, 0)


def throw(make: Callable[[], BaseException]) -> Callable[[], NoReturn]:
    """Raises what `make` makes."""

    def act() -> NoReturn:
        raise make()

    return act


# --- without an error --------------------------------------------------------------------------


def warn() -> None:
    warnings.warn(TEXT, stacklevel=1)


def warn_by_class_and_place() -> None:
    warnings.warn_explicit(TEXT, type(NAME, (UserWarning,), {}), PATH, 1)


def log_of_a_library(name: str = "PIL.TiffImagePlugin") -> None:
    log = logging.getLogger(name)
    log.debug("tag: PatientName (%s)", TEXT)
    log.warning(TEXT, stack_info=True)
    log.error("cannot read", exc_info=ValueError(TEXT), extra={"patient": NAME})


def log_by_a_handler_of_its_own() -> None:
    log, handler = logging.getLogger("codec"), logging.StreamHandler(sys.__stderr__)
    log.addHandler(handler)
    log.error("%s", TEXT, exc_info=ValueError(TEXT))
    log.removeHandler(handler)


def own_line_with_an_error() -> None:
    patients = {"": 0}
    try:
        patients[TEXT]
    except KeyError as error:
        log = logging.getLogger("intramural.training")
        log.error("%s", error, exc_info=True, stack_info=True)


def own_line_with_an_object() -> None:
    logging.getLogger("intramural.training").error("%s", [{"patient": TEXT}])


def own_line_that_does_not_fit() -> None:
    logging.getLogger("intramural.training").error("%d patients", TEXT)


def print_it() -> None:
    print(TEXT)  # noqa: T201
    sys.stderr.write(TEXT)
    sys.stdout.buffer.write(TEXT.encode())


def die_in_a_thread() -> None:
    patients = {"": 0}
    thread = threading.Thread(target=lambda: patients[TEXT], name=NAME)
    thread.start()
    thread.join()


def die_unraisably() -> None:
    class Dying:
        def __del__(self) -> None:
            raise ValueError(TEXT)

    Dying()
