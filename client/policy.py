"""The site policy: what this hospital permits, written by the hospital and read by nobody else.

Absent, with an unknown key or without one of its limits it permits nothing. Between study protocol
and site policy the stricter wins. Knows no torch and no network: a security officer can read it alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    model_validator,
)

from common import tasks
from common.documents import (
    Document,
    Name,
    NonNegativeFloat,
    PositiveFloat,
    first_problem,
    tables_of,
)
from common.errors import (
    HoursError,
    LimitError,
    PolicyError,
    RehearsalOnlyError,
    RoundError,
    UnknownStudyError,
)
from common.files import sha256

if TYPE_CHECKING:
    from common.protocol import StudyProtocol

Device = Literal["auto", "cpu", "cuda"]
Engine = Literal["book-keeping", "opacus"]
Precision = Literal["float32", "tf32", "bf16"]

MOST = 10**9  # of any whole number in a policy
_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]"


class Limits(Document):
    """How far any study may go here; each is to be set, none has a default.

    `min_noise_multiplier` is the least noise std over clipping norm, on either account: a study that
    asks for less gets this much. A study of more `max_rounds`, of more local steps in all or of more
    evaluations (releases of a score histogram) is refused, and so is one with a model or metric that
    is not named. A score histogram is released where both classes have `smallest_group` validation
    patients. Within `hours` ("18:00-06:00", the host's local time) patients are computed with; always
    when absent.
    """

    min_noise_multiplier: Annotated[NonNegativeFloat, Field(strict=True)]
    max_rounds: Annotated[StrictInt, Field(ge=1, le=MOST)]
    max_steps: Annotated[StrictInt, Field(ge=1, le=MOST)]
    max_evaluations: Annotated[StrictInt, Field(ge=0, le=MOST)]
    smallest_group: Annotated[StrictInt, Field(ge=1, le=MOST)]
    models: tuple[str, ...]
    metrics: tuple[tasks.Release, ...]
    hours: Annotated[str, Field(pattern=f"^{_CLOCK}-{_CLOCK}$")] | None = None

    @classmethod
    def just_for(cls, protocol: "StudyProtocol") -> "Limits":
        """Limits that `protocol` just keeps, where one asks what a study does and not whether it may."""
        return cls(
            min_noise_multiplier=0.0,
            max_rounds=protocol.rounds,
            max_steps=protocol.total_steps,
            max_evaluations=protocol.evaluations,
            smallest_group=1,
            models=(protocol.model.name,),
            metrics=tasks.releases(protocol),
        )


@dataclass(frozen=True)
class Permit:
    """On which terms the hospital answers a request: where the protocol asks for less, these win."""

    max_epsilon: float  # of each account, for life, at the study's delta
    min_noise_multiplier: float = 0.0
    smallest_group: int = 1


class SitePolicy(Document):
    """One hospital's `site.toml`, frozen.

    `approved_studies` are protocol digests; `max_epsilon` is the lifetime cap of each account at a
    study's delta; `limits` bound every study. `device`, `engine` (per-patient gradients: this
    project's own or Opacus' hooks), `max_views_per_chunk` (images in memory at once; chosen from free
    memory when absent) and `precision` are how this hospital computes, and change nothing of what it
    promises.
    `socket` is where the vault listens in a deployment, and `relay_user` the one user beside the
    vault's own that may connect to it; a rehearsal calls the vault in process and has neither.
    `rehearsal = true` says that whoever runs this holds all the data: only then may a study go
    without differential privacy, or noise come from `noise_seed` and so be repeatable.
    """

    hospital: Name
    data: Path
    state: Path
    patient_id_pattern: str | None = None
    device: Device = "auto"
    engine: Engine = "book-keeping"
    max_views_per_chunk: Annotated[StrictInt, Field(ge=1, le=MOST)] | None = None
    precision: Precision = "float32"
    approved_studies: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...]
    max_epsilon: Annotated[PositiveFloat, Field(strict=True)]
    limits: Limits
    socket: Path | None = None
    relay_user: Annotated[str, Field(min_length=1)] | None = None
    rehearsal: StrictBool = False
    noise_seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None

    @model_validator(mode="after")
    def _seed_in_rehearsal_only(self) -> "SitePolicy":
        if self.noise_seed is not None and not self.rehearsal:
            raise ValueError("noise-seed makes the noise removable; it needs rehearsal = true")
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the text that the policy was read from, or that it would be written as."""
        return sha256(self.to_toml().encode())


def load_policy(path: Path) -> SitePolicy:
    """The policy in `path` (TOML); PolicyError when it is absent or not valid: no policy, no training."""
    try:
        data = path.read_bytes()
        policy = SitePolicy.model_validate(tables_of(data.decode()), by_name=False)
    except ValidationError as error:
        raise PolicyError(f"{path}: {first_problem(error, SitePolicy)}") from error
    except (OSError, ValueError) as error:  # Unicode and TOML errors included
        raise PolicyError(f"cannot read the site policy {path}: {error}") from error
    policy.__dict__["digest"] = sha256(data)  # every byte of it counts, comments too
    return policy


def permit(
    protocol: "StudyProtocol", policy: SitePolicy, server_round: int, *, training: bool
) -> Permit:
    """The permit to answer round `server_round` of `protocol` under `policy`.

    Otherwise the PolicyError that says what was asked and what is allowed. A study trains in rounds
    1..rounds and evaluates the last model in one more; a request only to evaluate fits a round that
    evaluates.
    """
    if protocol.digest not in policy.approved_studies:
        approved = ", ".join(digest[:12] for digest in policy.approved_studies) or "none"
        raise UnknownStudyError(
            f"study '{protocol.study}' has digest {protocol.digest[:12]}, approved: {approved}; "
            f"review the protocol with intramural-client approve"
        )
    check_limits(protocol, policy)
    last = protocol.rounds if training else protocol.rounds + 1
    if server_round > last:
        raise RoundError(
            f"study '{protocol.study}' asks for round {server_round} and has {last}; "
            f"the coordinator runs on beyond what was approved"
        )
    if not training and not protocol.evaluates(server_round):
        raise RoundError(
            f"study '{protocol.study}' evaluates every {protocol.evaluation.every} rounds and not "
            f"in round {server_round}; the coordinator asks for more than was approved"
        )
    return permit_of(policy)


def permit_of(policy: SitePolicy) -> Permit:
    """The terms on which `policy` permits what it permits."""
    limits = policy.limits
    return Permit(policy.max_epsilon, limits.min_noise_multiplier, limits.smallest_group)


def check_limits(protocol: "StudyProtocol", policy: SitePolicy) -> None:
    """PolicyError when `protocol` asks for what `policy` does not allow any study, approved or not."""
    if policy.hospital not in protocol.hospital_names:
        raise UnknownStudyError(
            f"hospital '{policy.hospital}' is not on the roster of study '{protocol.study}'"
        )
    if protocol.privacy.mechanism == "none" and not policy.rehearsal:
        raise RehearsalOnlyError(
            f"study '{protocol.study}' asks for no differential privacy; this is allowed where "
            f"rehearsal = true, which says that one person holds all the data"
        )
    exceeded = [
        f"{what}: asked {a}, allowed {b}"
        for what, a, b, fits in _held(protocol, policy)
        if not fits
    ]
    if exceeded:
        raise LimitError(
            f"study '{protocol.study}' goes beyond the limits of the site policy ({'; '.join(exceeded)}); "
            f"have the limits reviewed, or the protocol"
        )


def _held(
    protocol: "StudyProtocol", policy: SitePolicy
) -> Iterator[tuple[str, object, object, bool]]:
    """Each limit: what it is on, what the protocol asks, what the policy allows, whether that fits."""
    limits, model = policy.limits, protocol.model.name
    for what, asked, allowed in (
        ("rounds", protocol.rounds, limits.max_rounds),
        ("local steps", protocol.total_steps, limits.max_steps),
        ("evaluations", protocol.evaluations, limits.max_evaluations),
    ):
        yield what, asked, allowed, asked <= allowed
    yield "model", model, ", ".join(limits.models), model in limits.models
    for metric in tasks.releases(protocol):
        yield "metric", metric, ", ".join(limits.metrics) or "none", metric in limits.metrics
    noiseless = protocol.privacy.mechanism == "none" and limits.min_noise_multiplier > 0
    yield "noise multiplier", "none", limits.min_noise_multiplier, not noiseless


def check_hours(policy: SitePolicy, now: datetime) -> None:
    """HoursError unless patients may be computed with at `now` (local time)."""
    if policy.limits.hours is None:
        return
    first, last = (time.fromisoformat(clock) for clock in policy.limits.hours.split("-"))
    clock = now.time()
    within = first <= clock < last if first < last else clock >= first or clock < last
    if not within:
        raise HoursError(
            f"the site policy computes within {policy.limits.hours} and it is {clock:%H:%M}; the "
            f"coordinator asks again"
        )
