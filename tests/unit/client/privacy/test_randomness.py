"""Noise: ChaCha20 to the letter, Gaussian to the tail, fresh unless a test asks for a seed."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from client.privacy.randomness import PAIRS_AT_ONCE, RandomStream

SEED = 20260101
COUNT = 200_000


def chacha20_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """One 64-byte block of RFC 8439 section 2.3, written from the RFC alone."""
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter]
    start += struct.unpack("<3I", nonce)
    x = list(start)

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for one, two, three, left in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[one] = (x[one] + x[two]) & 0xFFFFFFFF
            mixed = x[three] ^ x[one]
            x[three] = (mixed << left | mixed >> (32 - left)) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for column in range(4):
            quarter(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(x, start, strict=True)))


def scale_is(noise: NDArray[np.float64], sigma: float) -> bool:
    """Whether the variance of `noise` fits `sigma` squared: two-sided chi-square, level 1e-6."""
    statistic = float(np.square(noise / sigma).sum())
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], noise.size)
    return bool(low < statistic < high)


class _Keystream:
    """A key stream of one repeated byte."""

    def __init__(self, byte: bytes) -> None:
        self._byte = byte

    def update(self, data: bytes) -> bytes:
        return self._byte * len(data)


def test_reference_block_is_that_of_rfc_8439() -> None:
    """Section 2.3.2 of the RFC: first and last bytes of the block it prints."""
    block = chacha20_block(bytes(range(32)), 1, bytes.fromhex("000000090000004a00000000"))
    assert block.hex().startswith("10f1e7e4d13b5915500fdd1fa32071c4")
    assert block.hex().endswith("b5129cd1de164eb9cbd083e8a2503c4e")


def test_uniforms_are_the_upper_53_bits_of_the_chacha20_key_stream() -> None:
    key = bytes(range(100, 132))
    stream = b"".join(chacha20_block(key, counter, bytes(12)) for counter in range(4))
    by_hand = [word / 2**53 for word in (w >> 11 for (w,) in struct.iter_unpack("<Q", stream))]
    asked_in_parts = RandomStream(key)
    parts = [asked_in_parts.uniform(5), asked_in_parts.uniform(27)]
    assert np.concatenate(parts).tolist() == by_hand


def test_uniforms_are_uniform() -> None:
    print(f"seed {SEED}")
    uniforms = RandomStream.for_tests(SEED, "uniform").uniform(COUNT)
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    assert stats.kstest(uniforms, "uniform").pvalue > 1e-4


def test_normals_are_standard_normal() -> None:
    print(f"seed {SEED}")
    noise = RandomStream.for_tests(SEED, "normal").normal(COUNT)
    assert stats.kstest(noise, "norm").pvalue > 1e-4
    error = 5 / np.sqrt(COUNT)  # five standard errors of the mean
    assert abs(noise.mean()) < error
    assert abs(noise.std() - 1) < error / np.sqrt(2)
    assert abs(stats.skew(noise)) < error * np.sqrt(6)
    assert abs(stats.kurtosis(noise)) < error * np.sqrt(24)


def test_the_two_halves_of_box_and_muller_are_independent() -> None:
    print(f"seed {SEED}")
    cosines, sines = RandomStream.for_tests(SEED, "halves").normal(COUNT).reshape(2, -1)
    for one, other in ((cosines, sines), (np.square(cosines), np.square(sines))):
        assert stats.pearsonr(one, other).pvalue > 1e-4


@pytest.mark.parametrize("sigma", [0.5, 1.0, 7.0])
def test_noise_scale_is_accepted_and_a_wrong_one_rejected(sigma: float) -> None:
    print(f"seed {SEED}")
    noise = RandomStream.for_tests(SEED, "scale", str(sigma)).normal(2_000) * sigma
    assert scale_is(noise, sigma)
    assert not scale_is(noise, sigma * 2 / 3)
    assert not scale_is(noise, sigma * 3 / 2)


@pytest.mark.parametrize("count", [1, 7, 2 * PAIRS_AT_ONCE + 1, 25 * PAIRS_AT_ONCE - 1])
@pytest.mark.parametrize("threads", [1, 3])
def test_parts_and_threads_change_no_bit(count: int, threads: int) -> None:
    """Seeded streams stay what they are: the whole of it by Box and Muller's formula at once."""
    key = bytes(range(32))
    u = RandomStream(key).uniform(count + count % 2).reshape(2, -1)
    radius, angle = np.sqrt(-2.0 * np.log1p(-u[0])), 2.0 * np.pi * u[1]
    whole = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
    stream = RandomStream(key)
    assert stream.normal(count, threads).tobytes() == whole.tobytes()
    after = RandomStream(key).uniform(count + count % 2 + 3)[-3:]
    assert stream.uniform(3).tolist() == after.tolist()  # and not a word more is used


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_as_many_normals_as_asked_for(count: int) -> None:
    assert RandomStream.fresh().normal(count).shape == (count,)


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_no_key_stream_makes_an_infinite_normal(
    byte: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = RandomStream.fresh()
    monkeypatch.setattr(stream, "_keystream", _Keystream(byte))
    assert stream.uniform(3).tolist() == [0.0 if byte == b"\x00" else 1 - 2.0**-53] * 3
    assert np.isfinite(stream.normal(64)).all()
    assert np.abs(stream.normal(64)).max() < 8.6  # sqrt(2 * 53 * log 2)


def test_one_stream_never_repeats_itself() -> None:
    stream = RandomStream.fresh()
    assert not set(stream.normal(1000)) & set(stream.normal(1000))


@pytest.mark.parametrize("make", [RandomStream.fresh, lambda: RandomStream.of(None, "study", 1)])
def test_fresh_streams_differ(make: Callable[[], RandomStream]) -> None:
    first, second = (make().normal(1000) for _ in range(2))
    assert not set(first) & set(second)
    assert stats.pearsonr(first, second).pvalue > 1e-6


def test_fresh_streams_take_their_key_from_the_operating_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return bytes(range(count))

    monkeypatch.setattr("client.privacy.randomness.os.urandom", entropy)
    by_hand = RandomStream(bytes(range(32))).uniform(8)
    assert RandomStream.fresh().uniform(8).tolist() == by_hand.tolist()
    assert asked == [32]


def test_test_mode_repeats_and_differs_by_seed_and_purpose() -> None:
    def first(seed: int, *purpose: str | int) -> float:
        return float(RandomStream.of(seed, *purpose).normal(1)[0])

    assert first(1, "study", "north", 1) == first(1, "study", "north", 1)
    asked: list[tuple[int, list[str | int]]] = [
        (1, ["s", "n", 1]),
        (2, ["s", "n", 1]),
        (1, ["t", "n", 1]),
        (1, ["s", "m", 1]),
        (1, ["s", "n", 2]),
        (1, ["s", "n1", ""]),
        (11, ["s", "n", ""]),
    ]
    assert len({first(seed, *purpose) for seed, purpose in asked}) == len(asked)
