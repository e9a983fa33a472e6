"""The hospital's private key, made at the hospital: it never moves, only a signing request does."""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from pydantic import TypeAdapter, ValidationError

from common.documents import Name
from common.errors import KeyFileError
from common.files import write_atomic
from common.keys import fingerprint, make_private_key, openssh_private, write_private_key

KEY = "hospital.key"
REQUEST = "hospital.csr"


@dataclass(frozen=True)
class HospitalKey:
    """Where the new key and its request lie, and the fingerprint to read out on the telephone."""

    key: Path
    request: Path
    fingerprint: str


def make_hospital_key(hospital: str, folder: Path) -> HospitalKey:
    """Make an EC P-384 key for `hospital` and write it and its PKCS#10 request into `folder`.

    `hospital.key` has mode 0600, `hospital.csr` (PEM, signed with SHA-384) names the hospital and
    holds the public key. KeyFileError when the name is none that a protocol can have, there is a
    key already, or the folder cannot be written.
    """
    try:
        TypeAdapter(Name).validate_python(hospital)
    except ValidationError as error:
        raise KeyFileError(
            f"expected the hospital's name as in the study protocol (a-z, 0-9, '.', '_', '-', at "
            f"most 63) and found {hospital!r}; ask the coordinator how the protocol names it"
        ) from error
    made = make_private_key()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hospital)]))
        .sign(made, hashes.SHA384())
    )
    found = HospitalKey(folder / KEY, folder / REQUEST, fingerprint(made.public_key()))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The key before the request: where a key lies already, its request stays as it is.
        write_private_key(found.key, openssh_private(made))
        write_atomic(found.request, request.public_bytes(serialization.Encoding.PEM))
    except OSError as error:
        raise KeyFileError(f"cannot write a key and its request into {folder}: {error}") from error
    return found
