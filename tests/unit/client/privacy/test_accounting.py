"""Epsilon over rounds is one account, never under the truth, and the noise fits the budget."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import pytest
from dp_accounting.pld import privacy_loss_distribution
from opacus.accountants import PRVAccountant, RDPAccountant

from client.ledger import Spend
from client.privacy import accounting
from client.privacy.accounting import calibrate, epsilon_of, within

DELTA = 1e-5


def pld_epsilon(spends: list[Spend], delta: float = DELTA) -> float:
    """The second accountant: Google's privacy loss distributions, composed spend by spend."""
    losses = [
        privacy_loss_distribution.from_gaussian_mechanism(
            spend.noise_multiplier, sampling_prob=spend.sampling_rate
        ).self_compose(spend.steps)
        for spend in spends
    ]
    whole = losses[0]
    for loss in losses[1:]:
        whole = whole.compose(loss)
    return float(whole.get_epsilon_for_delta(delta))


def opacus_epsilon(steps: list[tuple[float, float]], delta: float = DELTA) -> float:
    """One Opacus accountant that is told of every single step."""
    accountant = PRVAccountant()
    for sigma, q in steps:
        accountant.step(noise_multiplier=sigma, sample_rate=q)
    return float(accountant.get_epsilon(delta))


def test_the_golden_study_of_the_design() -> None:
    """PRIVACY.md section 3: 400 patients, batches of 32, 60 epochs, sigma 2."""
    study = [Spend(2.0, 32 / 400, 60 * 400 // 32)]
    assert epsilon_of(study, DELTA).value == pytest.approx(5.408, abs=5e-4)
    assert pld_epsilon(study) == pytest.approx(5.398, abs=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sigma", "q", "steps", "pld"),  # the last computed with dp-accounting 0.6.0 alone
    [
        (1.0, 0.01, 1000, 1.8282),
        (1.1, 0.1, 100, 5.9127),
        (3.0, 0.5, 40, 4.9649),
        (2.0, 1.0, 4, 4.3772),
        (0.8, 0.05, 10, 2.8626),
    ],
)
def test_golden_values_of_the_second_accountant(
    sigma: float, q: float, steps: int, pld: float
) -> None:
    assert pld_epsilon([Spend(sigma, q, steps)]) == pytest.approx(pld, abs=1e-4)
    assert pld <= epsilon_of([Spend(sigma, q, steps)], DELTA).value <= pld * 1.01


@pytest.mark.parametrize("rounds", [1, 10])
def test_rounds_compose_as_one_accountant_that_saw_every_step(rounds: int) -> None:
    per_round = Spend(1.5, 0.1, 8)
    total = epsilon_of([per_round] * rounds, DELTA)
    assert total.accountant == "PRV"
    assert total.value == pytest.approx(opacus_epsilon([(1.5, 0.1)] * 8 * rounds), rel=1e-9)
    alone = epsilon_of([per_round], DELTA).value
    assert (total.value > alone) == (rounds > 1)  # a fresh accountant every round would say: equal
    assert total.value <= rounds * alone
    # PRV adds its stated error of 0.01 to stay above the truth.
    assert 0 <= total.value - pld_epsilon([Spend(1.5, 0.1, 8 * rounds)]) <= 0.011


def test_different_studies_on_the_same_patients_compose() -> None:
    spends = [Spend(2.5, 0.1, 40), Spend(5.0, 0.5, 10), Spend(2.5, 0.1, 40)]
    total = epsilon_of(spends, DELTA).value
    by_hand = opacus_epsilon([(2.5, 0.1)] * 80 + [(5.0, 0.5)] * 10)
    assert total == pytest.approx(by_hand, rel=1e-9)
    second = pld_epsilon([Spend(2.5, 0.1, 80), Spend(5.0, 0.5, 10)])
    assert total == pytest.approx(second, rel=0.01)
    assert total > max(epsilon_of([spend], DELTA).value for spend in spends)
    assert epsilon_of(spends[::-1], DELTA).value == total


def test_no_spend_costs_nothing() -> None:
    assert epsilon_of([], DELTA).value == 0.0
    assert within([], DELTA, 0.1)


def test_a_single_step_without_noise_costs_everything() -> None:
    spends = [Spend(5.0, 0.1, 10), Spend(0.0, 0.1, 1)]
    assert epsilon_of(spends, DELTA).value == math.inf
    assert not within(spends, DELTA, 1e6)


# What takes the accountant long (little noise, small rates) is sampled.
GRID = [
    *itertools.product((0.1, 0.5, 3.0, 8.0, 20.0), (1.0,), (1, 2000)),
    *itertools.product((0.5, 3.0), (0.1,), (500,)),
    (0.1, 0.01, 500),
    (0.5, 0.01, 40),  # corrections that hardly shrink: there was no answer here once
    (3.0, 0.5, 40),
    (20.0, 0.25, 2000),
]


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "q", "steps"), GRID)
def test_calibrated_noise_spends_the_budget_and_no_more(
    epsilon: float, q: float, steps: int
) -> None:
    sigma = calibrate(epsilon, DELTA, q, steps)
    cost = epsilon_of([Spend(sigma, q, steps)], DELTA).value
    assert 0.998 * epsilon <= cost <= epsilon


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epsilon", "q", "steps"), [(3.0, 0.1, 500), (3.0, 0.5, 40), (3.0, 1.0, 1)]
)
def test_calibrated_noise_is_enough_for_the_second_accountant(
    epsilon: float, q: float, steps: int
) -> None:
    second = pld_epsilon([Spend(calibrate(epsilon, DELTA, q, steps), q, steps)])
    assert 0.99 * epsilon <= second <= epsilon


def test_less_noise_than_calibrated_breaks_the_budget() -> None:
    sigma = calibrate(3.0, DELTA, 0.5, 40)
    assert epsilon_of([Spend(sigma * 0.998, 0.5, 40)], DELTA).value > 3.0
    assert pld_epsilon([Spend(sigma / 2, 0.5, 40)]) > 6.0


@pytest.mark.parametrize("share", [0.5, 0.97, 0.999, 1.0, 1.001, 1.03, 1.2, 3.0])
@pytest.mark.parametrize("spend", [Spend(2.0, 0.5, 20), Spend(8.0, 1.0, 10), Spend(1.5, 0.1, 30)])
def test_within_agrees_with_epsilon(spend: Spend, share: float) -> None:
    cost = epsilon_of([spend], DELTA).value
    assert within([spend], DELTA, share * cost) == (share >= 1.0)


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OverflowError, MemoryError])
def test_where_prv_fails_the_renyi_bound_stands_in(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> NoReturn:
        raise error("no")

    spend = Spend(2.125, 0.25, 30)
    tight = epsilon_of([spend], DELTA).value
    accounting._epsilon.cache_clear()
    monkeypatch.setattr(PRVAccountant, "get_epsilon", fails)
    stand_in = epsilon_of([spend], DELTA)
    accounting._epsilon.cache_clear()
    renyi = RDPAccountant()
    renyi.history = [(2.125, 0.25, 30)]
    assert stand_in.accountant == "RDP"
    assert stand_in.value == pytest.approx(renyi.get_epsilon(DELTA), rel=1e-9)
    assert stand_in.value > tight


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -0.5])
def test_an_epsilon_that_is_no_epsilon_is_not_believed(
    nonsense: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounting._epsilon.cache_clear()
    monkeypatch.setattr(PRVAccountant, "get_epsilon", lambda *_, **__: nonsense)
    found = epsilon_of([Spend(2.0, 0.25, 31)], DELTA)
    accounting._epsilon.cache_clear()
    assert found.accountant == "RDP"
    assert 0 < found.value < math.inf


def test_hospitals_that_calibrate_at_once_get_one_value() -> None:
    accounting._calibrate.cache_clear()
    before = accounting._calibrate.cache_info().misses
    with ThreadPoolExecutor(2) as pool:
        values = list(pool.map(lambda _: calibrate(5.0, DELTA, 1.0, 7), range(6)))
    assert len(set(values)) == 1
    assert accounting._calibrate.cache_info().misses == before + 1  # computed once, not twice
