"""Who may pass the gateway, and how often: the roster's keys, each signature once, token buckets.

Flower's SuperNode signs the time, and nothing else, anew for every request and every retry
(flwr/supernode/node_auth_http_interceptor.py). Over TLS that shows who sent the request, and since
ECDSA is randomised no two honest requests have the same signature.

The statuses are chosen for what a SuperNode does with them (flwr/supercore/retry/http_retry.py and
fleet_http_connection.py): after 502, 503 and 504 it asks again, after a growing pause; after 401 it
interrupts itself and ends; after any other it gives up, and then its heartbeat, or with
pull-messages all of it, is over. So what may pass by itself is always 503 for a hospital.
"""

import binascii
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from common.errors import RosterError
from common.keys import PublicKey, fingerprint

# flwr/supercore/constant.py FLEET_HTTP_PUBLIC_KEY_HEADER and FLEET_HTTP_SIGNATURE_HEADER,
# flwr/common/constant.py TIMESTAMP_HEADER; in lower case, as ASGI has them.
PUBLIC_KEY_HEADER = b"flwr-public-key"
SIGNATURE_HEADER = b"flwr-signature"
TIMESTAMP_HEADER = b"flwr-timestamp"

# Seconds around the signed time in which Flower takes it (flwr/superlink/routers/fleet/node_auth.py:
# TIMESTAMP_TOLERANCE and SYSTEM_TIME_TOLERANCE of flwr/common/constant.py).
MAX_AGE_S = 305.0
MAX_AHEAD_S = 5.0

_NOT_VALID = (KeyError, ValueError, TypeError, OverflowError, binascii.Error, InvalidSignature)

AllowedKeys = Callable[[], Mapping[bytes, PublicKey]]


class Refused(Exception):  # noqa: N818  (the name reads as what happened to the request)
    """The request gets `status` and an empty body."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Rate(NamedTuple):
    """Requests per second in the long run, and how many may come at once."""

    per_second: float
    burst: float


# A message is five objects and one more for each 5 MiB (common/records.py), then minutes of polling:
# a hospital never meets this. Strangers have only /health.
HOSPITAL_RATE = Rate(50.0, 2000.0)
STRANGERS_RATE = Rate(20.0, 100.0)


class TokenBucket:
    """Holds at most `burst` tokens, starts full, and gains `per_second`."""

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._left = rate.burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token at `now` (seconds, never less than before); False when there is none."""
        gained = (now - self._at) * self._rate.per_second
        self._left = min(self._rate.burst, self._left + gained)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class UsedSignatures:
    """The signatures of one key within the window. Their number is bounded by the key's rate."""

    def __init__(self) -> None:
        self._until: OrderedDict[int, float] = OrderedDict()

    def __contains__(self, nonce: int) -> bool:
        return nonce in self._until

    def add(self, nonce: int, now: float) -> None:
        """Remember `nonce` from `now` (seconds) on for as long as its signature can be valid."""
        while self._until and next(iter(self._until.values())) < now:
            self._until.popitem(last=False)
        self._until[nonce] = now + MAX_AGE_S + MAX_AHEAD_S


@dataclass
class _Hospital:
    bucket: TokenBucket
    used: UsedSignatures


@dataclass(frozen=True)
class Caller:
    """A hospital that signed this request: its key as Flower encodes it, and for the log."""

    key: bytes
    label: str


class Guard:
    """Lets in whose key `allowed_keys()` has (Flower's encoding of it -> the key) and proves to own it.

    `allowed_keys` is asked at every request; while it raises RosterError, nobody gets in.
    """

    def __init__(
        self,
        allowed_keys: AllowedKeys,
        hospital: Rate = HOSPITAL_RATE,
        strangers: Rate = STRANGERS_RATE,
    ) -> None:
        self._allowed_keys = allowed_keys
        self._rate = hospital
        self._strangers = TokenBucket(strangers, time.monotonic())
        self._hospitals: dict[bytes, _Hospital] = {}

    def identify(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Who signed the request with these headers; Refused (401, 409, 429 or 503) for anybody else.

        All that costs a hospital something comes after its signature was found valid: whoever only
        knows its public key spends the strangers' tokens.
        """
        allowed = self.allowed()
        try:
            encoded = b64decode(headers[PUBLIC_KEY_HEADER], validate=True)
            key = allowed[encoded]
            nonce = _verified(key, headers[TIMESTAMP_HEADER], headers[SIGNATURE_HEADER])
        except _NOT_VALID as error:
            raise self.stranger(401) from error
        now = time.monotonic()
        hospital = self._hospitals.setdefault(
            encoded, _Hospital(TokenBucket(self._rate, now), UsedSignatures())
        )
        if nonce in hospital.used:
            raise self.stranger(409)
        if not hospital.bucket.take(now):
            raise Refused(503)
        hospital.used.add(nonce, now)
        return Caller(encoded, fingerprint(key)[:15])

    def allowed(self) -> Mapping[bytes, PublicKey]:
        """The keys of now. Refused (503: SuperNodes come back) when the roster cannot be used."""
        try:
            return self._allowed_keys()
        except RosterError as error:
            raise Refused(503) from error

    def stranger(self, status: int) -> Refused:
        """How to refuse a request without a valid key: with `status`, or 429 when there are many."""
        return Refused(status if self.stranger_may() else 429)

    def stranger_may(self) -> bool:
        """Whether one more request without a valid key is within the strangers' rate."""
        return self._strangers.take(time.monotonic())


def encode_key(key: PublicKey) -> bytes:
    """`key` as a SuperNode sends it (flwr/supercore/primitives/asymmetric.py public_key_to_bytes)."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _verified(key: PublicKey, timestamp: bytes, signature: bytes) -> int:
    """The nonce of a valid `signature` (Base64) over `timestamp`; one of `_NOT_VALID` otherwise.

    The nonce stands for the signature: (r, s) and (r, -s) are valid both, and so is the same pair
    spelt otherwise, but a second signature with the same r is never made by an honest signer.
    """
    age = (datetime.now(UTC) - datetime.fromisoformat(timestamp.decode("ascii"))).total_seconds()
    if not -MAX_AHEAD_S < age < MAX_AGE_S:
        raise ValueError("signed too long ago, or in the future")
    encoded = b64decode(signature, validate=True)
    key.verify(encoded, timestamp, ec.ECDSA(hashes.SHA256()))
    r, _ = decode_dss_signature(encoded)
    return r
