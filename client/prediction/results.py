"""What the model said of each finding, as CSV and JSON. Exact, of patients by file name: neither leaves."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from client.data import SetAside
from client.prediction.words import Meaning
from common.tasks.nodule_classification.card import ModelCard

CSV, JSON = "predictions.csv", "predictions.json"

_COLUMNS = (
    "finding",
    "of",
    "x",
    "y",
    "z",
    "score",
    "probability",
    "at_or_above_operating_point",
    "overlay",
    "meaning",
)
# What a spreadsheet takes for the beginning of a formula (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Prediction:
    """What the model says of one finding. `what`, `of` and `mm` are as in `client.data.unlabelled`."""

    what: str
    of: str
    mm: tuple[float, float, float] | None
    score: float  # 0..1
    meaning: Meaning
    overlay: str | None  # file name beside the results
    caption: str | None  # of the overlay


def as_csv(found: Sequence[Prediction]) -> str:
    """One row for each prediction. A cell that a spreadsheet would compute begins with an apostrophe."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for one in found:
        meaning = one.meaning
        writer.writerow(
            [
                _plain(one.what),
                _plain(one.of),
                *(("", "", "") if one.mm is None else (f"{value:.2f}" for value in one.mm)),
                f"{one.score:.6f}",
                "" if meaning.probability is None else f"{meaning.probability:.6f}",
                "" if meaning.positive is None else ("yes" if meaning.positive else "no"),
                one.overlay or "",
                _plain(meaning.words),
            ]
        )
    return text.getvalue()


def as_json(
    found: Sequence[Prediction], set_aside: Sequence[SetAside], card: ModelCard, averaged: bool
) -> str:
    """All of it, with the model that said it: study, protocol and weights by digest.

    `averaged`: the score is the mean over an image's flips and rotations.
    """
    facts = {
        "for": "this hospital alone: it names files of patients",
        "use": card.use,
        "model": {
            "study": card.study,
            "protocol": card.protocol,
            "weights": card.weights,
            "rounds": card.rounds,
            "rehearsal": card.rehearsal,
            "classes": list(card.images.classes),
            "prevalence": None if card.judged is None else card.judged.prevalence,
            "mean-over-flips-and-rotations": averaged,
        },
        "predictions": [_facts(one) for one in found],
        "set-aside": [{"what": one.what, "reason": one.reason} for one in set_aside],
    }
    return json.dumps(facts, indent=2, allow_nan=False) + "\n"


def _facts(one: Prediction) -> dict[str, Any]:
    share = one.meaning.share
    return {
        "finding": one.what,
        "of": one.of,
        "mm": None if one.mm is None else list(one.mm),
        "score": one.score,
        "probability": one.meaning.probability,
        "at-or-above-operating-point": one.meaning.positive,
        "positives-among-such-scores": None
        if share is None
        else dict(zip(("observed", "low", "high"), share, strict=True)),
        "meaning": one.meaning.words,
        "overlay": one.overlay,
    }


def _plain(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
