"""A hospital's own acts: it begins its books, and it approves a study and the policy that it wrote.

`site.toml` is the hospital's file, and only this adds anything to it: the digest of a study that
somebody read. What was approved, and under which policy, is an entry of the egress log.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.egress_log import LOG, EgressLog
from client.ledger import FILE as LEDGER_FILE
from client.ledger import Ledger
from client.policy import SitePolicy, check_limits, load_policy
from common.documents import tables_of
from common.errors import PolicyError
from common.files import write_atomic
from common.protocol import StudyProtocol

APPROVED = "approved"  # below the state folder: the text of each study that was approved
_LIST = re.compile(r"^approved-studies[ \t]*=[ \t]*\[[^\]]*\]", re.MULTILINE)


def begin(state: Path) -> None:
    """Start ledger and egress log in `state`, once in a hospital's life; LedgerError, EgressError."""
    with _as_owner_of(state):
        if not (state / LEDGER_FILE).exists() and not (state / LOG).exists():
            EgressLog.create(state)
        Ledger.create(state)  # the last: with it a hospital has begun


def approve(site: Path, protocol: StudyProtocol | None) -> SitePolicy:
    """Approve the policy in `site` as it stands, and with it the study of `protocol`.

    Returns the policy, which then names the study's digest. PolicyError when the policy does not
    allow such a study, or when its list of approved studies cannot be added to.
    """
    policy = load_policy(site)
    if protocol is not None:
        check_limits(protocol, policy)
        if protocol.digest not in policy.approved_studies:
            _rewrite(site, _with_study(site, policy, protocol.digest))
            policy = load_policy(site)
    with _as_owner_of(policy.state):
        if protocol is not None:
            folder = policy.state / APPROVED
            folder.mkdir(exist_ok=True, mode=0o700)
            write_atomic(folder / f"{protocol.digest}.toml", protocol.to_toml().encode())
        study = None if protocol is None else protocol.digest
        EgressLog(policy.state).approve(policy.digest, study)
    return policy


@contextmanager
def _as_owner_of(folder: Path) -> Iterator[None]:
    """As root, be the user whose folder it is: the vault, which is to write there afterwards."""
    if os.geteuid() != 0 or not folder.is_dir():
        yield
        return
    owner = folder.stat()
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def _rewrite(path: Path, data: bytes) -> None:
    """Write `path` anew under the owner and mode that it has: the vault reads it, as another user."""
    before = path.stat()
    write_atomic(path, data)
    os.chown(path, before.st_uid, before.st_gid)
    path.chmod(before.st_mode & 0o777)


def _with_study(site: Path, policy: SitePolicy, digest: str) -> bytes:
    """The text of `site` with `digest` in its list, and nothing else changed."""
    studies = [*policy.approved_studies, digest]
    rows = "".join(f'\n    "{study}",' for study in studies)
    text, found = _LIST.subn(f"approved-studies = [{rows}\n]", site.read_text(encoding="utf-8"))
    expected = policy.model_copy(update={"approved_studies": tuple(studies)})
    if found != 1 or SitePolicy.model_validate(tables_of(text), by_name=False) != expected:
        raise PolicyError(
            f"expected one list approved-studies = [...] in {site} and did not find it so; add "
            f'"{digest}" to it by hand, and approve again'
        )
    return text.encode()
