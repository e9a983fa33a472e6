"""What a log may say about an error: no patient, whatever the error's own text holds (THREATS.md T13, T14).

A file's path, a cell of the manifest or a decoder's message may name a patient, and an exception carries
them along: in its text, in its arguments, in the one that caused it. So nothing is written down but
sentences that are known to be ours, class names and places in our own code. `in_words` says an error
that way, and `install` has the whole process speak so: every log line, of whichever library, every
warning, every error that nobody catches.

What native code writes to file descriptor 2 by itself does not pass here.
"""

import logging
import os
import re
import resource
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any

from common.errors import DataError, IntramuralError

CUT = "[...]"
WITHHELD = "(text withheld)"
OURS = "intramural"  # the loggers whose sentences are written here, in this project

_LOG = logging.getLogger("intramural.errors")
_ROOT = Path(__file__).resolve().parent.parent
_CODE = tuple(str(_ROOT / package) + os.sep for package in ("client", "common"))
_MOST_PLACES = 6
_LONG = 100_000  # characters: no sentence holds a whole file
_SHORT = 4  # characters: a shorter text is cut as a whole word only, or no word would be left
# Where Python's own exceptions keep what they are about, beside `args`.
_ATTRIBUTES = ("filename", "filename2", "strerror", "name", "path", "object", "doc", "text", "msg")


def in_words(error: BaseException) -> str:
    """What a log may say about `error`; never raises.

    Of a DataError, whose sentence names files, rows and patients, the public text. Of another error of
    ours its sentence, without what any foreign exception on the way to it has said (an errno's own
    text stays). Of any other: class, errno's text and the places in our own code.
    """
    try:
        if isinstance(error, DataError):
            return f"{type(error).public_text}; run intramural-client check to see it"
        if isinstance(error, IntramuralError):
            return _cut(str(error), error) or type(error).public_text
        return "; after ".join(map(_described, _causes(error)))
    except Exception:  # `error` runs its own code when it is asked what it is
        return "an error that cannot be described"


def _described(error: BaseException) -> str:
    """Class, errno's text and places of one error; for a group, the classes of those in it too."""
    words = _class_name(type(error))
    if isinstance(error, BaseExceptionGroup):
        inside = dict.fromkeys(_class_name(type(one)) for one in error.exceptions)
        words += f" of {', '.join(inside)}"
    if isinstance(error, OSError) and (known := _strerror(error)):
        words += f" ({known})"
    places = [
        f"{Path(frame.f_code.co_filename).relative_to(_ROOT)}:{line} {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename.startswith(_CODE)
    ]
    return f"{words} at {' < '.join(reversed(places[-_MOST_PLACES:]))}" if places else words


def _class_name(kind: type[BaseException]) -> str:
    """The name of the nearest class that is found where it says it is: another could bear any name."""
    for one in kind.__mro__:
        if vars(sys.modules.get(one.__module__, object)).get(one.__qualname__) is one:
            return str(one.__qualname__)
    return "an exception"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it came from, as a traceback would show it."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _cut(sentence: str, error: BaseException) -> str:
    """`sentence` without what the foreign exceptions behind `error` have said."""
    foreign = list(_foreign(error))
    known = {text for one in foreign if isinstance(one, OSError) and (text := _strerror(one))}
    said = {text for one in foreign for text in _texts(one) if text in sentence} - known
    places: list[tuple[int, int]] = []  # from, to; of two that overlap the whole
    for first, last in sorted(place for text in said for place in _places_of(text, sentence)):
        if places and first < places[-1][1]:
            places[-1] = (places[-1][0], max(last, places[-1][1]))
        else:
            places.append((first, last))
    for first, last in reversed(places):
        kept = next((text for text in known if text in sentence[first:last]), CUT)
        sentence = sentence[:first] + kept + sentence[last:]
    return sentence


def _places_of(text: str, sentence: str) -> Iterator[tuple[int, int]]:
    if any(map(str.isalnum, text)):
        whole = re.escape(text) if len(text) >= _SHORT else rf"(?<!\w){re.escape(text)}(?!\w)"
        for found in re.finditer(f"(?=({whole}))", sentence):
            yield found.span(1)


def _foreign(error: BaseException) -> Iterator[BaseException]:
    """All that `error` came from or holds and that is not a sentence of ours without patients."""
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if one is not error and (
            isinstance(one, DataError) or not isinstance(one, IntramuralError)
        ):
            yield one
        behind = (one.__cause__, one.__context__, *getattr(one, "exceptions", ()), *one.args)
        left += [other for other in behind if isinstance(other, BaseException)]


def _texts(error: BaseException) -> Iterator[str]:
    """All that `error` may have put into a sentence, in the forms in which sentences have it."""
    yield from (_said(error), _said(error, repr))
    values = [getattr(error, name, None) for name in _ATTRIBUTES]
    values += [value for value in vars(error).values() if not isinstance(value, int | float)]
    # OSError has its errno first, which says nothing about a patient.
    values += error.args[1:] if isinstance(error, OSError) and len(error.args) > 1 else error.args
    for value in values:
        yield from _forms(value)


def _forms(value: object) -> Iterator[str]:
    if isinstance(value, PurePath):
        value = str(value)
    if isinstance(value, str | bytes | bytearray) and len(value) > _LONG:
        return
    if isinstance(value, bytes | bytearray):
        yield repr(bytes(value))[2:-1]
        value = bytes(value).decode(errors="replace")
    if isinstance(value, str):
        quoted = (repr(value)[1:-1], ascii(value)[1:-1])
        yield from (value, value.strip(), " ".join(value.split()), *quoted, PurePath(value).name)
    elif isinstance(value, Mapping):
        yield from _forms([*value.keys(), *value.values()])
    elif isinstance(value, Sequence | Set):
        yield _said(value)
        for one in value:
            yield from _forms(one)
    elif value is not None and not isinstance(value, BaseException):
        yield _said(value)


def _said(value: object, form: Callable[[object], str] = str) -> str:
    try:
        return form(value)
    except Exception:  # a class may fail to say what it is; then no sentence holds it
        return ""


def _strerror(error: OSError) -> str | None:
    """The system's own text for an error number, which no library can have put a name into."""
    return os.strerror(error.errno) if isinstance(error.errno, int) else None


class RedactingFilter(logging.Filter):
    """Leaves of a log record what may be read.

    Lines of the loggers `readable` (and those below them) keep their text; exceptions in it become
    `in_words`, other values than text, numbers and paths their class. Lines of others, whose text may
    hold what is in a file, keep logger and level, from WARNING on, and are dropped below.
    """

    def __init__(self, *readable: str) -> None:
        super().__init__()
        self._readable = readable

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact `record`, in place; whether it is worth a line."""
        self.redact(record)
        return self._is_readable(record) or record.levelno >= logging.WARNING

    def redact(self, record: logging.LogRecord) -> None:
        """Take out of `record`, in place, what may not be read."""
        if self._is_readable(record):
            self._speak(record)
        else:
            record.msg, record.args = WITHHELD, None
        record.exc_info = record.exc_text = record.stack_info = None

    def _is_readable(self, record: logging.LogRecord) -> bool:
        return any(f"{record.name}.".startswith(f"{name}.") for name in self._readable)

    def _speak(self, record: logging.LogRecord) -> None:
        record.msg = _spoken(record.msg)
        if isinstance(record.args, Mapping):
            record.args = {key: _spoken(value) for key, value in record.args.items()}
        elif record.args:
            record.args = tuple(map(_spoken, record.args))
        error = record.exc_info[1] if record.exc_info else None
        try:
            line = record.getMessage()
        except Exception:
            record.msg, record.args = "a log line whose values do not fit it", None
            return
        if error is not None:
            record.msg, record.args = "%s: %s", (line, in_words(error))


def _spoken(value: Any) -> object:
    if isinstance(value, BaseException):
        return in_words(value)
    if value is None or isinstance(value, str | int | float | PurePath):
        return value
    return f"<{type(value).__name__}>"


def install(level: int, *readable: str) -> None:
    """From here on this process says nothing but what may be read, on the error output, from `level` on.

    Also records of loggers `readable` keep their text; they have handlers of their own, which get the
    redacted record like every other. Files that the process makes are for its own user only, and a
    crash leaves no picture of its memory.
    """
    os.umask(0o077)
    # 1 byte and not 0: a core below a page is not written, and 1 alone also keeps the kernel from piping
    # it to a crash reporter (fs/coredump.c in Linux).
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1) if _may_have_a_core() else (0, 0))
    logging.raiseExceptions = False  # Python would print the values of a line that it cannot write
    redacting = RedactingFilter(OURS, *readable)

    def redacted(*fields: Any, **more: Any) -> logging.LogRecord:
        record = logging.LogRecord(*fields, **more)
        redacting.redact(record)
        return record

    logging.setLogRecordFactory(redacted)  # before any handler, also one that a library adds later
    handler = logging.StreamHandler()
    handler.addFilter(redacting)
    logging.basicConfig(
        level=level, format="%(levelname)s %(name)s: %(message)s", handlers=[handler], force=True
    )
    for name in readable:
        logging.getLogger(name).propagate = False
    sys.excepthook = _uncaught
    threading.excepthook = lambda what: _uncaught(what.exc_type, what.exc_value, None)
    sys.unraisablehook = lambda what: _uncaught(what.exc_type, what.exc_value, None)
    warnings.showwarning = _warned  # type: ignore[assignment]  # whatever it is called with


def _may_have_a_core() -> bool:
    return resource.getrlimit(resource.RLIMIT_CORE)[1] != 0


def withhold_prints() -> None:
    """What a library prints in this process from here on is lost; log lines are not."""
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  (open to the end)


def _uncaught(
    kind: type[BaseException], error: BaseException | None, _: TracebackType | None
) -> None:
    if not issubclass(kind, SystemExit):
        _LOG.error("nobody caught %s", _class_name(kind) if error is None else in_words(error))


def _warned(_: Warning | str, category: type[Warning], *__: object, **___: object) -> None:
    _LOG.warning("a library warned: %s", _class_name(category))
