"""What a study asks of a hospital's series and makes of them, in words."""

from common.sequences.schema import Sequences, Variable
from common.tasks.words import Words

UNREAD = (
    "rows and stays that do not fit the protocol are not used, and intramural-client check names them at "
    "the hospital, by file, row and column"
)


def asked_series(sequences: Sequences) -> list[str]:
    """Sentences on the two tables, on the grid of time, and on each variable that the model sees."""
    keys = " and ".join(f"'{column}'" for column in sequences.key_columns)
    time, (negative, positive) = sequences.time, sequences.classes
    return [
        f"Two tables name their rows by {keys}, never shown to the model: outcomes has a row for each stay "
        f"with '{sequences.outcome}', one of {negative}, {positive}, to be predicted; series has a row for "
        f"each measurement, with '{time.column}', 'variable' and 'value'. A row that does not fit is not "
        f"used: intramural-client check names it, here alone.",
        f"'{time.column}' counts {time.unit} since {time.zero}. The first {sequences.window:g} are used, "
        f"in {sequences.steps} steps; the outcome should not be known by then, since the end of a series "
        f"tells it otherwise.",
        *(f"Used: {_said(variable)}." for variable in sequences.variables),
    ]


def _said(variable: Variable) -> str:
    low, high = variable.range
    unit = f" {variable.unit}" if variable.unit else ""
    beyond = "not used" if variable.outside == "set-aside" else "moved to the nearer end"
    return f"'{variable.name}', {low:g} to {high:g}{unit}; a value outside of it is {beyond}"


def of_sequences(sequences: Sequences) -> Words:
    """How papers about a model of such series word them."""
    time, (negative, positive) = sequences.time, sequences.classes
    names = ", ".join(sequences.variable_names)
    return Words(
        input=f"{len(sequences.variables)} variables ({names}) in {sequences.steps} steps of "
        f"{sequences.step:g} {time.unit} since {time.zero}; in each step the last value, or the one before, "
        f"by its public range as -1..1, whether there was one, and the time since the last; none fitted to "
        f"anybody's data",
        predictors=f"{names}, when they were measured and how often; nothing else about the patient",
        output=f"a score from 0 to 1 for “{positive}”, no probability before it is calibrated",
        outcome=f"“{positive}” is positive, “{negative}” negative, as the column “{sequences.outcome}” of "
        f"each hospital's outcomes says of a stay",
        unread=UNREAD,
        use="what is measured in patients' stays",
        groups="Figures are of all patients together: nothing is known by age, sex, ward or case mix.",
        elsewhere="at another hospital, or where patients are measured more often or more seldom",
        not_for=(
            "alarms at the bedside: a score is of one moment, the end of the series",
            "other outcomes, other units, or another zero of time than the protocol's",
        ),
    )
