"""Whether how an image was made tells its class: then a model learns the scanner and not the disease."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import PermutationMethod, chi2_contingency
from scipy.stats.contingency import association

from client.inspection.counts import Count

_SHUFFLES = 1_999  # of the permutation test, which holds for few patients too: p from 0.0005
_AT_ONCE = 50  # of them: all at once took 1.8 GB for 20,000 patients
_SEED = 7


@dataclass(frozen=True, slots=True)
class Shortcut:
    """How strongly a fact goes with the class, by patients: a patient counts once for each class.

    `strength` is Cramér's V: 0 says nothing of the class, 1 says all of it (H. Cramér, Mathematical
    Methods of Statistics, 1946, chapter 21). `p` is of a permutation test of chi squared.
    """

    strength: float
    p: float
    one_class: tuple[tuple[str, int], ...]  # kinds that have images of one class only, and which


def shortcut(counts: list[Count]) -> Shortcut | None:
    """None where there is one kind only, or one class."""
    table = np.array([count.patients for count in counts])
    if len(table) < 2 or not table.any(axis=0).all():
        return None
    shuffles = PermutationMethod(_SHUFFLES, _AT_ONCE, rng=np.random.default_rng(_SEED))
    tested = chi2_contingency(table, correction=False, method=shuffles)
    return Shortcut(
        strength=float(association(table, method="cramer")),
        p=float(tested.pvalue),
        one_class=tuple(
            (count.kind, int(count.images[1] > 0)) for count in counts if 0 in count.images
        ),
    )
