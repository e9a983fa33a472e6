"""What the evaluation of a received model leaves behind: exact scores here, a noised histogram outside."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from client.ledger import Spend
from client.privacy.randomness import RandomStream
from common.errors import DataError
from common.files import write_atomic
from common.histogram import Floats
from common.judging.judge import Columns, Judge
from common.messages import Histogram


def noised(histogram: Floats, spend: Spend, stream: RandomStream) -> Histogram:
    """The released summary of scores: an exact (2, bins) `histogram` plus noise.

    Adding or removing a patient moves the exact one by at most 1 in L2 (`Judge.histogram`), so
    Gaussian noise of standard deviation `spend.noise_multiplier` is the mechanism that the ledger
    accounts.
    """
    noise = stream.normal(histogram.size).reshape(histogram.shape) * spend.noise_multiplier
    without, with_event = (histogram + noise).tolist()
    return tuple(without), tuple(with_event)


def scores_file(state: Path, study: str, after_round: int) -> Path:
    """Where a hospital keeps its exact scores in `study` (digest) after `after_round` rounds, 0 first."""
    return state / "scores" / study[:16] / f"round-{after_round:05d}.npz"


def keep_scores(state: Path, study: str, after_round: int, columns: Columns) -> None:
    """Keep the exact scores, as columns of their judge, for the hospital's own eyes.

    Patients are ordinals, not identities, and so is whatever else they are grouped by.
    """
    path = scores_file(state, study, after_round)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    buffer = io.BytesIO()
    named: dict[str, Any] = dict(columns)
    np.savez(buffer, **named)
    write_atomic(path, buffer.getvalue())


def kept_scores(state: Path, study: str, after_round: int, judge: Judge[Any]) -> Any:
    """The scores that `keep_scores` kept; DataError when there are none, or damaged ones."""
    path = scores_file(state, study, after_round)
    if not path.is_file():  # a pipe would be waited for
        raise DataError(f"no scores of the model after round {after_round} at {path}")
    try:
        # Opened here, since NumPy leaves a damaged archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
            return judge.of_columns({name: columns[name] for name in columns.files})
    # NumPy and zipfile raise EOFError, TypeError, BadZipFile, zlib.error and others for damage.
    except Exception as error:
        raise DataError(
            f"expected the scores of the model after round {after_round} at {path} and found a file "
            f"that cannot be read ({type(error).__name__}); the round's report goes without them"
        ) from error
