"""Who may take part: the coordinator's home with the study CA, and each hospital's way in and out.

    home/
      protocol.toml             the study, as it was when the home was made
      roster.toml               see server/roster.py
      ca/ca.crt, ca.key         signs all the others; the key can lie elsewhere between two approvals
      tls/server.crt, .key      for hospitals: the names and addresses of the protocol
      tls/internal.crt, .key    for Flower's SuperLink, on this machine only
      packages/<hospital>/      what is sent to a hospital

Every step concerns one hospital and leaves the files of the others as they are. A step that is cut
off is done again from its beginning: what counts (the CA's key, the roster) is written last.
"""

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from common.errors import KeyFileError, ProtocolError, RosterError
from common.files import write_atomic
from common.keys import (
    PublicKey,
    SigningRequest,
    fingerprint,
    load_certificate,
    load_private_key,
    load_request,
    make_private_key,
    parse_public_key,
    pem_private,
    public_text,
    write_private_key,
)
from common.protocol import Coordinator, StudyProtocol, load_protocol
from server.authority import (
    Authority,
    issue_hospital,
    issue_server,
    load_authority,
    make_authority,
    pem,
)
from server.home import (
    CA_CERTIFICATE,
    CA_KEY,
    INTERNAL_CERTIFICATE,
    INTERNAL_KEY,
    PACKAGES,
    PROTOCOL,
    ROSTER,
    SERVER_CERTIFICATE,
    SERVER_KEY,
)
from server.package import write_package
from server.roster import Member, Roster, change_roster, load_roster, roster_lock

DAYS = 397  # what browsers accept at most; a renewal a year keeps the way of doing it known
_LOOPBACK = ("127.0.0.1", "localhost")


def initialise(home: Path, protocol_path: Path) -> None:
    """Make the coordinator's home for the study in `protocol_path`: CA, certificates, empty roster.

    ProtocolError when the protocol is not valid or names no coordinator, KeyFileError when there is
    a CA in `home` already. A home that was left half made is made anew.
    """
    protocol = load_protocol(protocol_path)
    _coordinator(protocol, protocol_path)
    with _writing(home):
        for folder in (home, home / "ca", home / "tls", home / PACKAGES):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with roster_lock(home / ROSTER):
            _check_unused(home)
            now = datetime.now(UTC)
            authority = make_authority(protocol.study, now)
            _write_servers(home, protocol, authority, DAYS, now)
            write_atomic(home / PROTOCOL, protocol_path.read_bytes())
            write_atomic(home / CA_CERTIFICATE, pem(authority.certificate))
            write_atomic(home / ROSTER, Roster().to_toml().encode())
            write_private_key(home / CA_KEY, pem_private(authority.key))


def check_request(home: Path, path: Path) -> SigningRequest:
    """The request in `path`, if it is one of a hospital of the study; KeyFileError otherwise."""
    request = load_request(path)
    names = load_protocol(home / PROTOCOL).hospital_names
    if request.common_name not in names:
        raise KeyFileError(
            f"expected a request of a hospital of the study ({', '.join(names)}) in {path} and found "
            f"{request.common_name!r}; ask for one made with `keygen --hospital` and the right name"
        )
    return request


def approve(home: Path, request_path: Path, heard: str, days: int = DAYS) -> Member:
    """Give the hospital of a request access for `days`: certificate, package, roster entry.

    `heard` is the fingerprint that the hospital read out on the telephone. KeyFileError when the
    request is not valid, of no hospital of the study, or has another fingerprint; RosterError when
    the hospital is on the roster already, or the key is another's or was revoked.
    """
    authority = load_authority(home / CA_KEY, home / CA_CERTIFICATE)
    request = check_request(home, request_path)
    hospital, key = request.common_name, request.public_key
    found = fingerprint(key)
    if not hmac.compare_digest(found.encode(), heard.strip().encode()):
        raise KeyFileError(
            f"expected the request of '{hospital}' to have the fingerprint heard by telephone, "
            f"{heard.strip()!r}, and found {found}; call again, on a number that you know: if they "
            f"differ, the request is not the hospital's"
        )
    now = datetime.now(UTC)

    def admit(roster: Roster) -> Roster:
        _check_new(roster, hospital, found)
        protocol = load_protocol(home / PROTOCOL)
        certificate = _write_access(home, protocol, authority, hospital, key, days, now)
        member = Member(
            hospital=hospital,
            public_key=public_text(key),
            nominal_patients=protocol.hospital(hospital).nominal_patients,
            approved=now.replace(microsecond=0),
            expires=certificate.not_valid_after_utc,
        )
        return roster.with_member(member)

    with _writing(home):
        return change_roster(home / ROSTER, admit).member(hospital)


def renew(home: Path, hospital: str, days: int = DAYS) -> Member:
    """A new certificate for the key that `hospital` has on the roster, valid for `days` from now.

    RosterError when it is not on the roster.
    """
    authority = load_authority(home / CA_KEY, home / CA_CERTIFICATE)
    now = datetime.now(UTC)

    def extend(roster: Roster) -> Roster:
        member = roster.member(hospital)
        key = parse_public_key(member.public_key)
        protocol = load_protocol(home / PROTOCOL)
        certificate = _write_access(home, protocol, authority, hospital, key, days, now)
        expires = certificate.not_valid_after_utc
        return roster.with_member(member.model_copy(update={"expires": expires}))

    with _writing(home):
        return change_roster(home / ROSTER, extend).member(hospital)


def renew_server(home: Path, days: int = DAYS) -> None:
    """New server and internal certificates under the same CA, for the same keys, for `days`.

    To change a key as well, delete its file first. The running coordinator has to be started anew.
    """
    authority = load_authority(home / CA_KEY, home / CA_CERTIFICATE)
    protocol = load_protocol(home / PROTOCOL)
    with _writing(home), roster_lock(home / ROSTER):
        _write_servers(home, protocol, authority, days, datetime.now(UTC))


def revoke(home: Path, hospital: str) -> str:
    """Take `hospital` off the roster and return its key's fingerprint; that key never comes back.

    RosterError when it is not on the roster. The CA's key is not needed.
    """

    def drop(roster: Roster) -> Roster:
        return roster.without(hospital, datetime.now(UTC).replace(microsecond=0))

    with _writing(home):
        return change_roster(home / ROSTER, drop).revoked[-1].fingerprint


def certificates(home: Path) -> dict[str, x509.Certificate]:
    """The coordinator's own certificates: "ca", "server" and "internal"."""
    return {
        "ca": load_certificate(home / CA_CERTIFICATE),
        "server": load_certificate(home / SERVER_CERTIFICATE),
        "internal": load_certificate(home / INTERNAL_CERTIFICATE),
    }


def _check_unused(home: Path) -> None:
    if (home / CA_KEY).exists():
        raise KeyFileError(
            f"expected no study CA in {home} and found {home / CA_KEY}: every hospital's access "
            f"hangs on it; use the home as it is, or name another one with --home"
        )
    # The key may lie elsewhere. Without one and without a hospital, it is a home left half made.
    if (home / ROSTER).exists():
        roster = load_roster(home / ROSTER)
        if roster.members or roster.revoked:
            raise KeyFileError(
                f"expected no hospitals in {home} and found {len(roster.members)} on its roster, "
                f"with no {CA_KEY}; put back the key, or name another home with --home"
            )


def _check_new(roster: Roster, hospital: str, found: str) -> None:
    for member in roster.members:
        if member.hospital == hospital and member.fingerprint == found:
            raise RosterError(
                f"expected '{hospital}' not to be on the roster and found it with this very key; "
                f"renew it instead: `intramural-server provision renew {hospital}`"
            )
        if member.hospital == hospital:
            raise RosterError(
                f"expected '{hospital}' not to be on the roster and found it with another key, "
                f"{member.fingerprint}; revoke that one first"
            )
        if member.fingerprint == found:
            raise RosterError(
                f"expected a key of its own for '{hospital}' and found that of "
                f"'{member.hospital}'; ask for a request with a new key"
            )
    for gone in roster.revoked:
        if gone.fingerprint == found:
            raise RosterError(
                f"expected a new key for '{hospital}' and found one that was revoked on "
                f"{gone.when:%Y-%m-%d}; a revoked key never comes back: ask for a request with a "
                f"new one"
            )


def _coordinator(protocol: StudyProtocol, source: Path) -> Coordinator:
    if protocol.coordinator is None:
        raise ProtocolError(
            f"expected [coordinator] with its names and port in {source} and found none, as in a "
            f"rehearsal; add it: hospitals dial what the protocol says"
        )
    return protocol.coordinator


def _write_access(
    home: Path,
    protocol: StudyProtocol,
    authority: Authority,
    hospital: str,
    key: PublicKey,
    days: int,
    now: datetime,
) -> x509.Certificate:
    certificate = issue_hospital(authority, hospital, key, days, now)
    write_package(
        home / PACKAGES / hospital,
        hospital,
        protocol,
        protocol_text=(home / PROTOCOL).read_bytes(),
        address=_coordinator(protocol, home / PROTOCOL).address,
        certificate=pem(certificate),
        ca=pem(authority.certificate),
    )
    return certificate


def _write_servers(
    home: Path, protocol: StudyProtocol, authority: Authority, days: int, now: datetime
) -> None:
    names = _coordinator(protocol, home / PROTOCOL).names
    for certificate_path, key_path, answers_to in (
        (home / SERVER_CERTIFICATE, home / SERVER_KEY, names),
        (home / INTERNAL_CERTIFICATE, home / INTERNAL_KEY, _LOOPBACK),
    ):
        if not key_path.exists():
            write_private_key(key_path, pem_private(make_private_key()))
        key = load_private_key(key_path).public_key()
        certificate = issue_server(authority, answers_to, key, days, now)
        write_atomic(certificate_path, pem(certificate))


@contextmanager
def _writing(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KeyFileError(f"cannot write below {home}: {error}") from error
