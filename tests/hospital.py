"""A hospital's policy and books for tests that need them and are not about them."""

from pathlib import Path
from typing import Any

from client.approval import begin
from client.egress_log import LOG, EgressLog
from client.policy import SitePolicy
from common.errors import UnapprovedPolicyError
from common.tasks import model_names, releases
from tests.tasks import TASKS, small

LIMITS: dict[str, Any] = {
    "min-noise-multiplier": 0.0,
    "max-rounds": 1000,
    "max-steps": 100_000,
    "max-evaluations": 1000,
    "smallest-group": 1,
    "models": [name for task in TASKS for name in model_names(small(task))],
    "metrics": sorted({release for task in TASKS for release in releases(small(task))}),
}


def policy_of(state: Path, *approved: str, **changes: Any) -> SitePolicy:
    """A wide policy of hospital 'north' with its state folder at `state`."""
    fields: dict[str, Any] = {
        "hospital": "north",
        "data": state,
        "state": state,
        "device": "cpu",
        "approved_studies": approved,
        "max_epsilon": 30.0,
        "limits": LIMITS,
    }
    return SitePolicy.model_validate(fields | changes)


def approved(policy: SitePolicy) -> SitePolicy:
    """`policy`, approved by its hospital, which begins its books where it has none."""
    policy.state.mkdir(parents=True, exist_ok=True)
    if not (policy.state / LOG).exists():
        begin(policy.state)
    log = EgressLog(policy.state)
    try:
        log.approval_of(policy.digest)
    except UnapprovedPolicyError:
        log.approve(policy.digest, None)
    return policy
