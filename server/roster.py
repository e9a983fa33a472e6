"""The coordinator's roster: which hospital has which key, until when; and which keys never come back.

`roster.toml` is written by `intramural-server provision` and by the running coordinator (node ids),
so every change is made under a lock, checked as a whole and written whole. Who is not on it has no
access, whatever certificate it holds: the roster takes the place of a revocation list.
"""

import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import (
    AwareDatetime,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from common.documents import Document, Name, PositiveInt, first_problem
from common.errors import KeyFileError, RosterError, RunError
from common.files import locked, write_atomic
from common.keys import days_until, fingerprint, parse_public_key

WAIT_S = 10.0  # seconds for which a change waits for another one, which takes milliseconds
_RETRY_S = 0.05
_HEADER = "# Written by intramural-server; change it with `intramural-server provision`.\n"


class Member(Document):
    """One hospital with access: its key, public cohort size, and since and until when.

    `public_key` is OpenSSH's one line. `node_id` is what Flower's SuperLink calls the hospital,
    None until the coordinator has registered its key there.
    """

    hospital: Name
    public_key: str
    nominal_patients: PositiveInt
    approved: AwareDatetime
    expires: AwareDatetime
    node_id: Annotated[int, Field(strict=True, ge=1, lt=2**64)] | None = None

    @field_validator("public_key")
    @classmethod
    def _is_a_key(cls, text: str) -> str:
        try:
            parse_public_key(text)
        except KeyFileError as error:
            raise ValueError(str(error)) from error
        return text

    @property
    def fingerprint(self) -> str:
        """The key's SHA-256 as `ssh-keygen -l` shows it."""
        return fingerprint(parse_public_key(self.public_key))

    def valid(self, now: datetime) -> bool:
        """Whether the hospital has access at `now` (aware)."""
        return now < self.expires

    def days_left(self, now: datetime) -> int:
        """Whole days until the certificate expires: 0 on its last day, negative from then on."""
        return days_until(self.expires, now)


class Revoked(Document):
    """A key that had access and never will again."""

    hospital: Name
    fingerprint: Annotated[str, Field(pattern=r"^SHA256:[A-Za-z0-9+/]{43}$")]
    when: AwareDatetime


class Roster(Document):
    """All hospitals with access, and all keys that lost it. Frozen: every change is a new roster."""

    members: tuple[Member, ...] = ()
    revoked: tuple[Revoked, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> "Roster":
        seen: set[tuple[str, str | int]] = set()
        for member in self.members:
            for what, one in (
                ("hospital", member.hospital),
                ("key", member.fingerprint),
                ("node id", member.node_id),
            ):
                if one is None:
                    continue
                if (what, one) in seen:
                    raise ValueError(f"expected every {what} once and found {one} twice")
                seen.add((what, one))
        gone = {revoked.fingerprint for revoked in self.revoked}
        for member in self.members:
            if member.fingerprint in gone:
                raise ValueError(
                    f"expected no revoked key among the members and found that of "
                    f"'{member.hospital}', {member.fingerprint}"
                )
        return self

    def member(self, hospital: str) -> Member:
        """The entry of `hospital`; RosterError when it has none."""
        for member in self.members:
            if member.hospital == hospital:
                return member
        known = ", ".join(member.hospital for member in self.members) or "none"
        raise RosterError(
            f"expected '{hospital}' on the roster and found {known}; approve its request first"
        )

    def with_member(self, member: Member) -> "Roster":
        """This roster with `member` in place of the entry of its hospital, or as the last one."""
        others = {m.hospital: m for m in self.members}
        return self.model_copy(
            update={"members": tuple((others | {member.hospital: member}).values())}
        )

    def without(self, hospital: str, now: datetime) -> "Roster":
        """This roster with the key of `hospital` revoked at `now`; RosterError when it has none."""
        gone = self.member(hospital)
        revoked = Revoked(hospital=hospital, fingerprint=gone.fingerprint, when=now)
        return self.model_copy(
            update={
                "members": tuple(member for member in self.members if member is not gone),
                "revoked": (*self.revoked, revoked),
            }
        )

    def to_toml(self) -> str:
        """The roster as text that `parse_roster` reads back to an equal roster."""
        return _HEADER + tomli_w.dumps(self.model_dump(by_alias=True, exclude_none=True))


def parse_roster(text: str, source: Path) -> Roster:
    """The roster in `text` (TOML); RosterError, which names `source`, when it is not valid."""
    try:
        return Roster.model_validate(tomllib.loads(text))
    except ValidationError as error:
        problem = first_problem(error, Roster)
    except ValueError as error:
        problem = f"expected TOML: {error}"
    raise RosterError(
        f"cannot use the roster {source}: {problem}; only `intramural-server provision` and the "
        f"coordinator write it"
    )


def load_roster(path: Path) -> Roster:
    """The roster in the file `path`; RosterError when it is absent or not valid."""
    try:
        return parse_roster(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError as error:
        raise RosterError(
            f"expected a roster in {path} and found none; make the coordinator's home with "
            f"`intramural-server provision init`, or name it with --home"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RosterError(f"cannot read the roster {path}: {error}") from error


def change_roster(path: Path, change: Callable[[Roster], Roster], wait_s: float = WAIT_S) -> Roster:
    """Replace the roster in `path` by what `change` makes of it, and return that.

    Nobody else changes it meanwhile. RosterError when it is damaged, would be after the change, or
    stays locked for `wait_s` seconds; then, and with any error of `change`, it stays as it was.
    """
    with roster_lock(path, wait_s):
        text = change(load_roster(path)).to_toml()
        changed = parse_roster(text, path)
        write_atomic(path, text.encode())
    return changed


@contextmanager
def roster_lock(path: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Keep others from changing the roster in `path`; RosterError after `wait_s` seconds in vain."""
    until = time.monotonic() + wait_s
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(path.with_name(f"{path.name}.lock")))
                break
            except RunError as error:
                in_use = isinstance(error.__cause__, BlockingIOError)
                if not in_use or time.monotonic() >= until:
                    raise RosterError(f"cannot change {path}: {error}") from error
                time.sleep(_RETRY_S)
        yield
