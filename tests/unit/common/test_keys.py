"""Keys, requests and certificates against ssh-keygen, openssl, Python's ssl and Flower's own loader."""

import argparse
import shutil
import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from flwr.supercore.primitives import asymmetric
from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

from common.errors import KeyFileError
from common.keys import (
    PrivateKey,
    days_left,
    fingerprint,
    load_certificate,
    load_private_key,
    load_request,
    make_private_key,
    openssh_private,
    parse_public_key,
    pem_private,
    public_text,
    write_private_key,
)

AnyKey = PrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
needs_ssh = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not here")
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not here")


def output_of(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def request_of(key: AnyKey, *names: str) -> x509.CertificateSigningRequest:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA384()
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, digest)


def write_request(path: Path, key: AnyKey, *names: str) -> Path:
    path.write_bytes(request_of(key, *names).public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "hospital.key"
    write_private_key(path, openssh_private(make_private_key()))
    return path


@needs_ssh
def test_fingerprint_and_public_text_are_those_of_ssh_keygen(key_file: Path) -> None:
    key = load_private_key(key_file).public_key()
    assert output_of("ssh-keygen", "-y", "-f", key_file).strip() == public_text(key)
    public = key_file.with_suffix(".pub")
    public.write_text(public_text(key) + "\n")
    for path in (key_file, public):
        bits, shown, *_ = output_of("ssh-keygen", "-l", "-f", path).split()
        assert (bits, shown) == ("384", fingerprint(key))


@needs_ssh
def test_a_key_that_ssh_keygen_made_is_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    output_of("ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-C", "a", "-f", path)
    text = path.with_suffix(".pub").read_text().rpartition(" ")[0]
    assert public_text(load_private_key(path).public_key()) == text
    assert public_text(parse_public_key(text)) == text


def test_supernode_reads_the_private_key_and_superlink_verifies_with_the_public_one(
    key_file: Path,
) -> None:
    given = argparse.Namespace(
        auth_supernode_private_key=str(key_file), auth_supernode_public_key=None
    )
    pair = _try_setup_client_authentication(given)
    assert pair is not None
    private, public = pair
    assert asymmetric.uses_nist_ec_curve(public)
    registered = parse_public_key(public_text(load_private_key(key_file).public_key()))
    assert asymmetric.public_key_to_bytes(registered) == asymmetric.public_key_to_bytes(public)
    signature = asymmetric.sign_message(private, b"now")
    assert asymmetric.verify_signature(registered, b"now", signature)
    assert not asymmetric.verify_signature(registered, b"then", signature)


def test_both_formats_of_a_private_key_are_read_back(tmp_path: Path) -> None:
    key = make_private_key()
    for name, data in (("a", openssh_private(key)), ("b", pem_private(key))):
        write_private_key(tmp_path / name, data)
        assert load_private_key(tmp_path / name).private_numbers() == key.private_numbers()


def test_tls_reads_pkcs8_and_not_the_format_of_openssh(tmp_path: Path) -> None:
    key = make_private_key()
    certificate = tmp_path / "certificate"
    certificate.write_bytes(self_signed(key).public_bytes(serialization.Encoding.PEM))
    for name, data in (("pem", pem_private(key)), ("openssh", openssh_private(key))):
        (tmp_path / name).write_bytes(data)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(certificate, tmp_path / "pem")
    with pytest.raises(ssl.SSLError):
        context.load_cert_chain(certificate, tmp_path / "openssh")


def test_a_private_key_is_the_owners_alone_and_never_overwritten(key_file: Path) -> None:
    assert key_file.stat().st_mode & 0o777 == 0o600
    before = key_file.read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten"):
        write_private_key(key_file, openssh_private(make_private_key()))
    assert key_file.read_bytes() == before


def private_pem(key: AnyKey, passphrase: bytes | None = None) -> bytes:
    guard: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        guard = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, guard)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: private_pem(rsa.generate_private_key(65537, 2048)), "P-384.*RSAPrivateKey"),
        (lambda: private_pem(ed25519.Ed25519PrivateKey.generate()), "P-384.*Ed25519PrivateKey"),
        (lambda: private_pem(ec.generate_private_key(ec.SECP256R1())), "P-384.*curve secp256r1"),
        (lambda: private_pem(make_private_key(), b"secret"), "without a passphrase"),
        (lambda: openssh_private(make_private_key())[:300], "found none"),
        (lambda: b"", "found none"),
        (lambda: b"-" * 100_000, "more than 65536 bytes"),
    ],
)
def test_other_private_keys_are_refused(
    tmp_path: Path, make: Callable[[], bytes], words: str
) -> None:
    (tmp_path / "key").write_bytes(make())
    with pytest.raises(KeyFileError, match=words):
        load_private_key(tmp_path / "key")


def test_an_absent_file_is_said(tmp_path: Path) -> None:
    for load in (load_private_key, load_request, load_certificate):
        with pytest.raises(KeyFileError, match="No such file"):
            load(tmp_path / "nothing")


def test_one_key_is_one_text() -> None:
    text = public_text(make_private_key().public_key())
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    for wrong in (
        "",
        text[:-8],
        text + " north@hospital",
        text + "\n",
        f"restrict {text}",
        text.replace("nistp384", "nistp521"),
        public_text(other),
        "ssh-rsa AAAAB3NzaC1yc2E=",
        "\udcff",
    ):
        with pytest.raises(KeyFileError, match="expected"):
            parse_public_key(wrong)


@needs_openssl
def test_openssl_verifies_a_request_that_is_accepted(tmp_path: Path) -> None:
    key = make_private_key()
    path = write_request(tmp_path / "csr", key, "north")
    assert "verify OK" in output_of("openssl", "req", "-verify", "-noout", "-in", path)
    found = load_request(path)
    assert found.common_name == "north"
    assert fingerprint(found.public_key) == fingerprint(key.public_key())


@needs_openssl
def test_a_request_that_openssl_made_is_accepted(tmp_path: Path) -> None:
    key, path = tmp_path / "key", tmp_path / "csr"
    new = ["-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes", "-sha384"]
    output_of("openssl", "req", *new, "-subj", "/CN=north", "-keyout", key, "-out", path)
    found = load_request(path)
    assert found.common_name == "north"
    assert fingerprint(found.public_key) == fingerprint(load_private_key(key).public_key())


def test_a_request_with_any_byte_changed_is_refused_or_says_the_same(tmp_path: Path) -> None:
    """What is signed cannot be changed; of the rest, the count of unused bits may say nothing new."""
    request = request_of(make_private_key(), "north")
    der = request.public_bytes(serialization.Encoding.DER)
    start = der.index(request.tbs_certrequest_bytes)
    end = start + len(request.tbs_certrequest_bytes)
    path = tmp_path / "csr"
    path.write_text(request_pem(der))
    genuine = load_request(path)
    for place in range(len(der)):
        changed = bytearray(der)
        changed[place] ^= 0x01
        path.write_text(request_pem(bytes(changed)))
        try:
            found = load_request(path)
        except KeyFileError:
            continue
        assert not start <= place < end
        assert found.common_name == genuine.common_name
        assert fingerprint(found.public_key) == fingerprint(genuine.public_key)


def request_pem(der: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(der).replace(" CERTIFICATE-", " CERTIFICATE REQUEST-")


def test_a_request_for_anothers_key_is_refused(tmp_path: Path) -> None:
    """Signed with a key other than the one that it is for: who sends it does not have that key."""
    mine = request_of(make_private_key(), "north").public_bytes(serialization.Encoding.DER)
    thine = make_private_key().public_key()
    point = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    at = mine.index(b"\x00\x04") + 1  # the bit string of the public key: no unused bits, then 04
    forged = mine[:at] + thine.public_bytes(*point) + mine[at + 97 :]
    path = tmp_path / "csr"
    path.write_text(request_pem(forged))
    with pytest.raises(KeyFileError, match="signed with its own key"):
        load_request(path)


@pytest.mark.parametrize(
    ("make", "names", "words"),
    [
        (lambda: rsa.generate_private_key(65537, 2048), ["north"], "P-384.*RSAPublicKey"),
        (ed25519.Ed25519PrivateKey.generate, ["north"], "P-384.*Ed25519PublicKey"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), ["north"], "curve secp521r1"),
        (make_private_key, [], "one common name.*found 0"),
        (make_private_key, ["north", "west"], "one common name.*found 2"),
    ],
)
def test_other_requests_are_refused(
    tmp_path: Path, make: Callable[[], AnyKey], names: list[str], words: str
) -> None:
    with pytest.raises(KeyFileError, match=words):
        load_request(write_request(tmp_path / "csr", make(), *names))


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_a_damaged_certificate_is_refused_or_reads_whole(tmp_path: Path) -> None:
    """A certificate's signature is the handshake's matter, so a changed name is not noticed here."""
    der = self_signed(make_private_key()).public_bytes(serialization.Encoding.DER)
    path, refused = tmp_path / "crt", 0
    for place in range(len(der)):
        for change in (0x01, 0x80):
            changed = bytearray(der)
            changed[place] ^= change
            path.write_text(ssl.DER_cert_to_PEM_cert(bytes(changed)))
            try:
                days_left(load_certificate(path), datetime(2026, 1, 1, tzinfo=UTC))
            except KeyFileError:
                refused += 1
    assert refused > len(der) // 2


def test_a_request_is_no_certificate_nor_the_other_way_round(tmp_path: Path) -> None:
    key = make_private_key()
    request = write_request(tmp_path / "csr", key, "north")
    certificate = tmp_path / "crt"
    certificate.write_bytes(self_signed(key).public_bytes(serialization.Encoding.PEM))
    with pytest.raises(KeyFileError, match="expected a certificate"):
        load_certificate(request)
    with pytest.raises(KeyFileError, match="expected a signing request"):
        load_request(certificate)
    assert load_certificate(certificate).public_key() == key.public_key()


def self_signed(key: PrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "north")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=10))
        .sign(key, hashes.SHA384())
    )


def test_days_left_are_whole_days() -> None:
    certificate = self_signed(make_private_key())
    end = datetime(2026, 1, 11, tzinfo=UTC)
    for before, days in (
        (timedelta(days=3), 3),
        (timedelta(days=3, seconds=-1), 2),
        (timedelta(seconds=1), 0),
        (timedelta(seconds=-1), -1),
    ):
        assert days_left(certificate, end - before) == days
