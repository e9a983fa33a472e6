"""What a study asks of a hospital's table and makes of it, in words."""

from collections.abc import Sequence

from common.tabular.schema import Column, Records
from common.tasks.words import Words

MISSING = {
    "refuse": "may not be missing",
    "indicator": "may be missing, which the model is told",
    "middle": "may be missing and then counts as the middle",
}


def asked_columns(records: Records, labels: Sequence[Column]) -> list[str]:
    """One sentence on the table, and one for each column that the model sees or learns to predict."""
    return [
        f"The table has the columns '{records.patient_id}' (whose row it is; it is never shown to the "
        f"model) and those below. A row that does not fit is not used: intramural-client check names it, "
        f"here alone. All that turns a cell into a number is in the protocol.",
        *(f"To be predicted: {_said(column)}." for column in labels),
        *(f"Used: {_said(column)}; {MISSING[column.missing]}." for column in records.columns),
    ]


def _said(column: Column) -> str:
    if column.categories is not None:
        return f"'{column.name}', one of {', '.join(column.categories)}"
    low, high = column.range or (0.0, 0.0)
    unit = f" {column.unit}" if column.unit else ""
    return f"'{column.name}', {low:,.10g} to {high:,.10g}{unit}"


UNREAD = (
    "rows that do not fit the protocol are not used, and intramural-client check names them at the hospital, "
    "by row and column"
)


def of_records(records: Records, *, output: str, outcome: str) -> Words:
    """How papers about a model of such records word them; `output` and `outcome` as in `Words`."""
    names = ", ".join(column.name for column in records.columns)
    return Words(
        input=f"{len(records.columns)} columns of a record ({names}) as {len(records.features)} numbers: "
        f"numbers by their public range or public constants, categories as 0 and 1; none fitted to "
        f"anybody's data",
        predictors=f"{names}; nothing else about the patient",
        output=output,
        outcome=outcome,
        unread=f"{UNREAD}; {_empty(records)}",
        use="patients' records",
        groups="Figures are of all patients together: nothing is known by age, sex or case mix, whether or "
        "not the model sees them.",
        elsewhere="at another hospital, or where records are kept otherwise",
        not_for=(
            "other outcomes, and patients whom the study's hospitals would not have recorded",
            "records with other units, ranges or categories than the protocol's",
        ),
    )


EMPTY = {
    "refuse": "sets its row aside",
    "indicator": "counts as the middle or the reference, and the model is told",
    "middle": "counts as the middle",
}


def _empty(records: Records) -> str:
    """ "an empty cell of age sets its row aside; an empty cell of ...", by the columns' public rules."""
    said = []
    for rule, then in EMPTY.items():
        names = [column.name for column in records.columns if column.missing == rule]
        if names:
            said.append(f"an empty cell of {', '.join(names)} {then}")
    return "; ".join(said)
