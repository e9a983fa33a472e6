"""The judge of two classes: AUROC, and a histogram of the probability of the positive class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from common.histogram import Floats, Interval, score_histogram
from common.judging.judge import Columns, Judge
from common.metrics import Scores, auroc, patients_per_class
from common.protocol import Evaluation, StudyProtocol
from common.released import Reading, read

if TYPE_CHECKING:
    from common.clinical.delong import Difference

# Score bins of a released histogram: fixed and public. Noise falls on every cell, so few are better
# (common/histogram.py has the figures).
HISTOGRAM_BINS = 16


class TwoClassEvaluation(Evaluation):
    """When hospitals judge the global model on their validation patients, and at which `prevalence`.

    That is the share of positives at which calibration is stated: it depends on how common they are
    where the model is used, which no hospital's case mix says.
    """

    prevalence: Annotated[float, Field(gt=0, lt=1)] = 0.2


class Binary(Judge[Scores]):
    """Row 0 of a histogram are the negatives, row 1 the positives (`score_histogram`).

    `unit` is the logit up to which the bins are even. Images have 1: a trained CNN says much. A
    logistic regression under privacy says little: on the heart example (269 validation patients,
    standard deviation of the logit .39 after 6 rounds, .71 after 12, 1.85 without privacy) the AUROC
    lost by ties and the error with noise 1 in a cell were

        unit    after 6       after 12      without privacy
        1       .032 / .047   .010 / .031   .006 / .024
        1/4     .011 / .027   .006 / .028   .005 / .024
        1/10    .015 / .036   .010 / .029   .008 / .020

    and of a GRU whose logits lie about -1.8 .024 / .042 with 1 and .042 / .053 with 1/4.
    """

    def __init__(self, unit: float = 1.0) -> None:
        self.unit = unit

    figure = "AUROC"
    key = "auroc"
    release = "score-histogram"
    cells = "patients by class and score"
    each = "each class"

    def scores(
        self,
        protocol: StudyProtocol,  # noqa: ARG002
        outputs: Floats,
        labels: NDArray[Any],
        patient: NDArray[np.int64],
        groups: Columns,
    ) -> Scores:
        """`outputs` (n, 1) are probabilities; one that is not finite becomes 0.5, which says nothing."""
        score = np.nan_to_num(outputs.reshape(-1), nan=0.5, posinf=0.5, neginf=0.5)
        return Scores(score=score, label=labels, patient=patient, **groups)

    def columns(self, scores: Scores) -> Columns:
        columns = {"score": scores.score, "label": scores.label, "patient": scores.patient}
        if scores.series is not None and scores.finding is not None:
            columns |= {"series": scores.series, "finding": scores.finding}
        return columns

    def of_columns(self, columns: Columns) -> Scores:
        return Scores(
            score=columns["score"],
            label=columns["label"],
            patient=columns["patient"],
            series=columns.get("series"),
            finding=columns.get("finding"),
        )

    def concatenate(self, parts: Sequence[Scores]) -> Scores:
        return Scores.concatenate(list(parts))

    def patients(self, scores: Scores) -> int:
        return scores.patients

    def groups(self, scores: Scores) -> tuple[int, ...]:
        return patients_per_class(scores.label, scores.patient)

    def groups_of(
        self,
        protocol: StudyProtocol,  # noqa: ARG002
        labels: NDArray[Any],
        patient: NDArray[np.int64],
    ) -> tuple[int, ...]:
        return patients_per_class(labels, patient)

    def bins(self, protocol: StudyProtocol) -> int:  # noqa: ARG002
        return HISTOGRAM_BINS

    def histogram(self, protocol: StudyProtocol, scores: Scores) -> Floats:
        return score_histogram(scores, self.bins(protocol), self.unit)

    def discrimination(self, scores: Scores) -> float | None:
        return auroc(scores)

    def interval(self, scores: Scores) -> Interval | None:
        from common.clinical.delong import auroc_interval

        return auroc_interval(scores)

    def difference(self, ours: Scores, theirs: Scores) -> "Difference | None":
        from common.clinical.delong import auroc_difference

        return auroc_difference(ours, theirs)

    def read(
        self,
        protocol: StudyProtocol,
        histogram: ArrayLike,
        noise_std: float,
        others: Sequence[ArrayLike] = (),
    ) -> Reading | None:
        return read(histogram, noise_std, prevalence_of(protocol), others, self.unit)


def prevalence_of(protocol: StudyProtocol) -> float:
    """The share of positives at which a study of two classes states its calibration; TypeError else."""
    if not isinstance(protocol.evaluation, TwoClassEvaluation):
        raise TypeError(f"a study of {protocol.task} states no prevalence")
    return protocol.evaluation.prevalence


class WithClasses(Protocol):
    """The data table of a study of two classes."""

    @property
    def classes(self) -> tuple[str, str]: ...


def classes_of(protocol: StudyProtocol) -> tuple[str, str]:
    """The names of the two classes, the positive one last."""
    return cast("WithClasses", protocol.data).classes
