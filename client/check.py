"""Preflight: everything that a study needs at this hospital, looked at before any budget is spent.

Each finding is one sentence. What the coordinator would notice only by a hospital that never comes
(clock, version, name on the certificate) is noticed here, by the hospital itself.
"""

import json
import os
import shutil
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.client import HTTPException, HTTPSConnection
from importlib.metadata import version
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID
from rich.console import Console

from client.approval import APPROVED
from client.connection import Connection, load_connection
from client.data_check import DataLook, data_findings
from client.egress_log import EgressLog
from client.finding import Finding, Verdict, print_findings
from client.ledger import Ledger
from client.node import check_fit, relay_environment
from client.policy import SitePolicy, load_policy
from client.relay import BUNDLES
from client.vault_process import PROTOCOL
from client.walls import Wall, bundle_wall, import_wall, network_wall, uid_of, user_wall
from common.errors import HospitalError, IntramuralError
from common.keys import days_left, load_certificate, load_private_key, public_text
from common.protocol import load_protocol
from common.tasks import USUAL

DRIVER = Path("/dev/nvidiactl")  # there when NVIDIA's driver is loaded
FREE_BYTES = 1_000_000_000  # the last replies, exact scores and logs
FEW_DAYS = 30
# Flower takes a signature of 5 s ahead to 305 s behind its own clock (flwr superlink node_auth).
AHEAD_SECONDS, BEHIND_SECONDS = 4.0, 290.0
NETWORK_SECONDS = 10.0


def findings(site: Path, connection_file: Path, look: DataLook | None = None) -> Iterator[Finding]:
    """Look at all of it, in a few seconds, and change nothing; with `look` judge the data too."""
    policy: SitePolicy | None = None
    connection: Connection | None = None
    try:
        policy = load_policy(site)
        yield Finding("site policy", "good", f"{site}, hospital '{policy.hospital}'")
    except IntramuralError as error:
        yield Finding("site policy", "bad", str(error))
    try:
        connection = load_connection(connection_file)
        yield Finding("connection", "good", f"{connection_file}, to {connection.coordinator}")
    except IntramuralError as error:
        yield Finding("connection", "bad", str(error))
    if policy is not None:
        if connection is not None:
            yield _checked(
                "package", lambda: check_fit(policy, connection), "one hospital, one socket"
            )
        yield from _study(site, policy, look)
        yield _ledger(policy)
        yield _approval(policy)
        yield _device(policy)
        yield _disk(policy)
    if connection is not None:
        yield _certificate(connection)
        yield from _coordinator(connection)
    if policy is not None and connection is not None:
        for wall in _walls(site, policy, connection):
            yield Finding(f"wall: {wall.name}", "good" if wall.stands else "look", wall.why)


def _walls(site: Path, policy: SitePolicy, connection: Connection) -> Iterator[Wall]:
    """The walls between patients and network, each tried out (client/walls.py)."""
    relay_user = policy.relay_user
    try:
        yield network_wall(None if relay_user is None else uid_of(relay_user))
        yield user_wall([policy.data, policy.state, site.resolve()], relay_user)
        if (bundles := connection.home / BUNDLES).is_dir():
            yield bundle_wall(bundles, relay_user)
        else:
            yield Wall("bundles", False, f"{bundles} is made at the first start; look again then")
        yield import_wall({**os.environ, **relay_environment(connection)})
    except HospitalError as error:
        yield Wall("users", False, str(error))


def planted_canary(site: Path) -> bool:
    """Plant a patient's name here and search for it in all that leaves (THREATS.md T13, T14).

    Half a minute for the tasks of the studies that are approved. Made beside the hospital's state folder,
    and taken away at the end: the same file system, the same Python and libraries. Prints a table and
    what was found; whether nothing was.
    """
    # Loads what only this needs.
    from client.canary.battery import CONTROL, problems, run_battery, tables

    console = Console()
    try:
        policy = load_policy(site)
        beside = policy.state.parent
        with console.status("planting a patient's name and searching for it"):
            writable = os.access(beside, os.W_OK)
            rows = run_battery(beside if writable else None, _approved_tasks(policy))
    except IntramuralError as error:
        return print_findings(iter([Finding("canary", "bad", str(error))]))
    for table in tables(rows):
        console.print(table)
    bad = [Finding("canary", "bad", problem) for problem in problems(rows)]
    faults = sum(row.group != CONTROL for row in rows)
    said = f"{faults} faults, and a patient's name left at none; a leak on purpose was found"
    return print_findings(iter(bad or [Finding("canary", "good", said)]))


def _approved_tasks(policy: SitePolicy) -> list[str]:
    """The tasks of the studies that this hospital has approved, or the usual one."""
    texts = (policy.state / APPROVED / f"{digest}.toml" for digest in policy.approved_studies)
    return sorted({load_protocol(text).task for text in texts if text.is_file()}) or [USUAL]


def _checked(what: str, look: Callable[[], object], good: str) -> Finding:
    try:
        look()
    except IntramuralError as error:
        return Finding(what, "bad", str(error))
    return Finding(what, "good", good)


def _study(site: Path, policy: SitePolicy, look: DataLook | None) -> Iterator[Finding]:
    """The package's study, whether it is approved, and this hospital's patients as it sees them."""
    path, what = site.resolve().parent / PROTOCOL, "study protocol"
    try:
        protocol = load_protocol(path)
    except IntramuralError as error:
        yield Finding(what, "bad", f"{error}; put the package's {PROTOCOL} beside {site}")
        return
    if policy.hospital not in protocol.hospital_names:
        yield Finding(what, "bad", f"'{policy.hospital}' is not among its hospitals")
        return
    if protocol.digest in policy.approved_studies:
        yield Finding(what, "good", f"'{protocol.study}' {protocol.digest[:12]}, approved")
    else:
        yield Finding(
            what,
            "bad",
            f"'{protocol.study}' is not approved by this hospital: intramural-client approve {path}",
        )
    yield from data_findings(policy, protocol, look)


def _ledger(policy: SitePolicy) -> Finding:
    try:
        with Ledger.read(policy.state) as ledger:
            ledger.check_replies()
            return Finding("ledger", "good", f"whole, {len(ledger.entries)} entries")
    except IntramuralError as error:
        return Finding("ledger", "bad", str(error))


def _approval(policy: SitePolicy) -> Finding:
    log = EgressLog(policy.state)
    return _checked(
        "approval and egress log",
        lambda: log.approval_of(policy.digest),
        "whole, and the site policy is as it was approved",
    )


def _disk(policy: SitePolicy) -> Finding:
    free = shutil.disk_usage(policy.state).free if policy.state.exists() else 0
    said = f"{free / 1e9:.1f} GB free for {policy.state}"
    if free < FREE_BYTES:
        return Finding("disk", "bad", f"{said}, expected {FREE_BYTES / 1e9:.0f} GB; make room")
    return Finding("disk", "good", said)


def _certificate(connection: Connection) -> Finding:
    what, now = "key and certificate", datetime.now(UTC)
    try:
        certificate, ca = load_certificate(connection.certificate), load_certificate(connection.ca)
        key = load_private_key(connection.key)
        certificate.verify_directly_issued_by(ca)
    except IntramuralError as error:
        return Finding(what, "bad", str(error))
    except (ValueError, TypeError, InvalidSignature):
        return Finding(
            what, "bad", f"{connection.certificate} is not from the authority in {connection.ca}"
        )
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [str(name.value) for name in names] != [connection.hospital]:
        return Finding(what, "bad", f"the certificate is not for '{connection.hospital}'")
    if _key_of(certificate) != public_text(key.public_key()):
        return Finding(
            what, "bad", f"{connection.key} is not the key that {connection.certificate} is for"
        )
    left = days_left(certificate, now)
    if left < 0:
        return Finding(what, "bad", f"expired {-left} days ago; ask the coordinator to renew it")
    verdict: Verdict = "good" if left >= FEW_DAYS else "look"
    return Finding(
        what, verdict, f"{left} days left (until {certificate.not_valid_after_utc:%Y-%m-%d})"
    )


def _key_of(certificate: x509.Certificate) -> str:
    return public_text(certificate.public_key())  # type: ignore[arg-type]  # it compares unequal else


def _coordinator(connection: Connection) -> Iterator[Finding]:
    """TLS chain and name, reachability, version and clock, over one request to the gateway."""
    try:
        context = ssl.create_default_context(cafile=connection.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        link = HTTPSConnection(
            connection.host, connection.port, timeout=NETWORK_SECONDS, context=context
        )
        link.request("GET", "/health")
        answer = link.getresponse()
        health = json.loads(answer.read(10_000))
        theirs = datetime.fromisoformat(health["time"])
        running = str(health["version"])
    except ssl.SSLCertVerificationError as error:
        yield Finding(
            "coordinator",
            "bad",
            f"{connection.coordinator} is not the coordinator of this study's authority: "
            f"{error.verify_message}; nothing was sent",
        )
        return
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        yield Finding(
            "coordinator",
            "look",
            f"{connection.coordinator} does not answer ({type(error).__name__}); it is tried again "
            f"while the hospital serves. Outgoing TCP to it must be allowed",
        )
        return
    yield Finding("coordinator", "good", f"{connection.coordinator}, chain and name are right")
    own = version("intramural")
    yield Finding(
        "version",
        "good" if running == own else "bad",
        f"intramural {own} here, {running} at the coordinator"
        + ("" if running == own else "; they must be the same"),
    )
    ahead = (datetime.now(UTC) - theirs).total_seconds()
    if -BEHIND_SECONDS < ahead < AHEAD_SECONDS:
        yield Finding("clock", "good", f"{abs(ahead):.1f} s off the coordinator's")
    else:
        side = "ahead of" if ahead > 0 else "behind"
        yield Finding(
            "clock",
            "bad",
            f"your clock is {abs(ahead):.0f} s {side} the coordinator's, whose server then refuses "
            f"this hospital; set it (NTP)",
        )


def _device(policy: SitePolicy) -> Finding:
    driver = DRIVER.exists()
    if policy.device == "cuda" and not driver:
        return Finding("device", "bad", f"site.toml asks for cuda and this host has no {DRIVER}")
    uses = "the GPU" if driver and policy.device != "cpu" else "the processor"
    return Finding("device", "good", f"trains on {uses}")
