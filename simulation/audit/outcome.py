"""What an audit finds: checks that held or did not, and the figures behind them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.protocol import StudyProtocol
from simulation.audit.throwaway import Floats

MOST_EPSILON = 50.0

NO_PROOF = (
    "A pass is no proof. It says that these tests, on a throwaway run on this machine, found nothing "
    "wrong; another attack could find more, and another machine or version has to be audited anew."
)


@dataclass(frozen=True)
class Check:
    """One test of the audit: what was found, what would have been right, and whether it held."""

    part: str  # the detector that a table of planted bugs names
    name: str
    found: str
    expected: str
    held: bool


@dataclass(frozen=True)
class CanaryResult:
    """A one-run canary audit; `scores` and `included` are (canaries,), scores in units of C.

    `lower_bound` of epsilon holds with 95 % confidence, and could not have been above `reach` even
    if every guess had been right. `estimate` is the Gaussian fit's epsilon and `estimate_low` the
    lower end of its statistical margin.
    """

    scores: Floats
    included: NDArray[np.bool_]
    guesses: int
    right: int
    lower_bound: float
    reach: float
    mu: float
    estimate: float
    estimate_low: float


@dataclass(frozen=True)
class Recovered:
    """One phantom patient's image and what the attack made of the update, (H, W) in 0..1 each."""

    original: Floats
    without_dp: Floats
    with_dp: Floats
    ssim_without_dp: float
    ssim_with_dp: float


@dataclass(frozen=True)
class InversionResult:
    """The attacks on one patient's one-step update.

    `named_with_dp` of `trials` updates were traced to their patient among `candidates`; `most_named`
    is the highest share that the noise allows any attack.
    """

    pictures: tuple[Recovered, ...]
    candidates: int
    trials: int
    named_without_dp: int
    named_with_dp: int
    most_named: float


@dataclass(frozen=True)
class Audit:
    """All that an audit of `protocol` found; `claimed` is the protocol's epsilon at its delta."""

    protocol: StudyProtocol
    sigma: float
    dp_off: bool
    checks: tuple[Check, ...]
    canaries: CanaryResult
    inversion: InversionResult
    seconds: float

    @property
    def passed(self) -> bool:
        return all(check.held for check in self.checks)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.held]

    def as_json(self) -> dict[str, Any]:
        """What `audit.json` holds: figures without pictures and scores; infinity and NaN are null."""
        training, privacy = self.protocol.training, self.protocol.privacy
        return {
            "passed": self.passed,
            "note": NO_PROOF,
            "study": self.protocol.study,
            "protocol_digest": self.protocol.digest,
            "dp_switched_off": self.dp_off,
            "claim": {
                "epsilon": privacy.epsilon,
                "delta": privacy.delta,
                "unit": "patient",
                "noise_multiplier": self.sigma,
                "sampling_rate": training.sampling_rate,
                "steps": self.protocol.total_steps,
                "max_grad_norm": privacy.max_grad_norm,
            },
            "checks": [vars(check) for check in self.checks],
            "canaries": {
                "canaries": len(self.canaries.scores),
                "guesses": self.canaries.guesses,
                "right": self.canaries.right,
                "epsilon_lower_bound_95": finite(self.canaries.lower_bound),
                "epsilon_lower_bound_reach": finite(self.canaries.reach),
                "gaussian_fit_mu": finite(self.canaries.mu),
                "gaussian_fit_epsilon_estimate": finite(self.canaries.estimate),
                "gaussian_fit_epsilon_low": finite(self.canaries.estimate_low),
            },
            "inversion": {
                "ssim_without_dp": [finite(p.ssim_without_dp) for p in self.inversion.pictures],
                "ssim_with_dp": [finite(p.ssim_with_dp) for p in self.inversion.pictures],
                "candidates": self.inversion.candidates,
                "trials": self.inversion.trials,
                "named_without_dp": self.inversion.named_without_dp,
                "named_with_dp": self.inversion.named_with_dp,
                "most_named_by_any_attack": self.inversion.most_named,
            },
            "seconds": round(self.seconds, 1),
        }


def worded(epsilon: float) -> str:
    """An estimate of epsilon, which has no figure worth reading beyond `MOST_EPSILON`."""
    return f"{epsilon:.2f}" if epsilon <= MOST_EPSILON else f"above {MOST_EPSILON:g}"


def finite(value: float) -> float | None:
    """JSON has neither infinity nor NaN."""
    return value if math.isfinite(value) else None
