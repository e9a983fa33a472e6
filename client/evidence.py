"""What the evaluation of a received model leaves behind: exact scores here, a noised histogram outside."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from client.ledger import Spend
from client.privacy.randomness import RandomStream
from common.errors import DataError
from common.files import write_atomic
from common.histogram import score_histogram
from common.messages import HISTOGRAM_BINS, Histogram
from common.metrics import Scores


def noised_histogram(scores: Scores, spend: Spend, stream: RandomStream) -> Histogram:
    """The released summary of `scores`: counts of patients per score bin and class, plus noise.

    A patient counts once in each class in which it has images, with a weight such that adding or
    removing a patient moves the exact histogram by at most 1 in L2 (`score_histogram`). So Gaussian
    noise of standard deviation `spend.noise_multiplier` is the mechanism that the ledger accounts.
    """
    exact = score_histogram(scores, HISTOGRAM_BINS)
    noise = stream.normal(exact.size).reshape(exact.shape) * spend.noise_multiplier
    negatives, positives = (exact + noise).tolist()
    return tuple(negatives), tuple(positives)


def scores_file(state: Path, study: str, after_round: int) -> Path:
    """Where a hospital keeps its exact scores in `study` (digest) after `after_round` rounds, 0 first."""
    return state / "scores" / study[:16] / f"round-{after_round:05d}.npz"


def keep_scores(state: Path, study: str, after_round: int, scores: Scores) -> None:
    """Keep the exact scores for the hospital's own eyes.

    Patients are ordinals, not identities, and so are series and findings where there are such.
    """
    path = scores_file(state, study, after_round)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    buffer = io.BytesIO()
    columns: dict[str, Any] = {
        "score": scores.score,
        "label": scores.label,
        "patient": scores.patient,
    }
    if scores.series is not None and scores.finding is not None:
        columns |= {"series": scores.series, "finding": scores.finding}
    np.savez(buffer, **columns)
    write_atomic(path, buffer.getvalue())


def kept_scores(state: Path, study: str, after_round: int) -> Scores:
    """The scores that `keep_scores` kept; DataError when there are none, or damaged ones."""
    path = scores_file(state, study, after_round)
    if not path.is_file():  # a pipe would be waited for
        raise DataError(f"no scores of the model after round {after_round} at {path}")
    try:
        # Opened here, since NumPy leaves a damaged archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
            return Scores(
                score=columns["score"],
                label=columns["label"],
                patient=columns["patient"],
                series=columns.get("series"),
                finding=columns.get("finding"),
            )
    # NumPy and zipfile raise EOFError, TypeError, BadZipFile, zlib.error and others for damage.
    except Exception as error:
        raise DataError(
            f"expected the scores of the model after round {after_round} at {path} and found a file "
            f"that cannot be read ({type(error).__name__}); the round's report goes without them"
        ) from error
