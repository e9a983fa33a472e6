"""How far a study's noise carries the model: a public figure that says whether it can do harm.

Each of T steps at hospital i adds noise of standard deviation lr sigma C / (q n_i) to every one of
the d trained weights, and the average with shares w_i what is left of it. Over the study the noise
moves the model by a vector whose expected length is

    lr sigma C sqrt(T d) sqrt(sum of (w_i / n_i)^2) / q / (1 - momentum)

On LUNA16 patches, cohorts of 4 to 700 patients at epsilon 1 to 8, a length up to 14 never harmed the
shipped model (zero-shot .930); 17 took the gain back, from 26 on the result was worse than no
training at all, and at 48 it was .705 (docs/benchmarks.md). A model with other weights has another
scale: for it the figure compares settings and is no limit.
"""

from math import prod, sqrt

from common.model_spec import update_spec
from common.protocol import StudyProtocol
from common.tasks import task_of
from server.strategy import public_weights

MOST_DISTURBANCE = 12.0


def disturbance(protocol: StudyProtocol, sigma: float) -> float:
    """Expected L2 length of the noise in the final model, `sigma` the same at every hospital."""
    training = protocol.training
    weights = public_weights(protocol, dict.fromkeys(protocol.hospital_names, sigma))
    whole = sum(weights.values())
    averaged = sqrt(
        sum((weights[h.name] / whole / h.nominal_patients) ** 2 for h in protocol.hospitals)
    )
    trained = sum(prod(shape) for shape in update_spec(protocol).values())
    one_weight = sigma * protocol.privacy.max_grad_norm * averaged / training.sampling_rate
    steps = sqrt(protocol.total_steps * trained) / (1 - training.momentum)
    return training.learning_rate * one_weight * steps


def bearable(protocol: StudyProtocol) -> float | None:
    """What a model of images bore; None for other models, for which nothing was measured."""
    return MOST_DISTURBANCE if task_of(protocol).view == "image" else None


def too_much(protocol: StudyProtocol, sigma: float) -> str | None:
    """A plain sentence where the learning rate is too high for these cohorts and this noise."""
    found, bearable_length = disturbance(protocol, sigma), bearable(protocol)
    if bearable_length is None or found <= bearable_length:
        return None
    rate = protocol.training.learning_rate * bearable_length / found
    return (
        f"learning-rate {protocol.training.learning_rate:g} is too high for these cohorts: the noise "
        f"would move the model by {found:.0f}, and above {bearable_length:g} it did more harm than "
        f"training did good; at most {rate:.2g} is bearable, or train only 'norm-and-head'"
    )
