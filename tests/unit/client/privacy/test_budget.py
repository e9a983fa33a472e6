"""What a study may spend at a hospital: the stricter wins, studies add up, and the plan is a hard stop."""

from collections.abc import Callable
from pathlib import Path

import pytest

from client.ledger import Account, Ledger, Spend
from client.policy import Permit
from client.privacy import accounting, calibration
from client.privacy.accounting import epsilon_of
from client.privacy.budget import (
    ACCOUNTS,
    check_affordable,
    protocol_noise,
    spends_of,
    study_noise,
)
from client.terms import terms_of
from common.bounds import MOST_EXTRA_NOISE
from common.errors import BudgetError
from common.protocol import StudyProtocol, parse_protocol
from tests.hospital import policy_of

pytestmark = pytest.mark.slow

MakeStudy = Callable[..., StudyProtocol]


class Site:
    """One hospital with a ledger, and the rounds that it goes through without any patient."""

    def __init__(self, state: Path) -> None:
        self.state = state
        Ledger.create(state)
        self.asked = 0

    def answer(self, study: StudyProtocol, server_round: int, cap: float) -> dict[Account, Spend]:
        """Reserve what the vault would reserve for a request of this round."""
        self.asked += 1
        with Ledger.open(self.state) as ledger:
            noise = study_noise(study, ledger, Permit(cap))
            training = server_round <= study.rounds
            spends = spends_of(study, server_round, noise, training=training)
            check_affordable(ledger, spends, study, cap)
            policy = policy_of(self.state, study.digest, max_epsilon=cap)
            terms = terms_of(study, policy)
            ledger.reserve(f"{self.asked:064x}", study.digest, server_round, spends, terms)
        return spends

    def whole(self, study: StudyProtocol, cap: float) -> None:
        for server_round in range(1, study.rounds + 2):
            self.answer(study, server_round, cap)

    def epsilon(self, account: Account) -> float:
        with Ledger.read(self.state) as ledger:
            return epsilon_of(ledger.spends(account), 1e-5).value


@pytest.fixture
def site(tmp_path: Path) -> Site:
    state = tmp_path / "state"
    state.mkdir()
    return Site(state)


@pytest.fixture
def study(small_study: MakeStudy) -> StudyProtocol:
    return small_study(north=10)


def changed(study: StudyProtocol, old: str, new: str) -> StudyProtocol:
    text = study.to_toml()
    assert old in text
    return parse_protocol(text.replace(old, new))


def test_a_whole_study_costs_what_its_protocol_says(site: Site, study: StudyProtocol) -> None:
    site.whole(study, cap=30.0)
    for account in ACCOUNTS:
        assert 0.997 * 8 <= site.epsilon(account) <= 8


@pytest.mark.parametrize("every", [1, 2, 3, 50])
def test_validation_patients_pay_only_in_rounds_that_evaluate(
    small_study: MakeStudy, every: int
) -> None:
    study = changed(small_study(north=10), "every = 1", f"every = {every}")
    rounds = range(1, study.rounds + 2)
    noise = protocol_noise(study)
    spends = [spends_of(study, r, noise, training=r <= study.rounds) for r in rounds]
    assert [("validation" in s) for s in spends] == [study.evaluates(r) for r in rounds]
    assert sum(s["validation"].steps for s in spends if "validation" in s) == study.evaluations
    assert sum(s["training"].steps for s in spends if "training" in s) == study.total_steps


def test_without_dp_nothing_is_noised_and_everything_is_spent(
    site: Site, small_study: MakeStudy
) -> None:
    site.whole(small_study(mechanism="none", north=10), cap=8.0)
    assert site.epsilon("training") == site.epsilon("validation") == float("inf")


@pytest.mark.slow
@pytest.mark.parametrize("cap", [3.0, 1.0])
def test_a_stricter_cap_makes_more_noise_here_and_all_rounds_fit_it(
    site: Site, study: StudyProtocol, cap: float
) -> None:
    site.whole(study, cap)
    with Ledger.read(site.state) as ledger:
        for account in ACCOUNTS:
            (noise,) = {spend.noise_multiplier for spend in ledger.spends(account)}
            assert noise > 1.5 * protocol_noise(study)[account]
            assert 0.997 * cap <= site.epsilon(account) <= cap


def test_noise_stays_the_same_over_a_study_whatever_the_policy_becomes(
    site: Site, study: StudyProtocol
) -> None:
    first = site.answer(study, 1, cap=3.0)
    second = site.answer(study, 2, cap=30.0)
    assert first["training"] == second["training"]
    assert first["validation"] == second["validation"]


@pytest.mark.slow
def test_a_second_study_gets_what_the_first_left(site: Site, study: StudyProtocol) -> None:
    site.whole(study, cap=10.0)
    second = changed(study, 'study = "small"', 'study = "second"')
    site.whole(second, cap=10.0)
    for account in ACCOUNTS:
        assert 9.97 <= site.epsilon(account) <= 10.0
        with Ledger.read(site.state) as ledger:
            own = {s.noise_multiplier for s in ledger.spends(account, study=second.digest)}
        assert min(own) > protocol_noise(second)[account]


@pytest.mark.slow
def test_a_cap_that_is_used_up_is_refused_in_words(site: Site, study: StudyProtocol) -> None:
    site.whole(study, cap=8.0)
    second = changed(study, 'study = "small"', 'study = "second"')
    with pytest.raises(BudgetError, match=r"have spent epsilon 7\.9\d of .* cap of 8"):
        site.answer(second, 1, cap=8.0)


def test_after_a_study_without_dp_no_other_fits(site: Site, small_study: MakeStudy) -> None:
    site.answer(small_study(mechanism="none", north=10), 1, cap=8.0)
    with pytest.raises(BudgetError, match="spent epsilon inf"):
        site.answer(small_study(north=10), 1, cap=8.0)


def test_more_noise_than_is_of_use_is_refused(site: Site, study: StudyProtocol) -> None:
    with pytest.raises(BudgetError, match=f"more than {MOST_EXTRA_NOISE:g} times its noise"):
        site.answer(study, 1, cap=0.1)


def test_rounds_beyond_the_plan_are_refused_though_the_cap_would_bear_them(
    site: Site, study: StudyProtocol
) -> None:
    study = changed(study, "every = 1", "every = 50")
    site.whole(study, cap=100.0)
    with pytest.raises(BudgetError, match="plans 6 releases on the training patients; 6 are spent"):
        site.answer(study, study.rounds, cap=100.0)
    with pytest.raises(BudgetError, match="on the validation patients; 2 are spent"):
        site.answer(study, study.rounds + 1, cap=100.0)


def test_a_round_that_is_asked_twice_takes_the_steps_of_the_last_one(
    site: Site, study: StudyProtocol
) -> None:
    for server_round in (1, 2, 2):
        site.answer(study, server_round, cap=30.0)
    with pytest.raises(BudgetError, match="asks again"):
        site.answer(study, 3, cap=30.0)


def test_a_cap_that_is_lowered_in_the_middle_holds_from_then_on(
    site: Site, study: StudyProtocol
) -> None:
    site.answer(study, 1, cap=30.0)
    spent = site.epsilon("training")
    with pytest.raises(BudgetError, match="lifetime cap of epsilon"):
        site.answer(study, 2, cap=spent * 1.01)
    assert site.epsilon("training") == spent


@pytest.mark.slow
def test_studies_that_run_at_the_same_time_stop_at_the_common_cap(
    site: Site, study: StudyProtocol
) -> None:
    second = changed(study, 'study = "small"', 'study = "second"')
    site.answer(study, 1, cap=8.5)
    site.answer(second, 1, cap=8.5)
    site.answer(second, 2, cap=8.5)
    with pytest.raises(BudgetError, match=r"lifetime cap of epsilon 8\.5"):
        site.whole(study, cap=8.5)
    assert all(site.epsilon(account) <= 8.5 for account in ACCOUNTS)


def test_epsilon_is_computed_once_a_study_and_not_once_a_round(
    site: Site, study: StudyProtocol
) -> None:
    site.answer(study, 1, cap=30.0)
    counts = (accounting._epsilon.cache_info().misses, calibration._calibrate.cache_info().misses)
    site.answer(study, 2, cap=30.0)
    site.answer(study, 3, cap=30.0)
    now = (accounting._epsilon.cache_info().misses, calibration._calibrate.cache_info().misses)
    assert now == counts
