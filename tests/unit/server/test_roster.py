"""The roster: what is refused, and that two who write it at once lose nothing."""

import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.errors import RosterError
from common.files import locked
from common.keys import fingerprint, make_private_key, public_text
from server.roster import Member, Revoked, Roster, change_roster, load_roster, parse_roster

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def member(hospital: str, **changes: Any) -> Member:
    fields: dict[str, Any] = {
        "hospital": hospital,
        "public_key": public_text(make_private_key().public_key()),
        "nominal_patients": 10,
        "approved": NOW,
        "expires": NOW + timedelta(days=30),
    }
    return Member.model_validate(fields | changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "roster.toml"
    roster = Roster(members=(member("north"), member("west", node_id=2**64 - 1)))
    path.write_text(roster.to_toml())
    return path


def test_a_roster_is_read_as_it_was_written(path: Path) -> None:
    roster = load_roster(path)
    assert [m.node_id for m in roster.members] == [None, 2**64 - 1]
    revoked = roster.without("north", NOW).with_member(member("east"))
    assert parse_roster(revoked.to_toml(), path) == revoked
    assert parse_roster(Roster().to_toml(), path) == Roster()


def test_access_ends_with_the_certificate() -> None:
    north = member("north")
    for seconds, valid, days in ((-1, True, 0), (0, False, 0), (1, False, -1)):
        at = north.expires + timedelta(seconds=seconds)
        assert (north.valid(at), north.days_left(at)) == (valid, days)


def test_with_member_replaces_in_place_and_adds_at_the_end(path: Path) -> None:
    roster = load_roster(path)
    north, west = roster.members
    registered = north.model_copy(update={"node_id": 7})
    assert roster.with_member(registered).members == (registered, west)
    east = member("east")
    assert roster.with_member(east).members == (north, west, east)


def test_without_keeps_the_key_as_revoked(path: Path) -> None:
    roster = load_roster(path)
    north, west = roster.members
    left = roster.without("north", NOW)
    assert left.members == (west,)
    assert left.revoked == (Revoked(hospital="north", fingerprint=north.fingerprint, when=NOW),)
    with pytest.raises(RosterError, match="expected 'north' on the roster and found west"):
        left.without("north", NOW)


def test_an_absent_roster_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RosterError, match="found none; make the coordinator's home with"):
        load_roster(tmp_path / "roster.toml")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"west"', '"north"', "every hospital once and found north twice"),
        ("nominal-patients", "nominal-patient", "unknown key.*did you mean 'nominal-patients'"),
        ("nominal-patients = 10", "nominal-patients = 0", "nominal-patients' is 0 but must"),
        (str(2**64 - 1), "0", "node-id' is 0 but must"),
        (str(2**64 - 1), str(2**64), "node-id' is .* but must be less than"),
        ("12:00:00+00:00", "12:00:00", "must have timezone info"),
        ("nistp384 AAAA", "nistp384 AAAB", "expected a public key in OpenSSH's format"),
        ("[[members]]", "[[member]]", "unknown key 'member'; did you mean 'members'"),
        ("[[members]]", "[[members]", "expected TOML"),
        ("hospital", "\x00", "expected TOML"),
    ],
)
def test_a_damaged_roster_is_refused(path: Path, old: str, new: str, words: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(RosterError, match=f"roster.toml: .*{words}"):
        load_roster(path)


def test_a_roster_cut_off_anywhere_is_never_read_as_a_shorter_one_with_access(path: Path) -> None:
    """Whole lines of optional fields may be missing at the end; half a member is never a member."""
    data = path.read_bytes()
    whole = {(m.hospital, m.public_key) for m in load_roster(path).members}
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        try:
            found = load_roster(path)
        except RosterError:
            continue
        assert {(m.hospital, m.public_key) for m in found.members} <= whole


def test_one_key_two_hospitals_is_refused(path: Path) -> None:
    north, west = load_roster(path).members
    path.write_text(path.read_text().replace(west.public_key, north.public_key))
    words = re.escape(f"every key once and found {north.fingerprint} twice")
    with pytest.raises(RosterError, match=words):
        load_roster(path)


def test_one_node_id_two_hospitals_is_refused(path: Path) -> None:
    def both_seven(roster: Roster) -> Roster:
        for one in roster.members:
            roster = roster.with_member(one.model_copy(update={"node_id": 7}))
        return roster

    before = path.read_bytes()
    with pytest.raises(RosterError, match="every node id once and found 7 twice"):
        change_roster(path, both_seven)
    assert path.read_bytes() == before


def test_a_member_with_a_revoked_key_is_refused(path: Path) -> None:
    roster = load_roster(path)
    north = roster.member("north")
    with pytest.raises(RosterError, match="expected no revoked key among the members"):
        change_roster(path, lambda roster: roster.without("north", NOW).with_member(north))
    with pytest.raises(ValidationError):
        Revoked(hospital="north", fingerprint="MD5:00", when=NOW)
    assert load_roster(path) == roster


def test_what_goes_wrong_in_a_change_leaves_the_roster_and_no_lock(path: Path) -> None:
    def fail(_: Roster) -> Roster:
        raise KeyboardInterrupt

    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        change_roster(path, fail)
    assert path.read_bytes() == before
    assert change_roster(path, lambda roster: roster, wait_s=0) == load_roster(path)


def test_a_locked_roster_is_waited_for_and_then_said(path: Path) -> None:
    before = path.read_bytes()
    with locked(path.with_name("roster.toml.lock")):
        start = time.monotonic()
        with pytest.raises(RosterError, match=r"cannot change .* is locked by another process"):
            change_roster(path, lambda roster: roster.without("north", NOW), wait_s=0.2)
        assert time.monotonic() - start >= 0.2
    assert path.read_bytes() == before


def test_a_lock_that_cannot_be_made_is_said_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(RosterError, match="cannot make the lock file"):
        change_roster(tmp_path / "nothing" / "roster.toml", lambda roster: roster)
    assert time.monotonic() - start < 5


COUNT = """
import sys
from pathlib import Path
from server.roster import change_roster

def count(roster):
    north = roster.member("north")
    return roster.with_member(north.model_copy(update={"node_id": (north.node_id or 0) + 1}))

for _ in range(25):
    change_roster(Path(sys.argv[1]), count)
"""


def test_two_processes_that_write_at_once_lose_nothing(path: Path, repository: Path) -> None:
    command = [sys.executable, "-c", COUNT, str(path)]
    writers = [subprocess.Popen(command, cwd=repository) for _ in range(2)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert load_roster(path).member("north").node_id == 50


def test_the_fingerprint_is_that_of_the_key() -> None:
    key = make_private_key().public_key()
    assert member("north", public_key=public_text(key)).fingerprint == fingerprint(key)
