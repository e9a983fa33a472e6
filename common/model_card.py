"""The model card for machines, `model-card.json`: what a model is, what it may be shown and what it said.

The coordinator writes it beside the weights, from released figures alone; a hospital reads it before
the model sees an image (`intramural-client predict`), so it is held to its schema like a protocol. The
same facts in words are in `model_card.md` (Mitchell et al., Model Cards for Model Reporting, FAT* 2019).
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from common.documents import (
    Document,
    Name,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    first_problem,
)
from common.errors import ModelError
from common.files import sha256
from common.protocol import Evaluation, Images, Model

MODEL_CARD = "model-card.json"
MAX_CARD_BYTES = 1 << 20

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(Document):
    model_config = ConfigDict(strict=True)


class Figure(_Part):
    """A figure with its 95 % interval."""

    value: Annotated[float, Field(allow_inf_nan=False)]
    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]


class Bin(_Part):
    """Of the images that scored `low` to `high`, the share `observed` (± `error`) was positive."""

    low: Share
    high: Share
    observed: Share
    error: NonNegativeFloat


class OperatingPoint(_Part):
    """A score at and above which an image counts as positive, and what that gave."""

    threshold: Share
    sensitivity: Figure
    specificity: Figure


class Judged(_Part):
    """What the validation patients of the hospitals said of the model, as released.

    Probabilities are stated at `prevalence`, the share of positives that the protocol assumes. A score s
    becomes the probability sigmoid(logit(s) / temperature), see common/temperature.py; temperature is None
    where the noise left nothing to say.
    """

    source: Literal["released", "exact"]
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


class ModelCard(_Part):
    """One trained model. `weights` is the SHA-256 of the bytes of its safetensors file.

    `images` and `evaluation` say, as in the study's protocol, what the model is shown and what its score is.
    `epsilon` is the largest that a hospital's training patients have spent in this study at `delta`;
    None without differential privacy or where it is not known.
    """

    study: Name
    protocol: Digest
    weights: Digest
    rounds: Annotated[int, Field(ge=0)]
    rehearsal: bool
    model: Model
    images: Images
    evaluation: Evaluation
    hospitals: Annotated[tuple[CardHospital, ...], Field(min_length=1, strict=False)]
    epsilon: PositiveFloat | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    judged: Judged | None = None
    use: Literal["research use, not a medical device"] = "research use, not a medical device"

    def to_json(self) -> str:
        """The card as text that reads back to an equal one."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n"

    def is_of(self, weights: bytes) -> bool:
        """Whether this is the card of the model in `weights`, the bytes of a safetensors file."""
        return sha256(weights) == self.weights


def load_card(path: Path) -> ModelCard:
    """The card in the file `path`; ModelError when there is none or it is not valid."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CARD_BYTES + 1)
    except OSError as error:
        raise ModelError(
            f"expected the model's card at {path} and cannot read it ({error.strerror}); ask the "
            f"coordinator for {MODEL_CARD} of the same run"
        ) from error
    if len(data) > MAX_CARD_BYTES:
        raise ModelError(f"expected a model card of at most {MAX_CARD_BYTES} bytes at {path}")
    try:
        return ModelCard.model_validate_json(data, by_name=False)
    except ValidationError as error:
        raise ModelError(
            f"expected a model card at {path} and found another document "
            f"({first_problem(error, ModelCard)}); ask the coordinator for {MODEL_CARD} of the same run"
        ) from error
    except ValueError as error:  # text that is no JSON is a ValidationError, bad Unicode may not be
        raise ModelError(f"expected a model card at {path} and found no text") from error
