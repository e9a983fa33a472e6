"""The last check before bytes leave the hospital: an allow-list, and everything else stays.

Knows no torch and no network: a security officer can read it alone.
"""

from common import arrays, messages
from common.arrays import Spec
from common.errors import EgressError, ModelError


def release(reply: messages.Reply, update_spec: Spec) -> bytes:
    """The frame of `reply` if it is one of the known replies with the study's own shapes.

    An update must have exactly the names, shapes and dtype of `update_spec` and be finite; no other
    reply may hold an array; a histogram must be (2, bins). EgressError otherwise. Nothing else has
    a way out of the vault.
    """
    if not isinstance(reply, messages.Reply):
        raise EgressError(f"a {type(reply).__name__} is not a reply")
    try:
        arrays.check(reply.arrays, update_spec if isinstance(reply, messages.TrainReply) else {})
    except ModelError as error:
        raise EgressError(f"the arrays are not what the study allows: {error}") from error
    histogram = getattr(reply, "histogram", None)
    if histogram is not None and not messages.is_histogram(histogram):
        raise EgressError("the score histogram does not have the study's shape")
    return messages.encode(reply)
