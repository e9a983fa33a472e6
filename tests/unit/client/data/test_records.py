"""A hospital's table of records: what is read, what is set aside by row and column, what is refused."""

import os
import pickle
import random
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data import tables
from client.data.records import ReadRecords
from client.data.split import is_validation_patient
from common.errors import DataError
from common.tabular.schema import Column, RiskRecords
from tests.unit.client.data.making_records import (
    AGE,
    BMI,
    HEADER,
    SEX,
    STUDY,
    Row,
    Writer,
    encoded,
    first_row,
    read,
    rows,
    write_csv,
    write_semicolons,
    write_texts,
)

WRITERS = [write_csv, write_semicolons, write_texts]

# What no rule lets pass, by column. Some could be read as something by a less strict reader.
DEFECTS = {
    "patient_id": [
        "",
        "  ",
        "NaN",
        "NULL",
        "=A1&B1",
        "#REF!",
        "1.23457E+11",
        "P" * 129,
        "P\x0007",
        "P\u200b1",
        "P\n1",
    ],
    "age": [
        "",
        "old",
        "36,6",
        "1,234",
        "nan",
        "-inf",
        "1e999",
        "120.001",
        "-1e-9",
        "=1+2",
        "0x10",
        "1_0",
        "\uff19",
        "9" * 5000,
        "1e1000000",
        "\x005",
        "1 2",
        "--1",
        "1e",
        "?",
    ],
    "sex": ["", "M", "female", "=m", "f\x00", "0", "\u0308f", "m" * 100_000],
    "bmi": ["9.99", "kg", "NA", "Infinity"],
    "outcome": ["", "YES", "1", "maybe"],
}


def refusal(folder: Path, study: RiskRecords = STUDY, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, study, **options)
    text = str(caught.value)
    assert "expected" in text, text
    assert "found" in text, text
    return text


def messages(found: ReadRecords) -> str:
    return "\n".join(f"{one.what}: {one.reason}" for one in found.set_aside)


# --- what is read


@pytest.mark.parametrize("write", WRITERS)
def test_good_rows_are_read_as_they_were_written(tmp_path: Path, write: Writer) -> None:
    table = rows(40)
    table[3]["bmi"] = ""
    write(tmp_path, HEADER, table)
    found = read(tmp_path)
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, encoded(table), atol=1e-6)
    assert found.labels[:, 0].tolist() == [row["outcome"] == "yes" for row in table]
    assert found.patient.tolist() == list(range(40))
    assert (found.set_aside, found.unused) == ([], 0)


def test_a_million_characters_of_other_columns_are_ignored_and_counted(tmp_path: Path) -> None:
    table = [{"note": 'a, long\n"note"' * 7000, **row, "": "", "x": "1"} for row in rows(4)]
    write_csv(tmp_path, ["note", *HEADER[::-1], "", "x"], table)
    found = read(tmp_path)
    np.testing.assert_allclose(found.values, encoded(table), atol=1e-6)
    assert found.unused == 3


def test_what_spreadsheets_and_programs_add_changes_nothing(tmp_path: Path) -> None:
    study = RiskRecords(
        columns=(AGE, Column(name="grade", kind="category", categories=("1", "2"))),
        classes=("0", "1"),
    )
    lines = [
        '\ufeff patient_id,"age",grade ,outcome',
        "7.0, 50 ,1.0,True",
        "",
        "7,5.0e1,2,false",
        '"8","+50.","1","0"',
    ]
    (tmp_path / "records.csv").write_bytes("\r\n".join(lines).encode())
    found = read(tmp_path, study)
    assert found.patient.tolist() == [0, 0, 1]
    assert found.rows.tolist() == [2, 4, 5]
    assert found.labels[:, 0].tolist() == [1, 0, 0]
    np.testing.assert_allclose(found.values, [[-1 / 6, 0], [-1 / 6, 1], [-1 / 6, 0]], atol=1e-6)


def test_a_public_text_or_number_stands_for_what_is_missing(tmp_path: Path) -> None:
    table = rows(4)
    for row, text in zip(table, ("?", "-9", "-9.0", "30"), strict=True):
        row["bmi"] = text
    write_csv(tmp_path, HEADER, table)
    study = STUDY.model_copy(update={"missing_values": ("?", "-9")})
    assert read(tmp_path, study).values[:, 3].tolist() == [1, 1, 1, 0]


def test_what_is_missing_in_a_row_depends_on_no_other_row(tmp_path: Path) -> None:
    """In a column of nothing but numbers too, which is read in another way."""
    table = rows(3)
    table[0]["bmi"] = "1e999"
    study = STUDY.model_copy(update={"missing_values": ("1e999",)})
    used = []
    for other in ("30", "of others"):
        table[1]["bmi"] = other
        write_csv(tmp_path, HEADER, table)
        used.append(2 in read(tmp_path, study).rows)
    assert used == [True, True]


def test_all_rows_of_a_patient_are_its_views_on_one_side(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    table = [{**row, "patient_id": f"P{n % 40}"} for n, row in enumerate(rows(120))]
    random.Random(seed).shuffle(table)
    write_csv(tmp_path, HEADER, table)
    found = read(tmp_path)
    cohort = found.cohort(found.labels[:, 0].astype(np.int64))
    ids = sorted({row["patient_id"] for row in table})
    validation = [one for one in ids if is_validation_patient(one, 0.2)]
    assert (len(cohort.training), len(cohort.validation)) == (40 - len(validation), len(validation))
    assert len(validation) > 0
    for side, names in (
        (cohort.training, [one for one in ids if one not in validation]),
        (cohort.validation, validation),
    ):
        for at, name in enumerate(names):
            own = [row for row in table if row["patient_id"] == name]
            np.testing.assert_allclose(
                side.views(np.arange(len(side.labels))[side.of(at)]), encoded(own), atol=1e-6
            )
            assert side.labels[side.of(at)].tolist() == [row["outcome"] == "yes" for row in own]


def test_a_table_that_has_the_split_is_split_so(tmp_path: Path) -> None:
    study = STUDY.model_copy(update={"split": "fold"})
    table = [{**row, "fold": ("training", "validation")[n > 6]} for n, row in enumerate(rows(10))]
    table[2]["fold"] = "test"
    write_csv(tmp_path, [*HEADER, "fold"], table)
    found = read(tmp_path, study)
    cohort = found.cohort(found.labels[:, 0].astype(np.int64))
    assert (len(cohort.training), len(cohort.validation)) == (6, 3)
    assert messages(found) == "records.csv row 4: column 'fold' is none of its categories"
    table[2] = {**table[9], "fold": "training"}
    write_csv(tmp_path, [*HEADER, "fold"], table)
    assert "records.csv row 11: expected all rows of a patient on one side" in refusal(
        tmp_path, study
    )


def test_a_row_that_is_not_used_may_not_say_another_side_either(tmp_path: Path) -> None:
    """A study of other columns may use it, and the patient would be on both accounts."""
    study = STUDY.model_copy(update={"split": "fold"})
    table = [{**row, "fold": "training"} for row in rows(6)]
    table.append({**table[2], "age": "old", "fold": "validation"})
    write_csv(tmp_path, [*HEADER, "fold"], table)
    assert "records.csv row 8: expected all rows of a patient on one side" in refusal(
        tmp_path, study
    )


def test_without_validation_patients_that_side_is_empty(tmp_path: Path) -> None:
    write_csv(tmp_path, HEADER, rows(10))
    found = read(tmp_path, STUDY.model_copy(update={"validation_fraction": 0.0}))
    cohort = found.cohort(found.labels)
    assert (len(cohort.training), len(cohort.validation)) == (10, 0)
    assert cohort.validation.views(np.arange(0)).shape == (0, 4)


def test_a_study_of_one_row_each_takes_the_first_that_can_be_used(tmp_path: Path) -> None:
    table = [{**row, "patient_id": "P1"} for row in rows(3)] + rows(6)[4:]
    table[0]["age"] = "old"
    write_csv(tmp_path, HEADER, table)
    found = read(tmp_path, one_row_each=True)
    assert found.rows.tolist() == [3, 5, 6]
    assert [one.what for one in found.set_aside] == ["records.csv row 2", "records.csv row 4"]
    assert "its patient has an earlier row" in found.set_aside[1].reason


def test_nothing_of_a_cohort_names_a_patient_or_can_be_changed(tmp_path: Path) -> None:
    table = [{**row, "patient_id": f"SECRET^{n}"} for n, row in enumerate(rows(12))]
    write_csv(tmp_path, HEADER, table)
    found = read(tmp_path)
    cohort = found.cohort(found.labels[:, 0].astype(np.int64))
    assert b"SECRET" not in pickle.dumps(cohort)
    for array in (cohort.training.values, cohort.training.labels, cohort.training.offsets):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


# --- what is set aside


@st.composite
def planted(draw: st.DrawFn) -> tuple[list[dict[str, str]], dict[int, set[str]]]:
    """A table, and the columns with a defect by the place of their row."""
    table = rows(draw(st.integers(2, 30)))
    where = draw(
        st.sets(st.tuples(st.integers(1, len(table) - 1), st.sampled_from(HEADER)), max_size=8)
    )
    defects: dict[int, set[str]] = {}
    for at, column in sorted(where):
        table[at][column] = draw(st.sampled_from(DEFECTS[column]))
        defects.setdefault(at, set()).add(column)
    return table, defects


@settings(max_examples=40, deadline=None)
@given(planted(), st.sampled_from(WRITERS))
def test_each_defect_is_named_by_row_and_column_and_no_other_row_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[list[dict[str, str]], dict[int, set[str]]],
    write: Writer,
) -> None:
    table, defects = case
    folder = tmp_path_factory.mktemp("hospital")
    write(folder, HEADER, table)
    found = read(folder, STUDY.model_copy(update={"validation_fraction": 0.0}))
    file = next(folder.iterdir()).name
    first = first_row(file)
    said = {one.what: set(re.findall("column '([^']*)'", one.reason)) for one in found.set_aside}
    assert said == {f"{file} row {at + first}": columns for at, columns in defects.items()}
    good = [at for at in range(len(table)) if at not in defects]
    assert found.rows.tolist() == [at + first for at in good]
    np.testing.assert_allclose(found.values, encoded([table[at] for at in good]), atol=1e-6)


@pytest.mark.parametrize(
    ("column", "text"), [(name, text) for name, texts in DEFECTS.items() for text in texts]
)
def test_every_defect_is_one(tmp_path: Path, column: str, text: str) -> None:
    table = rows(3)
    table[1][column] = text
    write_csv(tmp_path, HEADER, table)
    found = read(tmp_path, STUDY.model_copy(update={"validation_fraction": 0.0}))
    assert [one.what for one in found.set_aside] == ["records.csv row 3"]
    assert f"column '{column}' " in found.set_aside[0].reason
    assert found.rows.tolist() == [2, 4]


def test_rows_with_more_or_fewer_cells_are_set_aside(tmp_path: Path) -> None:
    lines = [
        ",".join(HEADER),
        "P1,36,6,m,30,no",
        "P2,36.6,m,30,no",
        "P3,36.6,m",
        '"P4\n",36,f,30,no',
    ]
    (tmp_path / "records.csv").write_text("\n".join(lines))
    found = read(tmp_path, STUDY.model_copy(update={"validation_fraction": 0.0}))
    assert messages(found) == (
        "records.csv row 2: it has more cells than the first row, or fewer\n"
        "records.csv row 4: it has more cells than the first row, or fewer"
    )
    assert found.rows.tolist() == [3, 5]


@pytest.mark.parametrize("outside", ["clip", "missing"])
def test_a_value_outside_of_the_range_may_be_used(tmp_path: Path, outside: str) -> None:
    age = {**AGE.model_dump(), "outside": outside, "missing": "middle"}
    study = RiskRecords(columns=(Column.model_validate(age), SEX, BMI), classes=("no", "yes"))
    table = rows(3)
    table[1]["age"] = "1e300"
    write_csv(tmp_path, HEADER, table)
    found = read(tmp_path, study)
    assert found.set_aside == []
    assert found.values[1, 0] == (1 if outside == "clip" else 0)


# --- what no message says


@pytest.mark.parametrize("column", [*HEADER, "note", None])
@pytest.mark.parametrize("write", WRITERS)
def test_no_message_says_what_a_cell_says(
    tmp_path: Path, write: Writer, column: str | None
) -> None:
    """Neither a row's nor the refusal's, also where the patients stand in the place of the header."""
    secret = "SECRET^PATIENT" + "\x01" * (column == "patient_id")
    table: list[Row] = [{**row, "note": "x"} for row in rows(3)]
    if column is None:
        header = [secret, "1975-03-01", "m", "1975-03-02", secret + "2"]
        table = [dict(zip(header, row.values(), strict=False)) for row in rows(3)]
    else:
        header = [*HEADER, "note"]
        table = [{**row, column: secret} for row in table]
    write(tmp_path, header, table)
    try:
        said = messages(read(tmp_path))
    except DataError as error:
        said = str(error).replace(str(tmp_path), "")
    assert "SECRET" not in said
    assert "1975" not in said
    assert bool(said) == (column != "note")


# --- what is refused


def test_one_table_is_needed(tmp_path: Path) -> None:
    assert "found neither" in refusal(tmp_path)
    write_csv(tmp_path, HEADER, rows(3))
    write_texts(tmp_path, HEADER, rows(3))
    assert "found both" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "found 0 columns without patient_id, age, sex, bmi, outcome"),
        (b"P1,36.6,m,30,no\n", "found 5 columns without patient_id, age, sex, bmi, outcome"),
        (b"patient_id,age,sex,bmi\n", "found 4 columns without outcome"),
        (b"patient_id|age|sex|bmi|outcome\n", "found 1 column without patient_id"),
        (b"patient_id,age,sex,bmi,outcome,age\n", "found 'age' twice"),
        (b"patient_id,age,sex,bmi,outcome,x,x\n", "found another one twice"),
        (b"patient_id,age,sex,bmi,outcome\n", "expected rows of patients, found none"),
        (
            b'patient_id,age,sex,bmi,outcome\nP1,36,"m,30,no\nP2',
            "found quotes or cells that do not",
        ),
        (b'patient_id,age,sex,"bmi,outcome\n', "found quotes that do not end"),
        (
            b"patient_id,age,sex,bmi,outcome\nP\xe4,36,m,30,no\n",
            "found a character that is no UTF-8",
        ),
        ("patient_id,age,sex,bmi,outcome\n".encode("utf-16"), "found a character that is no UTF-8"),
        ("patient_id,age,sex,bmi,outcome\n".encode("utf-16-le"), "without patient_id"),
        (b"PK\x03\x04" + bytes(range(256)) * 9, "found a character that is no UTF-8"),
        (b"\0" * 3_000_000, "found a row that is endless"),
        (b"patient_id,age,sex,bmi,outcome\n" + b"1," * 600_000, "found a row that is endless"),
        (b"patient_id,age,sex,bmi,outcome\n" + b'"\n",' * 300_000, "found a row that is endless"),
        (b"patient_id,age,sex,bmi,outcome\n" + b"1" * 200_000, "found quotes or cells that do not"),
        (b"patient_id,age,sex,bmi,outcome\nP1,x,m,30,no\n", "(1 are set aside, the first because"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "records.csv").write_bytes(content)
    assert said in refusal(tmp_path)


def test_a_hospital_needs_a_training_patient(tmp_path: Path) -> None:
    table = [row for row in rows(40) if is_validation_patient(row["patient_id"], 0.2)]
    write_csv(tmp_path, HEADER, table)
    assert f"found all {len(table)} on the validation side" in refusal(tmp_path)


def test_links_out_of_the_folder_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "hospital"
    folder.mkdir()
    write_csv(tmp_path, HEADER, rows(3))
    (folder / "records.csv").symlink_to(tmp_path / "records.csv")
    assert "leads out of it" in refusal(folder)
    (folder / "records.csv").unlink()
    os.mkfifo(folder / "records.csv")
    assert "expected a regular file" in refusal(folder)
    (folder / "records.csv").unlink()
    (folder / "records.csv").mkdir()
    assert "expected a regular file" in refusal(folder)


def test_more_than_the_bounds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(tmp_path, HEADER, rows(300))
    monkeypatch.setattr(tables, "MAX_ROWS", 299)
    assert "expected at most 299 rows" in refusal(tmp_path)
    monkeypatch.setattr(tables, "MAX_ROWS", 301)
    monkeypatch.setattr("client.data.records.MAX_VALUES", 1199)
    assert "expected at most 1199 numbers in all rows together" in refusal(tmp_path)
    monkeypatch.setattr("client.data.records.MAX_VALUES", 1200)
    assert len(read(tmp_path).rows) == 300
    monkeypatch.setattr(tables, "MAX_CSV_BYTES", 100)
    assert "expected at most 0 MB" in refusal(tmp_path)


def test_a_table_is_never_in_memory_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5,000 rows x 20 columns are 100,000 cells of at least 50 bytes each as Python has text."""
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 256)
    columns = tuple(Column(name=f"c{n}", kind="number", range=(0, 100)) for n in range(20))
    study = RiskRecords(columns=columns, classes=("0", "1"))
    numbers = np.random.default_rng(0).uniform(0, 100, (5_000, 20)).round(3)
    lines = ["patient_id,outcome," + ",".join(column.name for column in columns)]
    lines += [f"{n},{n % 2}," + ",".join(map(str, row)) for n, row in enumerate(numbers.tolist())]
    (tmp_path / "records.csv").write_text("\n".join(lines))
    del lines
    tracemalloc.start()
    try:
        found = read(tmp_path, study)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.values.nbytes == 400_000
    print(f"peak {peak / 1e6:.1f} MB")
    assert peak < 3.5e6
    np.testing.assert_allclose(found.values, numbers / 50 - 1, atol=1e-6)


def test_rows_of_long_cells_are_not_in_memory_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 rows of 1 MB as Python has text beyond the alphabet, of which few are read at once."""
    monkeypatch.setattr(tables, "CHARACTERS_AT_ONCE", 1 << 20)
    table = [
        {**row, "bmi": 100_000 * "x" + "\U0001f600", "sex": 100_000 * "y"} for row in rows(100)
    ]
    write_csv(tmp_path, HEADER, [*table, *rows(3)])
    del table
    tracemalloc.start()
    try:
        found = read(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.rows.tolist() == [102, 103, 104]
    assert peak < 20e6
