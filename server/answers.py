"""What came back in a round, and what is written down about it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from common.arrays import Arrays
from common.errors import ChannelError, HoursError
from common.messages import TrainReply
from common.protocol import Participation
from server.admission import ROLLBACK, ROSTER, Past, Question, Reply
from server.checkpoint import RoundRecord

NODE_ERROR = "E-NODE"  # Flower's own error reply: the node died, or its app did
# What may be over when the hospital is asked again, or was not its own doing.
PASSING = (NODE_ERROR, ChannelError.code, HoursError.code, ROSTER)

Missed = Literal["quorum-missed", "mandatory-missing"]


@dataclass
class Answers:
    """Admitted replies, and the code for each hospital whose reply was not.

    `late` names the earlier round that a hospital answered in this one, `duplicates` counts its replies
    to what it had answered already; neither is used.
    """

    replies: dict[str, Reply] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)

    def again(self, hospital: str) -> None:
        """Count one more reply of a hospital that is settled."""
        self.duplicates[hospital] = self.duplicates.get(hospital, 0) + 1

    def updates(self) -> tuple[dict[str, Arrays], dict[str, float]]:
        """The update and the noise multiplier of each hospital that sent one."""
        trained = {h: r for h, r in self.replies.items() if isinstance(r, TrainReply)}
        noise = {hospital: reply.noise_multiplier for hospital, reply in trained.items()}
        return {hospital: reply.arrays for hospital, reply in trained.items()}, noise

    def lack(self, participation: Participation) -> Missed | None:
        """Why these replies do not close a round; None when they do."""
        if len(self.replies) < participation.quorum:
            return "quorum-missed"
        here = all(hospital in self.replies for hospital in participation.mandatory)
        return None if here else "mandatory-missing"

    def settled(self, hospital: str) -> bool:
        """Whether nothing more is to be expected of `hospital` in this round."""
        return hospital in self.replies or self.refused.get(hospital, NODE_ERROR) not in PASSING


def record_of(question: Question, answers: Answers, seconds: float) -> RoundRecord:
    """What is kept of a round, hospitals in the order of their names."""
    heard = answers.replies.keys() | answers.refused.keys()
    replies = dict(sorted(answers.replies.items()))
    _, noise = answers.updates()
    return RoundRecord(
        round=question.request.round,
        seconds=round(seconds, 3),
        answered=list(replies),
        refused=dict(sorted(answers.refused.items())),
        missing=sorted(set(question.protocol.hospital_names) - heard),
        late=dict(sorted(answers.late.items())),
        duplicates=dict(sorted(answers.duplicates.items())),
        noise=dict(sorted(noise.items())),
        heads={name: reply.ledger_head for name, reply in replies.items()},
        policies={name: reply.policy for name, reply in replies.items()},
        suppressed=[name for name, reply in replies.items() if reply.suppressed],
        histogram=pooled_histogram(answers),
        histogram_noise=pooled_noise(answers),
    )


def past_of(hospital: str, earlier: Sequence[RoundRecord]) -> Past:
    """What the closed rounds of this run say about `hospital`."""
    return Past(
        heads=tuple(record.heads[hospital] for record in earlier if hospital in record.heads),
        set_back=any(record.refused.get(hospital) == ROLLBACK for record in earlier),
    )


def pooled_histogram(answers: Answers) -> list[list[float]] | None:
    """The sum of the released histograms (2, bins), in the order of the hospitals' names.

    None when nobody released one: nothing was asked for, or all have too few patients.
    """
    released = [r.histogram for _, r in sorted(answers.replies.items()) if r.histogram is not None]
    if not released:
        return None
    histogram: list[list[float]] = np.sum(np.asarray(released), axis=0).tolist()
    return histogram


def pooled_noise(answers: Answers) -> float | None:
    """Standard deviation of the noise in a cell of that sum: hospitals' noises are independent."""
    replies = [answers.replies[hospital] for hospital in sorted(answers.replies)]
    stated = [r.histogram_noise for r in replies if r.histogram_noise is not None]
    return math.hypot(*stated) if stated else None
