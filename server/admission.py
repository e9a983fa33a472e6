"""Accept or refuse one reply, with a reason that is counted and named. Rubbish never ends a run."""

import numpy as np

from common import arrays, messages
from common.arrays import Spec
from common.errors import ModelError

Reply = messages.TrainReply | messages.EvaluateReply


class NotAdmitted(Exception):  # noqa: N818  (the name reads as what happened to the reply)
    """Why a reply is not used: a code of the catalogue, or of this file's own reasons."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def admit(
    reply: messages.Message,
    request: messages.TrainRequest | messages.EvaluateRequest,
    key: str,
    study: str,
    update_spec: Spec,
) -> Reply:
    """`reply` if it answers `request` of `study` as the protocol says; NotAdmitted otherwise.

    `key` is the request's fingerprint, `study` the protocol's digest.

    Checked in this order: a refusal by the hospital (its own code), kind, study, round, request,
    the histogram, and for an update names, shapes, dtype and that every value is finite and at most
    `messages.LARGEST_VALUE`. Flower's own FedAvg averages NaN, infinite and broadcast arrays without
    a word (THREATS.md T8).
    """
    if isinstance(reply, messages.Refusal):
        raise NotAdmitted(reply.code)
    wanted = (
        messages.TrainReply
        if isinstance(request, messages.TrainRequest)
        else messages.EvaluateReply
    )
    if not isinstance(reply, wanted):
        raise NotAdmitted("E-REPLY-KIND")
    if reply.study != study:
        raise NotAdmitted("E-REPLY-STUDY")
    if reply.round != request.round:
        raise NotAdmitted("E-REPLY-LATE")
    if reply.request != key:
        raise NotAdmitted("E-REPLY-REQUEST")
    if not messages.is_histogram(reply.histogram):
        raise NotAdmitted("E-REPLY-HISTOGRAM")
    if isinstance(reply, messages.TrainReply):
        try:
            arrays.check(reply.arrays, update_spec)
        except ModelError as error:
            raise NotAdmitted("E-REPLY-ARRAYS") from error
        if any(
            np.abs(array).max(initial=0) > messages.LARGEST_VALUE for array in reply.arrays.values()
        ):
            raise NotAdmitted("E-REPLY-SIZE")
    return reply
