"""What a study says of its series: which variables, on which grid of time, with which outcome.

A hospital has two files. `series.csv` is in long format, one measurement a row, with the columns
patient, stay (if wanted), time, `variable` and `value`; other variables than the protocol's are left
alone. `outcomes.csv` has one row a stay: patient, stay, outcome and, if wanted, split. All ranges and
steps are public.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.documents import PositiveFloat, Title
from common.protocol import Section
from common.tabular.schema import Finite, Unit, canonical

VARIABLE, VALUE = "variable", "value"  # columns of series.csv
MAX_CELLS = 10_000  # steps x variables: a stay is at most 120 kB in memory


class Variable(Section):
    """One measured variable; `range` is its public clinical range, in `unit`, and becomes -1..1.

    A value outside of the range is not used and named to the hospital (`outside = "set-aside"`), or
    moved to the nearer end of it ("clip").
    """

    name: Title
    unit: Unit = ""
    range: Annotated[tuple[Finite, Finite], Field(strict=False)]
    outside: Literal["set-aside", "clip"] = "set-aside"

    @model_validator(mode="after")
    def _rises(self) -> "Variable":
        low, high = self.range
        # So narrow a range would be lost in the rounding of the values themselves.
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            raise ValueError(
                f"the range of variable '{self.name}' is {low:g} to {high:g} but must be the lowest, "
                f"then the highest"
            )
        return self


class Time(Section):
    """The column that says when, as a number of `unit` since `zero`, the same event everywhere."""

    column: Title = "time"
    unit: Literal["minutes", "hours", "days"] = "hours"
    zero: Title = "admission"


class Sequences(Section):
    """The series of a study on a public grid: `steps` steps of `step` time units each, from time 0.

    What lies outside of the grid is not used, whatever the length of a series; a series that ends
    before the grid does goes on as unobserved (common/sequences/encoding.py). `classes` are the
    outcomes as the files write them, the last one is positive. With `stay`, the name of a column, a
    patient has one series for every stay; the patient remains the unit of privacy. `split` names a
    column of `outcomes.csv` that says "training" or "validation" of each row; without it
    `validation_fraction` of the patients, by a hash of their id, are never trained on.
    """

    classes: Annotated[tuple[Title, Title], Field(strict=False)]
    patient_id: Title = "patient_id"
    stay: Title | None = None
    outcome: Title = "outcome"
    split: Title | None = None
    time: Time = Time()
    steps: Annotated[int, Field(ge=2, le=1000)]
    step: PositiveFloat = 1.0
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    variables: Annotated[tuple[Variable, ...], Field(min_length=1, max_length=200, strict=False)]

    @model_validator(mode="after")
    def _whole(self) -> "Sequences":
        if canonical(self.classes[0]) == canonical(self.classes[1]):
            raise ValueError(f"sequences.classes names '{self.classes[0]}' twice")
        named: dict[str, Sequence[str]] = {
            "variables": [canonical(name) for name in self.variable_names],
            "columns of series.csv": self.series_columns,
            "columns of outcomes.csv": self.outcome_columns,
        }
        for what, names in named.items():
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"sequences names '{name}' twice among the {what}")
        if self.steps * len(self.variables) > MAX_CELLS:
            raise ValueError(
                f"sequences has {self.steps} steps of {len(self.variables)} variables but at most "
                f"{MAX_CELLS} together; take longer steps or fewer variables"
            )
        return self

    @property
    def variable_names(self) -> list[str]:
        return [variable.name for variable in self.variables]

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Which stay a row is of, in both files."""
        return (self.patient_id,) if self.stay is None else (self.patient_id, self.stay)

    @property
    def series_columns(self) -> tuple[str, ...]:
        return (*self.key_columns, self.time.column, VARIABLE, VALUE)

    @property
    def outcome_columns(self) -> tuple[str, ...]:
        split = () if self.split is None else (self.split,)
        return (*self.key_columns, self.outcome, *split)

    @property
    def features(self) -> int:
        """F, numbers a step: value, observed and time since, of each variable."""
        return 3 * len(self.variables)

    @property
    def window(self) -> float:
        """The grid's length in time units: T steps."""
        return self.steps * self.step
