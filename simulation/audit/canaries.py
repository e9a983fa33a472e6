"""A one-run canary audit: can members be told from non-members by what a whole study releases?

Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run". Each of m canaries is
included by the toss of a coin, the study is run once with all that are in, and each canary's own row
of weights says how likely it was there (`throwaway.CanaryTable`). Canaries are patients like any
other to `client.training.train`: they are drawn, clipped, summed and noised by the product's code.
Nobody else is in the cohort, and the attacker knows the canaries: his best case.

Two verdicts. The lower bound of epsilon is rigorous and weak: with delta 1e-5 it cannot exceed about
6.5 however bad the mechanism. The Gaussian fit is sharp and no more than an estimate.

Seen is the sum of all steps. Noise that repeats itself from step to step only adds to it, so that
this audit misses what the independence test of `mechanism` finds.
"""

import math
import secrets

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr
from scipy.stats import binom

from simulation.audit.outcome import MOST_EPSILON, CanaryResult, Check, worded
from simulation.audit.throwaway import (
    CanaryTable,
    Floats,
    Subject,
    canaries,
    canary_scores,
    canary_study,
    released_sum,
)

PART = "canaries"
CANARIES = (1_000, 5_000)  # the fewest, and as many as time allows
_CHANCES = 2_000_000  # of canaries to be drawn, over all steps: about 15 s
CONFIDENCE = 0.95
SHARES = (0.02, 0.04, 0.1, 0.2, 0.94)  # of the canaries guessed at, half at each end: fixed before
MARGIN = 3.09  # standard errors of the Gaussian fit: one in a thousand by chance


def audit_canaries(subject: Subject) -> tuple[CanaryResult, list[Check]]:
    """Run the protocol's whole study on canaries alone, and guess."""
    protocol = subject.protocol
    fewest, most = CANARIES
    count = min(most, max(fewest, _CHANCES // protocol.total_steps))
    included = np.frombuffer(secrets.token_bytes(count), dtype=np.uint8) % 2 == 1
    study = canary_study(subject, count // 2, protocol.total_steps)
    rounds = [protocol.training.steps_per_round] * protocol.rounds
    cohort = canaries(np.flatnonzero(included), study.training.views_per_patient)
    total = released_sum(CanaryTable(count, subject.clip), cohort, study, subject.noise, rounds)
    scores = canary_scores(total)
    result = judged(scores, included, protocol.privacy.delta)
    claimed = protocol.privacy.epsilon
    checks = [
        Check(
            PART,
            "lower bound of epsilon",
            f"{result.lower_bound:.2f} with 95 % confidence",
            f"at most {claimed:g}, the claim (the bound cannot exceed {result.reach:.2f})",
            result.lower_bound <= claimed,
        ),
        Check(
            PART,
            "Gaussian fit of epsilon, an estimate",
            f"{worded(result.estimate)}, at least {worded(result.estimate_low)}",
            f"not above {claimed:g} by more than its margin",
            result.estimate_low <= claimed,
        ),
    ]
    return result, checks


def judged(scores: Floats, included: NDArray[np.bool_], delta: float) -> CanaryResult:
    """Both verdicts on (m,) scores, larger for members; not finite counts as given away."""
    scores = np.nan_to_num(scores, nan=0.0, posinf=1e30, neginf=-1e30)
    order = np.argsort(scores, kind="stable")
    level = (1 - CONFIDENCE) / len(SHARES)  # Bonferroni over the numbers of guesses
    best, chosen = -1.0, (0, 0)
    for share in SHARES:
        tail = round(share * len(scores) / 2)
        right = int((~included[order[:tail]]).sum() + included[order[-tail:]].sum())
        bound = epsilon_lower_bound(len(scores), 2 * tail, right, delta, level)
        if bound > best:
            best, chosen = bound, (2 * tail, right)
    guesses = [2 * round(share * len(scores) / 2) for share in SHARES]
    reach = max(epsilon_lower_bound(len(scores), r, r, delta, level) for r in guesses)
    mu, error = gaussian_fit(scores[included], scores[~included])
    return CanaryResult(
        scores=scores,
        included=included,
        guesses=chosen[0],
        right=chosen[1],
        lower_bound=best,
        reach=reach,
        mu=mu,
        estimate=mu_epsilon(mu, delta),
        estimate_low=mu_epsilon(mu - MARGIN * error, delta),
    )


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The most likely `right` or more of `guesses` can be under (epsilon, delta), 0 to 1.

    Theorem 5.2 of the paper: P[W >= v] <= P[B >= v] + 2 m delta max_i P[v > B >= v - i] / i with
    B ~ Binomial(r, e^epsilon / (1 + e^epsilon)), v right of r guesses on m canaries.
    """
    accuracy = 1 / (1 + math.exp(-epsilon))
    within = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, accuracy))
    alpha = float((within / np.arange(1, right + 1)).max()) if right else 0.0
    beta = float(binom.sf(right - 1, guesses, accuracy))
    return min(1.0, beta + 2 * canaries * delta * alpha)


def epsilon_lower_bound(
    canaries: int, guesses: int, right: int, delta: float, level: float
) -> float:
    """The largest epsilon that `right` of `guesses` refutes at significance `level`; 0 if none."""

    def excess(epsilon: float) -> float:
        return p_value(canaries, guesses, right, epsilon, delta) - level

    if excess(0.0) > 0:
        return 0.0
    # The delta term is not monotone far out, so the first crossing is looked for in small steps.
    low, step = 0.0, 0.25
    while low + step < MOST_EPSILON and excess(low + step) <= 0:
        low += step
    return float(brentq(excess, low, low + step, xtol=1e-6))


def gaussian_fit(members: Floats, others: Floats) -> tuple[float, float]:
    """mu of Gaussian differential privacy from the means and the non-members' deviation, and its error.

    mu = (mean in - mean out) / std out: how well two normals with that distance can be told apart.
    Infinite where non-members do not vary and members do differ, as without noise.
    """
    distance, spread = members.mean() - others.mean(), others.std(ddof=1)
    if spread <= 1e-9 * abs(distance):
        return (math.inf if distance else 0.0), 0.0
    mu = float(distance / spread)
    variance = (members.var(ddof=1) / len(members) + spread**2 / len(others)) / spread**2
    return mu, math.sqrt(variance + mu * mu / (2 * len(others)))


def mu_epsilon(mu: float, delta: float) -> float:
    """Epsilon at `delta` of mu-GDP: where Phi(-e/mu + mu/2) - exp(e) Phi(-e/mu - mu/2) is delta.

    Dong, Roth and Su 2022, corollary 1. 0 where mu is not positive; infinite where mu is.
    """
    if mu <= 0:
        return 0.0
    if math.isinf(mu):
        return math.inf

    def excess(epsilon: float) -> float:
        shifted = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
        return float(ndtr(mu / 2 - epsilon / mu)) - math.exp(min(0.0, shifted)) - delta

    if excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, mu * mu / 2 + 40 * mu, xtol=1e-9))
