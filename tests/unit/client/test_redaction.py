"""Nothing of a patient in words: errors, log lines, warnings, and what nobody catches."""

import ast
import json
import logging
import os
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import make_app, reply_to
from client.redaction import CUT, RedactingFilter, in_words
from common import messages, records
from common.errors import (
    DataError,
    EgressError,
    InternalError,
    IntramuralError,
    LedgerError,
    ModelError,
    PolicyError,
)
from common.messages import HelloReply, HelloRequest, Refusal

NAME = "SECRET^PATIENT"


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError(NAME)

    __repr__ = __str__


class TalkativeError(Exception):
    """Says something else than it holds."""

    def __init__(self, about: object) -> None:
        super().__init__()
        self.about = about

    def __str__(self) -> str:
        return "said otherwise"


def noted() -> ValueError:
    error = ValueError("quiet")
    error.add_note(NAME)
    return error


def named_class() -> Exception:
    kind: type[Exception] = type(NAME, (KeyError,), {})
    return kind("x")


def in_a_circle() -> Exception:
    one, other = ValueError(NAME), KeyError(NAME)
    one.__cause__, other.__cause__ = other, one
    return one


FOREIGN: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError(f"cannot read {NAME}"),
    "KeyError": lambda: KeyError(NAME),
    "bytes": lambda: ValueError(NAME.encode()),
    "nested": lambda: ValueError({"patient": [("x", NAME)]}),
    "path": lambda: ValueError(Path("/data") / NAME / "1.png"),
    "OSError": lambda: OSError(5, os.strerror(5), f"/data/{NAME}", None, f"/copy/{NAME}"),
    "OSError with words": lambda: OSError(5, f"no {NAME}"),
    "OSError without number": lambda: OSError(f"no {NAME}"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", NAME.encode(), 0, 1, f"in {NAME}"),
    "JSONDecodeError": lambda: json.JSONDecodeError("no", NAME, 0),
    "ImportError": lambda: ImportError("no", name=NAME, path=NAME),
    "SyntaxError": lambda: SyntaxError("no", (NAME, 1, 1, NAME)),
    "sqlite": lambda: sqlite3.OperationalError(f"near {NAME}"),
    "attribute": lambda: TalkativeError(NAME),
    "note": noted,
    "mute": MuteError,
    "class": named_class,
    "group": lambda: ExceptionGroup(NAME, [KeyError(NAME), ExceptionGroup("x", [OSError(NAME)])]),
    "circle": in_a_circle,
    "interrupt": lambda: KeyboardInterrupt(NAME),
    "exit": lambda: SystemExit(NAME),
}


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as found:
        return found


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_error_says_its_class_and_nothing_that_it_holds(
    make: Callable[[], BaseException],
) -> None:
    said = in_words(raised(make()))
    assert NAME not in said
    assert said.startswith(type(make()).__name__) or make in (FOREIGN["class"], FOREIGN["mute"])
    assert not any(part in said for part in ("SECRET", "PATIENT"))


def test_a_class_that_is_found_nowhere_has_the_name_of_its_parent() -> None:
    assert in_words(named_class()) == "KeyError"


def test_a_foreign_error_says_where_in_our_code_it_came_from_and_what_the_system_said() -> None:
    def fails() -> NoReturn:
        raise PermissionError(13, NAME, f"/data/{NAME}")

    from common.files import locked

    with pytest.raises(Exception, match="cannot make") as caught, locked(Path("/nowhere/x")):
        pass
    assert caught.value.__cause__ is not None
    said = in_words(caught.value.__cause__)
    assert said.startswith(f"FileNotFoundError ({os.strerror(2)}) at common/files.py:")
    assert said.endswith(" locked")
    with pytest.raises(PermissionError) as denied:
        fails()
    assert in_words(denied.value) == f"PermissionError ({os.strerror(13)})"  # no place of ours


SENTENCES: dict[str, Callable[[BaseException], str]] = {
    "text": lambda cause: f"expected a ledger and found {cause}; put it back",
    "repr": lambda cause: f"expected a ledger and found {cause!r}; put it back",
    "arguments": lambda cause: f"expected a ledger and found {cause.args}; put it back",
    "one line": lambda cause: (
        f"expected a ledger and found {' '.join(str(cause).split())}; put it back"
    ),
}


@pytest.mark.parametrize("sentence", SENTENCES.values(), ids=SENTENCES)
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_sentence_of_ours_loses_what_a_foreign_error_brought(
    kind: str, sentence: Callable[[BaseException], str]
) -> None:
    cause = FOREIGN[kind]()
    try:
        found = raised(LedgerError(sentence(cause)), raised(cause))
    except RuntimeError:
        assert kind == "mute"
        found = raised(LedgerError(sentence(ValueError(NAME))), raised(ValueError(NAME)))
    said = in_words(found)
    assert NAME not in said
    assert said.startswith("expected a ledger and found ")
    assert said.endswith("; put it back")


@pytest.mark.parametrize(
    ("cause", "part"),
    [
        (KeyError(NAME), NAME),
        (ValueError(f"  {NAME}\n"), NAME),
        (ValueError(NAME.encode()), NAME),
        (FileNotFoundError(2, os.strerror(2), f"/data/{NAME}.png"), f"{NAME}.png"),
        (FileNotFoundError(2, os.strerror(2), f"/data/{NAME}.png"), f"/data/{NAME}.png"),
        (TalkativeError(Path("/data") / NAME), f"/data/{NAME}"),
        (ValueError(1234567), "1234567"),
        (KeyError("Li"), "Li"),
    ],
)
def test_a_sentence_of_ours_loses_each_thing_that_a_foreign_error_held(
    cause: Exception, part: str
) -> None:
    said = in_words(raised(PolicyError(f"expected 3 and found '{part}' in Little Rock"), cause))
    quote = "" if isinstance(cause, KeyError) else "'"  # which says what it holds in quotes
    assert said == f"expected 3 and found {quote}{CUT}{quote} in Little Rock"


def test_the_systems_own_text_for_an_error_number_stays() -> None:
    cause = OSError(28, os.strerror(28), f"/data/{NAME}")
    said = in_words(raised(LedgerError(f"cannot write the ledger: {cause}"), cause))
    assert said == f"cannot write the ledger: {os.strerror(28)}"
    named = in_words(raised(LedgerError(f"cannot write ({cause.strerror})"), cause))
    assert named == f"cannot write ({os.strerror(28)})"


def test_what_overlaps_is_cut_as_a_whole() -> None:
    cause = raised(ValueError("the row of Mr"), raised(ValueError(f"of Mr {NAME}")))
    said = in_words(raised(LedgerError(f"expected the row of Mr {NAME}, found none"), cause))
    assert said == f"expected {CUT}, found none"


def test_what_hides_behind_an_error_of_ours_is_foreign_too() -> None:
    deep = raised(ModelError("model"), raised(ValueError(NAME)))
    said = in_words(raised(EgressError(f"held back: {deep}, {NAME}"), deep))
    assert said == f"held back: model, {CUT}"


def test_the_sentence_about_a_file_of_patients_is_not_said_wherever_it_stands() -> None:
    sentence = f"/data/{NAME}.png: expected a whole PNG, found another"
    asked = in_words(DataError(sentence))
    assert asked == f"{DataError.public_text}; run intramural-client check to see it"
    quoting = raised(EgressError(f"held back: {sentence}"), raised(DataError(sentence)))
    assert in_words(quoting) == f"held back: {CUT}"


def test_a_sentence_with_nothing_foreign_behind_it_is_said_as_it_is() -> None:
    said = "expected 8 rounds and found 9; ask for the current round"
    assert in_words(raised(PolicyError(said))) == said
    assert in_words(raised(PolicyError(said), raised(LedgerError("other")))) == said
    assert in_words(InternalError()) == InternalError.public_text


def test_a_whole_file_in_an_error_takes_no_time() -> None:
    whole = (NAME + "\xff").encode("latin-1") * 1_000_000
    cause = UnicodeDecodeError("utf-8", whole, 14, 15, "invalid start byte")
    said = in_words(raised(LedgerError(f"cannot read: {cause}"), cause))
    assert said == f"cannot read: {CUT}"


def test_an_error_that_cannot_be_described_is_an_error_all_the_same() -> None:
    class WorseError(IntramuralError):
        def __str__(self) -> str:
            raise RuntimeError(NAME)

    assert in_words(WorseError(NAME)) == "an error that cannot be described"


# --- log records -------------------------------------------------------------------------------


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.addFilter(RedactingFilter("intramural", "flwr"))
        self.lines: list[str] = []
        self.rest: list[object] = []  # what another formatter might write

    def emit(self, record: logging.LogRecord) -> None:
        line = logging.Formatter("%(levelname)s %(name)s: %(message)s").format(record)
        self.lines.append(line)
        self.rest.append((record.args, record.exc_info, record.exc_text, record.stack_info))


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def test_a_line_of_ours_keeps_text_numbers_and_paths_and_says_errors_in_words(kept: Kept) -> None:
    log = logging.getLogger("intramural.vault")
    log.info("north: %s, %d rounds, %s", "listens", 3, Path("/run/vault.sock"))
    log.warning("refused: %s", raised(LedgerError(NAME), raised(KeyError(NAME))))
    log.info("%(error)s", {"error": ValueError(NAME)})
    log.info(ValueError(NAME))
    log.info("%s %s", [NAME], {NAME})
    assert kept.lines == [
        "INFO intramural.vault: north: listens, 3 rounds, /run/vault.sock",
        f"WARNING intramural.vault: refused: {CUT}",
        "INFO intramural.vault: ValueError",
        "INFO intramural.vault: ValueError",
        "INFO intramural.vault: <list> <set>",
    ]
    assert NAME not in str(kept.rest)


def test_a_traceback_becomes_class_and_place(kept: Kept) -> None:
    log = logging.getLogger("intramural.vault")
    patient = NAME  # a value on the stack
    try:
        raise KeyError(patient)
    except KeyError:
        log.exception("unexpected error", stack_info=True)
    assert kept.lines == ["ERROR intramural.vault: unexpected error: KeyError"]
    assert kept.rest == [(("unexpected error", "KeyError"), None, None, None)]


def test_a_line_that_cannot_be_written_is_said_to_be_so(kept: Kept) -> None:
    logging.getLogger("intramural.vault").error("%d rounds", NAME)
    (line,) = kept.lines
    assert line == "ERROR intramural.vault: a log line whose values do not fit it"
    assert NAME not in str(kept.rest)


@pytest.mark.parametrize("name", ["PIL.PngImagePlugin", "py.warnings", "intramuralist", ""])
def test_lines_of_others_have_no_text_and_are_dropped_below_a_warning(
    kept: Kept, name: str
) -> None:
    log = logging.getLogger(name)
    log.debug("tag %s", NAME)
    log.info(NAME)
    log.error("cannot read %s", NAME, exc_info=ValueError(NAME), stack_info=True)
    assert kept.lines == [f"ERROR {name or 'root'}: (text withheld)"]
    assert kept.rest == [(None, None, None, None)]


def test_a_library_that_may_be_read_keeps_its_text_but_not_that_of_errors(kept: Kept) -> None:
    log = logging.getLogger("flwr")
    log.info("SuperNode ID: %s", 17)
    log.error(ConnectionError(NAME))
    assert kept.lines == ["INFO flwr: SuperNode ID: 17", "ERROR flwr: ConnectionError"]


# --- what Flower gets --------------------------------------------------------------------------


class PanicException(BaseException):
    """As the one of libraries written in Rust, which is no Exception."""


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Message takes its sender from this; Flower's runtime sets it in a process of its own."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def asked(fails: BaseException) -> Message:
    """The relay's answer when its vault cannot be asked."""

    def channel(_: bytes) -> NoReturn:
        raise fails from ValueError(NAME)

    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    content = records.to_records(HelloRequest())
    message = Message(content, dst_node_id=2, message_type="query")
    return make_app(lambda _: channel)(message, context)


@pytest.mark.usefixtures("identity")
@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_flower_gets_a_code_for_an_error_of_any_class(
    make: Callable[[], BaseException], kept: Kept
) -> None:
    if isinstance(make(), KeyboardInterrupt | SystemExit):
        with pytest.raises(type(make())) as ended:
            asked(make())
        assert ended.value.args in ((), (1,))
        assert NAME not in "".join(traceback.format_exception(ended.value))
        return
    answer = asked(make())
    assert records.from_records(answer.content) == Refusal.of(InternalError())
    assert NAME not in "".join(kept.lines)


@pytest.mark.usefixtures("identity")
def test_flower_gets_a_code_for_what_is_no_exception_at_all() -> None:
    answer = asked(PanicException(NAME))
    assert records.from_records(answer.content) == Refusal.of(InternalError())


@pytest.mark.usefixtures("identity")
def test_an_exit_keeps_its_number() -> None:
    with pytest.raises(SystemExit) as ended:
        asked(SystemExit(3))
    assert ended.value.code == 3


@pytest.mark.usefixtures("identity")
@pytest.mark.parametrize("times", [1, 2])
def test_flower_gets_no_text_when_the_reply_itself_cannot_be_made(
    times: int, monkeypatch: pytest.MonkeyPatch, kept: Kept
) -> None:
    """Once: an InternalError's refusal goes in its place. Twice: an error of ours, and nothing behind it."""
    message = Message(records.to_records(HelloRequest()), dst_node_id=2, message_type="query")
    real, left = records.to_records, [times]

    def fails(reply: messages.Message) -> RecordDict:
        left[0] -= 1
        if left[0] >= 0:
            raise RuntimeError(NAME) from ValueError(NAME)
        return real(reply)

    monkeypatch.setattr(records, "to_records", fails)
    if times == 1:
        answer = reply_to(message, HelloReply(hospital="north"))
        assert records.from_records(answer.content) == Refusal.of(InternalError())
    else:
        with pytest.raises(InternalError, match=f"^{InternalError.public_text}$") as caught:
            reply_to(message, HelloReply(hospital="north"))
        assert caught.value.__context__ is None
        assert caught.value.__cause__ is None
    assert len(kept.lines) == times
    assert NAME not in "".join(kept.lines)


# --- a whole process ---------------------------------------------------------------------------

PROCESS = """
import logging, os, resource, sys, threading, warnings
from client import redaction
from common.errors import LedgerError

NAME = os.environ["NAME"]
late = logging.getLogger("late")
redaction.install(logging.DEBUG, "flwr")
redaction.withhold_prints()

class Dying:
    def __del__(self):
        raise ValueError(NAME)

class Named(UserWarning):
    pass

Named.__name__ = Named.__qualname__ = NAME
own = logging.StreamHandler(sys.__stderr__)  # a library's own handler, added late
late.addHandler(own)
late.error("%s", NAME, exc_info=ValueError(NAME))
logging.getLogger("intramural.vault").info("the vault listens at %s", "/run/vault.sock")
logging.getLogger("intramural.vault").error("%d", NAME)
logging.getLogger("PIL").debug(NAME)
logging.getLogger("httpx").warning(NAME)
logging.getLogger().handle(logging.makeLogRecord({"name": "made", "levelno": 40, "msg": NAME}))
warnings.warn(NAME)
warnings.warn_explicit(NAME, Named, NAME, 1)
print(NAME)
print(NAME, file=sys.stderr)
sys.stdout.buffer.write(NAME.encode())
Dying()
thread = threading.Thread(target=lambda: {}[NAME])
thread.start()
thread.join()
ended = threading.Thread(target=sys.exit, args=(NAME,))
ended.start()
ended.join()
file = os.open(os.environ["FILE"], os.O_CREAT | os.O_WRONLY, 0o666)
logging.getLogger("intramural.core").info("%d %d", *resource.getrlimit(resource.RLIMIT_CORE))
try:
    {}[NAME]
except KeyError as error:
    raise LedgerError(f"cannot use {NAME}") from error
"""


def test_a_process_says_nothing_of_a_patient_whoever_speaks(tmp_path: Path) -> None:
    file = tmp_path / "file"
    done = subprocess.run(
        [sys.executable, "-W", "always::UserWarning", "-c", PROCESS],
        env={**os.environ, "NAME": NAME, "FILE": str(file)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "SECRET" not in done.stderr, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    lines = done.stderr.splitlines()
    assert lines == [
        "(text withheld)",
        "ERROR late: (text withheld)",
        "INFO intramural.vault: the vault listens at /run/vault.sock",
        "ERROR intramural.vault: a log line whose values do not fit it",
        "WARNING httpx: (text withheld)",
        "Level None made: (text withheld)",
        "WARNING intramural.errors: a library warned: UserWarning",
        "WARNING intramural.errors: a library warned: UserWarning",
        "ERROR intramural.errors: nobody caught ValueError",
        "ERROR intramural.errors: nobody caught KeyError",
        f"INFO intramural.core: {lines[-2].split(': ')[1]}",
        f"ERROR intramural.errors: nobody caught cannot use {CUT}",
    ]
    assert lines[-2].split(": ")[1] in ("1 1", "0 0")


def test_our_own_log_lines_are_written_so_that_they_can_be_redacted(repository: Path) -> None:
    """A constant text, and errors as they are: what is put into the text before is not seen any more."""
    looked = 0
    files = {*repository.glob("client/**/*.py"), *repository.glob("common/*.py")}
    files.remove(repository / "client" / "canary" / "sayings.py")  # which plays the careless one
    for file in sorted(files):
        tree = ast.parse(file.read_text())
        caught = {n.name for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.name}
        for call in ast.walk(tree):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            of = call.func.value
            if not (isinstance(of, ast.Name) and of.id in ("log", "_LOG", "logging", "logger")):
                continue
            if call.func.attr not in ("debug", "info", "warning", "error", "exception", "critical"):
                continue
            looked += 1
            place = f"{file.relative_to(repository)}:{call.lineno}"
            text, *values = call.args
            assert isinstance(text, ast.Constant), f"{place}: the text of a log line is a constant"
            for value in values:
                names = {n.id for n in ast.walk(value) if isinstance(n, ast.Name)}
                if not isinstance(value, ast.Name) and names & caught:
                    assert not any(isinstance(n, ast.JoinedStr) for n in ast.walk(value)), place
                    assert names.isdisjoint({"str", "repr", "format"}), (
                        f"{place}: give the error itself"
                    )
    assert looked > 15
