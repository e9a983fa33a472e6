"""What a survival model said of patients and what happened to them: it stays with who holds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.histogram import Floats

ROUNDING = 1e-6  # a network computes in float32


@dataclass(frozen=True, eq=False)
class SurvivalScores:
    """Predictions for n patients, one row each, and their follow-up.

    risk: (n,) float64 in 0..1, what the model ranks patients by: the predicted probability of an event
    up to the study's last edge, or for a model without a baseline hazard a number that rises with it.
    survival: (n, K) float64 in 0..1, the predicted probability of no event up to each of the study's K
    edges, never rising; None for a model without a baseline hazard. The last column is 1 - risk.
    time: (n,) float64, 0 or more, in the study's unit: of the event, or of when the patient was last
    seen without it.
    event: (n,) bool, whether there was an event at `time`.
    patient: (n,) int64 ordinals, each once: a patient has one time.

    Accepts whatever numpy converts to these. DataError when lengths differ, a value is out of range or
    not finite, or a patient stands there twice.
    """

    risk: Floats
    survival: Floats | None
    time: Floats
    event: NDArray[np.bool_]
    patient: NDArray[np.int64]

    def __post_init__(self) -> None:
        event = np.asarray(self.event)
        if not np.all((event == 0) | (event == 1)):
            raise DataError("every event must be 0 or 1")
        for name, dtype in (("risk", np.float64), ("time", np.float64), ("patient", np.int64)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        object.__setattr__(self, "event", event.astype(np.bool_))
        shapes = [getattr(self, name).shape for name in ("risk", "time", "event", "patient")]
        if self.risk.ndim != 1 or len(set(shapes)) != 1:
            raise DataError(f"all columns of survival scores must be equally long, found {shapes}")
        if not np.all((self.risk >= 0) & (self.risk <= 1)):
            raise DataError("every risk must be a number in 0..1")
        if not np.all(np.isfinite(self.time) & (self.time >= 0)):
            raise DataError("every time must be a number that is 0 or more")
        if np.unique(self.patient).size != self.patient.size:
            raise DataError("expected each patient once in survival scores and found one twice")
        if self.survival is not None:
            object.__setattr__(self, "survival", self._checked(self.survival))

    def _checked(self, survival: Floats) -> Floats:
        found = np.asarray(survival, dtype=np.float64)
        if found.ndim != 2 or found.shape[0] != self.risk.size or found.shape[1] < 1:
            raise DataError(
                f"predicted survival has a row for each of {self.risk.size} patients and a column for "
                f"each edge, found shape {found.shape}"
            )
        if not np.all((found >= 0) & (found <= 1)):
            raise DataError("every predicted survival must be a number in 0..1")
        if np.any(np.diff(found, axis=1) > ROUNDING):
            raise DataError("predicted survival must not rise from one edge to the next")
        if np.any(np.abs(1 - self.risk - found[:, -1]) > ROUNDING):
            raise DataError("predicted survival at the last edge must be 1 - risk")
        return found

    def columns(self) -> dict[str, NDArray[Any]]:
        """The fields as named arrays of n rows, to be kept in a file; without predictions of survival
        no such column."""
        found: dict[str, NDArray[Any]] = {
            "risk": self.risk,
            "time": self.time,
            "event": self.event,
            "patient": self.patient,
        }
        return found if self.survival is None else found | {"survival": self.survival}

    @staticmethod
    def concatenate(parts: "Sequence[SurvivalScores]") -> "SurvivalScores":
        """All patients of `parts`, one a hospital, renumbered 0, 1, ... in the order of the parts.

        Parts without a patient are left out. No parts give no patients. DataError when the others have
        different numbers of edges, or some predict survival and some do not.
        """
        filled = [part for part in parts if part.risk.size]
        predicted = [part.survival for part in filled if part.survival is not None]
        edges = {part.shape[1] for part in predicted}
        if len(predicted) not in (0, len(filled)) or len(edges) > 1:
            raise DataError(
                "expected survival predicted at the same edges in all parts and found different ones; "
                "judge the same model everywhere"
            )
        risk = np.concatenate([np.empty(0), *(part.risk for part in filled)])
        return SurvivalScores(
            risk=risk,
            survival=np.concatenate(predicted) if predicted else None,
            time=np.concatenate([np.empty(0), *(part.time for part in filled)]),
            event=np.concatenate([np.empty(0, np.bool_), *(part.event for part in filled)]),
            patient=np.arange(risk.size),
        )

    def up_to(self, last: float) -> "SurvivalScores":
        """What was known at the time `last`: whoever was without an event then counts as last seen then.

        An event at `last` is one.
        """
        return SurvivalScores(
            self.risk,
            self.survival,
            np.minimum(self.time, last),
            self.event & (self.time <= last),
            self.patient,
        )
