"""What each hospital gained by joining: the federated model against the one it trained alone.

And what all of them lose by not laying their patients together. From exact scores, so in a rehearsal
only. Both models see the same patients, so a difference is a paired one, with a narrower interval than
the two figures have apart. Figures are the discrimination of the study's judge (0..1).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.histogram import Interval
from common.judging.judge import Judge

if TYPE_CHECKING:
    from common.clinical.delong import Difference


@dataclass(frozen=True)
class Gain:
    """One hospital: both models on its own validation patients, and federated less alone.

    `own` is the difference on those patients, `everybody` on the validation patients of all hospitals:
    what the model is worth on patients of another hospital too. None where there are too few patients to
    tell.
    """

    hospital: str
    patients: int
    federated: float | None
    alone: float | None
    own: "Difference | None"
    everybody: "Difference | None"


@dataclass(frozen=True)
class Pooled:
    """The pooled baseline, one model of all hospitals' patients, and what the federated one lacks.

    `own` is on each hospital's own validation patients, `discrimination` with `interval` on all of them;
    `difference` is federated less pooled on all.
    """

    own: Mapping[str, float | None]
    discrimination: float | None
    interval: Interval | None
    difference: "Difference | None"


def pooled_against(
    judge: Judge[Any], federated: Mapping[str, Any], pooled: Mapping[str, Any]
) -> Pooled:
    """Both models' scores on each hospital's validation patients, the same in the same order."""
    together = judge.concatenate([pooled[name] for name in federated])
    return Pooled(
        own={name: judge.discrimination(scores) for name, scores in pooled.items()},
        discrimination=judge.discrimination(together),
        interval=judge.interval(together),
        difference=judge.difference(judge.concatenate(list(federated.values())), together),
    )


def gains(
    judge: Judge[Any], federated: Mapping[str, Any], alone: Mapping[str, Mapping[str, Any]]
) -> tuple[Gain, ...]:
    """One Gain for each hospital in `alone`.

    `federated` has the scores of the federated model on each hospital's validation patients;
    `alone[h]` those of the model that h trained alone, on the same patients of the same hospitals.
    """
    together = judge.concatenate(list(federated.values()))
    return tuple(
        Gain(
            hospital=hospital,
            patients=judge.patients(federated[hospital]),
            federated=judge.discrimination(federated[hospital]),
            alone=judge.discrimination(scores[hospital]),
            own=judge.difference(federated[hospital], scores[hospital]),
            everybody=judge.difference(
                together, judge.concatenate([scores[name] for name in federated])
            ),
        )
        for hospital, scores in alone.items()
    )
