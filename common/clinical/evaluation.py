"""One model on one set of patients, as a clinician asks about it: every figure, and as JSON.

From exact scores, so it is for whoever holds the patients: a hospital its own, a rehearsal all.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.clinical.calibration import Calibration, Scaling, calibration_of, temperature
from common.clinical.curves import Band, bands, precision_recall_points
from common.clinical.delong import auroc_interval
from common.clinical.figures import (
    DecisionCurve,
    OperatingPoint,
    Share,
    average_precision_interval,
    decision_curve,
    operating_point,
)
from common.clinical.froc import Froc, froc
from common.clinical.subgroups import Subgroup, subgroups
from common.histogram import Interval
from common.metrics import (
    Floats,
    Scores,
    auroc,
    average_precision,
    patients_per_class,
    roc_curve_points,
)
from common.page_parts import plural

AIMS = (("sensitivity", 0.90), ("sensitivity", 0.95), ("specificity", 0.90), ("specificity", 0.95))
THRESHOLDS = tuple(float(round(t, 2)) for t in np.arange(0.01, 1.0, 0.01))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All figures of one model on one set of patients; None where `common` says that one is undefined.

    `roc` is (false, true positive rate), `precision_recall` (recall, precision), for plots; `bands`
    are theirs. `points` has one entry for each of AIMS. `groups` holds a table for each way to group
    the patients, with the threshold of the first point, suppressed below `smallest_group` patients.
    """

    images: int
    positive_images: int
    patients: int
    patients_with_negatives: int
    patients_with_positives: int
    one_image_a_patient: bool
    smallest_group: int
    auroc: float | None
    auroc_interval: Interval | None
    average_precision: float | None
    average_precision_interval: Interval | None
    roc: tuple[Floats, Floats] | None
    precision_recall: tuple[Floats, Floats] | None
    bands: tuple[Band, Band] | None
    points: tuple[OperatingPoint | None, ...]
    calibration: Calibration | None
    temperature: Scaling | None
    froc: Froc | None
    decision: DecisionCurve | None
    groups: Mapping[str, tuple[Subgroup, ...]]

    @property
    def point(self) -> OperatingPoint | None:
        """The operating point that the tables are made with."""
        return self.points[0]


def evaluate(
    scores: Scores, smallest_group: int, groups: Mapping[str, NDArray[np.str_]]
) -> Evaluation:
    """Everything about `scores`; `groups` by what they are told apart, each (n,) names."""
    negative, positive = patients_per_class(scores.label, scores.patient)
    points = tuple(operating_point(scores, aim, wanted) for aim, wanted in AIMS)
    threshold = points[0].threshold if points[0] else None
    return Evaluation(
        images=scores.score.size,
        positive_images=int(scores.label.sum()),
        patients=scores.patients,
        patients_with_negatives=negative,
        patients_with_positives=positive,
        one_image_a_patient=scores.patients == scores.score.size,
        smallest_group=smallest_group,
        auroc=auroc(scores),
        auroc_interval=auroc_interval(scores),
        average_precision=average_precision(scores),
        average_precision_interval=average_precision_interval(scores),
        roc=roc_curve_points(scores),
        precision_recall=precision_recall_points(scores),
        bands=bands(scores),
        points=points,
        calibration=calibration_of(scores),
        temperature=temperature(scores),
        froc=froc(scores),
        decision=decision_curve(scores, THRESHOLDS) if scores.both_classes else None,
        groups={
            told_by: subgroups(scores, group, smallest_group, threshold)
            for told_by, group in groups.items()
        },
    )


def groups_of(
    scores: Scores, classes: tuple[str, str], view: str = "image"
) -> dict[str, NDArray[np.str_]]:
    """The groups that scores alone can tell: a view's class, how many views its patient has."""
    at, count = np.unique(scores.patient, return_inverse=True, return_counts=True)[1:]
    images = count[at]
    sizes = np.select(
        [images == 1, images <= 5, images <= 20], ["1", "2–5", "6–20"], "more than 20"
    )
    return {"class": np.array(classes)[scores.label], f"{plural(view)} of the patient": sizes}


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The same for machines, curves left out but for the decision curve at every tenth threshold."""
    facts = asdict(evaluation)
    for curve in ("roc", "precision_recall", "bands", "decision"):
        del facts[curve]
    if evaluation.froc is not None:
        del facts["froc"]["curve"]
    decision = evaluation.decision
    if decision is not None:
        tenths = slice(9, None, 10)
        facts["decision"] = {
            name: getattr(decision, name)[tenths].round(6).tolist()
            for name in ("threshold", "model", "low", "high", "treat_all")
        }
    shares: dict[str, Any] = _with_values(facts)
    return shares


def _with_values(facts: Any) -> Any:
    """Each share with its value beside its counts; a share of nothing has None."""
    if isinstance(facts, dict):
        if facts.keys() == Share.__dataclass_fields__.keys():
            value = facts["hits"] / facts["images"] if facts["images"] else None
            return {"value": value, **facts}
        return {key: _with_values(value) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [_with_values(value) for value in facts]
    return facts
