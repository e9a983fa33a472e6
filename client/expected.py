"""What one round may bring to this hospital and may take from it, from the study protocol alone."""

from collections.abc import Sequence
from math import prod, sqrt

from client.egress import Allowed
from client.ledger import Spend
from common import arrays
from common.arrays import Arrays
from common.bounds import largest_norm
from common.errors import ModelError
from common.model_spec import model_spec, update_spec
from common.protocol import StudyProtocol
from common.tasks import bins_of

# Root mean square of a model's values. Those of trained networks are well below 1 (the weights of a
# normalisation layer around it); a model with larger ones was made to single somebody out.
LARGEST_RMS = 10.0


def check_model(received: Arrays, protocol: StudyProtocol) -> None:
    """ModelError unless `received` is a model of this study: names, shapes, dtype, finite, norm.

    To be called before any patient file is opened (THREATS.md T6).
    """
    arrays.check(received, model_spec(protocol))
    largest = LARGEST_RMS * sqrt(sum(array.size for array in received.values()))
    if (norm := arrays.norm(received)) > largest:
        raise ModelError(
            f"expected a model with a norm of at most {largest:.3g} and found {norm:.3g}; the "
            f"coordinator should look at what it sends"
        )


def allowed_answer(
    protocol: StudyProtocol, hospital: str, server_round: int, spent: Sequence[Spend]
) -> Allowed:
    """What the answer of `hospital` to a request of `server_round` may hold.

    `spent` are the study's spends on the training patients: their noise bounds the update's norm.
    """
    spec = update_spec(protocol)
    values = sum(prod(shape) for shape in spec.values())
    nominal = protocol.hospital(hospital).nominal_patients
    noise = max((spend.noise_multiplier for spend in spent), default=0.0)
    return Allowed(
        study=protocol.digest,
        round=server_round,
        update_spec=spec,
        bins=bins_of(protocol),
        largest_norm=largest_norm(protocol, nominal, noise, values),
    )
