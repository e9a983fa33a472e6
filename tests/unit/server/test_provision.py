"""Provisioning, judged by openssl and a TLS handshake, by the hospital's own readers, and by bytes."""

import json
import re
import shutil
import ssl
import subprocess
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from client.approval import approve as hospital_approves
from client.approval import begin
from client.connection import load_connection
from client.keys import HospitalKey, make_hospital_key
from client.policy import load_policy
from common.errors import KeyFileError, ProtocolError, RosterError
from common.keys import load_certificate, load_private_key, make_private_key, pem_private
from common.protocol import Coordinator, StudyProtocol, load_protocol
from server import provision
from server.__main__ import app
from server.authority import issue_server, load_authority, pem
from server.roster import load_roster

MakeStudy = Callable[..., StudyProtocol]
MakeHospital = Callable[[str], HospitalKey]

NAMES = ("study.example.org", "10.20.30.40", "2001:db8::7")
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not here")


@pytest.fixture
def protocol(tmp_path: Path, small_study: MakeStudy) -> Path:
    study = small_study(north=10, east=7, west=4)
    path = tmp_path / "protocol.toml"
    coordinator = Coordinator(names=NAMES)
    text = study.model_copy(update={"coordinator": coordinator}).to_toml()
    path.write_text(f"# as agreed in March\n{text}")
    return path


@pytest.fixture
def home(tmp_path: Path, protocol: Path) -> Path:
    provision.initialise(tmp_path / "home", protocol)
    return tmp_path / "home"


@pytest.fixture
def hospital(tmp_path: Path) -> MakeHospital:
    """A key and a request of the hospital with this name, new each time."""
    made: list[HospitalKey] = []

    def make(name: str) -> HospitalKey:
        made.append(make_hospital_key(name, tmp_path / "hospitals" / f"{name}-{len(made)}"))
        return made[-1]

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def openssl(*words: str | Path) -> str:
    command = ["openssl", *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def run(home: Path, *words: str | Path, typed: str | None = None) -> Result:
    command = ["provision", *(str(word) for word in words), "--home", str(home)]
    return CliRunner().invoke(app, command, input=typed, env={"COLUMNS": "250"})


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """The server's end after both are content; ssl.SSLError when one is not."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    left = [here, there]
    for _ in range(10):
        for end in tuple(left):
            try:
                end.do_handshake()
                left.remove(end)
            except ssl.SSLWantReadError:
                pass
        if not left:
            return there
    raise AssertionError("the handshake does not end")


def serving(certificate: Path, key: Path, clients: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    return context


def trusting(ca: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    return context


# The coordinator's home


def test_a_new_home_is_private_and_whole(home: Path, protocol: Path) -> None:
    assert set(contents(home)) == {
        "protocol.toml",
        "roster.toml",
        "roster.toml.lock",
        "ca/ca.crt",
        "ca/ca.key",
        "tls/server.crt",
        "tls/server.key",
        "tls/internal.crt",
        "tls/internal.key",
    }
    for path in (home, *home.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert (home / "protocol.toml").read_bytes() == protocol.read_bytes()
    assert load_roster(home / "roster.toml").members == ()
    now = datetime.now(UTC)
    left = {
        name: found.not_valid_after_utc - now
        for name, found in provision.certificates(home).items()
    }
    assert timedelta(days=3649) < left["ca"] <= timedelta(days=3650)
    assert timedelta(days=396) < left["server"] <= timedelta(days=397)


@needs_openssl
def test_openssl_finds_the_certificates_right(home: Path, hospital: MakeHospital) -> None:
    made = hospital("north")
    provision.approve(home, made.request, made.fingerprint)
    ca = home / "ca" / "ca.crt"
    north = home / "packages" / "north" / "hospital.crt"
    verify = ["verify", "-x509_strict", "-CAfile", str(ca)]
    for purpose, path, good in (
        ("sslserver", home / "tls" / "server.crt", True),
        ("sslserver", home / "tls" / "internal.crt", True),
        ("sslclient", north, True),
        ("sslserver", north, False),
        ("sslclient", home / "tls" / "server.crt", False),
    ):
        assert openssl(*verify, "-purpose", purpose, path).endswith(": OK\n") == good, path
    for file, option, name, good in (
        ("server.crt", "-checkhost", "study.example.org", True),
        ("server.crt", "-checkip", "10.20.30.40", True),
        ("server.crt", "-checkip", "2001:db8::7", True),
        ("server.crt", "-checkhost", "other.example.org", False),
        ("server.crt", "-checkip", "127.0.0.1", False),
        ("internal.crt", "-checkip", "127.0.0.1", True),
        ("internal.crt", "-checkhost", "localhost", True),
        ("internal.crt", "-checkhost", "study.example.org", False),
    ):
        shown = openssl("x509", "-noout", option, name, "-in", home / "tls" / file)
        assert ("does match" in shown) == good, (file, name, shown)
    for path in (north, home / "tls" / "server.crt", home / "tls" / "internal.crt"):
        assert "CA:FALSE" in openssl("x509", "-noout", "-text", "-in", path)
    shown = openssl("x509", "-noout", "-text", "-in", ca)
    assert "CA:TRUE, pathlen:0" in shown
    assert re.search(r"Key Usage: critical\s+Certificate Sign\s*\n", shown)
    assert "NIST CURVE: P-384" in shown


@needs_openssl
def test_a_hospitals_certificate_signs_no_other(
    tmp_path: Path, home: Path, hospital: MakeHospital
) -> None:
    made = hospital("north")
    provision.approve(home, made.request, made.fingerprint)
    own = home / "packages" / "north" / "hospital.crt"
    (tmp_path / "key").write_bytes(pem_private(load_private_key(made.key)))
    forged = tmp_path / "forged.crt"
    forge: list[str | Path] = ["-req", "-in", hospital("west").request, "-set_serial", "7"]
    openssl("x509", *forge, "-CA", own, "-CAkey", tmp_path / "key", "-out", forged)
    shown = openssl("verify", "-CAfile", home / "ca" / "ca.crt", "-untrusted", own, forged)
    assert "invalid CA certificate" in shown


@pytest.mark.parametrize("name", [*NAMES])
def test_tls_is_accepted_for_the_names_of_the_protocol(home: Path, name: str) -> None:
    server = serving(home / "tls" / "server.crt", home / "tls" / "server.key")
    handshake(server, trusting(home / "ca" / "ca.crt"), name)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_tls_of_superlink_is_accepted_on_this_machine_only(home: Path, name: str) -> None:
    trusted = trusting(home / "ca" / "ca.crt")
    internal = serving(home / "tls" / "internal.crt", home / "tls" / "internal.key")
    handshake(internal, trusted, name)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(internal, trusted, NAMES[0])
    public = serving(home / "tls" / "server.crt", home / "tls" / "server.key")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(public, trusted, name)


def test_tls_is_refused_of_another_ca_an_expired_and_a_self_signed_one(
    tmp_path: Path, home: Path, protocol: Path
) -> None:
    trusted = trusting(home / "ca" / "ca.crt")
    provision.initialise(tmp_path / "other", protocol)
    another = tmp_path / "other" / "tls"
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        handshake(serving(another / "server.crt", another / "server.key"), trusted, NAMES[0])

    key = home / "tls" / "server.key"
    authority = load_authority(home / "ca" / "ca.key", home / "ca" / "ca.crt")
    past = datetime.now(UTC) - timedelta(days=3)
    expired = issue_server(authority, NAMES, load_private_key(key).public_key(), 2, past)
    (tmp_path / "expired.crt").write_bytes(pem(expired))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(serving(tmp_path / "expired.crt", key), trusted, NAMES[0])

    own = load_private_key(key)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAMES[0])])
    alone = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(own.public_key())
        .serial_number(1)
        .not_valid_before(past)
        .not_valid_after(past + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAMES[0])]), critical=False)
        .sign(own, hashes.SHA384())
    )
    (tmp_path / "alone.crt").write_bytes(pem(alone))
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
        handshake(serving(tmp_path / "alone.crt", key), trusted, NAMES[0])


def test_a_hospital_proves_itself_in_tls_and_a_server_certificate_does_not(
    tmp_path: Path, home: Path, hospital: MakeHospital
) -> None:
    made = hospital("north")
    provision.approve(home, made.request, made.fingerprint)
    package, tls = home / "packages" / "north", home / "tls"
    server = serving(tls / "server.crt", tls / "server.key", clients=home / "ca" / "ca.crt")
    (tmp_path / "key").write_bytes(pem_private(load_private_key(made.key)))
    client = trusting(package / "ca.crt")
    client.load_cert_chain(package / "hospital.crt", tmp_path / "key")
    shown = handshake(server, client, NAMES[0]).getpeercert()
    assert shown is not None
    assert shown["subject"] == ((("commonName", "north"),),)
    impostor = trusting(package / "ca.crt")
    impostor.load_cert_chain(tls / "internal.crt", tls / "internal.key")
    with pytest.raises(ssl.SSLError, match=r"unsuitable certificate purpose|verify failed"):
        handshake(server, impostor, NAMES[0])


def test_a_protocol_without_coordinator_makes_no_home(
    tmp_path: Path, small_study: MakeStudy
) -> None:
    path = tmp_path / "rehearsal.toml"
    path.write_text(small_study().to_toml())
    with pytest.raises(ProtocolError, match=r"expected \[coordinator\]"):
        provision.initialise(tmp_path / "home", path)
    assert not (tmp_path / "home").exists()


def test_a_port_among_the_names_is_refused(tmp_path: Path, protocol: Path) -> None:
    protocol.write_text(protocol.read_text().replace('study.example.org"', 'study.example.org:9"'))
    with pytest.raises(KeyFileError, match=r"'study.example.org:9'; the port stands in"):
        provision.initialise(tmp_path / "home", protocol)


def test_a_home_is_made_once(home: Path, protocol: Path) -> None:
    before = contents(home)
    with pytest.raises(KeyFileError, match="expected no study CA"):
        provision.initialise(home, protocol)
    assert contents(home) == before


@pytest.mark.parametrize("written", range(8))
def test_a_home_left_half_made_is_completed(
    tmp_path: Path, protocol: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """A power cut after each of the eight files in turn: the second call makes a home that works."""
    home, left = tmp_path / "home", iter(range(written))

    def cut_off(path: Path, data: bytes) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr("server.provision.write_atomic", cut_off)
        patch.setattr("common.keys.write_atomic", cut_off)
        with pytest.raises(KeyboardInterrupt):
            provision.initialise(home, protocol)
    assert len(contents(home)) == written + 1  # and the lock
    provision.initialise(home, protocol)
    assert len(contents(home)) == 9
    server = serving(home / "tls" / "server.crt", home / "tls" / "server.key")
    handshake(server, trusting(home / "ca" / "ca.crt"), NAMES[0])
    load_authority(home / "ca" / "ca.key", home / "ca" / "ca.crt")


def test_a_home_whose_key_lies_elsewhere_is_not_made_anew(
    tmp_path: Path, home: Path, protocol: Path, hospital: MakeHospital
) -> None:
    made = hospital("north")
    provision.approve(home, made.request, made.fingerprint)
    shutil.move(home / "ca" / "ca.key", tmp_path / "safe.key")
    before = contents(home)
    with pytest.raises(KeyFileError, match=r"found 1 on its roster, with no ca/ca\.key"):
        provision.initialise(home, protocol)
    with pytest.raises(KeyFileError, match="expected the study CA's key"):
        provision.renew(home, "north")
    assert contents(home) == before
    provision.revoke(home, "north")
    assert load_roster(home / "roster.toml").members == ()


def test_a_ca_whose_halves_differ_is_refused(home: Path) -> None:
    (home / "ca" / "ca.key").write_bytes(pem_private(make_private_key()))
    with pytest.raises(KeyFileError, match="found that of another key"):
        provision.renew_server(home)


# Approving


def test_an_approved_hospital_is_on_the_roster_with_a_package(
    home: Path, hospital: MakeHospital
) -> None:
    made = hospital("north")
    member = provision.approve(home, made.request, f" {made.fingerprint}\n", days=30)
    assert load_roster(home / "roster.toml").members == (member,)
    assert (member.hospital, member.nominal_patients, member.node_id) == ("north", 10, None)
    assert member.fingerprint == made.fingerprint
    package = home / "packages" / "north"
    certificate = load_certificate(package / "hospital.crt")
    assert certificate.public_key() == load_private_key(made.key).public_key()
    assert certificate.not_valid_after_utc == member.expires
    assert 29 <= member.days_left(datetime.now(UTC)) <= 30
    assert set(contents(package)) == {
        "ca.crt",
        "hospital.crt",
        "protocol.toml",
        "site.toml",
        "connection.toml",
        "NEXT-STEPS.md",
    }
    for path in (package, *package.iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path
    for name, data in contents(package).items():
        assert b"PRIVATE" not in data, name
    assert contents(package)["ca.crt"] == (home / "ca" / "ca.crt").read_bytes()
    assert contents(package)["protocol.toml"] == (home / "protocol.toml").read_bytes()


def test_the_hospital_reads_its_package(home: Path, hospital: MakeHospital) -> None:
    made = hospital("north")
    provision.approve(home, made.request, made.fingerprint)
    package = home / "packages" / "north"
    connection = load_connection(package / "connection.toml")
    assert (connection.hospital, connection.coordinator) == ("north", "study.example.org:9443")
    assert (connection.host, connection.port) == (NAMES[0], 9443)
    assert connection.ca.is_file()
    assert connection.certificate.is_file()
    assert connection.key == package / "hospital.key"
    assert connection.home == package / "relay"
    policy = load_policy(package / "site.toml")
    assert (policy.hospital, policy.device, policy.max_epsilon) == ("north", "auto", 8.0)
    assert policy.socket == connection.socket == Path("/run/intramural/vault.sock")
    assert policy.rehearsal is False
    assert set(tomllib.loads((package / "site.toml").read_text())) == {
        "hospital",
        "data",
        "state",
        "socket",
        "device",
        "approved-studies",
        "max-epsilon",
        "limits",
    }
    assert policy.limits.smallest_group == 10


def test_the_template_approves_nothing_and_shows_the_digest(
    home: Path, hospital: MakeHospital
) -> None:
    made = hospital("north")
    provision.approve(home, made.request, made.fingerprint)
    package = home / "packages" / "north"
    digest = load_protocol(package / "protocol.toml").digest
    text = (package / "site.toml").read_text()
    assert load_policy(package / "site.toml").approved_studies == ()
    assert f'# "{digest}"' in text

    template = text.replace("/var/lib/intramural/state", str(home / "state"))
    (package / "site.toml").write_text(template)
    (home / "state").mkdir()
    begin(home / "state")
    hospital_approves(package / "site.toml", load_protocol(package / "protocol.toml"))
    assert load_policy(package / "site.toml").approved_studies == (digest,)
    added = set((package / "site.toml").read_text().splitlines()) - set(template.splitlines())
    assert added == {"approved-studies = [", f'    "{digest}",', "]"}


def test_the_next_steps_can_be_followed(home: Path, hospital: MakeHospital) -> None:
    made = hospital("north")
    provision.approve(home, made.request, made.fingerprint)
    package = home / "packages" / "north"
    text = (package / "NEXT-STEPS.md").read_text()
    assert re.findall(r"^\d+", text, re.MULTILINE) == ["1", "2", "3", "4", "5", "6"]
    commands = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert "intramural-client ledger create" in commands[2]
    assert "intramural-client approve protocol.toml" in commands[3]
    assert "intramural-client check" in commands[4]
    assert "intramural-client start" in commands[4]


def expect_refusal(
    home: Path, request: Path, heard: str, kind: type[Exception], words: str
) -> None:
    before = contents(home)
    with pytest.raises(kind, match=words):
        provision.approve(home, request, heard)
    assert contents(home) == before


@pytest.mark.parametrize("heard", ["", "SHA256:", "SHA256:ünlesbar", "x" * 50])
def test_another_fingerprint_is_refused_and_both_are_shown(
    home: Path, hospital: MakeHospital, heard: str
) -> None:
    made = hospital("north")
    words = f"{re.escape(repr(heard))}, and found {re.escape(made.fingerprint)}"
    expect_refusal(home, made.request, heard, KeyFileError, words)
    swapped = made.fingerprint.swapcase()
    expect_refusal(home, made.request, swapped, KeyFileError, re.escape(made.fingerprint))


def test_a_hospital_that_is_not_of_the_study_is_refused(home: Path, hospital: MakeHospital) -> None:
    made = hospital("south")
    words = r"of a hospital of the study \(north, east, west\).*found 'south'"
    expect_refusal(home, made.request, made.fingerprint, KeyFileError, words)


def write_request(path: Path, name: str, key: object = None) -> Path:
    key = key or make_private_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.sign(key, hashes.SHA384())  # type: ignore[arg-type]
    path.write_bytes(request.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize("name", ["../north", "north\x1b[2J", "[red]north", "North", "north "])
def test_a_name_that_is_none_is_shown_harmlessly(tmp_path: Path, home: Path, name: str) -> None:
    path = write_request(tmp_path / "csr", name)
    expect_refusal(home, path, "", KeyFileError, re.escape(repr(name)))
    refused = run(home, "approve", path)
    assert refused.exit_code == 2
    assert refused.output.startswith("E-KEY: expected a request of a hospital")
    assert "\x1b" not in refused.output


def test_an_rsa_key_is_refused(tmp_path: Path, home: Path) -> None:
    path = write_request(tmp_path / "csr", "north", rsa.generate_private_key(65537, 2048))
    expect_refusal(home, path, "", KeyFileError, "expected an EC P-384 key")


def test_a_tampered_request_is_refused(tmp_path: Path, home: Path, hospital: MakeHospital) -> None:
    """Somebody between hospital and coordinator puts another hospital's name into the request."""
    made = hospital("east")
    der = x509.load_pem_x509_csr(made.request.read_bytes()).public_bytes(serialization.Encoding.DER)
    path = tmp_path / "csr"
    text = ssl.DER_cert_to_PEM_cert(der.replace(b"east", b"west"))
    path.write_text(text.replace(" CERTIFICATE-", " CERTIFICATE REQUEST-"))
    expect_refusal(home, path, made.fingerprint, KeyFileError, "signed with its own key")


def test_a_hospital_is_approved_once(home: Path, hospital: MakeHospital) -> None:
    made = hospital("north")
    provision.approve(home, made.request, made.fingerprint)
    words = "with this very key; renew it instead"
    expect_refusal(home, made.request, made.fingerprint, RosterError, words)
    new = hospital("north")
    words = "with another key, .*; revoke that one first"
    expect_refusal(home, new.request, new.fingerprint, RosterError, words)


def test_a_key_is_of_one_hospital(tmp_path: Path, home: Path, hospital: MakeHospital) -> None:
    made = hospital("north")
    provision.approve(home, made.request, made.fingerprint)
    path = write_request(tmp_path / "csr", "west", load_private_key(made.key))
    expect_refusal(home, path, made.fingerprint, RosterError, "found that of 'north'")


def test_a_revoked_key_never_comes_back_and_a_new_one_does(
    tmp_path: Path, home: Path, hospital: MakeHospital
) -> None:
    made = hospital("north")
    provision.approve(home, made.request, made.fingerprint)
    assert provision.revoke(home, "north") == made.fingerprint
    expect_refusal(home, made.request, made.fingerprint, RosterError, "never comes back")
    moved = write_request(tmp_path / "csr", "west", load_private_key(made.key))
    expect_refusal(home, moved, made.fingerprint, RosterError, "never comes back")
    with pytest.raises(RosterError, match="expected 'north' on the roster"):
        provision.renew(home, "north")
    with pytest.raises(RosterError, match="expected 'north' on the roster"):
        provision.revoke(home, "north")
    new = hospital("north")
    provision.approve(home, new.request, new.fingerprint)
    roster = load_roster(home / "roster.toml")
    assert roster.member("north").fingerprint == new.fingerprint
    assert [gone.fingerprint for gone in roster.revoked] == [made.fingerprint]
    certificate = load_certificate(home / "packages" / "north" / "hospital.crt")
    assert certificate.public_key() == load_private_key(new.key).public_key()


def test_an_approval_cut_off_before_the_roster_is_done_again(
    home: Path, hospital: MakeHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = hospital("north")

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("server.roster.write_atomic", cut_off)
        with pytest.raises(KeyboardInterrupt):
            provision.approve(home, made.request, made.fingerprint)
    assert load_roster(home / "roster.toml").members == ()
    member = provision.approve(home, made.request, made.fingerprint)
    certificate = load_certificate(home / "packages" / "north" / "hospital.crt")
    assert certificate.not_valid_after_utc == member.expires


def test_a_damaged_roster_stops_every_change(home: Path, hospital: MakeHospital) -> None:
    made = hospital("north")
    provision.approve(home, made.request, made.fingerprint)
    text = (home / "roster.toml").read_text()
    (home / "roster.toml").write_text(text.replace("hospital", "hospitl"))
    new = hospital("west")
    expect_refusal(home, new.request, new.fingerprint, RosterError, "did you mean 'hospital'")
    for change in (provision.renew, provision.revoke):
        with pytest.raises(RosterError, match="did you mean 'hospital'"):
            change(home, "north")


# Renewing and revoking one leaves the others as they are


@pytest.fixture
def three(home: Path, hospital: MakeHospital) -> dict[str, HospitalKey]:
    """north, east and west approved; what north may have changed in its package is changed."""
    made = {name: hospital(name) for name in ("north", "east", "west")}
    for one in made.values():
        provision.approve(home, one.request, one.fingerprint)
    (home / "packages" / "north" / "site.toml").write_text("# north's own\n")
    return made


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_renewing_changes_one_certificate_and_one_date(
    home: Path, three: dict[str, HospitalKey]
) -> None:
    before, roster = contents(home), load_roster(home / "roster.toml")
    member = provision.renew(home, "north", days=800)
    assert changed(before, contents(home)) == {"roster.toml", "packages/north/hospital.crt"}
    old = roster.member("north")
    assert member == old.model_copy(update={"expires": member.expires})
    assert load_roster(home / "roster.toml") == roster.with_member(member)
    certificate = load_certificate(home / "packages" / "north" / "hospital.crt")
    assert certificate.not_valid_after_utc == member.expires > old.expires
    assert certificate.public_key() == load_private_key(three["north"].key).public_key()
    gone = before["packages/north/hospital.crt"]
    assert x509.load_pem_x509_certificate(gone).serial_number != certificate.serial_number


def test_revoking_changes_the_roster_alone(home: Path, three: dict[str, HospitalKey]) -> None:
    before, roster = contents(home), load_roster(home / "roster.toml")
    provision.revoke(home, "east")
    assert changed(before, contents(home)) == {"roster.toml"}
    left = load_roster(home / "roster.toml")
    assert left.members == (roster.member("north"), roster.member("west"))
    assert left.revoked[0].fingerprint == three["east"].fingerprint


@pytest.mark.usefixtures("three")
def test_renewing_the_servers_keeps_keys_ca_and_hospitals(home: Path) -> None:
    before = contents(home)
    provision.renew_server(home, days=10)
    assert changed(before, contents(home)) == {"tls/server.crt", "tls/internal.crt"}
    trusted = trusting(home / "ca" / "ca.crt")
    handshake(serving(home / "tls" / "server.crt", home / "tls" / "server.key"), trusted, NAMES[1])
    (home / "tls" / "server.key").unlink()
    provision.renew_server(home)
    assert "tls/server.key" in changed(before, contents(home))
    handshake(serving(home / "tls" / "server.crt", home / "tls" / "server.key"), trusted, NAMES[1])


def test_no_certificate_outlives_the_ca(home: Path, hospital: MakeHospital) -> None:
    made = hospital("north")
    member = provision.approve(home, made.request, made.fingerprint, days=100_000)
    assert member.expires == load_certificate(home / "ca" / "ca.crt").not_valid_after_utc
    authority = load_authority(home / "ca" / "ca.key", home / "ca" / "ca.crt")
    key = load_private_key(made.key).public_key()
    with pytest.raises(KeyFileError, match="expected a study CA that is valid"):
        issue_server(authority, NAMES, key, 1, member.expires + timedelta(seconds=1))


# The commands


def test_the_commands_from_init_to_revoke(
    tmp_path: Path, protocol: Path, hospital: MakeHospital
) -> None:
    home = tmp_path / "new home"
    assert run(home, "init", protocol).exit_code == 0
    north, west = hospital("north"), hospital("west")
    asked = run(home, "approve", north.request, typed=f"{north.fingerprint}\n")
    assert asked.exit_code == 0, asked.output
    assert f"'north' with fingerprint {north.fingerprint}" in asked.output
    assert f"send the folder {home / 'packages' / 'north'}" in asked.output
    told = run(home, "approve", west.request, "--fingerprint", west.fingerprint, "--days", "5")
    assert told.exit_code == 0, told.output
    assert run(home, "renew", "west", "--days", "50").exit_code == 0
    assert run(home, "renew", "--server", "--days", "60").exit_code == 0
    assert run(home, "revoke", "north").exit_code == 0

    facts = json.loads(run(home, "show", "--json").output)
    rows = {row["hospital"]: row for row in facts["hospitals"]}
    assert list(rows) == ["north", "east", "west"]
    assert rows["west"]["fingerprint"] == west.fingerprint
    assert (rows["west"]["days_left"], rows["west"]["nominal_patients"]) == (49, 4)
    assert rows["north"] == {
        "hospital": "north",
        "fingerprint": None,
        "node_id": None,
        "nominal_patients": 10,
        "approved": None,
        "expires": None,
        "days_left": None,
    }
    assert [gone["fingerprint"] for gone in facts["revoked"]] == [north.fingerprint]
    left = {name: row["days_left"] for name, row in facts["certificates"].items()}
    assert left == {"ca": 3649, "server": 59, "internal": 59}

    shown = run(home, "show")
    assert shown.exit_code == 0, shown.output
    assert re.search(
        rf"west +│ {re.escape(west.fingerprint)} │ +│ 4 +│ [0-9-]+ +│ 49", shown.output
    )
    assert re.search(r"north +│ not approved", shown.output)
    assert re.search(rf"north +│ {re.escape(north.fingerprint)}", shown.output)


@needs_openssl
def test_show_gives_the_fingerprint_of_the_ca_as_openssl_does(home: Path) -> None:
    shown = openssl("x509", "-in", home / "ca" / "ca.crt", "-noout", "-fingerprint", "-sha256")
    fingerprint = shown.strip().partition("=")[2]
    assert f"fingerprint of ca: {fingerprint}\n" in run(home, "show").output


def test_show_says_what_has_expired(home: Path, hospital: MakeHospital) -> None:
    made = hospital("north")
    member = provision.approve(home, made.request, made.fingerprint)
    text, past = (home / "roster.toml").read_text(), member.approved - timedelta(days=2)
    expired = text.replace(f"expires = {member.expires}", f"expires = {past}")
    assert expired != text
    (home / "roster.toml").write_text(expired)
    assert re.search(r"north .* expired", run(home, "show").output)
    assert json.loads(run(home, "show", "--json").output)["hospitals"][0]["days_left"] == -3


def test_whoever_has_access_is_shown_whatever_the_protocol_says(
    home: Path, hospital: MakeHospital
) -> None:
    made = hospital("west")
    provision.approve(home, made.request, made.fingerprint)
    text = (home / "protocol.toml").read_text()
    (home / "protocol.toml").write_text(text.replace('"west"', '"south"'))
    rows = json.loads(run(home, "show", "--json").output)["hospitals"]
    assert [row["hospital"] for row in rows if row["fingerprint"]] == ["west"]
    assert "south" in {row["hospital"] for row in rows}


@pytest.mark.parametrize(
    "words",
    [["show"], ["revoke", "north"], ["renew", "north"], ["renew", "--server"], ["renew"]],
)
def test_without_a_home_every_command_says_so_in_one_line(tmp_path: Path, words: list[str]) -> None:
    refused = run(tmp_path / "no[home]", *words)
    assert refused.exit_code == 2
    assert re.match(r"E-(KEY|ROSTER|RUN): (expected|cannot)", refused.output)
    assert len(refused.output.splitlines()) == 1
    assert not (tmp_path / "no[home]").exists()


def test_a_home_that_cannot_be_made_is_said(tmp_path: Path, protocol: Path) -> None:
    (tmp_path / "file").touch()
    refused = run(tmp_path / "file" / "home", "init", protocol)
    assert refused.exit_code == 2
    assert refused.output.startswith("E-KEY: cannot write below")
