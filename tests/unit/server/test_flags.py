"""Who is warned about, and who is not: with updates of known signal and noise."""

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np
import pytest

from common.arrays import Arrays
from common.bounds import noise_norm
from common.protocol import StudyProtocol
from server.checkpoint import RoundRecord
from server.flags import (
    COPY,
    COSINE,
    ECHO,
    LITTLE_NOISE,
    MOST_VALUES,
    NORM,
    PULL,
    WORDS,
    folded,
    look,
    rounds_flagged,
)
from tests.answering import MakeStudy

pytestmark = pytest.mark.slow  # seconds together

SEEDS = range(10)
SHAPES = {"z.weight": (120, 100), "a.bias": (60,)}
VALUES = 12_060
SIGMA = 2.0
NAMES = ("north", "east", "south", "west")
Flags = dict[str, list[str]]


@pytest.fixture
def private(make_study: MakeStudy) -> StudyProtocol:
    return make_study()


@pytest.fixture
def plain(make_study: MakeStudy) -> StudyProtocol:
    return make_study(privacy={"mechanism": "none"})


class Hospitals:
    """Updates that share a direction: `signal` of it, `own` of a lasting one of their own, and noise."""

    def __init__(self, protocol: StudyProtocol, seed: int, signal: float, own: float = 0.0) -> None:
        self.protocol, self.signal, self.own = protocol, signal, own
        self.rng = np.random.default_rng(seed)
        self.common = self.direction()
        self.lasting = {name: self.direction() for name in protocol.hospital_names}
        private = protocol.privacy.mechanism != "none"
        self.noise = dict.fromkeys(protocol.hospital_names, SIGMA if private else 0.0)

    def direction(self) -> Any:
        vector = self.rng.normal(size=VALUES)
        return vector / np.linalg.norm(vector)

    def added(self, name: str) -> float:
        nominal = self.protocol.hospital(name).nominal_patients
        return noise_norm(self.protocol, nominal, self.noise[name], VALUES)

    def updates(self, sign: Mapping[str, float]) -> dict[str, Arrays]:
        found = {}
        for name in self.protocol.hospital_names:
            noise = self.added(name) * self.direction()
            pull = self.signal * sign.get(name, 1.0) * self.common + self.own * self.lasting[name]
            found[name] = as_arrays(pull + noise)
        return found

    def run(self, rounds: int = 10, **sign: float) -> list[Flags]:
        """The flags of each round of a study in which the signal of some has another sign or size."""
        return [flags for flags, _ in self.looks(rounds, **sign)]

    def looks(self, rounds: int, **sign: float) -> list[tuple[Flags, Arrays]]:
        records: list[RoundRecord] = []
        sums: Arrays = {}
        found = []
        for number in range(1, rounds + 1):
            flags, sums = look(self.protocol, self.updates(sign), self.noise, records, sums)
            records.append(record(number, self.noise, flags))
            found.append((flags, sums))
        return found


def as_arrays(vector: Any) -> Arrays:
    row = np.asarray(vector, np.float32)
    return {"z.weight": row[:12_000].reshape(120, 100), "a.bias": row[12_000:]}


def record(number: int, noise: Mapping[str, float], flags: Flags) -> RoundRecord:
    return RoundRecord(
        round=number,
        seconds=1.0,
        answered=sorted(noise),
        refused={},
        missing=[],
        late={},
        noise=dict(noise),
        heads={},
        histogram=None,
        histogram_noise=None,
        flags=flags,
    )


def one_round(
    protocol: StudyProtocol, updates: Mapping[str, Arrays], noise: float | None = None
) -> Flags:
    private = protocol.privacy.mechanism != "none"
    stated = (SIGMA if private else 0.0) if noise is None else noise
    return look(protocol, updates, dict.fromkeys(updates, stated), [], {})[0]


def scaled(update: Arrays, factor: float) -> Arrays:
    return {name: np.float32(factor) * array for name, array in update.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_honest_hospitals_are_not_flagged(
    seed: int, private: StudyProtocol, plain: StudyProtocol
) -> None:
    """Nor where each has much of its own, nor where there is nothing but noise."""
    for signal, own in ((0.0, 0.0), (0.3, 0.0), (0.3, 1.0)):
        assert Hospitals(private, seed, signal, own).run() == [{}] * 10
    for signal, own in ((1.0, 0.1), (0.3, 1.0)):
        assert Hospitals(plain, seed, signal, own).run() == [{}] * 10


@pytest.mark.parametrize("odd", NAMES)
def test_without_privacy_a_site_that_pulls_the_other_way_is_flagged_at_once_and_alone(
    odd: str, plain: StudyProtocol
) -> None:
    for seed in SEEDS:
        for flags in Hospitals(plain, seed, 1.0, 0.3).run(3, **{odd: -1.0}):
            assert flags == {odd: [COSINE]}, seed


@pytest.mark.parametrize("odd", ["north", "east"])
def test_under_privacy_the_noise_averages_out_over_the_rounds(
    odd: str, private: StudyProtocol
) -> None:
    """Whoever has too much noise is not seen, and is not flagged wrongly either."""
    noise = Hospitals(private, 0, 0.0).added("north")
    signal = 0.1 * noise
    first, last = 0, 0
    for seed in range(5):
        flags = Hospitals(private, seed, signal).run(20, **{odd: -1.0})
        assert all(set(found) <= {odd} for found in flags), seed
        first += odd in flags[0]
        last += odd in flags[-1]
    assert first == 0
    assert last == 5
    hidden = [Hospitals(private, seed, signal).run(20, west=-1.0)[-1] for seed in range(5)]
    assert hidden == [{}] * 5


def test_under_privacy_a_site_that_pulls_far_harder_is_flagged_whatever_its_direction(
    private: StudyProtocol,
) -> None:
    """Labels that the model finds wrong: every patient's gradient is long. The large one is not blamed."""
    signal = 0.1 * Hospitals(private, 0, 0.0).added("north")
    for seed in range(5):
        for strength, expected in ((1.5, {}), (6.0, {"east": [PULL]})):
            flags = Hospitals(private, seed, signal).run(10, east=strength)[-1]
            assert flags == expected, seed


def test_beside_a_large_odd_site_the_others_do_not_look_wrong(make_study: MakeStudy) -> None:
    """It has 99 % of the weight in everybody else's mean."""
    sizes = {"north": 900, "east": 8, "south": 8, "west": 8}
    protocol = make_study(
        hospitals=[{"name": n, "nominal-patients": p} for n, p in sizes.items()],
        privacy={"mechanism": "none"},
    )
    flags = Hospitals(protocol, 1, 1.0, 0.3).run(3, north=-1.0)
    assert flags == [{"north": [COSINE]}] * 3


@pytest.mark.parametrize("mechanism", ["dp-sgd", "none"])
def test_a_far_larger_update_is_flagged(mechanism: str, make_study: MakeStudy) -> None:
    protocol = make_study(privacy={"mechanism": mechanism})
    hospitals = Hospitals(protocol, 3, 1.0, 0.3)
    updates = hospitals.updates({})
    assert one_round(protocol, updates) == {}
    updates["south"] = scaled(updates["south"], 20.0)
    assert one_round(protocol, updates) == {"south": [NORM] + [PULL] * (mechanism == "dp-sgd")}


def test_more_noise_is_no_outlier(private: StudyProtocol) -> None:
    """A stricter policy, or a smaller cohort: large, and as large as it says."""
    hospitals = Hospitals(private, 3, 0.1)
    hospitals.noise["west"] = 10 * SIGMA
    assert hospitals.run(3) == [{}] * 3
    hospitals.noise["west"] = SIGMA  # now it says that there is less
    updates = Hospitals(private, 3, 0.1).updates({})
    updates["west"] = scaled(updates["west"], 10.0)
    assert one_round(private, updates) == {"west": [NORM, PULL]}


@pytest.mark.parametrize("mechanism", ["dp-sgd", "none"])
@pytest.mark.parametrize("hospitals", [1, 2, 4])
def test_a_hospital_that_returns_the_model_it_received_is_flagged(
    hospitals: int, mechanism: str, make_study: MakeStudy
) -> None:
    protocol = make_study(privacy={"mechanism": mechanism})
    updates = dict(list(Hospitals(protocol, 4, 1.0, 0.3).updates({}).items())[:hospitals])
    updates["north"] = scaled(updates["north"], 0.0)
    own = [ECHO, LITTLE_NOISE] if mechanism == "dp-sgd" else [ECHO]
    assert one_round(protocol, updates) == {"north": own}


def test_less_noise_than_stated_is_flagged_and_what_chance_does_is_not(
    private: StudyProtocol,
) -> None:
    for seed in SEEDS:
        updates = Hospitals(private, seed, 0.0).updates({})
        for share, expected in ((0.9, {}), (0.4, {"east": [LITTLE_NOISE]})):
            changed = updates | {"east": scaled(updates["east"], share)}
            assert one_round(private, changed) == expected, seed


def test_a_copy_is_flagged_with_its_original(private: StudyProtocol, plain: StudyProtocol) -> None:
    """Nobody can tell which is which."""
    for protocol in (private, plain):
        updates = Hospitals(protocol, 5, 1.0, 0.3).updates({})
        updates["west"] = {name: array.copy() for name, array in updates["south"].items()}
        flags = one_round(protocol, updates)
        assert [COPY in flags[name] for name in ("south", "west")] == [True, True]
        assert set(flags) == {"south", "west"}


def test_with_two_hospitals_nobody_is_compared(make_study: MakeStudy) -> None:
    protocol = make_study(
        hospitals=[{"name": n, "nominal-patients": 9} for n in ("north", "east")],
        privacy={"mechanism": "none"},
    )
    looks = Hospitals(protocol, 6, 1.0).looks(3, east=-50.0)
    assert looks == [({}, {})] * 3


def test_who_is_away_in_a_round_is_neither_flagged_nor_forgotten(plain: StudyProtocol) -> None:
    hospitals = Hospitals(plain, 7, 1.0, 0.3)
    records: list[RoundRecord] = []
    sums: Arrays = {}
    for number in (1, 2, 3):
        updates = hospitals.updates({"west": -1.0})
        if number == 2:
            del updates["west"]
        noise = dict.fromkeys(updates, 0.0)
        flags, sums = look(plain, updates, noise, records, sums)
        records.append(record(number, noise, flags))
    found = [r.flags for r in records]
    assert found == [{"west": [COSINE]}, {}, {"west": [COSINE]}]


def test_long_updates_are_folded_so_that_inner_products_stay() -> None:
    """Ten models of a million values each way: cosines to 1 / sqrt(65,536), lengths to a hundredth."""
    rng = np.random.default_rng(8)
    size, root = 16 * MOST_VALUES + 5, sqrt(MOST_VALUES)
    for _ in range(3):
        one, other = rng.normal(size=(2, size)).astype(np.float32)
        mixed = (0.6 * one + 0.8 * other).astype(np.float32)
        rows = [folded({"w": a}, MOST_VALUES).astype(np.float64) for a in (one, other, mixed)]
        assert all(row.shape == (MOST_VALUES,) for row in rows)
        lengths = [np.linalg.norm(row) for row in rows]
        np.testing.assert_allclose(lengths, sqrt(size), rtol=0.02)
        assert abs(rows[0] @ rows[1]) / (lengths[0] * lengths[1]) < 5 / root
        cosine = rows[0] @ rows[2] / (lengths[0] * lengths[2])
        assert cosine == pytest.approx(0.6, abs=5 / root)
    np.testing.assert_allclose(
        folded({"w": one + other}, MOST_VALUES), rows[0] + rows[1], atol=1e-4
    )


def test_short_updates_are_kept_whole() -> None:
    update = {"b": np.array([[1, 2], [3, 4]], np.float32), "a": np.array([5], np.float32)}
    assert folded(update, 5).tolist() == [1, 2, 3, 4, 5]


def test_the_sums_of_very_many_hospitals_stay_small(make_study: MakeStudy) -> None:
    hospitals = [{"name": f"h{n}", "nominal-patients": 9} for n in range(8000)]
    protocol = make_study(hospitals=hospitals)
    _, sums = look(protocol, {"h1": as_arrays(np.ones(VALUES))}, {"h1": SIGMA}, [], {})
    assert sums["h1"].nbytes * len(hospitals) <= 16 << 20


def test_flags_are_gathered_by_hospital_and_kind() -> None:
    flags: list[Flags] = [{"west": [NORM, COSINE]}, {}, {"east": [NORM], "west": [COSINE]}]
    records = [record(number, {}, found) for number, found in enumerate(flags, 1)]
    assert rounds_flagged(records) == {
        ("west", NORM): [1],
        ("west", COSINE): [1, 3],
        ("east", NORM): [3],
    }
    assert set(WORDS) == {NORM, COSINE, PULL, ECHO, LITTLE_NOISE, COPY}
