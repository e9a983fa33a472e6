"""`intramural-client check` on a table of records: rows that are set aside are named here, and in no log."""

from pathlib import Path

import pytest

from client.data_check import DataLook, findings_of_data
from common.protocol import parse_protocol
from tests.unit.client.data.making_records import (
    HEADER,
    STUDY,
    Writer,
    rows,
    write_csv,
    write_texts,
)

PROTOCOL = """
study = "heart"
task = "risk"
rounds = 1
training = {{ steps-per-round = 1, learning-rate = 0.1, sampling-rate = 0.5 }}
participation = {{ quorum = 1 }}
hospitals = [{{ name = "north", nominal-patients = 30 }}]
{records}
"""


@pytest.mark.parametrize("write", [write_csv, write_texts])
def test_bad_rows_are_counted_and_named_by_row_and_column(tmp_path: Path, write: Writer) -> None:
    folder = tmp_path / "north"
    folder.mkdir()
    table = rows(40)
    table[4]["age"] = "SECRET^PATIENT"
    table[9]["sex"], table[9]["bmi"] = "", "1975-03-01"
    write(folder, HEADER, table)
    first = 2 if write is write_csv else 1
    file = next(folder.iterdir()).name
    protocol = tmp_path / "protocol.toml"
    records = STUDY.to_toml().replace("[[columns]]", "[[records.columns]]")
    protocol.write_text(PROTOCOL.format(records="[records]\n" + records))
    assert parse_protocol(protocol.read_text()).task == "risk"
    *_, data = findings_of_data(folder, protocol, None, DataLook())
    assert data.verdict == "look", data
    assert data.said.splitlines()[0].endswith("2 rows are set aside")
    assert [line.strip() for line in data.said.splitlines()[1:]] == [
        f"{file} row {4 + first}: column 'age' is not a plain number such as -12.5, with a point",
        f"{file} row {9 + first}: column 'sex' is missing; column 'bmi' is not a plain number such as "
        f"-12.5, with a point",
    ]
    assert "SECRET" not in data.said + (data.in_log or "")
    assert data.in_log is not None
    assert file not in data.in_log


def test_a_data_report_is_refused_and_the_rows_are_named_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "north"
    folder.mkdir()
    table = rows(40)
    table[4]["age"] = "36,5"
    write_csv(folder, HEADER, table)
    protocol = tmp_path / "protocol.toml"
    records = STUDY.to_toml().replace("[[columns]]", "[[records.columns]]")
    protocol.write_text(PROTOCOL.format(records="[records]\n" + records))
    page = tmp_path / "data.html"
    *_, data, report = findings_of_data(folder, protocol, None, DataLook(page))
    assert data.verdict == "look"
    assert (
        "records.csv row 6: column 'age' is not a plain number such as -12.5, with a point"
        in data.said
    )
    assert (report.what, report.verdict) == ("data report", "bad")
    assert report.said.endswith("leave it out")
    assert not page.exists()
