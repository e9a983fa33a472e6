"""Each strategy against its paper's formula, written here in plain float64 numpy."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common.arrays import Arrays, apply_update
from common.model_spec import model_spec, update_spec
from common.protocol import STRATEGY_SETTINGS, StudyProtocol
from server.checkpoint import Checkpoints, State
from server.strategy import STRATEGIES, Aggregator, public_weights

pytestmark = pytest.mark.usefixtures("flower_task")

MakeStudy = Callable[..., StudyProtocol]
Floats = NDArray[np.float64]

SHAPES: dict[str, tuple[int, ...]] = {"z.weight": (3, 4), "a.bias": (5,), "m.scale": (1,)}
COHORTS = {"north": 60, "east": 40, "south": 24, "west": 8, "centre": 31, "abbey": 17}
SEEDS = (1, 2, 3)

# Non-default settings with which every strategy's memory matters.
SETTINGS: dict[str, dict[str, float]] = {
    "fedavg": {},
    "fedprox": {"proximal-mu": 0.1},
    "fedavgm": {"server-learning-rate": 0.5, "server-momentum": 0.9},
    "fedadam": {"server-learning-rate": 0.05, "beta-1": 0.8, "beta-2": 0.95, "tau": 0.01},
    "fedyogi": {"server-learning-rate": 0.05, "beta-1": 0.8, "beta-2": 0.95, "tau": 0.01},
    "fedmedian": {},
    "fedtrimmedavg": {"trimmed-fraction": 0.34},
    "krum": {"malicious-hospitals": 1},
}


def updates(seed: int, server_round: int = 1, hospitals: int = 6) -> dict[str, Arrays]:
    rng = np.random.default_rng([seed, server_round])
    return {
        hospital: {
            name: (0.1 * rng.normal(size=shape)).astype(np.float32)
            for name, shape in SHAPES.items()
        }
        for hospital in list(COHORTS)[:hospitals]
    }


def flat(arrays: Mapping[str, NDArray[Any]]) -> Floats:
    return np.concatenate([np.asarray(arrays[name], np.float64).ravel() for name in SHAPES])


def stacked(sent: Mapping[str, Arrays]) -> Floats:
    return np.stack([flat(arrays) for arrays in sent.values()])


def naive_mean(sent: Mapping[str, Arrays], power: int = 2) -> Floats:
    total, weights = np.zeros_like(flat(next(iter(sent.values())))), 0.0
    for hospital, arrays in sent.items():
        weight = float(COHORTS[hospital]) ** power
        total, weights = total + weight * flat(arrays), weights + weight
    return total / weights


@pytest.fixture
def study(make_study: MakeStudy) -> MakeStudy:
    """A study with the six hospitals of this file and the given aggregation."""

    def make(
        strategy: str = "fedavg", settings: Mapping[str, Any] | None = None, **more: Any
    ) -> Any:
        return make_study(
            hospitals=[{"name": n, "nominal-patients": p} for n, p in COHORTS.items()],
            aggregation={"strategy": strategy, **(settings or {})},
            **more,
        )

    return make


def agree(found: Arrays, expected: Floats) -> None:
    assert list(found) == list(SHAPES)
    assert all(found[name].shape == shape for name, shape in SHAPES.items())
    assert all(array.dtype == np.float32 for array in found.values())
    np.testing.assert_allclose(flat(found), expected, rtol=3e-5, atol=1e-7)


def test_every_strategy_of_the_protocol_exists() -> None:
    assert set(STRATEGIES) == set(STRATEGY_SETTINGS) == set(SETTINGS)


@pytest.mark.parametrize("hospitals", [1, 2, 6])
@pytest.mark.parametrize(
    ("weights", "power"), [("inverse-variance", 2), ("cohort", 1), ("uniform", 0)]
)
@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_fedavg_is_the_weighted_mean(
    strategy: str, weights: str, power: int, hospitals: int, study: MakeStudy
) -> None:
    sent = updates(1, hospitals=hospitals)
    aggregator = Aggregator(study(strategy, {**SETTINGS[strategy], "weights": weights}))
    agree(aggregator.aggregate(1, sent), naive_mean(sent, power))


def test_fedavg_of_equal_updates_is_that_update(study: MakeStudy) -> None:
    one = updates(5)["east"]
    found = Aggregator(study()).aggregate(1, dict.fromkeys(COHORTS, one))
    agree(found, flat(one))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("settings", "rate", "momentum"),
    [
        ({}, 1.0, 0.0),
        ({"server-learning-rate": 0.5}, 0.5, 0.0),
        ({"server-momentum": 0.9}, 1.0, 0.9),
        (SETTINGS["fedavgm"], 0.5, 0.9),
    ],
)
def test_fedavgm_is_momentum_on_the_mean(
    settings: dict[str, float], rate: float, momentum: float, seed: int, study: MakeStudy
) -> None:
    """Hsu et al. 2019: v <- beta v + d, x <- x + rate v; v starts at zero."""
    aggregator, velocity = Aggregator(study("fedavgm", settings)), np.zeros(18)
    for server_round in (1, 2, 3):
        sent = updates(seed, server_round)
        velocity = momentum * velocity + naive_mean(sent)
        agree(aggregator.aggregate(server_round, sent), rate * velocity)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("defaults", [True, False])
@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi"])
def test_fedadam_and_fedyogi_are_adaptive_steps_on_the_mean(
    strategy: str, defaults: bool, seed: int, study: MakeStudy
) -> None:
    """Reddi et al. 2021, algorithm 2, with moments from zero as Flower has it.

    Flower's documented defaults: beta 0.9 and 0.99, tau 0.001, eta 0.1 (Adam) and 0.01 (Yogi).
    Flower's Adam also corrects the bias of the moments (Kingma and Ba 2015), counting from two.
    """
    settings = {} if defaults else SETTINGS[strategy]
    eta = settings.get("server-learning-rate", {"fedadam": 0.1, "fedyogi": 0.01}[strategy])
    beta_1, beta_2 = settings.get("beta-1", 0.9), settings.get("beta-2", 0.99)
    tau = settings.get("tau", 0.001)
    aggregator, m, v = Aggregator(study(strategy, settings)), np.zeros(18), np.zeros(18)
    for server_round in (1, 2, 3):
        sent = updates(seed, server_round)
        d = naive_mean(sent)
        m = beta_1 * m + (1 - beta_1) * d
        rate = eta
        if strategy == "fedadam":
            v = beta_2 * v + (1 - beta_2) * d**2
            t = server_round + 1
            rate *= np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        else:
            v = v - (1 - beta_2) * d**2 * np.sign(v - d**2)
        agree(aggregator.aggregate(server_round, sent), rate * m / (np.sqrt(v) + tau))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("hospitals", [1, 2, 3, 6])
def test_fedmedian_is_the_median_of_each_coordinate(
    hospitals: int, seed: int, study: MakeStudy
) -> None:
    sent = updates(seed, hospitals=hospitals)
    middle = []
    for column in stacked(sent).T:
        ranked = sorted(column)
        middle.append((ranked[(hospitals - 1) // 2] + ranked[hospitals // 2]) / 2)
    agree(Aggregator(study("fedmedian")).aggregate(1, sent), np.array(middle))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("settings", "hospitals", "cut"),
    [({}, 6, 1), ({}, 4, 0), ({}, 5, 1), (SETTINGS["fedtrimmedavg"], 6, 2), ({}, 1, 0)],
)
def test_fedtrimmedavg_is_the_mean_without_the_extremes_of_each_coordinate(
    settings: dict[str, float], hospitals: int, cut: int, seed: int, study: MakeStudy
) -> None:
    """Yin et al. 2018; Flower's default cuts a fifth at either end, rounded down."""
    sent = updates(seed, hospitals=hospitals)
    kept = [sorted(column)[cut : hospitals - cut] for column in stacked(sent).T]
    expected = np.array([sum(column) / len(column) for column in kept])
    agree(Aggregator(study("fedtrimmedavg", settings)).aggregate(1, sent), expected)


def krum_by_brute_force(points: Floats, malicious: int) -> int:
    """Blanchard et al. 2017: the point with the least sum of its n - f - 2 nearest distances."""
    n = len(points)
    scores = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        sums = (
            sum(float(np.sum((points[i] - points[j]) ** 2)) for j in nearest)
            for nearest in itertools.combinations(others, max(1, n - malicious - 2))
        )
        scores.append(min(sums))
    return int(np.argmin(scores))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("malicious", [0, 1, 2])
def test_krum_is_the_update_that_its_neighbours_are_closest_to(
    malicious: int, seed: int, study: MakeStudy
) -> None:
    sent = updates(seed)
    for hospital in list(sent)[:malicious]:  # far away, and close to each other
        sent[hospital] = {name: array + 5 for name, array in sent[hospital].items()}
    hospitals = list(sent)
    chosen = hospitals[krum_by_brute_force(stacked(sent), malicious)]
    assert chosen not in hospitals[:malicious]
    found = Aggregator(study("krum", {"malicious-hospitals": malicious})).aggregate(1, sent)
    assert all(found[name].tobytes() == sent[chosen][name].tobytes() for name in SHAPES)


@pytest.mark.parametrize("strategy", SETTINGS)
def test_the_order_of_arrival_changes_no_bit(strategy: str, study: MakeStudy) -> None:
    orders = list(itertools.permutations(COHORTS))[::103]
    results = set()
    for order in orders:
        aggregator = Aggregator(study(strategy, SETTINGS[strategy]))
        result = b""
        for server_round in (1, 2):
            sent = updates(1, server_round)
            combined = aggregator.aggregate(server_round, {h: sent[h] for h in order})
            result += b"".join(combined[name].tobytes() for name in SHAPES)
        results.add(result)
    assert len(orders) > 5
    assert len(results) == 1


def test_the_order_of_arrival_would_matter_without_care() -> None:
    """The test above can fail: float32 sums in another order do differ."""
    columns = stacked(updates(1)).astype(np.float32)
    forward, backward = np.float32(0), np.float32(0)
    for row in columns:
        forward = forward + row * np.float32(0.1)
    for row in columns[::-1]:
        backward = backward + row * np.float32(0.1)
    assert not np.array_equal(forward, backward)


@pytest.mark.parametrize("strategy", SETTINGS)
def test_a_restored_strategy_continues_bit_for_bit(
    strategy: str, study: MakeStudy, tmp_path: Path
) -> None:
    protocol = study(strategy, SETTINGS[strategy])
    whole, before = Aggregator(protocol), Aggregator(protocol)
    for server_round in (1, 2):
        expected = whole.aggregate(server_round, updates(4, server_round))
        before.aggregate(server_round, updates(4, server_round))
        Checkpoints(tmp_path, protocol).save(
            State(round=server_round, arrays=expected, strategy=before.state())
        )
    expected = whole.aggregate(3, updates(4, 3))
    state = Checkpoints(tmp_path, protocol).load()
    assert state is not None
    assert bool(state.strategy) is (strategy in ("fedavgm", "fedadam", "fedyogi"))
    fresh = Aggregator(protocol)
    fresh.restore(state.strategy)
    found = fresh.aggregate(3, updates(4, 3))
    assert all(found[name].tobytes() == expected[name].tobytes() for name in SHAPES)
    again = fresh.state()
    assert {k: a.tobytes() for k, a in again.items()} == {
        k: a.tobytes() for k, a in whole.state().items()
    }
    if state.strategy:  # the memory is used at all: without it the result is another
        forgetful = Aggregator(protocol).aggregate(3, updates(4, 3))
        assert any(forgetful[name].tobytes() != expected[name].tobytes() for name in SHAPES)


@pytest.mark.parametrize("strategy", SETTINGS)
def test_a_new_strategy_restored_from_nothing_is_new(strategy: str, study: MakeStudy) -> None:
    protocol = study(strategy, SETTINGS[strategy])
    new, restored = Aggregator(protocol), Aggregator(protocol)
    restored.restore(new.state())
    one, two = new.aggregate(1, updates(6)), restored.aggregate(1, updates(6))
    assert all(one[name].tobytes() == two[name].tobytes() for name in SHAPES)


@pytest.mark.parametrize("strategy", SETTINGS)
def test_updates_are_not_changed_by_aggregating_them(strategy: str, study: MakeStudy) -> None:
    sent = updates(2)
    Aggregator(study(strategy, SETTINGS[strategy])).aggregate(1, sent)
    again = updates(2)
    for hospital, arrays in again.items():
        assert list(sent[hospital]) == list(arrays)
        assert all(sent[hospital][name].tobytes() == arrays[name].tobytes() for name in arrays)


@pytest.mark.parametrize(
    ("weights", "mechanism", "expected"),
    [
        ("inverse-variance", "dp-sgd", [3600.0, 1600.0, 576.0, 64.0]),
        ("inverse-variance", "none", [60.0, 40.0, 24.0, 8.0]),
        ("cohort", "dp-sgd", [60.0, 40.0, 24.0, 8.0]),
        ("cohort", "none", [60.0, 40.0, 24.0, 8.0]),
        ("uniform", "dp-sgd", [1.0] * 4),
        ("uniform", "none", [1.0] * 4),
    ],
)
def test_weights_come_from_the_roster_alone(
    weights: str, mechanism: str, expected: list[float], make_study: MakeStudy
) -> None:
    protocol = make_study(aggregation={"weights": weights}, privacy={"mechanism": mechanism})
    found = public_weights(protocol)
    assert found == dict(zip(("north", "east", "south", "west"), expected, strict=True))


def test_frozen_layers_are_in_no_update_and_stay_as_they_are(make_study: MakeStudy) -> None:
    protocol = make_study(model={"name": "resnet18-frozen-affine"}, rounds=1)
    spec, whole = update_spec(protocol), model_spec(protocol)
    small = {name: shape for name, shape in spec.items() if len(shape) < 2 or name == "fc.weight"}
    frozen = [name for name in whole if name not in spec]
    assert frozen
    sent = {h: {n: np.full(s, 0.5, np.float32) for n, s in small.items()} for h in ("east", "west")}
    combined = Aggregator(protocol).aggregate(1, sent)
    assert list(combined) == list(small)
    model = {n: np.full(whole[n], 2.0, np.float32) for n in (*small, *frozen)}
    after = apply_update(model, combined)
    assert list(after) == list(model)
    assert all((after[n] == 2.0).all() for n in frozen)
    assert all((after[n] == 2.5).all() for n in small)
