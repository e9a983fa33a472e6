"""Randomness that nobody outside can predict: a ChaCha20 key stream from the operating system's entropy.

Noise that can be predicted can be subtracted, and PyTorch's and NumPy's generators can be predicted
from their output. Opacus' `secure_mode` needs torchcsprng, which is no longer maintained; a stream
cipher from `cryptography` does the same at about 0.03 s per million values and core (PRIVACY.md
section 2).

The explicit test mode derives the key from a seed instead, so that two runs can be compared
bitwise. Whoever knows the seed can remove the noise: a policy allows it in a rehearsal only.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

ZEROS = bytes(
    2**16
)  # what the cipher turns into key stream, a piece at a time: fresh memory costs more
PAIRS_AT_ONCE = 2**13  # of normals: their intermediate values stay in a core's cache
PARTS_A_THREAD = 4  # with less to do a thread is not worth its start


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
        return uniforms(self._words(count))

    def normal(self, count: int, threads: int = 1) -> NDArray[np.float64]:
        """`count` independent standard normals (Box and Muller 1958), in double precision.

        The same bits whatever `threads`: the key stream is drawn before they share it.
        """
        pairs = (count + 1) // 2
        words, result = self._words(2 * pairs), np.empty(2 * pairs)

        def transform(first: int) -> None:
            one = slice(first, min(first + PAIRS_AT_ONCE, pairs))
            other = slice(pairs + one.start, pairs + one.stop)
            # 1 - u is in (0, 1], so the logarithm is finite
            radius = np.sqrt(-2.0 * np.log1p(-uniforms(words[one])))
            angle = 2.0 * np.pi * uniforms(words[other])
            np.multiply(radius, np.cos(angle), out=result[one])
            np.multiply(radius, np.sin(angle), out=result[other])

        parts = range(0, pairs, PAIRS_AT_ONCE)
        if (workers := min(threads, len(parts) // PARTS_A_THREAD)) > 1:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(transform, parts))
        else:
            for first in parts:
                transform(first)
        return result[:count]

    def _words(self, count: int) -> NDArray[np.uint64]:
        """The next `count` words of 64 bits of the key stream."""
        drawn = bytearray(8 * count)
        rest = memoryview(drawn)
        while rest:
            part, rest = rest[: len(ZEROS)], rest[len(ZEROS) :]
            part[:] = self._keystream.update(ZEROS[: len(part)])
        return np.frombuffer(drawn, dtype="<u8")


def uniforms(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The upper 53 bits of every word, on [0, 1)."""
    result: NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return result
