"""The records of a protocol: what is refused, in which words, and what the columns become."""

from typing import Any

import pytest
from pydantic import ValidationError

from common.documents import first_problem, tables_of
from common.tabular.schema import MAX_FEATURES, Column, Records, RiskRecords, canonical

AGE = 'name = "age", kind = "number", range = [0, 120]'
SEX = 'name = "sex", kind = "category", categories = ["f", "m"]'


def records(*columns: str, more: str = "") -> RiskRecords:
    tables = ", ".join(f"{{{column}}}" for column in columns)
    text = f'classes = ["0", "1"]\n{more}\ncolumns = [{tables}]'
    return RiskRecords.model_validate(tables_of(text), by_name=False)


def refusal(*columns: str, more: str = "") -> str:
    with pytest.raises(ValidationError) as caught:
        records(*columns, more=more)
    said = first_problem(caught.value, RiskRecords)
    assert said.isprintable()
    return said


def test_a_study_reads_back_as_it_was_written() -> None:
    whole = records(
        AGE + ', unit = "years", outside = "missing", missing = "indicator", center = 54.5',
        SEX + ', missing = "indicator"',
        more='split = "side"\nmissing-values = ["?"]\npatient-id = "id"',
    )
    assert RiskRecords.model_validate(tables_of(whole.to_toml()), by_name=False) == whole
    assert whole.features == ("age", "age missing", "sex = m", "sex missing")
    assert whole.named_columns == ("id", "side", "outcome")


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ('name = "age", kind = "number"', "column 'age' is a number but has no 'range'"),
        ('name = "sex", kind = "category"', "column 'sex' is a category but has no 'categories'"),
        (SEX + ", center = 0.0", "has 'center', which is for a number"),
        (SEX + ', unit = "kg"', "has 'unit', which is for a number"),
        (SEX + ', outside = "clip"', "has 'outside', which is for a number"),
        (AGE + ', categories = ["a","b"]', "has 'categories', which is for a category"),
        (SEX + ', missing = "middle"', "missing is 'refuse' or 'indicator'"),
        ('name = "s", kind = "category", categories = ["1","1.0"]', "has the category '1' twice"),
        ('name = "s", kind = "category", categories = ["1"]', "at least 2 items"),
        (r'name = "\u001b[2Jage", kind = "number", range = [0,5]', "0.name' is '"),
        (r'name = "age\u202e", kind = "number", range = [0,5]', "0.name' is '"),
        (r'name = "a", kind = "number", range = [0,5], unit = "\u202eg"', "0.unit' is '"),
        (r'name = "s", kind = "category", categories = ["m","\u009b1m"]', "categories.1' is '"),
        ('name = "a", kind = "number", range = [5,5]', "must be the lowest, then the highest"),
        ('name = "a", kind = "number", range = [6,5]', "must be the lowest, then the highest"),
        ('name = "a", kind = "number", range = [1e9,1000000000.5]', "must be the lowest"),
        ('name = "a", kind = "number", range = [nan,5]', "but must be"),
        ('name = "a", kind = "number", range = [0,inf]', "but must be"),
        ('name = "a", kind = "number", range = ["0","5"]', "but must be a valid number"),
        (AGE + ', outside = "missing"', "needs missing = 'indicator' or 'middle', found 'refuse'"),
        (AGE + ", scale = 0.0", "but must be greater than 0"),
        (AGE + ", scale = 0.001", "make 60000 of an end of its range but at most 1000"),
        (AGE + ", center = 1e12", "of an end of its range but at most 1000"),
        (AGE + ", rnage = 3", "unknown key 'columns.0.rnage'; did you mean 'range'?"),
        ('name = " a", kind = "number", range = [0,1]', "but must match pattern"),
        ('name = "a\\nb", kind = "number", range = [0,1]', "but must match pattern"),
        ('name = "a", kind = "text"', "but must be 'number' or 'category'"),
        (
            'name = "patient_id", kind = "number", range = [0,1]',
            "names the column 'patient_id' twice",
        ),
        ('name = "outcome", kind = "number", range = [0,1]', "names the column 'outcome' twice"),
    ],
)
def test_what_is_refused(column: str, said: str) -> None:
    assert said in refusal(column)


def test_columns_that_cannot_stand_together_are_refused() -> None:
    assert "names the column 'age' twice" in refusal(AGE, AGE)
    twin = 'name = "a = x", kind = "number", range = [0,1]'
    both = 'name = "a", kind = "category", categories = ["y","x"]'
    assert "become two columns 'a = x'" in refusal(twin, both)
    wide = ", ".join(f"'{n}'" for n in range(MAX_FEATURES + 2))
    with pytest.raises(ValidationError, match=f"become {MAX_FEATURES + 1} numbers a row"):
        Records(columns=(a_category(*wide.replace("'", "").split(", ")),))
    assert "which is a category of column 'a'" in refusal(both, more='missing-values = ["x"]')


def a_category(*categories: str, **more: Any) -> Column:
    return Column(name="c", kind="category", categories=categories, **more)


def test_an_outcome_has_two_classes() -> None:
    with pytest.raises(ValidationError, match="names '1' twice"):
        RiskRecords(classes=("1", "1.0"), columns=(a_category("a", "b"),))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (" 1.0 ", "1"),
        ("1.00", "1"),
        ("-3.0", "-3"),
        ("1.05", "1.05"),
        ("1.0.0", "1.0.0"),
        ("e\u0301", "é"),
        ("١.0", "١.0"),  # digits of another script are a word
    ],
)
def test_texts_are_compared_without_what_programs_add(text: str, same: str) -> None:
    assert canonical(text) == same


def test_a_range_becomes_minus_one_to_one_unless_the_study_says_otherwise() -> None:
    column = Column(name="age", kind="number", range=(20, 80))
    assert column.mapping == (50.0, 30.0)
    assert Column(name="age", kind="number", range=(20, 80), center=54.5).mapping == (54.5, 30.0)
    assert Column(name="age", kind="number", range=(20, 80), scale=9).mapping == (50.0, 9.0)
