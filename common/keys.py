"""Keys, signing requests and certificates, as both sides read and write them: EC P-384, nothing else.

A hospital has one key for everything: Flower's SuperNode signs with it (and reads OpenSSH's private
format, EC keys only), and its certificate for TLS is issued for it. Private keys are kept without a
passphrase, since services start without a person: mode 0600 and the machine's disk are their guard.
"""

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from common.errors import KeyFileError
from common.files import write_atomic

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

MAX_FILE_BYTES = 64 * 1024  # all of these are below 2 kB; what arrives is bounded before parsing
_CANNOT_PARSE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
)


@dataclass(frozen=True)
class SigningRequest:
    """What a PKCS#10 request asks for: its one common name, unchecked, and its P-384 key."""

    common_name: str
    public_key: PublicKey


def make_private_key() -> PrivateKey:
    """A new EC P-384 key from the operating system's randomness."""
    return ec.generate_private_key(ec.SECP384R1())


def openssh_private(key: PrivateKey) -> bytes:
    """`key` in OpenSSH's private format, which SuperNode reads and Python's ssl does not."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )


def pem_private(key: PrivateKey) -> bytes:
    """`key` as PKCS#8 in PEM, which TLS servers and clients read."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def write_private_key(path: Path, key: bytes) -> None:
    """Write an encoded private key with mode 0600; KeyFileError when `path` is there already."""
    if path.exists():
        raise KeyFileError(
            f"expected no private key at {path} and found one, which is never overwritten; choose "
            f"another folder, or move the old key away if it is no longer needed"
        )
    write_atomic(path, key)


def load_private_key(path: Path) -> PrivateKey:
    """The EC P-384 private key in `path`, in OpenSSH's format or PKCS#8; KeyFileError otherwise."""
    data = _read(path, "a private key")
    openssh = b"BEGIN OPENSSH PRIVATE KEY" in data
    try:
        if openssh:
            found: object = serialization.load_ssh_private_key(data, password=None)
        else:
            found = serialization.load_pem_private_key(data, password=None)
    except _CANNOT_PARSE as error:
        raise KeyFileError(
            f"expected a private key without a passphrase in {path} and found none ({error}); put "
            f"back the file as it was made"
        ) from error
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise _not_p384(path, found)
    _check_p384(path, found.public_key())
    return found


def public_text(key: PublicKey) -> str:
    """`key` as OpenSSH's one line without a comment: "ecdsa-sha2-nistp384 AAAA..."."""
    return key.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode()


def parse_public_key(text: str) -> PublicKey:
    """The key of a line that `public_text` wrote; KeyFileError for anything else.

    Also for a line with a comment, or the same key spelt otherwise: one key is one text.
    """
    try:
        key = _check_p384("the line", serialization.load_ssh_public_key(text.encode()))
    except _CANNOT_PARSE as error:
        raise KeyFileError(
            f"expected a public key in OpenSSH's format and found {text[:60]!r} ({error}); put "
            f"back the line as it was written"
        ) from error
    if public_text(key) != text:
        raise KeyFileError(
            f"expected a public key as '{public_text(key)}' and found more or less than that on "
            f"its line; put back the line as it was written"
        )
    return key


def fingerprint(key: PublicKey) -> str:
    """The SHA-256 of `key` as `ssh-keygen -l` shows it, "SHA256:...", to compare by telephone."""
    blob = base64.b64decode(public_text(key).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def load_request(path: Path) -> SigningRequest:
    """The PKCS#10 request (PEM) in `path`, signed with the very key that it is for.

    KeyFileError when it is no request, its key is not EC P-384, its signature is not valid (so it
    was changed after it was made), or it has not exactly one common name.
    """
    data = _read(path, "a signing request")
    try:
        request = x509.load_pem_x509_csr(data)
        key = _check_p384(path, request.public_key())
        genuine = request.is_signature_valid
        names = [a.value for a in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except _CANNOT_PARSE as error:
        raise KeyFileError(
            f"expected a signing request (PEM, PKCS#10) in {path} and found none ({error}); ask "
            f"the hospital for its hospital.csr again"
        ) from error
    if not genuine:
        raise KeyFileError(
            f"expected the request in {path} to be signed with its own key and found another "
            f"signature: it was changed on its way; ask the hospital for its hospital.csr again"
        )
    if len(names) != 1 or not isinstance(names[0], str):
        raise KeyFileError(
            f"expected one common name, the hospital's, in the request {path} and found "
            f"{len(names)}; make the request with `intramural-client keygen`"
        )
    return SigningRequest(names[0], key)


def load_certificate(path: Path) -> x509.Certificate:
    """The first certificate (PEM, X.509) in `path`; KeyFileError unless it is one of a P-384 key."""
    data = _read(path, "a certificate")
    try:
        certificate = x509.load_pem_x509_certificate(data)
        _check_p384(path, certificate.public_key())
        return certificate
    except _CANNOT_PARSE as error:
        raise KeyFileError(
            f"expected a certificate (PEM, X.509) in {path} and found none ({error}); put back the "
            f"file as the coordinator issued it"
        ) from error


def days_left(certificate: x509.Certificate, now: datetime) -> int:
    """Whole days until `certificate` expires: 0 on its last day, negative from then on."""
    return days_until(certificate.not_valid_after_utc, now)


def days_until(expires: datetime, now: datetime) -> int:
    """Whole days from `now` to `expires` (both aware), rounded down."""
    return (expires - now) // timedelta(days=1)


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"expected {what} in {path} and cannot read it: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise KeyFileError(
            f"expected {what} in {path} and found a file of more than {MAX_FILE_BYTES} bytes; name "
            f"another file"
        )
    return data


def _check_p384(source: object, key: object) -> PublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _not_p384(source, key)
    return key


def _not_p384(source: object, key: object) -> KeyFileError:
    curve = getattr(key, "curve", None)
    found = f"one on the curve {curve.name}" if curve else type(key).__name__
    return KeyFileError(
        f"expected an EC P-384 key in {source} and found {found}; make it with "
        f"`intramural-client keygen`"
    )
