"""`verify`: a flipped byte, a cut end and a backup put back are found, in whichever of the books."""

import hashlib
import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.__main__ import app
from client.egress_log import EgressLog
from client.ledger import Ledger
from client.verification import verify
from common.errors import EgressError, IntramuralError, LedgerError, UnapprovedPolicyError
from common.protocol import StudyProtocol

MakeStudy = Callable[..., StudyProtocol]


@pytest.fixture
def books(office: Any, small_study: MakeStudy) -> Any:
    """An office with three answered rounds, the last of which is kept."""
    office.answer(small_study(), rounds=3)
    return office


def test_what_is_whole_is_counted(books: Any, small_study: MakeStudy) -> None:
    books.answer(small_study(), rounds=1, sealed=False)
    found = verify(books.site)
    assert (found.ledger_entries, found.kept_replies) == (8, 1)
    assert found.released == {"train-reply": 3}
    assert found.released_bytes == sum(len(f"reply {n}") for n in (1, 2, 3))
    assert (found.unsealed, found.unsent) == (1, 0)


def test_the_books_agree_with_a_reading_that_knows_nothing_of_ours(books: Any) -> None:
    """Each line's hash, the chain, and each reply that left against the ledger's own rows."""
    previous, left = "0" * 64, []
    for number, line in enumerate((books.state / "egress.jsonl").read_text().splitlines(), 1):
        entry = json.loads(line)
        body = json.dumps(entry["body"], sort_keys=True, separators=(",", ":"))
        row = [number, entry["time"], entry["kind"], body, previous]
        text = json.dumps(row, separators=(",", ":"))
        previous = hashlib.sha256(text.encode()).hexdigest()
        assert entry["hash"] == previous
        if entry["kind"] == "released":
            left.append((entry["body"]["sha256"], entry["body"]["ledger"]))
    assert (books.state / "egress.head").read_text() == f"{number} {previous}\n"
    with closing(sqlite3.connect(books.state / "ledger.sqlite")) as ledger:
        rows = ledger.execute("SELECT body FROM entry WHERE kind = 'sealed'").fetchall()
        (kept,) = ledger.execute("SELECT bytes FROM reply").fetchone()
    sealed = [json.loads(body) for (body,) in rows]
    assert left == [(body["reply"], body["reserved"]) for body in sealed]
    assert hashlib.sha256(kept).hexdigest() == left[-1][0]
    assert verify(books.site).log_head == previous
    assert hashlib.sha256(books.site.read_bytes()).hexdigest() == verify(books.site).policy


def content(state: Path) -> list[Any]:
    """Everything that a ledger's database says."""
    with closing(sqlite3.connect(f"file:{state / 'ledger.sqlite'}?mode=ro", uri=True)) as ledger:
        return [
            ledger.execute(f"SELECT * FROM {table}").fetchall()
            for table in ("entry", "reply", "sqlite_schema")
        ]


def flips(path: Path, most: int, chosen: random.Random) -> Iterator[int]:
    size = path.stat().st_size
    yield from range(size) if size <= most else chosen.sample(range(size), most)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["site.toml", "egress.jsonl", "egress.head", "ledger.head", "ledger.sqlite"]
)
def test_one_flipped_byte_is_found(books: Any, name: str) -> None:
    """Of the database a byte that SQLite does not use may go unseen: then it says what it said."""
    seed = random.SystemRandom().randrange(10**6)
    print("seed of the bytes:", seed)
    chosen = random.Random(seed)
    path = books.site if name == "site.toml" else books.state / name
    whole, said = path.read_bytes(), content(books.state)
    verify(books.site)
    missed = []
    for place in flips(path, 1500, chosen):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chosen.randrange(8)
        path.write_bytes(flipped)
        try:
            verify(books.site)
        except IntramuralError:
            continue
        if name != "ledger.sqlite" or content(books.state) != said:
            missed.append(place)
    path.write_bytes(whole)
    verify(books.site)
    assert not missed, missed


@pytest.mark.slow
def test_a_flipped_byte_of_the_sealed_reply_is_found(books: Any) -> None:
    path = books.state / "ledger.sqlite"
    whole = path.read_bytes()
    assert whole.count(b"reply 3") == 1
    first = whole.index(b"reply 3")
    for place in range(first, first + len(b"reply 3")):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(LedgerError):
                verify(books.site)


def test_a_log_that_was_cut_off_is_found(books: Any) -> None:
    path = books.state / "egress.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(
        EgressError, match=f"expected {len(lines)} entries .* found {len(lines) - 1}"
    ):
        verify(books.site)


def copied(state: Path, *names: str) -> dict[Path, bytes]:
    return {state / name: (state / name).read_bytes() for name in names}


def put_back(files: dict[Path, bytes]) -> None:
    for path, data in files.items():
        path.write_bytes(data)


LOG = ("egress.jsonl", "egress.head")
BOOK = ("ledger.sqlite", "ledger.head")


@pytest.mark.parametrize(("names", "error"), [(LOG, EgressError), (BOOK, LedgerError)])
def test_one_book_put_back_to_an_earlier_state_is_found_by_the_other(
    books: Any, small_study: MakeStudy, names: tuple[str, ...], error: type[IntramuralError]
) -> None:
    """Database and anchor together, so that each alone is whole."""
    before = copied(books.state, *names)
    books.answer(small_study(), rounds=2)
    put_back(before)
    (books.state / "ledger.sqlite-wal").unlink(missing_ok=True)
    with Ledger.read(books.state) as ledger:
        ledger.check_replies()
    EgressLog.read(books.state)
    with pytest.raises(error, match="put back to an earlier state"):
        verify(books.site)


def test_both_put_back_are_found_by_a_head_that_a_coordinator_holds(
    books: Any, small_study: MakeStudy
) -> None:
    before = copied(books.state, *LOG, *BOOK)
    books.answer(small_study(), rounds=2)
    with Ledger.read(books.state) as ledger:
        head = ledger.previous_head(small_study().digest)
    put_back(before)
    (books.state / "ledger.sqlite-wal").unlink(missing_ok=True)
    verify(books.site)
    with pytest.raises(LedgerError, match=r"among the .* put back to an earlier state"):
        verify(books.site, head)


def test_a_book_that_was_begun_anew_is_found(books: Any) -> None:
    for name in LOG:
        (books.state / name).unlink()
    EgressLog.create(books.state)
    EgressLog(books.state).approve(verify_policy(books), None)
    with pytest.raises(EgressError, match="is another one"):
        verify(books.site)


def verify_policy(books: Any) -> str:
    return hashlib.sha256(books.site.read_bytes()).hexdigest()


def test_a_policy_that_nobody_approved_is_found(books: Any) -> None:
    books.site.write_text(books.site.read_text().replace("30.0", "90.0"))
    with pytest.raises(UnapprovedPolicyError, match="if only by a byte"):
        verify(books.site)


def test_the_command_says_what_left_and_refuses_in_one_sentence(books: Any) -> None:
    def run() -> Any:
        words = ["verify", "--site", str(books.site)]
        return CliRunner().invoke(app, words, env={"COLUMNS": "250"})

    done = run()
    assert done.exit_code == 0, done.output
    assert "3 train-reply" in done.output
    assert verify(books.site).log_head in done.output
    shutil.copy(books.state / "egress.head", books.state / "copy")
    (books.state / "egress.head").write_text(f"99 {'a' * 64}\n")
    refused = run()
    assert refused.exit_code == 2
    assert refused.output.startswith("E-EGRESS: expected 99 entries")
