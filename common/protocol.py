"""The study protocol: what every hospital agreed to, as a frozen, typed model of `protocol.toml`.

A protocol that is not valid cannot exist: unknown keys are refused with the nearest known name,
and every refusal is one sentence. Its canonical SHA-256 digest is the study's identity; comments,
order and formatting of the file do not change it, any value does.
"""

from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import ConfigDict, Field, ValidationError, model_validator

from common import tasks
from common.documents import (
    UNSHOWABLE,
    Document,
    Name,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    canonical_digest,
    first_problem,
    kebab,
    shown,
    tables_of,
)
from common.errors import ProtocolError

MAX_TEXT_BYTES = 256 * 1024  # a protocol is a few kilobytes; what arrives is bounded before parsing

# A DNS name, an IPv4 or an IPv6 address, in lower case; what is not one fails when it is dialled.
HostName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.:-]{0,251}[a-z0-9])?$")]

Trainable = Literal["all", "norm-and-head", "head"]


class Section(Document):
    """A table of a study protocol, with strict types."""

    model_config = ConfigDict(strict=True)


class Data(Protocol):
    """What every task's own table of the patients' data says, whatever else it does.

    `validation_fraction` of a hospital's patients, by a hash of the patient id, are never trained on;
    or `split` names the column that says who is not.
    """

    @property
    def validation_fraction(self) -> float: ...
    @property
    def split(self) -> str | None: ...
    def __hash__(self) -> int: ...


class Model(Section):
    """The network and where round 1 starts: "random" or a safetensors file; a task may know more.

    `trainable` says what hospitals train: every weight, the last layer, or the last layer and all
    normalisations. What is not trained is not noised and does not travel in updates.
    """

    name: str
    initial_model: Annotated[
        str, Field(pattern=rf"^(random|[^{UNSHOWABLE}]+\.safetensors)$", max_length=400)
    ] = "random"
    trainable: Trainable = "all"


class Training(Section):
    """Local work of one server round: SGD steps at each hospital, counted, never data-dependent.

    A step sees up to `views_per_patient` of a drawn patient's images, records or series.
    """

    steps_per_round: Annotated[int, Field(ge=1, le=10_000)]
    learning_rate: PositiveFloat
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    views_per_patient: Annotated[int, Field(ge=1, le=64)] = 1


class Evaluation(Section):
    """When hospitals judge the global model on their validation patients.

    Round 1 judges the initial model, then every `every`-th round the model that it received, and a
    last message the final one. Each time is a release of its own, so fewer of them are less noisy.
    """

    every: PositiveInt = 1


class Privacy(Section):
    """The guarantee asked of every hospital: (epsilon, delta) with the patient as the unit.

    `mechanism = "none"` switches differential privacy off; a hospital allows it in a rehearsal
    only. `validation_epsilon` is the account of the validation patients, who are never trained on.
    """

    mechanism: Literal["dp-sgd", "none"] = "dp-sgd"
    epsilon: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 8.0
    validation_epsilon: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 8.0
    delta: Annotated[float, Field(gt=0, lt=0.01)] = 1e-5
    max_grad_norm: PositiveFloat = 1.0


class Aggregation(Section):
    """Flower's strategy by name, with the settings that this strategy has and no others.

    With `ema`, the study's result is not the last global model but an exponential moving average
    of the models after each round, the last one weighing 1, the one before it `ema`, and so on;
    training goes on from the last one. It averages over the rounds' noise and costs no privacy.
    With `max_share` no hospital makes up more than that share of an average; what is above it goes
    to the others in proportion to their weights.
    """

    strategy: Literal[
        "fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedmedian", "fedtrimmedavg", "krum"
    ] = "fedavg"
    weights: Literal["inverse-variance", "cohort", "uniform"] = "inverse-variance"
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    max_share: Annotated[float, Field(gt=0, le=1)] | None = None
    proximal_mu: NonNegativeFloat | None = None
    server_learning_rate: PositiveFloat | None = None
    server_momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    beta_1: Annotated[float, Field(ge=0, lt=1)] | None = None
    beta_2: Annotated[float, Field(ge=0, lt=1)] | None = None
    tau: PositiveFloat | None = None
    trimmed_fraction: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    malicious_hospitals: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _settings_of_this_strategy(self) -> "Aggregation":
        allowed = STRATEGY_SETTINGS[self.strategy]
        for name in type(self).model_fields:
            if name in ("strategy", "weights", "ema", "max_share") or getattr(self, name) is None:
                continue
            if name not in allowed:
                known = ", ".join(kebab(n) for n in allowed) or "none"
                raise ValueError(
                    f"aggregation.{kebab(name)} is not a setting of '{self.strategy}' "
                    f"(its settings: {known})"
                )
        if self.max_share is not None and self.strategy in UNWEIGHTED:
            raise ValueError(
                f"aggregation.max-share caps the weights of hospitals, and '{self.strategy}' has none"
            )
        return self


STRATEGY_SETTINGS: dict[str, tuple[str, ...]] = {
    "fedavg": (),
    "fedprox": ("proximal_mu",),
    "fedavgm": ("server_learning_rate", "server_momentum"),
    "fedadam": ("server_learning_rate", "beta_1", "beta_2", "tau"),
    "fedyogi": ("server_learning_rate", "beta_1", "beta_2", "tau"),
    "fedmedian": (),
    "fedtrimmedavg": ("trimmed_fraction",),
    "krum": ("malicious_hospitals",),
}
UNWEIGHTED = ("fedmedian", "fedtrimmedavg", "krum")  # strategies for which all hospitals are equal


class Participation(Section):
    """Who must answer, and by when: `quorum` replies within `deadline_seconds` of each round.

    Without the reply of every hospital in `mandatory` a round does not close either. A hospital
    from which nothing is heard is asked again after `retry_seconds`: a question that was lost with
    a killed process has no other way to come back, and one that was not is answered only once. Once
    there are enough, hospitals that are not connected are waited for `grace_seconds` longer.
    """

    quorum: PositiveInt
    mandatory: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    deadline_seconds: Annotated[float, Field(gt=0, le=7 * 24 * 3600, allow_inf_nan=False)] = 900.0
    grace_seconds: Annotated[float, Field(ge=0, le=24 * 3600, allow_inf_nan=False)] = 60.0
    retry_seconds: Annotated[float, Field(ge=1, le=24 * 3600, allow_inf_nan=False)] = 300.0


class Coordinator(Section):
    """Where hospitals find the coordinator of a deployment; a rehearsal has none.

    `names` are the DNS names and IP addresses that its certificate holds, the first is the one that
    hospitals dial, at `port`.
    """

    names: Annotated[tuple[HostName, ...], Field(strict=False, min_length=1, max_length=16)]
    port: Annotated[int, Field(ge=1, le=65_535)] = 9443

    @property
    def address(self) -> str:
        """host:port as hospitals dial it; an IPv6 address stands in brackets."""
        host = self.names[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class Hospital(Section):
    """A site on the roster; `nominal_patients` is the public, agreed number of training patients.

    Denominators, noise and aggregation weights come from it and never from the private cohort
    (PRIVACY.md section 2: Opacus' default makes cohorts of 192 and 193 separable in one step).
    """

    name: Name
    nominal_patients: PositiveInt


class StudyProtocol(Section, ABC):
    """One study: task, model, training, privacy, aggregation and roster. See the shipped examples.

    What is here is what every study has; `common.tasks` has a subclass for each task, with the tables
    that only this task has. `without_dp` takes the place of `training` when a rehearsal leaves privacy
    out (`--no-dp`): what privacy costs is fairly judged only against settings that were chosen without
    it.
    """

    study: Name
    task: str
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    model: Model
    training: Training
    without_dp: Training | None = None
    evaluation: Evaluation = Evaluation()
    privacy: Privacy = Privacy()
    aggregation: Aggregation = Aggregation()
    participation: Participation
    coordinator: Coordinator | None = None
    hospitals: Annotated[tuple[Hospital, ...], Field(min_length=1, max_length=10_000, strict=False)]

    @model_validator(mode="after")
    def _whole(self) -> "StudyProtocol":
        names = [hospital.name for hospital in self.hospitals]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"hospitals names '{name}' more than once")
        if self.participation.quorum > len(names):
            raise ValueError(
                f"participation.quorum is {self.participation.quorum} "
                f"but the roster has {len(names)} hospital(s)"
            )
        for name in self.participation.mandatory:
            if name not in names:
                raise ValueError(
                    f"participation.mandatory names '{name}', which is not among the hospitals"
                )
        share = self.aggregation.max_share
        if share is not None and share * len(names) < 1:
            raise ValueError(
                f"aggregation.max-share is {share:g} but the shares of {len(names)} hospital(s) must "
                f"add up to 1: at least 1/{len(names)}"
            )
        largest = max(hospital.nominal_patients for hospital in self.hospitals)
        if self.privacy.mechanism != "none" and self.privacy.delta * largest >= 0.1:
            raise ValueError(
                f"privacy.delta is {self.privacy.delta:g} but must be well below "
                f"1 / {largest} (the largest nominal cohort), at most a tenth of it"
            )
        return self

    @property
    @abstractmethod
    def data(self) -> Data:
        """The task's table of the patients' data."""

    @property
    def total_steps(self) -> int:
        """Local steps of the whole study, rounds x steps per round: what is accounted."""
        return self.rounds * self.training.steps_per_round

    def evaluates(self, server_round: int) -> bool:
        """Whether the model that hospitals receive in `server_round` (1..rounds + 1) is judged."""
        return (server_round - 1) % self.evaluation.every == 0 or server_round == self.rounds + 1

    @property
    def evaluations(self) -> int:
        """How often the whole study evaluates: what is accounted on the validation patients."""
        return -(-self.rounds // self.evaluation.every) + 1

    @property
    def digest(self) -> str:
        """Canonical SHA-256, 64 hex digits: the identity of the study."""
        return _digest(self)

    @property
    def hospital_names(self) -> tuple[str, ...]:
        return tuple(hospital.name for hospital in self.hospitals)

    def hospital(self, name: str) -> Hospital:
        """The roster's entry for `name`; ProtocolError when it is not on the roster."""
        for hospital in self.hospitals:
            if hospital.name == name:
                return hospital
        raise ProtocolError(
            f"hospital '{name}' is not on the roster of study '{self.study}' "
            f"(it names {', '.join(self.hospital_names)})"
        )


@lru_cache(maxsize=64)
def _digest(protocol: StudyProtocol) -> str:
    return canonical_digest(protocol)


@lru_cache(maxsize=8)
def parse_protocol(text: str) -> StudyProtocol:
    """The protocol in `text` (TOML); ProtocolError with one sentence when it is not valid."""
    try:
        if len(text.encode()) > MAX_TEXT_BYTES:
            raise ProtocolError(f"the protocol is larger than {MAX_TEXT_BYTES} bytes")
        tables = tables_of(text)
    # Not only TOMLDecodeError: the text comes over the wire, and tomllib also fails on integers of
    # thousands of digits and on half a surrogate pair.
    except ValueError as error:
        raise ProtocolError(f"the protocol is not valid TOML: {shown(error)}") from error
    kind = tasks.task_named(tables.get("task", tasks.USUAL)).study
    try:
        return kind.model_validate(tables, by_name=False)
    except ValidationError as error:
        raise ProtocolError(first_problem(error, kind)) from error


def load_protocol(path: Path) -> StudyProtocol:
    """The protocol in the file `path`; ProtocolError when it cannot be read or is not valid."""
    try:
        return parse_protocol(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ProtocolError(f"cannot read the protocol {path}: {error}") from error
