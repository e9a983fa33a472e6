"""What each hospital gained by joining: the federated model against the one it trained alone.

From exact scores, so in a rehearsal only. Both models see the same images, so the difference is a
paired one, with a narrower interval than the two AUROCs have apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from common.clinical.delong import Difference, auroc_difference
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
