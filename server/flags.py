"""Warnings about admitted updates, by hospital: an outlier, a free-rider, a site that pulls the other way.

A flag detects and does not prevent: it never changes the aggregate. It says where somebody should
ask, not who cheats; and it is no proof of honesty. A free-rider that adds the noise it states is not
seen, for that is all that is left of an honest small hospital under privacy. A site that acts in few
rounds, that knows the projection below, or that is one of several acting together may not be seen.

What a hospital has done so far is kept as the sum of its updates. Under privacy an update is mostly
noise, isotropic and of known size: the cosine of two such sums of n values has a spread of
1 / sqrt(n), and a projection to a few hundred values would drown what is looked for
(docs/benchmarks.md). So the sums are kept whole up to `MOST_VALUES` values, which are more than the
compact CNN has, and longer ones are folded: values are added up with fixed random signs, which keeps inner
products on average.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import median

import numpy as np
from numpy.typing import NDArray

from common import arrays
from common.arrays import Arrays
from common.bounds import noise_norm
from common.protocol import StudyProtocol
from server.checkpoint import RoundRecord

NORM, COSINE, PULL, ECHO = "FLAG-NORM", "FLAG-COSINE", "FLAG-PULL", "FLAG-ECHO"
LITTLE_NOISE, COPY = "FLAG-LITTLE-NOISE", "FLAG-COPY"

WORDS = {
    NORM: "its update was far larger than those of the others",
    COSINE: "its updates so far pull the model against those of the others (wrong labels?)",
    PULL: "beyond their noise its updates so far pull far harder than those of the others: the model "
    "fits its patients badly (wrong labels?)",
    ECHO: "its update was next to nothing: it may have returned the model that it received",
    LITTLE_NOISE: "its update was smaller than the noise that it states to have added",
    COPY: "its update was the same, bit by bit, as another hospital's",
}

COMPARED = 3  # hospitals; with fewer nobody can say who is the odd one

MOST_VALUES = 1 << 16  # of one hospital's sum of updates: 256 KiB in a checkpoint
MOST_VALUES_OF_ALL = 1 << 22  # 16 MiB in a checkpoint, however many hospitals
SIGNS = 20_260_101  # seed of the projection

# Times the norm to be expected from the others; nothing is clipped without privacy, and there an honest
# hospital of 16 patients reached 6 times.
FAR, FAR_UNCLIPPED = 3.0, 10.0
FAR_DEVIATIONS = 6.0  # and so many robust standard deviations away from the others
NOTHING = 0.01  # share of the norm to be expected
CHANCE = 5.0  # standard deviations that noise alone does not reach
HARDER = 2.0  # times the others' sum of updates without its noise
AGAINST = 0.5  # cosine of what is not noise; those of honest hospitals that differ reached -0.33

Floats = NDArray[np.float64]


def look(
    protocol: StudyProtocol,
    updates: Mapping[str, Arrays],
    noise: Mapping[str, float],
    earlier: Sequence[RoundRecord],
    sums: Arrays,
) -> tuple[dict[str, list[str]], Arrays]:
    """The flags of each hospital in a round, and the sums of updates with this round's.

    `updates` are the admitted ones with the noise multipliers that they state, `earlier` the closed
    rounds, `sums` what this function returned after the last of them. It depends on nothing else, so a
    resumed run has the flags of one that was not interrupted.
    """
    values = sum(array.size for array in next(iter(updates.values())).values())
    added = {h: noise_norm(protocol, _nominal(protocol, h), noise[h], values) for h in updates}
    norms = {h: arrays.norm(update) for h, update in updates.items()}
    after = _accumulated(protocol, updates, sums)
    so_far = _noise_so_far(protocol, noise, earlier, values)
    found = {
        NORM: _far(norms, added),
        COSINE: _against(protocol, after, so_far),
        PULL: _harder(after, so_far),
        ECHO: _nothing(norms, added),
        LITTLE_NOISE: [h for h in norms if norms[h] < added[h] / 2],
        COPY: _same({h: update for h, update in updates.items() if norms[h] > 0}),
    }
    flags = {h: [code for code, whose in found.items() if h in whose] for h in sorted(updates)}
    return {h: codes for h, codes in flags.items() if codes}, after


def rounds_flagged(records: Sequence[RoundRecord]) -> dict[tuple[str, str], list[int]]:
    """(hospital, flag) -> the rounds in which it was raised, rising."""
    found: dict[tuple[str, str], list[int]] = {}
    for record in records:
        for hospital, codes in record.flags.items():
            for code in codes:
                found.setdefault((hospital, code), []).append(record.round)
    return found


def _far(norms: Mapping[str, float], added: Mapping[str, float]) -> list[str]:
    """Whose norm is far above what its own noise and the others' signal make probable."""
    if len(norms) < COMPARED:
        return []
    signal = {h: sqrt(max(norms[h] ** 2 - added[h] ** 2, 0.0)) for h in norms}
    found = []
    for hospital in norms:
        others = [h for h in norms if h != hospital]
        usual = median(signal[h] for h in others)
        ratio = {h: norms[h] / max(sqrt(added[h] ** 2 + usual**2), 1e-30) for h in norms}
        middle = median(ratio[h] for h in others)
        spread = 1.4826 * median(abs(ratio[h] - middle) for h in others)
        far = FAR if added[hospital] > 0 else FAR_UNCLIPPED
        if ratio[hospital] > max(far, middle + FAR_DEVIATIONS * spread):
            found.append(hospital)
    return found


def _nothing(norms: Mapping[str, float], added: Mapping[str, float]) -> list[str]:
    """Who sent nothing, or next to nothing against its own noise or, without any, the others."""
    usual = median(norms.values()) if len(norms) >= COMPARED else 0.0
    return [h for h in norms if norms[h] <= NOTHING * (added[h] or usual)]


def _same(updates: Mapping[str, Arrays]) -> list[str]:
    digests = {hospital: arrays.digest(update) for hospital, update in updates.items()}
    every = list(digests.values())
    return [hospital for hospital, digest in digests.items() if every.count(digest) > 1]


def _against(protocol: StudyProtocol, sums: Arrays, noise: Mapping[str, float]) -> list[str]:
    """Whose sum of updates points away from the weighted mean of the others' sums.

    The one that disagrees most with a hospital is left out of its mean: beside one large hospital that
    pulls the other way, all the rest would look wrong. Both must hold: noise does not explain the
    cosine, and of what is not noise it is clearly negative.
    """
    names = list(sums)
    if len(names) < COMPARED:
        return []
    stacked = np.stack([sums[h] for h in names]).astype(np.float64)
    sizes = np.array([_nominal(protocol, h) for h in names], dtype=np.float64)
    scatter = np.array([noise[h] for h in names])
    weights = sizes if not scatter.all() else scatter**-2.0
    found = []
    for i, hospital in enumerate(names):
        agreement = weights * (stacked @ stacked[i])
        agreement[i] = np.inf
        others = np.ones(len(names), dtype=bool)
        others[[i, int(np.argmin(agreement))]] = False
        mean = weights[others] @ stacked[others]
        mean_noise = float(np.sqrt(np.square(weights[others] * scatter[others]).sum()))
        lengths = float(np.linalg.norm(stacked[i]) * np.linalg.norm(mean))
        signals = _signal(stacked[i], scatter[i]) * _signal(mean, mean_noise)
        together = float(stacked[i] @ mean)
        if together < -max(CHANCE * lengths / sqrt(mean.size), AGAINST * signals):
            found.append(hospital)
    return found


def _harder(sums: Arrays, noise: Mapping[str, float]) -> list[str]:
    """Whose sum of updates is longer than its noise explains, and far longer than the others' are.

    Under privacy all patients are clipped alike, so honest hospitals pull alike, whatever their size;
    without, nothing follows from a length. The others' are averaged by how exactly they are known, so a
    large hospital that sends noise alone makes the rest look wrong. Who lacks noise is left out.
    """
    names = [hospital for hospital in sums if noise[hospital] > 0]
    if len(names) < COMPARED:
        return []
    squares = np.array([noise[h] ** 2 for h in names])
    spread = squares * np.sqrt(2 / np.array([sums[h].size for h in names]))
    lengths = np.array([np.square(sums[h], dtype=np.float64).sum() for h in names]) - squares
    noisy = lengths > -CHANCE * spread
    found = []
    for i, hospital in enumerate(names):
        others = noisy & (np.arange(len(names)) != i)
        if not others.any():
            continue
        weights = spread[others] ** -2.0
        usual = max(float(weights @ lengths[others]) / weights.sum(), 0.0)
        chance = sqrt(spread[i] ** 2 + HARDER**4 / weights.sum())
        if lengths[i] - HARDER**2 * usual > CHANCE * chance:
            found.append(hospital)
    return found


def _signal(vector: Floats, noise: float) -> float:
    """What of the norm of `vector` may not be noise, of which the expected norm is `noise`."""
    spread = noise**2 * sqrt(2 / vector.size)
    return sqrt(max(float(vector @ vector) - noise**2, 0.0) + 2 * spread)


def _noise_so_far(
    protocol: StudyProtocol,
    noise: Mapping[str, float],
    earlier: Sequence[RoundRecord],
    values: int,
) -> dict[str, float]:
    """Expected norm of the noise in each hospital's sum of updates, as they stated it round by round."""
    squares: dict[str, float] = {}
    for stated in (*(record.noise for record in earlier), noise):
        for hospital, multiplier in stated.items():
            added = noise_norm(protocol, _nominal(protocol, hospital), multiplier, values)
            squares[hospital] = squares.get(hospital, 0.0) + added**2
    return {hospital: sqrt(square) for hospital, square in squares.items()}


def _accumulated(protocol: StudyProtocol, updates: Mapping[str, Arrays], before: Arrays) -> Arrays:
    """`before` with `updates` added, each as one row; empty for a study that is too small to compare."""
    hospitals = len(protocol.hospitals)
    if hospitals < COMPARED:
        return {}
    length = min(MOST_VALUES, MOST_VALUES_OF_ALL // hospitals)
    after = dict(before)
    for hospital in sorted(updates):
        row = folded(updates[hospital], length)
        after[hospital] = before[hospital] + row if hospital in before else row
    return {hospital: after[hospital] for hospital in sorted(after)}


def folded(update: Arrays, length: int) -> NDArray[np.float32]:
    """All values of `update` in a row, folded to `length` where there are more."""
    row = np.concatenate([array.ravel() for array in update.values()])
    if row.size <= length:
        return row
    signs = np.random.Generator(np.random.PCG64(SIGNS)).bytes(-(-row.size // 8))
    bits = np.unpackbits(np.frombuffer(signs, np.uint8), count=row.size)
    padded = np.zeros(-(-row.size // length) * length, np.float32)
    padded[: row.size] = np.where(bits, row, -row)
    summed: NDArray[np.float32] = padded.reshape(-1, length).sum(axis=0, dtype=np.float32)
    return summed


def _nominal(protocol: StudyProtocol, hospital: str) -> int:
    return protocol.hospital(hospital).nominal_patients
