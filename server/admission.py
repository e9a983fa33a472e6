"""Accept or refuse one reply, with a reason that is counted and named. Rubbish never ends a run."""

from dataclasses import dataclass

import numpy as np

from common import arrays, messages
from common.arrays import Spec
from common.errors import ModelError
from common.messages import EvaluateReply, EvaluateRequest, TrainReply, TrainRequest

Reply = TrainReply | EvaluateReply

ROLLBACK = "E-REPLY-ROLLBACK"


class NotAdmitted(Exception):  # noqa: N818  (the name reads as what happened to the reply)
    """Why a reply is not used: a code of the catalogue, or of this file's own reasons."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Question:
    """What a round asked, and so what an answer must be.

    `key` is the request's fingerprint, `study` the protocol's digest; `evaluates` says whether an
    answer holds a histogram.
    """

    request: TrainRequest | EvaluateRequest
    key: str
    study: str
    update_spec: Spec
    evaluates: bool


@dataclass(frozen=True)
class Past:
    """What is known of one hospital in this run before the question.

    `heads` are the ledger heads of its admitted answers, oldest first; `set_back` says that an
    answer was refused because its ledger had been set back.
    """

    heads: tuple[str, ...] = ()
    set_back: bool = False

    def continued_by(self, previous: str | None) -> bool:
        """Whether an answer whose ledger stood at `previous` before may follow on this past.

        One that follows on an older answer than the last, or on none, was written with a ledger that
        has forgotten what came after: restored from a backup, or made anew. One that follows on a
        head never seen here comes after an answer that was lost on the way; but not once the
        ledger has been set back, since then it follows on what was refused.
        """
        if not self.heads or previous == self.heads[-1]:
            return True
        return not self.set_back and previous is not None and previous not in self.heads


def admit(reply: messages.Message, question: Question, past: Past) -> Reply:
    """`reply` if it answers `question` as the protocol says; NotAdmitted otherwise.

    Checked in this order: a refusal by the hospital (its own code), kind, study, round, request,
    the histogram, the ledger's head, and for an update names, shapes, dtype and that every value is
    finite and at most `messages.LARGEST_VALUE`. Flower's own FedAvg averages NaN, infinite and
    broadcast arrays without a word (THREATS.md T8).
    """
    if isinstance(reply, messages.Refusal):
        raise NotAdmitted(reply.code)
    wanted = TrainReply if isinstance(question.request, TrainRequest) else EvaluateReply
    if not isinstance(reply, wanted):
        raise NotAdmitted("E-REPLY-KIND")
    if reply.study != question.study:
        raise NotAdmitted("E-REPLY-STUDY")
    if reply.round != question.request.round:
        raise NotAdmitted("E-REPLY-LATE")
    if reply.request != question.key:
        raise NotAdmitted("E-REPLY-REQUEST")
    if not _has_the_histogram(reply, question.evaluates):
        raise NotAdmitted("E-REPLY-HISTOGRAM")
    if not past.continued_by(reply.previous_head):
        raise NotAdmitted(ROLLBACK)
    if isinstance(reply, TrainReply):
        try:
            arrays.check(reply.arrays, question.update_spec)
        except ModelError as error:
            raise NotAdmitted("E-REPLY-ARRAYS") from error
        if any(
            np.abs(array).max(initial=0) > messages.LARGEST_VALUE for array in reply.arrays.values()
        ):
            raise NotAdmitted("E-REPLY-SIZE")
    return reply


def _has_the_histogram(reply: Reply, evaluates: bool) -> bool:
    """Whether `reply` has a usable histogram and its noise exactly where the protocol evaluates."""
    if not evaluates:
        return reply.histogram is None and reply.histogram_noise is None
    return (
        reply.histogram is not None
        and reply.histogram_noise is not None
        and messages.is_histogram(reply.histogram)
    )
