"""The model card for machines, `model-card.json`: what a model is, what it may be shown and what it said.

The coordinator writes it beside the weights, from released figures alone. A task whose models are used at a
hospital (`intramural-client predict`) has a card of its own, to which what is read is held like a protocol:
common/tasks/nodule_classification/card.py. The same facts in words are in `model_card.md` (Mitchell et al.,
Model Cards for Model Reporting, FAT* 2019).
"""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, SerializeAsAny, model_validator

from common.documents import Document, Name, NonNegativeFloat, PositiveFloat, PositiveInt
from common.histogram import Estimate
from common.protocol import Model
from common.temperature import Temperature

MODEL_CARD = "model-card.json"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(Document):
    model_config = ConfigDict(strict=True)


class Figure(_Part):
    """A figure with its 95 % interval."""

    value: Annotated[float, Field(allow_inf_nan=False)]
    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]

    @classmethod
    def of(cls, found: Estimate | Temperature) -> Self:
        """What was read from a histogram."""
        low, high = found.interval
        return cls(value=found.value, low=low, high=high)


class Bin(_Part):
    """Of those that scored `low` to `high`, the share `observed` (± `error`) was positive."""

    low: Share
    high: Share
    observed: Share
    error: NonNegativeFloat


class OperatingPoint(_Part):
    """A score at and above which the class counts as positive, and what that gave."""

    threshold: Share
    sensitivity: Figure
    specificity: Figure


class Judgement(_Part):
    """What the validation patients of the hospitals said of a model, as released or exact."""

    source: Literal["released", "exact"]


class Judged(Judgement):
    """The same of a model that tells two classes apart.

    Probabilities are stated at `prevalence`, the share of positives that the protocol assumes. A score s
    becomes the probability sigmoid(logit(s) / temperature), see common/temperature.py; temperature is None
    where the noise left nothing to say.
    """

    prevalence: Annotated[float, Field(gt=0, lt=1)]
    auroc: Figure
    temperature: Figure | None = None
    operating_point: OperatingPoint | None = None
    reliability: Annotated[tuple[Bin, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _has_a_temperature(self) -> Self:
        if self.temperature is not None and self.temperature.value <= 0:
            raise ValueError(
                f"judged.temperature is {self.temperature.value:g} but must be above 0"
            )
        return self


class CardHospital(_Part):
    """One hospital of the study: its agreed cohort and in how many rounds it took part."""

    name: Name
    nominal_patients: PositiveInt
    rounds: Annotated[int, Field(ge=0)]


class Card(_Part):
    """One trained model of any task. `weights` is the SHA-256 of the bytes of its safetensors file.

    Further keys are the tables of the study's protocol that say what the model is shown and how it is
    judged, under their names there. `epsilon` is the largest that a hospital's training patients have spent
    in this study at `delta`; None without differential privacy or where it is not known.
    """

    model_config = ConfigDict(extra="allow")

    study: Name
    task: str
    protocol: Digest
    weights: Digest
    rounds: Annotated[int, Field(ge=0)]
    rehearsal: bool
    model: SerializeAsAny[Model]
    hospitals: Annotated[tuple[CardHospital, ...], Field(min_length=1, strict=False)]
    epsilon: PositiveFloat | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    judged: SerializeAsAny[Judgement] | None = None
    use: Literal["research use, not a medical device"] = "research use, not a medical device"

    def to_json(self) -> str:
        """The card as text."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n"
