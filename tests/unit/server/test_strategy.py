"""Each strategy against its paper's formula, written here in plain float64 numpy."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from common.arrays import Arrays, apply_update
from common.model_spec import model_spec, update_spec
from common.protocol import STRATEGY_SETTINGS, StudyProtocol
from server.checkpoint import Checkpoints, State
from server.strategy import STRATEGIES, Aggregator, capped, public_weights

pytestmark = pytest.mark.usefixtures("flower_task")

MakeStudy = Callable[..., StudyProtocol]
Floats = NDArray[np.float64]

SHAPES: dict[str, tuple[int, ...]] = {"z.weight": (3, 4), "a.bias": (5,), "m.scale": (1,)}
COHORTS = {"north": 60, "east": 40, "south": 24, "west": 8, "centre": 31, "abbey": 17}
SEEDS = (1, 2, 3)
EQUAL = dict.fromkeys(COHORTS, 0.8)  # every hospital's noise multiplier, where it should not matter

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
    agree(aggregator.aggregate(1, sent, EQUAL), naive_mean(sent, power))


# --- no share above the cap --------------------------------------------------------------------


def capped_by_bisection(weights: Mapping[str, float], share: float) -> dict[str, float]:
    """min(share, level x weight) with the level at which they add up to 1."""
    low, high = 0.0, 1.0
    while sum(min(share, high * w) for w in weights.values()) < 1:
        high *= 2
    for _ in range(200):
        level = (low + high) / 2
        if sum(min(share, level * w) for w in weights.values()) < 1:
            low = level
        else:
            high = level
    return {name: min(share, high * w) for name, w in weights.items()}


@given(
    weights=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=12),
    share=st.floats(0.05, 1.0),
)
@example(weights=[1.0] * 7, share=1 / 7)
@example(weights=[3.0, 3.0, 3.0], share=0.3333333333333334)
@example(weights=[1e9, 1e-9, 1e-9], share=0.5)
def test_no_share_is_above_the_cap(weights: list[float], share: float) -> None:
    named = {f"h{n}": weight for n, weight in enumerate(weights)}
    found = capped(named, share)
    assert sum(found.values()) == pytest.approx(1, rel=1e-9)
    if len(weights) * share <= 1:  # too few answered: equal shares, whatever the cap
        assert set(found.values()) == {1 / len(weights)}
        return
    assert max(found.values()) <= share
    expected = capped_by_bisection(named, share)
    for name, value in found.items():
        assert value == pytest.approx(expected[name], rel=1e-6, abs=1e-9)
    below = [name for name in named if found[name] < share * (1 - 1e-9)]
    for one, other in itertools.pairwise(below):  # among these nothing has changed
        assert found[one] * named[other] == pytest.approx(found[other] * named[one], rel=1e-6)


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam"])
def test_the_cap_reaches_flowers_average(strategy: str, study: MakeStudy) -> None:
    """north would have 0.51 of the whole; what is cut off brings east to the cap as well."""
    sent = updates(1)
    weights = {h: float(n) ** 2 for h, n in COHORTS.items()}
    shares = capped_by_bisection(weights, 0.3)
    assert shares["north"] == shares["east"] == 0.3
    mean = np.sum([shares[h] * flat(sent[h]) for h in sent], axis=0)
    aggregator = Aggregator(study(strategy, {**SETTINGS[strategy], "max-share": 0.3}))
    found = aggregator.aggregate(1, sent, EQUAL)
    if strategy == "fedavg":
        agree(found, mean)
    elif strategy == "fedavgm":
        agree(found, 0.5 * mean)
    else:
        np.testing.assert_array_equal(np.sign(flat(found)), np.sign(mean))
    plain = Aggregator(study(strategy, SETTINGS[strategy])).aggregate(1, sent, EQUAL)
    assert flat(plain).tolist() != flat(found).tolist()


def test_with_fewer_answers_than_shares_all_count_the_same(study: MakeStudy) -> None:
    protocol = study("fedavg", {"max-share": 0.3})
    three = dict.fromkeys(("north", "east", "west"), 0.8)
    assert public_weights(protocol, three) == dict.fromkeys(three, 1 / 3)
    sent = updates(1, hospitals=3)
    found = Aggregator(protocol).aggregate(1, sent, EQUAL)
    agree(found, naive_mean(sent, 0))


def test_a_cap_that_cannot_be_kept_or_caps_nothing_is_no_protocol(study: MakeStudy) -> None:
    study("fedavg", {"max-share": 1 / 6})
    with pytest.raises(ValidationError, match="at least 1/6"):
        study("fedavg", {"max-share": 0.16})
    for share in (0.0, -0.1, 1.1):
        with pytest.raises(ValidationError):
            study("fedavg", {"max-share": share})
    for strategy in ("fedmedian", "fedtrimmedavg", "krum"):
        with pytest.raises(ValidationError, match="has none"):
            study(strategy, {"max-share": 0.5})


def test_fedavg_of_equal_updates_is_that_update(study: MakeStudy) -> None:
    one = updates(5)["east"]
    found = Aggregator(study()).aggregate(1, dict.fromkeys(COHORTS, one), EQUAL)
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
        agree(aggregator.aggregate(server_round, sent, EQUAL), rate * velocity)


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
        agree(aggregator.aggregate(server_round, sent, EQUAL), rate * m / (np.sqrt(v) + tau))


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
    agree(Aggregator(study("fedmedian")).aggregate(1, sent, EQUAL), np.array(middle))


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
    agree(Aggregator(study("fedtrimmedavg", settings)).aggregate(1, sent, EQUAL), expected)


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
    found = Aggregator(study("krum", {"malicious-hospitals": malicious})).aggregate(1, sent, EQUAL)
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
            combined = aggregator.aggregate(server_round, {h: sent[h] for h in order}, EQUAL)
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
        expected = whole.aggregate(server_round, updates(4, server_round), EQUAL)
        before.aggregate(server_round, updates(4, server_round), EQUAL)
        Checkpoints(tmp_path, protocol).save(
            State(round=server_round, arrays=expected, strategy=before.state())
        )
    expected = whole.aggregate(3, updates(4, 3), EQUAL)
    state = Checkpoints(tmp_path, protocol).load()
    assert state is not None
    assert bool(state.strategy) is (strategy in ("fedavgm", "fedadam", "fedyogi"))
    fresh = Aggregator(protocol)
    fresh.restore(state.strategy)
    found = fresh.aggregate(3, updates(4, 3), EQUAL)
    assert all(found[name].tobytes() == expected[name].tobytes() for name in SHAPES)
    again = fresh.state()
    assert {k: a.tobytes() for k, a in again.items()} == {
        k: a.tobytes() for k, a in whole.state().items()
    }
    if state.strategy:  # the memory is used at all: without it the result is another
        forgetful = Aggregator(protocol).aggregate(3, updates(4, 3), EQUAL)
        assert any(forgetful[name].tobytes() != expected[name].tobytes() for name in SHAPES)


@pytest.mark.parametrize("strategy", SETTINGS)
def test_a_new_strategy_restored_from_nothing_is_new(strategy: str, study: MakeStudy) -> None:
    protocol = study(strategy, SETTINGS[strategy])
    new, restored = Aggregator(protocol), Aggregator(protocol)
    restored.restore(new.state())
    one, two = new.aggregate(1, updates(6), EQUAL), restored.aggregate(1, updates(6), EQUAL)
    assert all(one[name].tobytes() == two[name].tobytes() for name in SHAPES)


@pytest.mark.parametrize("strategy", SETTINGS)
def test_updates_are_not_changed_by_aggregating_them(strategy: str, study: MakeStudy) -> None:
    sent = updates(2)
    Aggregator(study(strategy, SETTINGS[strategy])).aggregate(1, sent, EQUAL)
    again = updates(2)
    for hospital, arrays in again.items():
        assert list(sent[hospital]) == list(arrays)
        assert all(sent[hospital][name].tobytes() == arrays[name].tobytes() for name in arrays)


# --- public weights ----------------------------------------------------------------------------

FOUR = ("north", "east", "south", "west")  # 60, 40, 24 and 8 nominal patients


def shares(weights: Mapping[str, float]) -> list[float]:
    """What a weighted mean makes of `weights`: only their ratios matter."""
    total = sum(weights.values())
    return [weight / total for weight in weights.values()]


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
@pytest.mark.parametrize("sigma", [0.3, 1.0, 17.0])
def test_with_equal_noise_the_weights_come_from_the_roster_alone(
    weights: str, mechanism: str, expected: list[float], sigma: float, make_study: MakeStudy
) -> None:
    protocol = make_study(aggregation={"weights": weights}, privacy={"mechanism": mechanism})
    found = public_weights(protocol, dict.fromkeys(FOUR, 0.0 if mechanism == "none" else sigma))
    assert found == dict(zip(FOUR, expected, strict=True))


@pytest.mark.parametrize("strict", FOUR)
def test_a_hospital_with_twice_the_noise_has_a_quarter_of_its_weight(
    strict: str, make_study: MakeStudy
) -> None:
    plain = public_weights(make_study(), dict.fromkeys(FOUR, 0.7))
    found = public_weights(make_study(), {**dict.fromkeys(FOUR, 0.7), strict: 1.4})
    assert found == pytest.approx({**plain, strict: plain[strict] / 4}, rel=1e-12)


def test_the_weights_are_those_of_the_least_noisy_mean(make_study: MakeStudy) -> None:
    """Gauss and Markov: no other weights give a weighted mean of a smaller variance."""
    noise = dict(zip(FOUR, (0.9, 0.9, 0.9, 3.1), strict=True))
    deviation = np.array([noise[h] / COHORTS[h] for h in FOUR])  # sigma C / (q n), q = C = 1
    best = np.array(shares(public_weights(make_study(), noise)))
    least = float(np.sum(best**2 * deviation**2))
    assert least == pytest.approx(1 / np.sum(deviation**-2.0), rel=1e-12)
    seed = 7
    print(f"seed {seed}")
    for other in np.random.default_rng(seed).dirichlet(np.ones(4), size=200):
        assert float(np.sum(other**2 * deviation**2)) >= least


@pytest.mark.parametrize("claim", [0.0, 1e-300, 1e-9, 0.1, 0.79])
@pytest.mark.parametrize("liar", FOUR)
def test_whoever_states_less_noise_than_the_median_gains_nothing(
    liar: str, claim: float, make_study: MakeStudy
) -> None:
    others = iter((0.8, 0.8, 1.2))  # so that 0.8 is the median, with the liar or without
    honest = {h: 0.8 if h == liar else next(others) for h in FOUR}
    expected = shares(public_weights(make_study(), honest))
    found = shares(public_weights(make_study(), {**honest, liar: claim}))
    assert found == pytest.approx(expected, rel=1e-9)


def test_nor_does_one_of_two_hospitals(make_study: MakeStudy) -> None:
    """A quorum of two is allowed: then one honest hospital has to be protection enough."""
    equal = shares(public_weights(make_study(), {"north": 0.8, "west": 0.8}))
    found = shares(public_weights(make_study(), {"north": 0.8, "west": 0.001}))
    assert found == pytest.approx(equal)


@pytest.mark.parametrize("weights", ["uniform", "cohort"])
def test_other_weights_ignore_what_noise_is_stated(weights: str, make_study: MakeStudy) -> None:
    protocol = make_study(aggregation={"weights": weights})
    one = public_weights(protocol, dict.fromkeys(FOUR, 1.0))
    assert public_weights(protocol, dict(zip(FOUR, (0.0, 1e-9, 5.0, 1e9), strict=True))) == one


def test_without_differential_privacy_a_stated_noise_weighs_nothing(make_study: MakeStudy) -> None:
    protocol = make_study(privacy={"mechanism": "none"})
    stated = dict(zip(FOUR, (0.0, 1e-9, 5.0, 1e9), strict=True))
    assert public_weights(protocol, stated) == {h: float(COHORTS[h]) for h in FOUR}


@pytest.mark.parametrize("noise", [0.0, 1e-300, 1e9])
def test_weights_of_any_admitted_noise_are_finite_and_not_all_nought(
    noise: float, make_study: MakeStudy
) -> None:
    for stated in (
        dict.fromkeys(FOUR, noise),
        {**dict.fromkeys(FOUR, 1.0), "north": noise},
        {**dict.fromkeys(FOUR, noise), "north": 1.0},
    ):
        found = list(public_weights(make_study(), stated).values())
        assert np.isfinite(found).all()
        assert min(found) >= 0
        assert sum(found) > 0


@pytest.mark.parametrize("hospitals", [1, 2, 5])
def test_only_the_hospitals_that_answered_have_a_weight(hospitals: int, study: MakeStudy) -> None:
    there = list(COHORTS)[:hospitals]
    assert list(public_weights(study(), dict.fromkeys(there, 1.0))) == there


@pytest.mark.parametrize("hospitals", [1, 3, 6])
def test_fedavg_weighs_an_update_by_its_stated_noise(hospitals: int, study: MakeStudy) -> None:
    """The whole way through Flower, against a float64 loop: mean with (n / sigma) squared."""
    sent = updates(9, hospitals=hospitals)
    noise = {name: 0.5 + 0.25 * (i // 4) + 0.5 * (i == 1) for i, name in enumerate(COHORTS)}
    least = sorted(noise[name] for name in sent)[hospitals // 2]  # less than this gains nothing
    total, weights = np.zeros(18), 0.0
    for name, arrays in sent.items():
        weight = (COHORTS[name] / max(noise[name], least)) ** 2
        total, weights = total + weight * flat(arrays), weights + weight
    agree(Aggregator(study()).aggregate(1, sent, noise), total / weights)
    # It does matter: with equal noise the mean of three or six is another one.
    plain = naive_mean(sent)
    assert (hospitals == 1) == np.allclose(plain, total / weights, rtol=1e-3)


def test_noise_of_a_hospital_without_an_update_changes_nothing(study: MakeStudy) -> None:
    sent = updates(3, hospitals=4)
    few = Aggregator(study()).aggregate(1, sent, {name: EQUAL[name] for name in sent})
    more = Aggregator(study()).aggregate(1, sent, {**EQUAL, "abbey": 1e-6, "centre": 1e6})
    assert all(few[name].tobytes() == more[name].tobytes() for name in SHAPES)


def test_frozen_layers_are_in_no_update_and_stay_as_they_are(make_study: MakeStudy) -> None:
    protocol = make_study(model={"name": "resnet18-frozen-affine"}, rounds=1)
    spec, whole = update_spec(protocol), model_spec(protocol)
    small = {name: shape for name, shape in spec.items() if len(shape) < 2 or name == "fc.weight"}
    frozen = [name for name in whole if name not in spec]
    assert frozen
    sent = {h: {n: np.full(s, 0.5, np.float32) for n, s in small.items()} for h in ("east", "west")}
    combined = Aggregator(protocol).aggregate(1, sent, EQUAL)
    assert list(combined) == list(small)
    model = {n: np.full(whole[n], 2.0, np.float32) for n in (*small, *frozen)}
    after = apply_update(model, combined)
    assert list(after) == list(model)
    assert all((after[n] == 2.0).all() for n in frozen)
    assert all((after[n] == 2.5).all() for n in small)
