"""The card of a model that is shown images: what a hospital reads before the model sees one of its own."""

import json
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, ValidationError

from common.documents import first_problem, shown
from common.errors import ModelError
from common.files import sha256
from common.model_card import MODEL_CARD, Card, Judged
from common.tasks import USUAL
from common.tasks.nodule_classification.study import (
    ImageEvaluation,
    ImageModel,
    Images,
    Inclusion,
)

MAX_CARD_BYTES = 1 << 20


class ModelCard(Card):
    """The card of a model that is shown images; text of `Card.to_json` reads back to it."""

    model_config = ConfigDict(extra="forbid")

    task: Literal["nodule-classification"] = "nodule-classification"
    model: ImageModel
    images: Images
    inclusion: Inclusion | None = None
    evaluation: ImageEvaluation
    judged: Judged | None = None

    def is_of(self, weights: bytes) -> bool:
        """Whether this is the card of the model in `weights`, the bytes of a safetensors file."""
        return sha256(weights) == self.weights


def load_card(path: Path) -> ModelCard:
    """The card in the file `path`; ModelError when there is none, it is not valid or of another task."""
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
        task = _task_in(data)
        if task != USUAL:
            raise ModelError(
                f"expected the card of a model of {USUAL} at {path} and found one of {shown(task, repr)}; "
                f"intramural-client predict and export-onnx are for models that are shown images"
            )
        return ModelCard.model_validate_json(data, by_name=False)
    except ValidationError as error:
        raise ModelError(
            f"expected a model card at {path} and found another document "
            f"({first_problem(error, ModelCard)}); ask the coordinator for {MODEL_CARD} of the same run"
        ) from error
    except ValueError as error:  # text that is no JSON is a ValidationError, bad Unicode may not be
        raise ModelError(f"expected a model card at {path} and found no text") from error


def _task_in(data: bytes) -> object:
    """The task that a card names, the usual one where it names none; ValueError for no JSON at all."""
    found = json.loads(data)
    return found.get("task", USUAL) if isinstance(found, dict) else USUAL
