"""The judge of time to an event: Harrell's concordance index, and a table of risk, time and event."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.histogram import Floats, Interval
from common.judging.judge import Columns, Judge
from common.protocol import StudyProtocol
from common.survival.scores import SurvivalScores
from common.survival.table import cells, survival_table

if TYPE_CHECKING:
    from common.clinical.delong import Difference
    from common.survival.reading import SurvivalReading
    from common.tasks.survival.study import SurvivalStudy  # which imports this module


class Survival(Judge[SurvivalScores]):
    """Row 0 of a histogram are patients without, row 1 with an event up to the last edge."""

    figure = "concordance index"
    key = "concordance"
    release = "survival-histogram"
    cells = "patients by event, time and predicted risk"
    each = "each group, with and without the event,"

    def scores(
        self,
        protocol: StudyProtocol,
        outputs: Floats,
        labels: NDArray[Any],
        patient: NDArray[np.int64],
        groups: Columns,  # noqa: ARG002
    ) -> SurvivalScores:
        """`outputs` (n, 1 + K) are the risk and survival at each edge; (n, 1) without a baseline.

        A patient for whom anything is not finite gets the risk 1/2 and survival in a straight line to it.
        """
        edges = edges_of(protocol)
        said = outputs if outputs.size else np.empty((0, 1 + len(edges)))
        line = 1 - 0.5 * np.asarray(edges) / edges[-1]
        nothing = np.concatenate([[0.5], line])[: said.shape[1]]
        finite = np.isfinite(said).all(axis=1, keepdims=True)
        said = np.where(finite, said, nothing)
        times = labels.reshape(-1, 2)
        return SurvivalScores(
            risk=said[:, 0],
            survival=said[:, 1:] if said.shape[1] > 1 else None,
            time=times[:, 0],
            event=times[:, 1],
            patient=patient,
        ).up_to(edges[-1])

    def columns(self, scores: SurvivalScores) -> Columns:
        return scores.columns()

    def of_columns(self, columns: Columns) -> SurvivalScores:
        return SurvivalScores(
            risk=columns["risk"],
            survival=columns.get("survival"),
            time=columns["time"],
            event=columns["event"],
            patient=columns["patient"],
        )

    def concatenate(self, parts: Sequence[SurvivalScores]) -> SurvivalScores:
        return SurvivalScores.concatenate(parts)

    def patients(self, scores: SurvivalScores) -> int:
        return int(scores.risk.size)

    def groups(self, scores: SurvivalScores) -> tuple[int, ...]:
        """Patients without and with an event up to the last edge."""
        with_event = int(scores.event.sum())
        return scores.event.size - with_event, with_event

    def groups_of(
        self,
        protocol: StudyProtocol,
        labels: NDArray[Any],
        patient: NDArray[np.int64],  # noqa: ARG002  (a patient is there once)
    ) -> tuple[int, ...]:
        time, event = labels.reshape(-1, 2).T
        with_event = int(((event == 1) & (time <= edges_of(protocol)[-1])).sum())
        return len(labels) - with_event, with_event

    def bins(self, protocol: StudyProtocol) -> int:
        return cells(edges_of(protocol))

    def histogram(self, protocol: StudyProtocol, scores: SurvivalScores) -> Floats:
        return survival_table(scores, edges_of(protocol))

    def discrimination(self, scores: SurvivalScores) -> float | None:
        from common.survival.concordance import harrell

        return harrell(scores)

    def interval(self, scores: SurvivalScores) -> Interval | None:
        from common.survival.concordance import harrell_interval

        return harrell_interval(scores)

    def difference(self, ours: SurvivalScores, theirs: SurvivalScores) -> "Difference | None":
        from common.survival.concordance import harrell_difference

        return harrell_difference(ours, theirs)

    def read(
        self,
        protocol: StudyProtocol,
        histogram: ArrayLike,
        noise_std: float,
        others: Sequence[ArrayLike] = (),
    ) -> "SurvivalReading | None":
        from common.survival.reading import read_table

        study = cast("SurvivalStudy", protocol)
        return read_table(
            histogram,
            noise_std,
            study.survival.edges,
            others,
            ranks_only=study.ranks_only,
        )


def edges_of(protocol: StudyProtocol) -> tuple[float, ...]:
    """The rising ends (K,) of the study's intervals, in its unit, as float32 has them.

    So have labels, and training: a time that is an edge must not come after it.
    """
    edges = cast("SurvivalStudy", protocol).survival.edges
    return tuple(np.array(edges, dtype=np.float32).tolist())
