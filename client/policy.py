"""The site policy: what this hospital permits, written by the hospital and read by nobody else.

Absent or with an unknown key it permits nothing. Between study protocol and site policy the
stricter wins. Knows no torch and no network: a security officer can read it alone.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    model_validator,
)

from common.errors import PolicyError, RehearsalOnlyError, RoundError, UnknownStudyError
from common.protocol import Name, PositiveFloat, StudyProtocol, first_problem, kebab

Device = Literal["auto", "cpu", "cuda"]
Engine = Literal["book-keeping", "opacus"]
Precision = Literal["float32", "tf32", "bf16"]


class SitePolicy(BaseModel):
    """One hospital's `site.toml`, frozen.

    `approved_studies` are protocol digests; `max_epsilon` is the lifetime cap of each account at a
    study's delta. `device`, `engine` (per-patient gradients: this project's own or Opacus' hooks),
    `max_views_per_chunk` (images in memory at once; chosen from free memory when absent) and
    `precision` are how this hospital computes, and change nothing of what it promises.
    `socket` is where the vault listens in a deployment, and `relay_user` the one user beside the
    vault's own that may connect to it; a rehearsal calls the vault in process and has neither.
    `rehearsal = true` says that whoever runs this holds all the data: only then may a study go
    without differential privacy, or noise come from `noise_seed` and so be repeatable.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=kebab,
        populate_by_name=True,
    )

    hospital: Name
    data: Path
    state: Path
    patient_id_pattern: str | None = None
    device: Device = "auto"
    engine: Engine = "book-keeping"
    max_views_per_chunk: Annotated[StrictInt, Field(ge=1)] | None = None
    precision: Precision = "float32"
    approved_studies: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...]
    max_epsilon: Annotated[PositiveFloat, Field(strict=True)]
    socket: Path | None = None
    relay_user: Annotated[str, Field(min_length=1)] | None = None
    rehearsal: StrictBool = False
    noise_seed: StrictInt | None = None

    @model_validator(mode="after")
    def _seed_in_rehearsal_only(self) -> "SitePolicy":
        if self.noise_seed is not None and not self.rehearsal:
            raise ValueError("noise-seed makes the noise removable; it needs rehearsal = true")
        return self


def load_policy(path: Path) -> SitePolicy:
    """The policy in `path` (TOML); PolicyError when it is absent or not valid: no policy, no training."""
    try:
        return SitePolicy.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise PolicyError(f"{path}: {first_problem(error, SitePolicy)}") from error
    except (OSError, ValueError) as error:  # UnicodeDecodeError and TOMLDecodeError included
        raise PolicyError(f"cannot read the site policy {path}: {error}") from error


def permit(
    protocol: StudyProtocol, policy: SitePolicy, server_round: int, *, training: bool
) -> None:
    """Return if `policy` permits to answer round `server_round` of `protocol`.

    Otherwise the PolicyError that says what differs. A study trains in rounds 1..rounds and
    evaluates the last model in one more; a request only to evaluate fits a round that evaluates.
    """
    if protocol.digest not in policy.approved_studies:
        approved = ", ".join(digest[:12] for digest in policy.approved_studies) or "none"
        raise UnknownStudyError(
            f"study '{protocol.study}' has digest {protocol.digest[:12]}, approved: {approved}; "
            f"review the protocol and add its digest to approved-studies"
        )
    if policy.hospital not in protocol.hospital_names:
        raise UnknownStudyError(
            f"hospital '{policy.hospital}' is not on the roster of study '{protocol.study}'"
        )
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
    if protocol.privacy.mechanism == "none" and not policy.rehearsal:
        raise RehearsalOnlyError(
            f"study '{protocol.study}' asks for no differential privacy; this is allowed where "
            f"rehearsal = true, which says that one person holds all the data"
        )
