"""What a study says of its records: which columns, in which public range or categories, with which outcome.

A hospital has one table, `records.csv` or `records.parquet`, with a row or several for each patient.
All that turns a cell into a number is here, so public: nothing is fitted on anyone's patients.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.documents import UNSHOWABLE, Title
from common.protocol import Section

MAX_FEATURES = 4096
MAX_TEXT = 1000  # characters that are compared as names, categories or ids
MOST_HALF_WIDTHS = 1000.0  # how far from 0 a value of the public range may be encoded

Unit = Annotated[str, Field(pattern=rf"^[^{UNSHOWABLE}]{{0,40}}$")]
# The bound keeps every encoded value and its square far from what float32 holds.
Finite = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]

_WHOLE = re.compile(r"(-?[0-9]+)\.0+")


def canonical(text: str) -> str:
    """A cell or category as it is compared: without blanks around it, composed (NFC), 1.0 as 1.

    A whole number that was once in a column with gaps is written 1.0 by most programs. What is longer
    than any name is not composed, which takes the square of its length for some texts.
    """
    text = text.strip()
    if len(text) > MAX_TEXT:
        return text
    text = unicodedata.normalize("NFC", text)
    whole = _WHOLE.fullmatch(text)
    return text if whole is None else whole[1]


def _twice(names: Sequence[str]) -> str | None:
    """One of `names` that is there more than once."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


class Column(Section):
    """One column of the table: a number in a public clinical range, or one of some public categories.

    Of a number, in `unit`:
      `range`    what is possible; it becomes -1..1
      `outside`  a value outside of it: the row is set aside, and named to the hospital ("set-aside"), or
                 the value is moved to the nearer end ("clip") or counts as "missing"
      `center`, `scale`  public constants in place of the middle and half the width of the range, such
                 as the mean that an earlier study released and charged
    Of a category:
      `categories`  the first is the reference, each other one becomes a column of 0 and 1
    `missing`, what an empty cell means: the row is set aside ("refuse"), or it counts as 0, which is the
    centre or the reference, with a further column that says so ("indicator") or, for a number, without
    one ("middle").
    """

    name: Title
    kind: Literal["number", "category"]
    unit: Unit = ""
    range: Annotated[tuple[Finite, Finite], Field(strict=False)] | None = None
    outside: Literal["set-aside", "clip", "missing"] | None = None
    center: Finite | None = None
    scale: Annotated[float, Field(gt=0, le=1e12)] | None = None
    categories: Annotated[tuple[Title, ...], Field(strict=False, min_length=2)] | None = None
    missing: Literal["refuse", "indicator", "middle"] = "refuse"

    @model_validator(mode="after")
    def _whole(self) -> "Column":
        of_number = ("range", "outside", "center", "scale")
        refused = (*of_number, "unit") if self.kind == "category" else ("categories",)
        for key in refused:
            if getattr(self, key) not in (None, ""):
                other = "number" if self.kind == "category" else "category"
                raise ValueError(
                    f"column '{self.name}' is a {self.kind} but has '{key}', which is for a {other}"
                )
        if self.kind == "category":
            self._check_category()
        else:
            self._check_number()
        return self

    def _check_category(self) -> None:
        if self.categories is None:
            raise ValueError(f"column '{self.name}' is a category but has no 'categories'")
        if category := _twice([canonical(category) for category in self.categories]):
            raise ValueError(f"column '{self.name}' has the category '{category}' twice")
        if self.missing == "middle":
            raise ValueError(
                f"column '{self.name}' is a category, so missing is 'refuse' or 'indicator', found "
                f"'middle'; or give what is missing a category of its own"
            )

    def _check_number(self) -> None:
        if self.range is None:
            raise ValueError(f"column '{self.name}' is a number but has no 'range'")
        low, high = self.range
        # So narrow a range would be lost in the rounding of the values themselves.
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            raise ValueError(
                f"the range of column '{self.name}' is {low:g} to {high:g} but must be the lowest, then "
                f"the highest"
            )
        if self.outside == "missing" and self.missing == "refuse":
            raise ValueError(
                f"column '{self.name}' has outside = 'missing', which needs missing = 'indicator' or "
                f"'middle', found 'refuse'"
            )
        center, scale = self.mapping
        furthest = max(abs(low - center), abs(high - center)) / scale
        if furthest > MOST_HALF_WIDTHS:
            raise ValueError(
                f"center and scale of column '{self.name}' make {furthest:g} of an end of its range but "
                f"at most {MOST_HALF_WIDTHS:g}; correct them"
            )

    @property
    def mapping(self) -> tuple[float, float]:
        """(center, scale) of a number: a value x is encoded as (x - center) / scale."""
        low, high = self.range or (-1.0, 1.0)
        center = (low + high) / 2 if self.center is None else self.center
        return center, (high - low) / 2 if self.scale is None else self.scale

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns that this one becomes, in their order."""
        own: tuple[str, ...] = (self.name,)
        if self.categories is not None:
            own = tuple(f"{self.name} = {category}" for category in self.categories[1:])
        return (*own, f"{self.name} missing") if self.missing == "indicator" else own


class Records(Section):
    """The records of a study: who a row is of, and what of it the model sees.

    A cell that is empty or one of `missing_values` is missing, in every column. `split` names a column
    that says "training" or "validation" of each row; without it `validation_fraction` of the patients,
    by a hash of their id, are never trained on.
    """

    patient_id: Title = "patient_id"
    split: Title | None = None
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    missing_values: Annotated[tuple[Title, ...], Field(strict=False, max_length=20)] = ()
    columns: Annotated[tuple[Column, ...], Field(strict=False, min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _whole(self) -> "Records":
        names = [*self.named_columns, *(column.name for column in self.columns)]
        if name := _twice([canonical(name) for name in names]):
            raise ValueError(f"records names the column '{name}' twice")
        features = self.features
        if len(features) > MAX_FEATURES:
            raise ValueError(
                f"records become {len(features)} numbers a row but at most {MAX_FEATURES}; merge rare "
                f"categories"
            )
        if name := _twice(features):
            raise ValueError(f"records become two columns '{name}'; rename one")
        for column in self.columns:
            for value in map(canonical, self.missing_values):
                if value in map(canonical, column.categories or ()):
                    raise ValueError(
                        f"records.missing-values has '{value}', which is a category of column "
                        f"'{column.name}'"
                    )
        return self

    @property
    def named_columns(self) -> tuple[str, ...]:
        """Columns that the table must have and the model does not see."""
        return (self.patient_id,) if self.split is None else (self.patient_id, self.split)

    @property
    def features(self) -> tuple[str, ...]:
        """D names, in the order of the encoded columns."""
        return tuple(name for column in self.columns for name in column.features)


class RiskRecords(Records):
    """Records with an outcome of two `classes`, as the column `outcome` writes them; the last is positive."""

    outcome: Title = "outcome"
    classes: Annotated[tuple[Title, Title], Field(strict=False)]

    @model_validator(mode="after")
    def _two_classes(self) -> "RiskRecords":
        if canonical(self.classes[0]) == canonical(self.classes[1]):
            raise ValueError(f"records.classes names '{self.classes[0]}' twice")
        return self

    @property
    def named_columns(self) -> tuple[str, ...]:
        return (*super().named_columns, self.outcome)

    @property
    def label_columns(self) -> tuple[Column, ...]:
        """The outcome, read like any other column."""
        return (Column(name=self.outcome, kind="category", categories=self.classes),)
