"""What a study may spend at this hospital: its noise, the price of a request, and the hard stop.

The stricter of study protocol and site policy wins: a lower cap, a floor under the noise, or patients
that earlier studies have drawn on, mean more noise at this hospital. The noise of a study never
changes once it has begun, since what is planned was composed with it.
"""

from collections import Counter
from collections.abc import Mapping

from client.ledger import Account, Ledger, Spend
from client.policy import Permit
from client.privacy.accounting import epsilon_of
from client.privacy.calibration import calibrate
from common.bounds import MOST_EXTRA_NOISE
from common.errors import BudgetError, LimitError
from common.protocol import StudyProtocol

ACCOUNTS: tuple[Account, ...] = ("training", "validation")


def protocol_noise(protocol: StudyProtocol) -> dict[Account, float]:
    """The noise multiplier of each account that the protocol's own (epsilon, delta) allows.

    0 without differential privacy, and where nothing is released. The same at every hospital whose cap
    is not below the epsilon and whose patients no earlier study has drawn on.
    """
    return {
        account: _noise_for(protocol, account, _epsilon(protocol, account)) for account in ACCOUNTS
    }


def price(
    protocol: StudyProtocol, server_round: int, ledger: Ledger, permit: Permit, *, training: bool
) -> dict[Account, Spend]:
    """What a request of `server_round` costs at this hospital; BudgetError when that is too much."""
    noise = study_noise(protocol, ledger, permit)
    spends = spends_of(protocol, server_round, noise, training=training)
    check_affordable(ledger, spends, protocol, permit.max_epsilon)
    return spends


def study_noise(protocol: StudyProtocol, ledger: Ledger, permit: Permit) -> dict[Account, float]:
    """The noise multiplier of each account at this hospital, the same from first round to last.

    What `ledger` says was used before in this study; at the start, the least that the permit allows
    and with which the whole study costs at most the protocol's epsilon and the cap, and together
    with all that earlier studies spent on the account at most the cap. BudgetError when it would be
    more than `MOST_EXTRA_NOISE` times the protocol's own; LimitError when the study began with less
    than the permit allows now.
    """
    return {account: _study_noise(protocol, account, ledger, permit) for account in ACCOUNTS}


def _study_noise(
    protocol: StudyProtocol, account: Account, ledger: Ledger, permit: Permit
) -> float:
    cap, least = permit.max_epsilon, permit.min_noise_multiplier
    if begun := ledger.spends(account, study=protocol.digest):
        if begun[0].noise_multiplier < least:
            raise LimitError(
                f"study '{protocol.study}' began with the noise multiplier "
                f"{begun[0].noise_multiplier:.4g} on the {account} patients and the site policy now "
                f"allows no less than {least:g}; the noise of a study stays as it began, so this one "
                f"ends here"
            )
        return begun[0].noise_multiplier
    if protocol.privacy.mechanism == "none" or not _plan(protocol, account, 0.0).steps:
        return 0.0
    delta = protocol.privacy.delta
    asked = _epsilon(protocol, account)
    own = _noise_for(protocol, account, asked)
    earlier = ledger.spends(account)

    def fits(noise: float) -> bool:
        return epsilon_of([*earlier, _plan(protocol, account, noise)], delta).value <= cap

    noise = max(least, own if cap >= asked else _noise_for(protocol, account, cap))
    if noise <= MOST_EXTRA_NOISE * own and fits(noise):
        return noise
    if earlier and noise < MOST_EXTRA_NOISE * own and fits(MOST_EXTRA_NOISE * own):
        plan = _plan(protocol, account, noise)
        found = calibrate(cap, delta, plan.sampling_rate, plan.steps, earlier)
        return min(max(found, least), MOST_EXTRA_NOISE * own)
    spent = epsilon_of(earlier, delta).value
    raise BudgetError(
        f"the {account} patients have spent epsilon {spent:.3g} of the hospital's lifetime cap of "
        f"{cap:g} at delta {delta:g}, whose least noise multiplier is {least:g}; study "
        f"'{protocol.study}' asks for {asked:g} and would fit only with more than "
        f"{MOST_EXTRA_NOISE:g} times its noise, and then for next to nothing; use another cohort or "
        f"have the policy reviewed"
    )


def spends_of(
    protocol: StudyProtocol, server_round: int, noise: Mapping[Account, float], *, training: bool
) -> dict[Account, Spend]:
    """What one request of `server_round` costs with the `noise` of the study.

    A round that evaluates is one Gaussian release of sensitivity 1 on the validation patients; a
    train request is the round's steps on the training patients.
    """
    spends: dict[Account, Spend] = {}
    if protocol.evaluates(server_round):
        spends["validation"] = Spend(noise["validation"], 1.0, 1)
    if training:
        rate, steps = protocol.training.sampling_rate, protocol.training.steps_per_round
        spends["training"] = Spend(noise["training"], rate, steps)
    return spends


def check_affordable(
    ledger: Ledger, spends: Mapping[Account, Spend], protocol: StudyProtocol, cap: float
) -> None:
    """BudgetError when `spends` go beyond what was planned for the study, or beyond `cap` for life.

    A study without differential privacy has passed the policy, which allows it in a rehearsal only;
    there is no budget that it could keep.
    """
    if protocol.privacy.mechanism == "none":
        return
    delta = protocol.privacy.delta
    for account, spend in spends.items():
        plan = _plan(protocol, account, spend.noise_multiplier)
        own = ledger.spends(account, study=protocol.digest)
        taken = sum(earlier.steps for earlier in own)
        if taken + spend.steps > plan.steps:
            raise BudgetError(
                f"study '{protocol.study}' plans {plan.steps} releases on the {account} patients; "
                f"{taken} are spent and this request asks for {spend.steps} more; the coordinator "
                f"asks again for what it had, or with another model"
            )
        everything = ledger.spends(account)
        others = Counter(everything) - Counter(own)
        # The whole plan is what was calibrated, and costs no less than a part of it: asked first,
        # it is computed once a study instead of once a round.
        if epsilon_of([*others.elements(), plan], delta).value <= cap:
            continue
        if epsilon_of([*everything, spend], delta).value > cap:
            raise BudgetError(
                f"this request would bring the {account} patients above the hospital's lifetime "
                f"cap of epsilon {cap:g} at delta {delta:g}"
            )


def _epsilon(protocol: StudyProtocol, account: Account) -> float:
    privacy = protocol.privacy
    return privacy.epsilon if account == "training" else privacy.validation_epsilon


def _plan(protocol: StudyProtocol, account: Account, noise: float) -> Spend:
    """All that a whole study releases on `account`."""
    if account == "training":
        return Spend(noise, protocol.training.sampling_rate, protocol.total_steps)
    return Spend(noise, 1.0, protocol.evaluations)


def _noise_for(protocol: StudyProtocol, account: Account, epsilon: float) -> float:
    plan = _plan(protocol, account, 0.0)
    if protocol.privacy.mechanism == "none" or not plan.steps:
        return 0.0
    return calibrate(epsilon, protocol.privacy.delta, plan.sampling_rate, plan.steps)
