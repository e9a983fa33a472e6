"""What each hospital gained by joining: the federated model against the one it trained alone.

And what all of them lose by not laying their patients together. From exact scores, so in a rehearsal
only. Both models see the same images, so a difference is a paired one, with a narrower interval than
the two AUROCs have apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from common.clinical.delong import Difference, auroc_difference, auroc_interval
from common.histogram import Interval
from common.metrics import Scores, auroc


@dataclass(frozen=True)
class Gain:
    """One hospital: AUROCs (0..1) on its own validation patients, and federated less alone.

    `own` is the difference on those patients, `everybody` on the validation patients of all hospitals:
    what the model is worth on patients of another hospital too. None where a class has fewer
    than two patients.
    """

    hospital: str
    patients: int
    federated: float | None
    alone: float | None
    own: Difference | None
    everybody: Difference | None


@dataclass(frozen=True)
class Pooled:
    """The pooled baseline, one model of all hospitals' patients: AUROCs and what the federated one lacks.

    `own` is on each hospital's own validation patients, `auroc` with `interval` on all of them;
    `difference` is federated less pooled on all.
    """

    own: Mapping[str, float | None]
    auroc: float | None
    interval: Interval | None
    difference: Difference | None


def pooled_against(federated: Mapping[str, Scores], pooled: Mapping[str, Scores]) -> Pooled:
    """Both models' scores on each hospital's validation patients, the same images in the same order."""
    together = Scores.concatenate([pooled[name] for name in federated])
    return Pooled(
        own={name: auroc(scores) for name, scores in pooled.items()},
        auroc=auroc(together),
        interval=auroc_interval(together),
        difference=auroc_difference(Scores.concatenate(list(federated.values())), together),
    )


def gains(
    federated: Mapping[str, Scores], alone: Mapping[str, Mapping[str, Scores]]
) -> tuple[Gain, ...]:
    """One Gain for each hospital in `alone`.

    `federated` has the scores of the federated model on each hospital's validation patients;
    `alone[h]` those of the model that h trained alone, on the same images of the same hospitals.
    """
    together = Scores.concatenate(list(federated.values()))
    return tuple(
        Gain(
            hospital=hospital,
            patients=federated[hospital].patients,
            federated=auroc(federated[hospital]),
            alone=auroc(scores[hospital]),
            own=auroc_difference(federated[hospital], scores[hospital]),
            everybody=auroc_difference(
                together, Scores.concatenate([scores[name] for name in federated])
            ),
        )
        for hospital, scores in alone.items()
    )
