"""A run's folder as a coordinator leaves it, and phantoms as images."""

from pathlib import Path
from typing import Any

from PIL import Image

from common.files import sha256
from common.model_card import (
    MODEL_CARD,
    Bin,
    CardHospital,
    Figure,
    Judged,
    OperatingPoint,
)
from common.phantom import Phantoms, phantom_patches, to_grey8
from common.tasks.nodule_classification.card import ModelCard
from common.tasks.nodule_classification.study import (
    CtPatches,
    ImageEvaluation,
    ImageModel,
    Images,
)

PHANTOM_IMAGES = Images(
    classes=("non-nodule", "nodule"), size=32, mean=0.4, std=0.25, ct=CtPatches(size_mm=22.4)
)
JUDGED = Judged(
    source="released",
    prevalence=0.2,
    auroc=Figure(value=0.91, low=0.88, high=0.94),
    temperature=Figure(value=1.5, low=1.2, high=1.9),
    operating_point=OperatingPoint(
        threshold=0.5,
        sensitivity=Figure(value=0.86, low=0.8, high=0.91),
        specificity=Figure(value=0.83, low=0.78, high=0.88),
    ),
    reliability=(
        Bin(low=0, high=0.5, observed=0.04, error=0.01),
        Bin(low=0.5, high=0.8, observed=0.31, error=0.05),
    ),
)


def write_run(
    folder: Path,
    weights: bytes,
    images: Images = PHANTOM_IMAGES,
    model: ImageModel | None = None,
    **changes: Any,
) -> Path:
    """model.safetensors with the card of it in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    card = ModelCard(
        study="lung-nodules",
        protocol="5" * 64,
        weights=sha256(weights),
        rounds=10,
        rehearsal=True,
        model=model or ImageModel(),
        images=images,
        evaluation=ImageEvaluation(),
        hospitals=(CardHospital(name="north", nominal_patients=120, rounds=10),),
        judged=JUDGED,
    ).model_copy(update=changes)
    (folder / MODEL_CARD).write_text(card.to_json())
    return folder


def write_phantoms(folder: Path, count: int, seed: int) -> Phantoms:
    """`count` phantoms as 8-bit PNG in `folder`: 000.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    made = phantom_patches(count, seed=seed)
    for number, grey in enumerate(to_grey8(made.hu).numpy()):
        Image.fromarray(grey).save(folder / f"{number:03d}.png")
    return made
