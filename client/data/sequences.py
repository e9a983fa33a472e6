"""A hospital's series and outcomes -> its patients as encoded series, split by patient.

`outcomes.csv` says which stays there are, whose they are and how they ended, `series.csv` what was
measured in them (common/sequences/schema.py); either may be Parquet. A row that cannot be used is set
aside and named by its number and column, never by what it says; the others are used. Ids serve to join
the two and to split, and are gone when the cohort is made.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.data.cells import Fault, patient_of, values_of
from client.data.cohort import Cohort
from client.data.quarantine import SetAside
from client.data.record_patients import RecordPatients
from client.data.split import is_validation_patient
from client.data.tables import Part, open_table
from common.errors import DataError
from common.progress import Progress
from common.sequences.encoding import encode, within_grid
from common.sequences.schema import VALUE, Sequences, Variable
from common.tabular.schema import Column, canonical

SERIES, OUTCOMES = "series", "outcomes"
SIDES = ("training", "validation")
MAX_VALUES = 1 << 28  # encoded numbers: 1 GB
_VALUES_AT_ONCE = 1 << 22  # while they are encoded
_ANY = (-1e12, 1e12)

Key = tuple[str, ...]  # a patient, or a patient and a stay


@dataclass(frozen=True, slots=True)
class _Stay:
    where: str  # its row of the outcomes
    label: int
    validation: bool


@dataclass(frozen=True, slots=True)
class _Measurements:
    """M measurements, (M,) each, as `common.sequences.encoding.encode` takes them."""

    stay: npt.NDArray[np.int64]
    time: npt.NDArray[np.float64]
    variable: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]

    @classmethod
    def together(cls, parts: "list[_Measurements]") -> "_Measurements":
        return cls(
            stay=np.concatenate([part.stay for part in parts]),
            time=np.concatenate([part.time for part in parts]),
            variable=np.concatenate([part.variable for part in parts]),
            value=np.concatenate([part.value for part in parts]),
        )


def open_sequences(
    folder: Path,
    sequences: Sequences,
    *,
    progress: Progress | None = None,
    set_aside: list[SetAside] | None = None,
) -> Cohort[RecordPatients]:
    """All usable stays of one hospital, (N, T, F), ordered by patient id, then stay.

    What cannot be used is appended to `set_aside`, by name. DataError for what cannot be used as a
    whole, and when no stay is left, or none of a training patient; its text stays at the hospital.
    """
    told = progress or _untold
    aside = [] if set_aside is None else set_aside
    listed = _read_outcomes(folder, sequences, aside)
    ordinals = {key: number for number, key in enumerate(sorted(listed))}
    parts = _read_series(folder, sequences, ordinals, aside, told)
    measured = np.zeros(len(listed), bool)
    for part in parts:
        measured[part.stay] = True
    aside += [
        SetAside(listed[key].where, "its stay has no measurement that can be used")
        for key, number in ordinals.items()
        if not measured[number]
    ]
    stays = {key: listed[key] for key, number in ordinals.items() if measured[number]}
    _check_whole(folder, list(stays.values()), sequences, aside)
    found = _Measurements.together(parts)
    found = replace(found, stay=(np.cumsum(measured) - 1)[found.stay])
    values = _encoded(len(stays), found, sequences)
    return Cohort(_side(stays, values, False), _side(stays, values, True))


def _side(
    stays: dict[Key, _Stay], values: npt.NDArray[np.float32], validation: bool
) -> RecordPatients:
    """The patients of one side; `stays` and `values` (N, T, F) in the same order, patient by patient."""
    here = np.array([stay.validation == validation for stay in stays.values()])
    each = Counter(key[0] for key, stay in stays.items() if stay.validation == validation)
    return RecordPatients(
        values=values[here],
        labels=np.array([stay.label for stay in stays.values()], np.int64)[here],
        offsets=np.cumsum([0, *each.values()], dtype=np.int64),
    )


def _untold(_done: int, _total: int) -> None:
    pass


def _read_outcomes(folder: Path, sequences: Sequences, aside: list[SetAside]) -> dict[Key, _Stay]:
    """Every stay that is listed once, with an outcome and a side."""
    outcome = Column(name=sequences.outcome, kind="category", categories=sequences.classes)
    side = Column(name=sequences.split or "split", kind="category", categories=SIDES)
    width = len(sequences.key_columns)
    listed: list[tuple[Key, _Stay]] = []
    sides: dict[str, tuple[str, bool]] = {}  # of a patient, as the first row says
    wanted = [canonical(name) for name in sequences.outcome_columns]
    with open_table(folder, wanted, _untold, OUTCOMES) as table:
        for part in table.parts:
            wrong = _Wrong(table.file, part)
            keys = _keys(part, sequences, wrong)
            labels = values_of(part.columns[width], outcome, {""}, wrong.in_part(part))
            late = np.zeros(len(keys))
            if sequences.split is not None:
                late = values_of(part.columns[width + 1], side, {""}, wrong.in_part(part))
            for key, row, label, on in zip(keys, part.rows, labels, late, strict=True):
                if key is None or np.isnan(on):
                    continue
                where, validation = f"{table.file} row {row}", bool(on)
                if sequences.split is None:
                    validation = is_validation_patient(key[0], sequences.validation_fraction)
                # A row that is not used counts too: in a study of other outcomes it may be the one that is.
                first, earlier = sides.setdefault(key[0], (where, validation))
                if earlier != validation:
                    raise DataError(
                        f"{where}: expected all stays of a patient on one side, found this "
                        f"patient on the other side in {first}; correct column "
                        f"'{sequences.split}'"
                    )
                if row not in wrong.rows:
                    listed.append((key, _Stay(where, int(label), validation)))
            aside += wrong.named()
    times = Counter(key for key, _ in listed)
    # Which of several outcomes were the right one nobody can say.
    aside += [
        SetAside(stay.where, "its stay has another row") for key, stay in listed if times[key] > 1
    ]
    return {key: stay for key, stay in listed if times[key] == 1}


def _read_series(
    folder: Path,
    sequences: Sequences,
    ordinals: dict[Key, int],
    aside: list[SetAside],
    progress: Progress,
) -> list[_Measurements]:
    """All usable measurements of the protocol's variables within its grid, of the stays `ordinals`."""
    places = {canonical(name): place for place, name in enumerate(sequences.variable_names)}
    columns = [_value_column(variable) for variable in sequences.variables]
    found: list[_Measurements] = []
    strangers: set[Key] = set()
    wanted = [canonical(name) for name in sequences.series_columns]
    with open_table(folder, wanted, progress, SERIES) as table:
        for whole in table.parts:
            wrong = _Wrong(table.file, whole)
            part, variable, time = _on_the_grid(whole, places, sequences, wrong)
            value = np.empty(len(variable))
            for place, column in enumerate(columns):
                rows = np.flatnonzero(variable == place)
                own = _only(part, rows)
                value[rows] = values_of(own.columns[-1], column, {""}, wrong.in_part(own))
            keys = _keys(part, sequences, wrong)
            stay = np.array(
                [-1 if key is None else ordinals.get(key, -1) for key in keys], np.int64
            )
            for at in np.flatnonzero(stay < 0).tolist():
                key = keys[at]
                if key is not None and key not in strangers:  # one row stands for all of a stay
                    strangers.add(key)
                    wrong.in_part(part)(at, "its stay has no outcome that can be used")
            right = np.array([row not in wrong.rows for row in part.rows], bool) & (stay >= 0)
            found.append(_Measurements(stay[right], time[right], variable[right], value[right]))
            aside += wrong.named()
    seen = {place for part in found for place in np.unique(part.variable).tolist()}
    aside += [
        SetAside(table.file, f"it has no measurement of '{name}' that can be used")
        for place, name in enumerate(sequences.variable_names)
        if place not in seen
    ]
    return found


def _on_the_grid(
    part: Part, places: dict[str, int], sequences: Sequences, wrong: "_Wrong"
) -> tuple[Part, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The rows of the protocol's variables within its grid; of each the variable and the time."""
    column = Column(name=sequences.time.column, kind="number", range=_ANY)
    named = {name: places.get(canonical(name), -1) for name in set(part.columns[-2])}
    variable = np.array([named[name] for name in part.columns[-2]], np.int64)
    part, variable = _only(part, np.flatnonzero(variable >= 0)), variable[variable >= 0]
    time = values_of(part.columns[-3], column, {""}, wrong.in_part(part))
    inside = within_grid(time, sequences)  # a time that is none is outside
    return _only(part, np.flatnonzero(inside)), variable[inside], time[inside]


def _value_column(variable: Variable) -> Column:
    return Column(
        name=VALUE,
        kind="number",
        unit=variable.unit,
        range=variable.range,
        outside=variable.outside,
    )


def _only(part: Part, places: npt.NDArray[np.int64]) -> Part:
    at = places.tolist()
    return Part(
        [part.rows[n] for n in at], [[column[n] for n in at] for column in part.columns], []
    )


def _keys(part: Part, sequences: Sequences, wrong: "_Wrong") -> list[Key | None]:
    """Which stay each row is of; None, and told, where it is nobody's."""
    known: dict[Key, Key | None] = {}  # by cells: a stay has many rows
    keys: list[Key | None] = []
    fault = wrong.in_part(part)
    for at, cells in enumerate(zip(*part.columns[: len(sequences.key_columns)], strict=True)):
        if cells not in known:
            ids = [one for one in map(patient_of, cells) if one is not None]
            known[cells] = tuple(ids) if len(ids) == len(cells) else None
        keys.append(known[cells])
        if keys[-1] is None:
            named = " or ".join(f"column '{name}'" for name in sequences.key_columns)
            fault(at, f"{named} names nobody")
    return keys


class _Wrong:
    """What is wrong with the rows of one part of a table, by their numbers."""

    def __init__(self, file: str, part: Part) -> None:
        self._file = file
        self.rows: dict[int, list[str]] = {
            row: ["it has more cells than the first row, or fewer"] for row in part.uneven
        }

    def in_part(self, part: Part) -> Fault:
        """Takes what is wrong by the place in `part`."""
        return lambda at, what: self.rows.setdefault(part.rows[at], []).append(what)

    def named(self) -> list[SetAside]:
        return [
            SetAside(f"{self._file} row {row}", "; ".join(self.rows[row]))
            for row in sorted(self.rows)
        ]


def _check_whole(
    folder: Path, stays: list[_Stay], sequences: Sequences, aside: list[SetAside]
) -> None:
    """DataError for what only shows over all stays together."""
    if not stays:
        why = f", the first because {aside[0].reason}" if aside else ""
        raise DataError(
            f"{folder}: expected a stay with an outcome and measurements, found none ({len(aside)} rows "
            f"are set aside{why}); correct them, or ask the coordinator what the columns mean"
        )
    if all(stay.validation for stay in stays):
        raise DataError(
            f"{folder}: expected at least one training patient, found all on the validation side; add "
            f"patients"
        )
    if len(stays) * sequences.steps * sequences.features > MAX_VALUES:
        raise DataError(
            f"{folder}: expected at most {MAX_VALUES} numbers in all series together, found more; leave "
            f"out stays, or ask the coordinator for longer steps"
        )


def _encoded(stays: int, found: _Measurements, sequences: Sequences) -> npt.NDArray[np.float32]:
    """(N, T, F) of the measurements `found`, some stays at a time: the encoding needs room."""
    order = np.argsort(found.stay, kind="stable")
    stay = found.stay[order]
    values = np.empty((stays, sequences.steps, sequences.features), np.float32)
    size = max(1, _VALUES_AT_ONCE // (sequences.steps * sequences.features))
    for first in range(0, stays, size):
        last = min(first + size, stays)
        rows = order[slice(*np.searchsorted(stay, [first, last]))]
        values[first:last] = encode(
            last - first,
            found.stay[rows] - first,
            found.time[rows],
            found.variable[rows],
            found.value[rows],
            sequences,
        )
    return values
