"""Cells of one column of a table, as text -> numbers, and what is wrong with those that are none.

What is wrong is said in fixed words with the column's name, which the protocol has: never with a value.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress

import numpy as np

from client.data.split import canonical_patient_id
from common.tabular.encoding import Flags, Floats, outside, settled
from common.tabular.schema import Column, canonical

Fault = Callable[[int, str], None]
"""Told the place of a cell and what is wrong with it."""

_NUMERIC = "0123456789+-.eE"  # of these alone float() makes no nan, inf or 1_000
_MOST_DIGITS = 64  # characters of a number: more are a mistake, and thousands are slow to read
_MOST_ID = 128
# What programs write where there is no patient id: all who have none would become one patient.
_NO_ID = {"", "nan", "none", "null", "na", "n/a", "<na>", "nat", "-", "?"}
_ROUNDED = re.compile(r"[0-9](\.[0-9]+)?E\+[0-9]+")  # 1.23E+11: a long id after a spreadsheet
_TRUTH = (("0", "false", "False", "FALSE"), ("1", "true", "True", "TRUE"))
_FAULTY = math.inf  # in place of a value that is none


def values_of(cells: Sequence[str], column: Column, missing: Set[str], fault: Fault) -> Floats:
    """(N,) settled values as `common.tabular.encoding` has them; where a fault was told they mean nothing.

    `missing` are the canonical texts of a missing value, "" among them.
    """

    def each(flags: Flags, wrong: str) -> None:
        for at in np.flatnonzero(flags):
            fault(int(at), f"column '{column.name}' {wrong}")

    if column.categories is None:
        values = _numbers(cells, missing)
        each(np.isinf(values), "is not a plain number such as -12.5, with a point")
    else:
        values = _places(cells, _places_of(column.categories), missing)
        each(np.isinf(values), "is none of its categories")
    if column.missing == "refuse":
        each(np.isnan(values), "is missing")
    values[np.isinf(values)] = math.nan
    if column.outside in (None, "set-aside"):
        each(outside(values, column), "is outside of its public range")
    return settled(values, column)


def _numbers(cells: Sequence[str], missing: Set[str]) -> Floats:
    """Finite numbers, NaN for what is missing."""
    as_numbers = {number for text in missing if math.isfinite(number := _number(text))}
    # Numbers in every cell, as most columns are: a million rows in seconds. What is missing is none of
    # them, or a cell such as 1e999 would be missing or faulty as other patients' cells decide.
    if all(text.strip(_NUMERIC) for text in missing if text) and not "".join(cells).strip(_NUMERIC):
        with suppress(ValueError):
            if max(map(len, cells), default=0) <= _MOST_DIGITS:
                return np.array(list(map(float, cells)), np.float64)
    values = np.full(len(cells), math.nan)
    for at, cell in enumerate(map(str.strip, cells)):
        if cell not in missing and (number := _number(cell)) not in as_numbers:
            values[at] = number
    return values


def _number(text: str) -> float:
    if len(text) <= _MOST_DIGITS and not text.strip(_NUMERIC):
        try:
            return float(text)  # infinite for 1e999
        except ValueError:
            pass
    return _FAULTY


def _places(cells: Sequence[str], places: Mapping[str, int], missing: Set[str]) -> Floats:
    """Places among the categories, NaN for what is missing."""
    found: dict[str, float] = {}  # by cell: a column of categories has few different ones
    for cell in set(cells):
        text = canonical(cell)
        found[cell] = math.nan if text in missing else places.get(text, _FAULTY)
    return np.array([found[cell] for cell in cells], np.float64)


def _places_of(categories: Sequence[str]) -> dict[str, int]:
    """The place of each category by its canonical text; of a pair of truth values, however written."""
    places = {canonical(category): place for place, category in enumerate(categories)}
    own = [[word for word in words if word in places] for words in _TRUTH]
    if len(places) == 2 and all(own):
        for words, (one,) in zip(_TRUTH, own, strict=True):
            places |= dict.fromkeys(words, places[one])
    return places


def patient_of(cell: str) -> str | None:
    """The patient id in a cell, canonical; None where it names nobody, or many alike."""
    text = canonical_patient_id(cell)
    # A formula or its error (#REF!) is what a spreadsheet writes for many patients alike.
    if text.casefold() in _NO_ID or text[0] in "=#" or _ROUNDED.fullmatch(text):
        return None
    return text if len(text) <= _MOST_ID and text.isprintable() else None
