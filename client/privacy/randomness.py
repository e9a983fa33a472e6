"""Randomness that nobody outside can predict: a ChaCha20 key stream from the operating system's entropy.

Noise that can be predicted can be subtracted, and PyTorch's and NumPy's generators can be predicted
from their output. Opacus' `secure_mode` needs torchcsprng, which is no longer maintained; a stream
cipher from `cryptography` does the same at about 0.06 s per million values (PRIVACY.md section 2).

The explicit test mode derives the key from a seed instead, so that two runs can be compared
bitwise. Whoever knows the seed can remove the noise: a policy allows it in a rehearsal only.
"""

import hashlib
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray


class RandomStream:
    """Independent uniforms and standard normals, from one 32-byte key that is never reused."""

    def __init__(self, key: bytes) -> None:
        self._keystream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    @classmethod
    def of(cls, seed: int | None, *purpose: str | int) -> "RandomStream":
        """A fresh stream, or in test mode (a seed) the one for this `purpose`."""
        return cls.fresh() if seed is None else cls.for_tests(seed, *purpose)

    @classmethod
    def fresh(cls) -> "RandomStream":
        """A stream from 256 bits of the operating system's entropy."""
        return cls(os.urandom(32))

    @classmethod
    def for_tests(cls, seed: int, *purpose: str | int) -> "RandomStream":
        """A stream that `seed` and `purpose` (study, round, ...) determine: comparable, not private."""
        text = "\x1f".join(["intramural test mode", str(seed), *map(str, purpose)])
        return cls(hashlib.sha256(text.encode()).digest())

    def uniform(self, count: int) -> NDArray[np.float64]:
        """`count` independent uniforms on [0, 1), multiples of 2**-53."""
        words = np.frombuffer(self._keystream.update(bytes(8 * count)), dtype="<u8")
        uniforms: NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return uniforms

    def normal(self, count: int) -> NDArray[np.float64]:
        """`count` independent standard normals (Box and Muller 1958), in double precision."""
        pairs = (count + 1) // 2
        u = self.uniform(2 * pairs).reshape(2, pairs)
        radius = np.sqrt(-2.0 * np.log1p(-u[0]))  # 1 - u is in (0, 1], so the logarithm is finite
        angle = 2.0 * np.pi * u[1]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
