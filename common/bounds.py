"""How large an honest update is, from public constants alone: what both ends hold a reply against.

A local step hands (S_t + N_t) / D to SGD: S_t is the clipped sum of the drawn patients, each at most C
long, N_t has d values of standard deviation sigma C, and D = q n is the agreed denominator (PRIVACY.md
section 2). A unit that enters at one step has moved the model by h_k after k steps, where momentum m
keeps it going and FedProx' mu pulls it back:

    v <- m v + mu x,  x <- x - eta v;  h_k = |x| after k steps from v = 1, x = 0; h_k = eta for plain SGD

So the noise in an update of T steps has an expected norm of sigma C / D sqrt(d) times the root of the
sum of all h_k^2, and the patients add at most (drawn patients) C / D times the sum of all h_k.
"""

from functools import lru_cache
from math import inf, isfinite, sqrt

from common.protocol import StudyProtocol, Training

# Patients drawn in one step of whom nobody draws more: so many times the nominal number of them, for a
# cohort that has outgrown what was agreed, and some for chance, which counts where few are drawn.
MOST_DRAWN = 10.0
MOST_BY_CHANCE = 20.0
MOST_DEVIATIONS = 6.0  # of the norm of Gaussian noise around sqrt(d); beyond it lies 1e-9
# Times the noise that the protocol asks for, at a hospital with a stricter policy. Beyond it an update
# has less than a hundredth of its weight in the average: patients would pay for next to nothing.
MOST_EXTRA_NOISE = 10.0


def noise_norm(
    protocol: StudyProtocol, nominal: int, noise_multiplier: float, values: int
) -> float:
    """L2 norm to be expected of the noise in an update of `values` values; 0 without privacy.

    An honest update can hardly have less: noise is not taken back.
    """
    _, squares = _reach(protocol.training, protocol.aggregation.proximal_mu or 0.0)
    denominator = protocol.training.sampling_rate * nominal
    return noise_multiplier * protocol.privacy.max_grad_norm * sqrt(squares * values) / denominator


def largest_norm(
    protocol: StudyProtocol, nominal: int, noise_multiplier: float, values: int
) -> float:
    """L2 norm that no honest update of a hospital with `nominal` patients exceeds.

    Infinite without differential privacy, where nothing is clipped.
    """
    if protocol.privacy.mechanism == "none":
        return inf
    whole, _ = _reach(protocol.training, protocol.aggregation.proximal_mu or 0.0)
    drawn = MOST_DRAWN + MOST_BY_CHANCE / (protocol.training.sampling_rate * nominal)
    noise = noise_norm(protocol, nominal, noise_multiplier, values)
    room = 1 + MOST_DEVIATIONS / sqrt(values)
    return drawn * protocol.privacy.max_grad_norm * whole + room * noise


@lru_cache(maxsize=64)
def _reach(training: Training, mu: float) -> tuple[float, float]:
    """The sum of all h_k of a round's steps, and of their squares; infinite where mu makes it diverge."""
    whole = squares = moved = 0.0
    velocity = 1.0
    for _ in range(training.steps_per_round):
        moved -= training.learning_rate * velocity
        whole, squares = whole + abs(moved), squares + moved * moved
        velocity = training.momentum * velocity + mu * moved
    return (whole, squares) if isfinite(squares) else (inf, inf)
