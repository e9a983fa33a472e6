"""The study's certificate authority: X.509 (RFC 5280), one level, EC P-384 with SHA-384.

It issues two kinds of certificates, for the coordinator's servers and for hospitals, each of which
serves for that and nothing else. There is no revocation list: the roster says who has access.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import KeyFileError
from common.keys import (
    PrivateKey,
    PublicKey,
    load_certificate,
    load_private_key,
    make_private_key,
)

CA_DAYS = 3650
# Valid from a little before it was made: the hospitals' clocks are not the coordinator's.
_CLOCKS_DIFFER = timedelta(hours=1)


@dataclass(frozen=True)
class Authority:
    """The authority's key, which stays at the coordinator, and its certificate, which all trust."""

    key: PrivateKey
    certificate: x509.Certificate


def make_authority(study: str, now: datetime) -> Authority:
    """A new authority for `study`, valid for ten years from `now`; it can make no further ones."""
    key = make_private_key()
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "intramural study CA"),
            x509.NameAttribute(NameOID.COMMON_NAME, study),
        ]
    )
    builder = _builder(name, name, key.public_key(), key.public_key(), now)
    certificate = (
        builder.not_valid_after(_whole_seconds(now) + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    return Authority(key, certificate)


def load_authority(key_path: Path, certificate_path: Path) -> Authority:
    """The authority in these two files; KeyFileError when one is absent or they are not a pair."""
    if not key_path.exists():
        raise KeyFileError(
            f"expected the study CA's key in {key_path} and found none; make the coordinator's "
            f"home with `intramural-server provision init`, name it with --home, or put back the key"
        )
    key, certificate = load_private_key(key_path), load_certificate(certificate_path)
    if certificate.public_key() != key.public_key():
        raise KeyFileError(
            f"expected {certificate_path} to be the certificate of {key_path} and found that of "
            f"another key; put back the file that belongs to it"
        )
    return Authority(key, certificate)


def issue_server(
    authority: Authority, names: Iterable[str], key: PublicKey, days: int, now: datetime
) -> x509.Certificate:
    """A certificate with which a server of the coordinator answers to `names`, DNS or IP each."""
    builder = _issued(authority, "coordinator", key, ExtendedKeyUsageOID.SERVER_AUTH, days, now)
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    return builder.add_extension(alternatives, critical=False).sign(authority.key, hashes.SHA384())


def issue_hospital(
    authority: Authority, hospital: str, key: PublicKey, days: int, now: datetime
) -> x509.Certificate:
    """A certificate with which `hospital` (its common name) reaches the coordinator."""
    builder = _issued(authority, hospital, key, ExtendedKeyUsageOID.CLIENT_AUTH, days, now)
    return builder.sign(authority.key, hashes.SHA384())


def pem(certificate: x509.Certificate) -> bytes:
    """`certificate` as it is written into files and packages."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of `certificate` as `openssl x509 -fingerprint -sha256` shows it: "AB:CD:..."."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _issued(
    authority: Authority,
    common_name: str,
    key: PublicKey,
    purpose: x509.ObjectIdentifier,
    days: int,
    now: datetime,
) -> x509.CertificateBuilder:
    """All of a certificate but its signature; it ends after `days`, or earlier with the authority."""
    end = authority.certificate.not_valid_after_utc
    if end <= now:
        raise KeyFileError(
            f"expected a study CA that is valid and found one that expired on {end:%Y-%m-%d}; "
            f"make a new coordinator's home and approve the hospitals there"
        )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    issuer = authority.certificate
    return (
        _builder(name, issuer.subject, key, authority.key.public_key(), now)
        .not_valid_after(min(_whole_seconds(now) + timedelta(days=days), end))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )


def _builder(
    name: x509.Name, issuer: x509.Name, key: PublicKey, issuer_key: PublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_whole_seconds(now) - _CLOCKS_DIFFER)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if ":" in name:
            raise KeyFileError(
                f"expected a DNS name or an IP address among coordinator.names of the protocol and "
                f"found '{name}'; the port stands in coordinator.port"
            ) from None
        return x509.DNSName(name)


def _whole_seconds(moment: datetime) -> datetime:
    """X.509 knows no fractions of a second."""
    return moment.replace(microsecond=0)
