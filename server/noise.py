"""Whether the noise that a reply states can be true, from the protocol's public constants.

A hospital adds what the protocol's epsilon asks for over the whole study, or up to `MOST_EXTRA_NOISE`
times as much under a stricter policy of its own. Less breaks the protocol, and would buy weight in
the average; more would widen the norm that an update may have. What is asked for is not
calibrated here: noise that fits is enough for epsilon, and a tenth of it is not.
"""

from math import erfc, exp, inf, log, sqrt

from common.bounds import MOST_EXTRA_NOISE
from common.protocol import StudyProtocol
from server.spent import epsilon_of_steps

# Between the accountants of a hospital, the larger of which counts, and the one here.
NEARLY = 1.05


def possible_noise(protocol: StudyProtocol, stated: float) -> bool:
    """Whether a hospital that trains under `protocol` can have the noise multiplier `stated`.

    Loads an accountant (1 s) when it is first asked about a study with differential privacy.
    """
    if protocol.privacy.mechanism == "none":
        return stated == 0
    return _enough(protocol, stated, protocol.privacy.epsilon * NEARLY) and not _enough(
        protocol, stated / MOST_EXTRA_NOISE, protocol.privacy.epsilon / NEARLY
    )


def possible_histogram_noise(protocol: StudyProtocol, stated: float) -> bool:
    """The same for the standard deviation of the noise in a cell of the released histograms."""
    if protocol.privacy.mechanism == "none":
        return stated == 0
    return _hides(protocol, stated, protocol.privacy.validation_epsilon * NEARLY) and not _hides(
        protocol, stated / MOST_EXTRA_NOISE, protocol.privacy.validation_epsilon / NEARLY
    )


def _hides(protocol: StudyProtocol, noise: float, epsilon: float) -> bool:
    """Whether all histograms of the study together are (`epsilon`, delta)-private with this noise.

    Exact for Gaussian releases of sensitivity 1 (Balle and Wang 2018, theorem 8).
    """
    if noise <= 0:
        return False
    mu = sqrt(protocol.evaluations) / noise
    spent = _normal(mu / 2 - epsilon / mu) - exp(epsilon) * _normal(-mu / 2 - epsilon / mu)
    return spent <= protocol.privacy.delta


def _enough(protocol: StudyProtocol, noise: float, epsilon: float) -> bool:
    """Whether training with this noise over the whole study costs at most `epsilon`."""
    rate, delta = protocol.training.sampling_rate, protocol.privacy.delta
    # The accountant's tables grow with 1 / noise^2; one step alone settles what is far too little.
    if _one_step(noise, rate, delta) > epsilon:
        return False
    return epsilon_of_steps(((noise, protocol.total_steps),), rate, delta) <= epsilon


def _one_step(noise: float, rate: float, delta: float) -> float:
    """No more than the epsilon of one step: by how much a patient shifts the odds of a sum above 1.

    With the patient that has a chance of at least rate / 2, without of the normal tail.
    """
    tail = _normal(-1 / noise) if noise > 0 else 0.0
    if tail == 0:
        return inf
    return log((rate / 2 - delta) / tail) if rate / 2 > delta else 0.0


def _normal(x: float) -> float:
    """The standard normal distribution function."""
    return erfc(-x / sqrt(2)) / 2
