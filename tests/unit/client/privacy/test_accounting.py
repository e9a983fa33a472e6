"""Epsilon over rounds is one account, never under the truth, and two accountants agree on it."""

import math
import re
from collections.abc import Callable
from typing import NoReturn

import pytest
from opacus.accountants import PRVAccountant, RDPAccountant

from client.ledger import Spend
from client.privacy import accounting
from client.privacy.accounting import Bound, epsilon_of, history_of
from common.errors import AccountingError
from tests.golden import exact_epsilon

pytestmark = pytest.mark.slow

DELTA = 1e-5


@pytest.fixture
def _nothing_is_remembered() -> None:
    accounting._epsilon.cache_clear()


def opacus_epsilon(steps: list[tuple[float, float]], delta: float = DELTA) -> float:
    """One Opacus accountant that is told of every single step."""
    accountant = PRVAccountant()
    for sigma, q in steps:
        accountant.step(noise_multiplier=sigma, sample_rate=q)
    return float(accountant.get_epsilon(delta, eps_error=1e-3))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=[] if row.cell == 0 else pytest.mark.slow)
        for row in exact_epsilon.table()
        if not 0 < row.cell < 1e-5  # those take minutes: python tests/golden/exact_epsilon.py
    ],
    ids=lambda row: str(row.mechanisms),
)
def test_the_golden_table_is_what_its_source_computes(row: exact_epsilon.Row) -> None:
    found = exact_epsilon.computed(row.source, row.mechanisms, row.delta, row.cell)
    assert found == pytest.approx((row.low, row.high), rel=1e-7)


def test_the_sources_of_the_golden_table_agree_with_each_other() -> None:
    """Where two of them know the answer: closed form, quadrature, and sums in cells."""
    assert exact_epsilon.one_step(2.0, 1.0, DELTA) == pytest.approx(
        exact_epsilon.gaussian(2.0, 1, DELTA), rel=1e-8
    )
    twice = exact_epsilon.two_steps((2.0, 1.0), (2.0, 1.0), DELTA)
    assert twice == pytest.approx(exact_epsilon.gaussian(2.0, 2, DELTA), rel=1e-7)
    low, high = exact_epsilon.bracket([(2.0, 1.0, 4)], DELTA, 1e-4)
    assert low <= exact_epsilon.gaussian(2.0, 4, DELTA) <= high <= low + 4.1e-4
    low, high = exact_epsilon.bracket([(1.0, 0.1, 1), (2.0, 0.5, 1)], DELTA, 1e-4)
    assert low <= exact_epsilon.two_steps((1.0, 0.1), (2.0, 0.5), DELTA) <= high <= low + 2.1e-4


def test_published_values() -> None:
    """Balle and Wang's own program gives sigma for (1, 1e-5); Abadi and others 2016 bound (1.26, 1e-5).

    The second is by moments, which are above the truth: section 3.2, q 0.01, sigma 4, 10,000 steps.
    The third is of this project's design: PLD 5.398 for 400 patients, batches of 32, 60 epochs.
    """
    assert exact_epsilon.gaussian(3.730631634944469, 1, DELTA) == pytest.approx(1.0, abs=1e-9)
    assert 0.7 * 1.26 < epsilon_of([Spend(4.0, 0.01, 10_000)], DELTA).value < 1.26
    design = epsilon_of([Spend(2.0, 32 / 400, 60 * 400 // 32)], DELTA)
    assert design.second.accountant == "PLD"
    assert design.second.value == pytest.approx(5.398, abs=5e-4)


@pytest.mark.parametrize("rounds", [1, 10])
def test_rounds_compose_as_one_accountant_that_saw_every_step(rounds: int) -> None:
    per_round = Spend(1.5, 0.1, 8)
    total = epsilon_of([per_round] * rounds, DELTA).value
    assert total == pytest.approx(opacus_epsilon([(1.5, 0.1)] * 8 * rounds), rel=3e-3)
    alone = epsilon_of([per_round], DELTA).value
    assert (total > alone) == (rounds > 1)
    assert total <= rounds * alone


def test_different_studies_on_the_same_patients_compose() -> None:
    spends = [Spend(2.5, 0.1, 40), Spend(5.0, 0.5, 10), Spend(2.5, 0.1, 40)]
    total = epsilon_of(spends, DELTA).value
    by_hand = opacus_epsilon([(2.5, 0.1)] * 80 + [(5.0, 0.5)] * 10)
    assert total == pytest.approx(by_hand, rel=3e-3)
    assert total > max(epsilon_of([spend], DELTA).value for spend in spends)
    assert epsilon_of(spends[::-1], DELTA).value == total


def test_equal_mechanisms_are_one_entry_and_rates_stay_what_they_are() -> None:
    rates = [1 / k for k in range(1, 400)]
    history = history_of([Spend(2.0, q, 1) for q in rates] * 3)
    assert sorted(q for _, q, _ in history) == sorted(rates)
    assert {steps for _, _, steps in history} == {3}


def test_no_spend_costs_nothing() -> None:
    assert epsilon_of([], DELTA).value == 0.0


def test_a_single_step_without_noise_costs_everything() -> None:
    assert epsilon_of([Spend(5.0, 0.1, 10), Spend(0.0, 0.1, 1)], DELTA).value == math.inf


@pytest.mark.parametrize(
    "spend",
    [
        Spend(2000.0, 1.0, 1),  # epsilon 0 at this delta
        Spend(366.0, 1.0, 40),
        Spend(1.57, 0.01, 1),
        Spend(0.1, 1.0, 1),  # epsilon 93
        Spend(0.6, 1.0, 40),
        pytest.param(Spend(5.2, 1.0, 3000), marks=pytest.mark.slow),
        pytest.param(Spend(0.5, 0.01, 3000), marks=pytest.mark.slow),
        pytest.param(Spend(0.35, 0.3, 500), marks=pytest.mark.slow),
    ],
)
def test_the_two_accountants_agree_from_tiny_to_large(spend: Spend) -> None:
    found = epsilon_of([spend], DELTA)
    assert {found.accountant, found.second.accountant} == {"PRV", "PLD"}
    assert found.value >= found.second.value >= 0.99 * found.value - 2e-4


def answers(value: float) -> Callable[..., float]:
    return lambda *_, **__: value


@pytest.mark.usefixtures("_nothing_is_remembered")
@pytest.mark.parametrize("factor", [0.985, 1.015])
@pytest.mark.parametrize("accountant", ["PRV", "PLD"])
def test_where_the_accountants_disagree_nothing_is_computed(
    factor: float, accountant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spend = Spend(2.125, 0.25, 30)
    honest = epsilon_of([spend], DELTA)
    bounds = {honest.accountant: honest.value, honest.second.accountant: honest.second.value}
    accounting._epsilon.cache_clear()
    name = {"PRV": "_prv_epsilon", "PLD": "pld_epsilon"}[accountant]
    monkeypatch.setattr(accounting, name, answers(factor * bounds[accountant]))
    with pytest.raises(AccountingError, match=re.escape("must agree within 1%")):
        epsilon_of([spend], DELTA)


@pytest.mark.usefixtures("_nothing_is_remembered")
@pytest.mark.parametrize("larger", ["PRV", "PLD"])
def test_the_larger_is_shown_and_both_are_kept(
    larger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"PRV": 3.0, "PLD": 3.0} | {larger: 3.02}
    monkeypatch.setattr(accounting, "_prv_epsilon", answers(values["PRV"]))
    monkeypatch.setattr(accounting, "pld_epsilon", answers(values["PLD"]))
    found = epsilon_of([Spend(2.0, 0.25, 33)], DELTA)
    assert (found.accountant, found.value) == (larger, 3.02)
    assert found.second == Bound("PLD" if larger == "PRV" else "PRV", 3.0)


@pytest.mark.usefixtures("_nothing_is_remembered")
@pytest.mark.parametrize("error", [ValueError, RuntimeError, OverflowError, MemoryError])
def test_where_prv_fails_the_renyi_bound_stands_in(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> NoReturn:
        raise error("no")

    spend = Spend(2.125, 0.25, 30)
    tight = epsilon_of([spend], DELTA)
    accounting._epsilon.cache_clear()
    monkeypatch.setattr(PRVAccountant, "get_epsilon", fails)
    stand_in = epsilon_of([spend], DELTA)
    renyi = RDPAccountant()
    renyi.history = [(2.125, 0.25, 30)]
    assert stand_in.accountant == "RDP"
    assert stand_in.value == pytest.approx(renyi.get_epsilon(DELTA), rel=1e-9)
    assert stand_in.second == tight.second
    assert stand_in.value > tight.value


@pytest.mark.usefixtures("_nothing_is_remembered")
@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -0.5])
def test_an_epsilon_that_is_no_epsilon_is_not_believed(
    nonsense: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PRVAccountant, "get_epsilon", answers(nonsense))
    found = epsilon_of([Spend(2.0, 0.25, 31)], DELTA)
    assert found.accountant == "RDP"
    assert 0 < found.value < math.inf
    accounting._epsilon.cache_clear()
    monkeypatch.setattr(accounting, "pld_epsilon", answers(nonsense))
    with pytest.raises(AccountingError, match="second accountant"):
        epsilon_of([Spend(2.0, 0.25, 31)], DELTA)
