"""The ledger: spent before it happens, sealed before it leaves, one release for one reservation."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.ledger import FILE, Account, Ledger, Spend, Terms
from common.errors import LedgerError

STUDY, KEY, OTHER = "5" * 64, "a" * 64, "b" * 64
TRAINING, VALIDATION = Spend(1.5, 0.25, 8), Spend(20.0, 1.0, 1)
TERMS: Terms = {"validation-fraction": 0.2, "delta": 1e-5, "noise": "operating system"}

RESERVE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from client.ledger import Ledger, Spend

with Ledger.open(Path(sys.argv[1])) as ledger:
    spends = {"training": Spend(1.5, 0.25, 8)}
    ledger.reserve("a" * 64, "5" * 64, 3, spends, {"validation-fraction": 0.2})
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Ledger.create(tmp_path)
    return tmp_path


def answer(ledger: Ledger, request: str, reply: bytes, study: str = STUDY) -> str:
    """Reserve and seal one request; the head that its reply carries."""
    head = ledger.reserve(request, study, 1, {"training": TRAINING}, TERMS).head
    ledger.seal(request, reply, "e" * 64)
    return head


def test_accounts_and_studies_are_apart_and_spends_in_order(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        assert ledger.spends("training") == ledger.spends("validation") == []
        both: dict[Account, Spend] = {"training": TRAINING, "validation": VALIDATION}
        ledger.reserve(KEY, "first", 1, both, TERMS)
        ledger.reserve(OTHER, "second", 1, {"validation": Spend(3.0, 1.0, 1)}, TERMS)
        ledger.reserve(OTHER, "second", 2, {"training": Spend(2.0, 0.5, 4)}, TERMS)
    with Ledger.open(folder) as ledger:  # over restarts and studies
        assert ledger.spends("training") == [TRAINING, Spend(2.0, 0.5, 4)]
        assert ledger.spends("validation") == [VALIDATION, Spend(3.0, 1.0, 1)]
        assert ledger.spends("training", "first") == [TRAINING]
        assert ledger.spends("validation", "second") == [Spend(3.0, 1.0, 1)]
        assert ledger.spends("training", "third") == []


def test_a_spend_comes_back_bit_for_bit(folder: Path) -> None:
    """Epsilon is recomputed from it, and a rate that was rounded is another rate."""
    odd = Spend(1.0000000000000002, 1 / 3, 10_000)
    with Ledger.open(folder) as ledger:
        ledger.reserve(KEY, STUDY, 1, {"training": odd}, TERMS)
    with Ledger.read(folder) as ledger:
        assert ledger.spends("training") == [odd]


def test_a_reservation_is_visible_to_others_before_reserve_returns(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        reservation = ledger.reserve(KEY, STUDY, 1, {"training": TRAINING}, TERMS)
        with Ledger.read(folder) as second:
            assert second.spends("training") == [TRAINING]
            assert second.pending(KEY) == reservation
            assert second.head == reservation.head


def test_a_reservation_survives_kill_and_is_still_open(folder: Path) -> None:
    died = subprocess.run([sys.executable, "-c", RESERVE_AND_DIE, str(folder)], check=False)
    assert died.returncode == -signal.SIGKILL
    with Ledger.open(folder) as ledger:
        assert ledger.spends("training") == [TRAINING]
        assert ledger.sealed_reply(KEY) is None
        found = ledger.pending(KEY)
        assert found is not None
        assert (found.request, found.study, found.round) == (KEY, STUDY, 3)
        assert found.spends == {"training": TRAINING}
        assert found.terms == {"validation-fraction": 0.2}
        ledger.seal(KEY, b"reply", "e" * 64)
    with Ledger.open(folder) as ledger:
        assert ledger.pending(KEY) is None
        assert ledger.previous_head(STUDY) == found.head
        assert ledger.spends("training") == [TRAINING]  # one release, one spend


def test_pending_is_this_very_request_and_unsealed(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        assert ledger.pending(KEY) is None
        ledger.reserve(KEY, STUDY, 1, {"training": TRAINING}, TERMS)
        assert ledger.pending(OTHER) is None
        ledger.seal(KEY, b"reply", "e" * 64)
        assert ledger.pending(KEY) is None


def test_a_second_reservation_counts_on_top_and_is_the_one_that_is_sealed(folder: Path) -> None:
    """The terms changed between crash and restart, so the vault reserved anew."""
    with Ledger.open(folder) as ledger:
        ledger.reserve(KEY, STUDY, 1, {"training": TRAINING}, TERMS)
        second = ledger.reserve(KEY, STUDY, 1, {"training": TRAINING}, {**TERMS, "delta": 1e-6})
        assert ledger.pending(KEY) == second
        ledger.seal(KEY, b"reply", "e" * 64)
        assert ledger.previous_head(STUDY) == second.head
        assert ledger.pending(KEY) is None
        assert ledger.spends("training") == [TRAINING] * 2


def test_a_failing_reservation_leaves_nothing_of_itself(folder: Path) -> None:
    endless = Spend(float("nan"), 1.0, 1)
    with Ledger.open(folder) as ledger, pytest.raises(ValueError, match="Out of range float"):
        ledger.reserve(KEY, STUDY, 1, {"training": TRAINING, "validation": endless}, TERMS)
    with Ledger.open(folder) as ledger:
        assert ledger.spends("training") == ledger.spends("validation") == []
        assert len(ledger.entries) == 1


def test_a_sealed_reply_comes_back_and_an_unknown_one_is_none(folder: Path) -> None:
    reply = bytes(range(256)) * 10
    with Ledger.open(folder) as ledger:
        answer(ledger, KEY, reply)
    with Ledger.open(folder) as ledger:
        assert ledger.sealed_reply(KEY) == reply
        assert ledger.sealed_reply(OTHER) is None


def test_a_request_is_sealed_once_and_never_unreserved(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        with pytest.raises(LedgerError, match="expected a reservation to seal"):
            ledger.seal(KEY, b"never reserved", "e" * 64)
        answer(ledger, KEY, b"first")
        with pytest.raises(LedgerError, match="expected a reservation to seal"):
            ledger.seal(KEY, b"second", "e" * 64)
    with Ledger.open(folder) as ledger:
        assert ledger.sealed_reply(KEY) == b"first"


def test_of_each_study_the_last_reply_is_kept_whole(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        answer(ledger, KEY, b"first")
        answer(ledger, OTHER, b"second")
        answer(ledger, "c" * 64, b"another study", study="6" * 64)
        assert ledger.sealed_reply(OTHER) == b"second"
        assert ledger.sealed_reply("c" * 64) == b"another study"
        assert ledger.check_replies() == 2
        with pytest.raises(LedgerError, match="only the digest is kept"):
            ledger.sealed_reply(KEY)
        with Ledger.read(folder) as second:
            assert second._file._connection.execute("SELECT count(*) FROM reply").fetchone() == (2,)


def test_previous_heads_chain_the_replies_of_each_study(folder: Path) -> None:
    """What a coordinator sees: h1, then h2 after h1, then h3 after h2, whatever lies between."""
    seen: list[tuple[str | None, str]] = []
    for number in range(3):
        with Ledger.open(folder) as ledger:
            answer(ledger, f"{number + 10:064x}", b"another study", study="6" * 64)
            previous = ledger.previous_head(STUDY)
            seen.append((previous, answer(ledger, f"{number:064x}", b"reply")))
    heads = [head for _, head in seen]
    assert [previous for previous, _ in seen] == [None, *heads[:2]]
    assert len(set(heads)) == 3
    with Ledger.read(folder) as ledger:
        assert set(heads) < {entry.hash for entry in ledger.entries}


def test_a_ledger_put_back_whole_follows_a_head_a_second_time(folder: Path) -> None:
    """The whole state folder restored: no local check can see it, a coordinator can."""
    with Ledger.open(folder) as ledger:
        first = answer(ledger, KEY, b"reply")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with Ledger.open(folder) as ledger:
        assert ledger.previous_head(STUDY) == first
        answer(ledger, OTHER, b"reply")
    for path in folder.iterdir():
        path.write_bytes(before[path.name])
    with Ledger.open(folder) as ledger:  # accepted here
        assert ledger.previous_head(STUDY) == first  # and named by whoever saw `first` followed


def test_a_ledger_started_anew_is_another_one(tmp_path: Path) -> None:
    names = set()
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        Ledger.create(folder)
        with Ledger.read(folder) as ledger:
            names.add(ledger.entries[0].body["name"])
            assert ledger.previous_head(STUDY) is None
    assert len(names) == 2  # so the hashes differ too, also in the same millisecond


def test_one_validation_fraction_for_life(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        answer(ledger, KEY, b"reply")
        other: Terms = {**TERMS, "validation-fraction": 0.25}
        with pytest.raises(LedgerError, match=r"fraction 0\.2, .* found 0\.25; patients may not"):
            ledger.reserve(OTHER, "6" * 64, 1, {"training": TRAINING}, other)
        assert ledger.spends("training") == [TRAINING]
        ledger.reserve(OTHER, "6" * 64, 1, {"training": TRAINING}, TERMS)


def test_one_column_of_sides_for_life(folder: Path) -> None:
    """A coordinator that names another column would have validation patients trained on, unpaid."""
    by_hash: Terms = {**TERMS, "validation-column": "none"}
    by_column: Terms = {**TERMS, "validation-column": "fold"}
    with Ledger.open(folder) as ledger:
        ledger.reserve(KEY, STUDY, 1, {"training": TRAINING}, by_hash)
        with pytest.raises(LedgerError, match=r"validation column none, .* found fold; patients"):
            ledger.reserve(OTHER, "6" * 64, 1, {"training": TRAINING}, by_column)
        assert ledger.spends("training") == [TRAINING]


def test_a_reader_cannot_write(folder: Path) -> None:
    with Ledger.read(folder) as ledger, pytest.raises(LedgerError, match="readonly"):
        ledger.reserve(KEY, STUDY, 1, {"training": TRAINING}, TERMS)
    with Ledger.read(folder) as ledger:
        assert ledger.spends("training") == []


def test_a_ledger_is_created_once(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        answer(ledger, KEY, b"reply")
    with pytest.raises(LedgerError, match="created once"):
        Ledger.create(folder)
    (folder / FILE).unlink()
    with pytest.raises(LedgerError, match=r"the anchor ledger\.head of one with 3 entries"):
        Ledger.create(folder)


def test_it_is_read_without_torch_network_or_accountant(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from client.ledger import Ledger\n"
        "with Ledger.read(Path(sys.argv[1])) as ledger: ledger.check_replies()\n"
        "heavy = {'torch', 'opacus', 'flwr', 'numpy', 'socket', 'dp_accounting'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("COV")},
    )
    assert done.returncode == 0, done.stderr
