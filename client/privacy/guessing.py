"""What an epsilon means to a person: how often a guess whether a patient took part can be right."""

from collections.abc import Iterable
from functools import lru_cache

from client.ledger import Spend
from client.privacy.accounting import History, history_of

_GRID = 1e-3  # of privacy loss; within 1e-4 of the closed formula where there is one


def right_guesses(spends: Iterable[Spend]) -> float:
    """The best share of right guesses at even odds, by somebody who sees all that `spends` released.

    One half is a coin, 1 is certainty. It is (1 + TV) / 2 with the total variation distance, which
    is delta at epsilon 0 of the composed privacy loss (Google's dp-accounting). That is much less
    than (epsilon, delta) alone leaves room for: 80 % at epsilon 8 and delta 1e-5, not 99.97 %,
    since one pair of numbers stands for the worst of all mechanisms and this for the one that ran.
    """
    return _right_guesses(history_of(spends))


@lru_cache(maxsize=256)
def _right_guesses(history: History) -> float:
    if any(sigma == 0.0 for sigma, _, _ in history):
        return 1.0
    from dp_accounting.pld import privacy_loss_distribution  # where no privacy is asked for: not

    whole = privacy_loss_distribution.identity(value_discretization_interval=_GRID)
    for sigma, q, steps in history:
        loss = privacy_loss_distribution.from_gaussian_mechanism(
            sigma, sampling_prob=q, value_discretization_interval=_GRID
        )
        whole = whole.compose(loss.self_compose(steps))
    return min(1.0, (1.0 + float(whole.get_delta_for_epsilon(0.0))) / 2)
