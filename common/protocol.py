"""The study protocol: what every hospital agreed to, as a frozen, typed model of `protocol.toml`.

A protocol that is not valid cannot exist: unknown keys are refused with the nearest known name,
and every refusal is one sentence. Its canonical SHA-256 digest is the study's identity; comments,
order and formatting of the file do not change it, any value does.
"""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from common.documents import (
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


class _Section(Document):
    """A table of the protocol, with strict types."""

    model_config = ConfigDict(strict=True)


class CtPatches(_Section):
    """How a finding in a CT series becomes an image: an axial square of `size_mm`, in a window of HU.

    The square lies about the finding in the patient's axial plane, whatever the orientation and the
    spacing of the series. `hu_low` and `hu_high` (Hounsfield units) become 0 and 1. With
    `slices` = 3 the three channels are the planes `slice_distance_mm` below the finding, through it
    and above it; with 1 all channels are the plane through it.
    """

    size_mm: Annotated[float, Field(ge=5, le=500)]
    hu_low: Annotated[float, Field(ge=-1024, le=4000)] = -1000.0
    hu_high: Annotated[float, Field(ge=-1024, le=4000)] = 400.0
    slices: Literal[1, 3] = 1
    slice_distance_mm: Annotated[float, Field(ge=0.1, le=50)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> "CtPatches":
        if self.hu_high - self.hu_low < 1:
            raise ValueError(
                f"images.ct.hu-high is {self.hu_high:g} but must be above hu-low, {self.hu_low:g}"
            )
        if (self.slices == 3) != (self.slice_distance_mm is not None):
            raise ValueError(
                f"images.ct.slice-distance-mm is for slices = 3 and needed with it, but slices is "
                f"{self.slices}"
            )
        return self


class Images(_Section):
    """How a hospital's image becomes the model's input; all constants are public, none is fitted.

    `classes` are the labels, the last one is the positive class. An image is brought to
    `size` x `size` pixels by a centre crop or by resizing, scaled to 0..1 by its bit depth, and
    normalised as (value - mean) / std. With `ct`, hospitals may have CT series in place of images.
    """

    classes: Annotated[tuple[str, str], Field(strict=False)]
    size: Annotated[int, Field(ge=16, le=1024)]
    channels: Literal[1, 3] = 1
    fit: Literal["crop", "resize"] = "crop"
    mean: Annotated[float, Field(ge=0, le=1)] = 0.5
    std: Annotated[float, Field(gt=0, le=1)] = 0.25
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    ct: CtPatches | None = None

    @model_validator(mode="after")
    def _two_names(self) -> "Images":
        if self.classes[0] == self.classes[1]:
            raise ValueError(f"images.classes names '{self.classes[0]}' twice")
        if self.ct is not None and self.ct.slices > self.channels:
            raise ValueError(
                f"images.ct.slices is {self.ct.slices} but images.channels is {self.channels}; "
                f"they are the channels"
            )
        return self


class Model(_Section):
    """The network and where round 1 starts: "random", "phantom", "imagenet" or a safetensors file.

    "phantom" is pre-training on synthetic lung CT, "imagenet" folds torchvision's weights into
    frozen affine layers; both happen at the coordinator, on public data only. `trainable` says what
    hospitals train: every weight, the last layer, or the last layer and all normalisations. What is
    not trained is not noised and does not travel in updates.
    """

    name: Literal["compact-cnn", "resnet18", "resnet18-frozen-affine"] = "compact-cnn"
    initial_model: Annotated[
        str, Field(pattern=r"^(random|phantom|imagenet|.+\.safetensors)$", max_length=400)
    ] = "phantom"
    trainable: Trainable = "all"

    @model_validator(mode="after")
    def _imagenet_needs_affine(self) -> "Model":
        if self.initial_model == "imagenet" and self.name != "resnet18-frozen-affine":
            raise ValueError(
                f"model.initial-model 'imagenet' needs model.name 'resnet18-frozen-affine', "
                f"found '{self.name}'"
            )
        return self


class Training(_Section):
    """Local work of one server round: SGD steps at each hospital, counted, never data-dependent."""

    steps_per_round: Annotated[int, Field(ge=1, le=10_000)]
    learning_rate: PositiveFloat
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    views_per_patient: Annotated[int, Field(ge=1, le=64)] = 4
    flips_and_rotations: bool = True


class Evaluation(_Section):
    """When and how hospitals judge the global model on their validation patients.

    Round 1 judges the initial model, then every `every`-th round the model that it received, and a
    last message the final one. Each time is a release of its own, so fewer of them are less noisy.
    With `flips_and_rotations` an image's score is the mean over the eight symmetries of the square.
    `prevalence` is the share of positives at which calibration is stated: it depends on how common
    they are where the model is used, which no hospital's case mix says.
    """

    every: PositiveInt = 1
    flips_and_rotations: bool = True
    prevalence: Annotated[float, Field(gt=0, lt=1)] = 0.2


class Privacy(_Section):
    """The guarantee asked of every hospital: (epsilon, delta) with the patient as the unit.

    `mechanism = "none"` switches differential privacy off; a hospital allows it in a rehearsal
    only. `validation_epsilon` is the account of the validation patients, who are never trained on.
    """

    mechanism: Literal["dp-sgd", "none"] = "dp-sgd"
    epsilon: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 8.0
    validation_epsilon: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 8.0
    delta: Annotated[float, Field(gt=0, lt=0.01)] = 1e-5
    max_grad_norm: PositiveFloat = 1.0


class Aggregation(_Section):
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


class Participation(_Section):
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


class Inclusion(_Section):
    """Which CTs the study is meant for: `intramural-client check` counts what is outside of it.

    It excludes nobody. Thickness is that of a slice, spacing the larger one of its pixels, `kvp` the
    lowest and the highest tube voltage, kV, `from_year` the first year of acquisition;
    `least_patients` is a hospital's number of training patients.
    """

    max_slice_thickness_mm: PositiveFloat | None = None
    max_pixel_spacing_mm: PositiveFloat | None = None
    kvp: Annotated[tuple[PositiveFloat, PositiveFloat], Field(strict=False)] | None = None
    from_year: Annotated[int, Field(ge=1970, le=2200)] | None = None
    least_patients: PositiveInt | None = None

    @model_validator(mode="after")
    def _states_something(self) -> "Inclusion":
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError("[inclusion] states nothing; give one of its keys, or leave it out")
        if self.kvp is not None and self.kvp[0] > self.kvp[1]:
            raise ValueError(
                f"inclusion.kvp is from {self.kvp[0]:g} to {self.kvp[1]:g} but must be the lowest, "
                f"then the highest"
            )
        return self


class Coordinator(_Section):
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


class Hospital(_Section):
    """A site on the roster; `nominal_patients` is the public, agreed number of training patients.

    Denominators, noise and aggregation weights come from it and never from the private cohort
    (PRIVACY.md section 2: Opacus' default makes cohorts of 192 and 193 separable in one step).
    """

    name: Name
    nominal_patients: PositiveInt


class StudyProtocol(_Section):
    """One study: task, model, training, privacy, aggregation and roster. See the shipped example.

    `without_dp` takes the place of `training` when a rehearsal leaves privacy out (`--no-dp`): what
    privacy costs is fairly judged only against settings that were chosen without it.
    """

    study: Name
    task: Literal["nodule-classification"] = "nodule-classification"
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    images: Images
    model: Model = Model()
    training: Training
    without_dp: Training | None = None
    evaluation: Evaluation = Evaluation()
    privacy: Privacy = Privacy()
    aggregation: Aggregation = Aggregation()
    participation: Participation
    inclusion: Inclusion | None = None
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
        return StudyProtocol.model_validate(tables_of(text), by_name=False)
    except ValidationError as error:
        raise ProtocolError(first_problem(error, StudyProtocol)) from error
    # Not only TOMLDecodeError: the text comes over the wire, and tomllib also fails on integers of
    # thousands of digits and on half a surrogate pair.
    except ValueError as error:
        raise ProtocolError(f"the protocol is not valid TOML: {shown(error)}") from error


def load_protocol(path: Path) -> StudyProtocol:
    """The protocol in the file `path`; ProtocolError when it cannot be read or is not valid."""
    try:
        return parse_protocol(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ProtocolError(f"cannot read the protocol {path}: {error}") from error
