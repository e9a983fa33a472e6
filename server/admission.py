"""Accept or refuse one reply, with a reason that is counted and named. Rubbish never ends a run."""

from dataclasses import dataclass

import numpy as np

from common import arrays, messages
from common.arrays import Spec
from common.bounds import largest_norm
from common.errors import ModelError
from common.messages import EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from common.protocol import StudyProtocol
from common.tasks import bins_of
from server.noise import possible_histogram_noise, possible_noise

Reply = TrainReply | EvaluateReply

ROLLBACK = "E-REPLY-ROLLBACK"
ROSTER = "E-REPLY-ROSTER"
BYTES = "E-REPLY-BYTES"

# Why a reply is not used, in the order in which it is looked at: the first that holds counts. A
# hospital's own refusal keeps its own code, and the first two are found before a reply is opened.
REASONS = {
    ROSTER: "it came from another node than the one that was asked",
    BYTES: "it was larger than an answer in this study can be",
    "E-REPLY-KIND": "it was an answer to something else",
    "E-REPLY-STUDY": "it was an answer in another study",
    "E-REPLY-LATE": "it was an answer to another round",
    "E-REPLY-REQUEST": "it was an answer to another model",
    "E-REPLY-HISTOGRAM": "its scores are not what the protocol asks for",
    "E-REPLY-NOISE": "no hospital of this study can have added the noise that it states",
    ROLLBACK: "the hospital's privacy ledger was set back",
    "E-REPLY-ARRAYS": "the update has other names, shapes or types than the model",
    "E-REPLY-FINITE": "the update holds a value that is not a number",
    "E-REPLY-SIZE": "the update holds an absurdly large value",
    "E-REPLY-NORM": "the update is larger than an honest one with the stated noise can be",
}

# Bytes of an answer: so many times the largest that the study has, and some more, which Flower's format
# takes, and which leaves a small mistake in a small model its own name.
MOST_TIMES, MOST_MORE = 1.1, 4096


class NotAdmitted(Exception):  # noqa: N818  (the name reads as what happened to the reply)
    """Why a reply is not used: a code of the catalogue, or of this file's own reasons."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Question:
    """What a round of the study `protocol` asked, and so what an answer must be.

    `key` is the request's fingerprint, `update_spec` what an update of the study looks like.
    """

    protocol: StudyProtocol
    request: TrainRequest | EvaluateRequest
    key: str
    update_spec: Spec

    @classmethod
    def of(
        cls, protocol: StudyProtocol, request: TrainRequest | EvaluateRequest, update_spec: Spec
    ) -> "Question":
        return cls(protocol, request, messages.fingerprint(request), update_spec)

    @property
    def evaluates(self) -> bool:
        """Whether the protocol asks for scores."""
        return self.protocol.evaluates(self.request.round)


def most_bytes(update_spec: Spec, bins: int) -> int:
    """Bytes that an answer in a study with this update and such histograms may have.

    The largest answer is an update with a histogram; a refusal and an evaluation are far smaller.
    """
    digits, digest = 1 / 3, "0" * 64  # as long as they get
    whole = TrainReply(
        study=digest,
        round=100_000,
        request=digest,
        ledger_head=digest,
        previous_head=digest,
        policy=digest,
        histogram=((digits,) * bins,) * 2,
        histogram_noise=digits,
        suppressed=False,
        noise_multiplier=digits,
        arrays={name: np.zeros(shape, np.float32) for name, shape in update_spec.items()},
    )
    return int(len(messages.encode(whole)) * MOST_TIMES) + MOST_MORE


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


def admit(reply: messages.Message, hospital: str, question: Question, past: Past) -> Reply:
    """`reply` of `hospital` if it answers `question` as the protocol says; NotAdmitted otherwise.

    Flower's own FedAvg averages NaN, infinite and broadcast arrays without a word (THREATS.md T8).
    """
    if isinstance(reply, messages.Refusal):
        raise NotAdmitted(reply.code)
    wanted = TrainReply if isinstance(question.request, TrainRequest) else EvaluateReply
    if not isinstance(reply, wanted):
        raise NotAdmitted("E-REPLY-KIND")
    if reply.study != question.protocol.digest:
        raise NotAdmitted("E-REPLY-STUDY")
    if reply.round != question.request.round:
        raise NotAdmitted("E-REPLY-LATE")
    if reply.request != question.key:
        raise NotAdmitted("E-REPLY-REQUEST")
    if not _judges_as_asked(reply, question):
        raise NotAdmitted("E-REPLY-HISTOGRAM")
    if not _can_be_so_noisy(reply, question.protocol):
        raise NotAdmitted("E-REPLY-NOISE")
    if not past.continued_by(reply.previous_head):
        raise NotAdmitted(ROLLBACK)
    if isinstance(reply, TrainReply):
        _check_update(reply, hospital, question)
    return reply


def _judges_as_asked(reply: Reply, question: Question) -> bool:
    """Whether `reply` has a usable histogram with its noise, or says that it is suppressed, exactly where
    the protocol evaluates."""
    has_noise = reply.histogram_noise is not None
    if reply.histogram is None:
        return not has_noise and reply.suppressed is question.evaluates
    usable = messages.is_histogram(reply.histogram, bins_of(question.protocol))
    return question.evaluates and has_noise and not reply.suppressed and usable


def _can_be_so_noisy(reply: Reply, protocol: StudyProtocol) -> bool:
    scores = reply.histogram_noise
    if scores is not None and not possible_histogram_noise(protocol, scores):
        return False
    return not isinstance(reply, TrainReply) or possible_noise(protocol, reply.noise_multiplier)


def _check_update(reply: TrainReply, hospital: str, question: Question) -> None:
    """NotAdmitted unless the update has the form of the model and values that an honest one can have."""
    update, protocol = reply.arrays, question.protocol
    try:
        arrays.check_spec(update, question.update_spec)
    except ModelError as error:
        raise NotAdmitted("E-REPLY-ARRAYS") from error
    try:
        arrays.check_finite(update)
    except ModelError as error:
        raise NotAdmitted("E-REPLY-FINITE") from error
    if any(np.abs(array).max(initial=0) > messages.LARGEST_VALUE for array in update.values()):
        raise NotAdmitted("E-REPLY-SIZE")
    nominal = protocol.hospital(hospital).nominal_patients
    values = sum(array.size for array in update.values())
    if arrays.norm(update) > largest_norm(protocol, nominal, reply.noise_multiplier, values):
        raise NotAdmitted("E-REPLY-NORM")
