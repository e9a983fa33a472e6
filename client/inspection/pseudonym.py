"""What a page shows in place of a patient's id: short, the same in every report, and of no use elsewhere."""

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from common.errors import HospitalError
from common.files import write_atomic

SALT = "local-id.salt"  # in the state folder; it never leaves
_SALT_BYTES = 32
_LETTERS = 8  # 40 bits: two of 10,000 patients share one in one hospital of 20,000


class LocalIds:
    """Patient id -> local id: HMAC-SHA-256 under a salt of this hospital, its first 40 bits in base 32.

    The salt is random, made on first use (mode 0600) and kept, so that the same patient has the same
    local id in two reports; without it nobody can try out ids. HospitalError when it cannot be made
    or read, or is not one.
    """

    def __init__(self, state: Path) -> None:
        path = state / SALT
        try:
            if not path.exists():
                write_atomic(path, secrets.token_bytes(_SALT_BYTES))
                # Where root asks for the first report, the vault's user is to read it too.
                os.chown(path, state.stat().st_uid, -1)
            self._salt = path.read_bytes()
        except OSError as error:
            raise HospitalError(
                f"expected to keep the salt of local patient ids in {path}, found that it cannot be "
                f"({error.strerror}); ask for the report as the vault's user"
            ) from error
        if len(self._salt) != _SALT_BYTES:
            raise HospitalError(
                f"expected {_SALT_BYTES} bytes in {path}, found {len(self._salt)}; restore it, or "
                f"remove it and let new local ids begin"
            )

    def of(self, patient_id: str) -> str:
        """Eight letters and digits for the canonical id."""
        text = patient_id.encode("utf-8", "surrogateescape")
        digest = hmac.new(self._salt, text, hashlib.sha256).digest()
        return base64.b32encode(digest)[:_LETTERS].decode().lower()
