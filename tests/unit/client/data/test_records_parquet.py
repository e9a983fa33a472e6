"""`records.parquet`: the types that mean what a CSV means, and files that are meant to do harm."""

import datetime
import io
import os
import random
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption

from client.data import parquet
from common.errors import DataError
from common.tabular.schema import Column, RiskRecords
from tests.unit.client.data.making_records import (
    HEADER,
    STUDY,
    encoded,
    read,
    rows,
    write_csv,
    write_parquet,
    write_texts,
)

ALL = STUDY.model_copy(update={"validation_fraction": 0.0})


def columns(count: int = 4) -> dict[str, Any]:
    """Good columns, typed as a database has them."""
    table = rows(count)
    return {
        "patient_id": pa.array(range(count), pa.int64()),
        "age": pa.array([int(row["age"]) for row in table], pa.int16()),
        "sex": pa.array([row["sex"] for row in table]).dictionary_encode(),
        "bmi": pa.array([float(row["bmi"]) for row in table]),
        "outcome": pa.array([row["outcome"] for row in table], pa.large_string()),
    }


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(folder)
    text = str(caught.value)
    assert "expected" in text, text
    assert "found" in text, text
    return text


def test_typed_columns_are_read_as_their_text_would_be(tmp_path: Path) -> None:
    write_parquet(tmp_path, columns(50))
    np.testing.assert_allclose(read(tmp_path, ALL).values, encoded(rows(50)), atol=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([30, None, 40, 50], pa.uint8()),
        pa.array([30, None, 40, 50], pa.int64()),
        pa.array([30, None, 40, 50], pa.float16()),
        pa.array([30, None, 40, 50], pa.float32()),
        pa.array(["30", None, "40.0", "5e1"]),
        pa.array(["30", None, "40.0", "5e1"]).dictionary_encode(),
        pa.array(["30", "", "40", " 50"], pa.large_string()),
        pa.array(["30", "", "40", " 50"], pa.string_view()),
    ],
    ids=lambda values: str(values.type),
)
def test_a_number_may_be_of_any_type_and_none_is_missing(tmp_path: Path, values: Any) -> None:
    write_parquet(tmp_path, {**columns(), "bmi": values})
    found = read(tmp_path, ALL)
    assert found.set_aside == []
    np.testing.assert_allclose(found.values[:, 2], [-0.2, 0, 0.2, 0.6], atol=1e-6)
    assert found.values[:, 3].tolist() == [0, 1, 0, 0]


def test_a_long_patient_id_in_a_column_of_floats_is_the_one_of_a_csv(tmp_path: Path) -> None:
    """Arrow writes it as 1.23456789012e+11: other id, and perhaps the other side."""
    ids = [1.0, 12345678901.0, 123456789012.0, 2.0**53]
    table = [{**row, "patient_id": f"{one:.0f}"} for row, one in zip(rows(4), ids, strict=True)]
    study = STUDY.model_copy(update={"validation_fraction": 0.5})
    sides = []
    for as_floats in (False, True):
        folder = tmp_path / str(as_floats)
        folder.mkdir()
        if as_floats:
            texts = {name: pa.array([row[name] for row in table]) for name in HEADER[1:]}
            write_parquet(folder, {"patient_id": pa.array(ids), **texts})
        else:
            write_csv(folder, HEADER, table)
        found = read(folder, study)
        sides.append((found.patient.tolist(), found.validation.tolist()))
    assert sides[0] == sides[1]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([True, False, True, False]),
        pa.array([1, 0, 1, 0], pa.int8()),
        pa.array([1.0, 0.0, 1.0, 0.0]),
        pa.array(["1", "0", "1.0", "FALSE"]),
    ],
    ids=lambda values: str(values.type),
)
def test_an_outcome_may_be_a_truth_value(tmp_path: Path, values: Any) -> None:
    study = RiskRecords(
        columns=(Column(name="age", kind="number", range=(0, 120)),),
        classes=("0", "1"),
        validation_fraction=0.0,
    )
    write_parquet(tmp_path, {**columns(), "outcome": values})
    assert read(tmp_path, study).labels[:, 0].tolist() == [1, 0, 1, 0]


def test_what_is_no_number_is_set_aside_and_none_names_no_patient(tmp_path: Path) -> None:
    bad = {
        "age": pa.array([30.0, float("nan"), float("-inf"), 30.5]),
        "patient_id": pa.array([1, 2, 3, None], pa.int64()),
    }
    write_parquet(tmp_path, {**columns(), **bad})
    found = read(tmp_path, ALL)
    assert found.rows.tolist() == [1]
    assert [(one.what, one.reason) for one in found.set_aside] == [
        ("records.parquet row 2", "column 'age' is not a plain number such as -12.5, with a point"),
        ("records.parquet row 3", "column 'age' is not a plain number such as -12.5, with a point"),
        ("records.parquet row 4", "column 'patient_id' names no patient"),
    ]


def test_many_row_groups_are_one_table(tmp_path: Path) -> None:
    write_parquet(tmp_path, columns(9000), row_group_size=1000, compression="zstd")
    found = read(tmp_path, ALL)
    assert found.rows.tolist() == list(range(1, 9001))


@pytest.mark.parametrize(
    "values",
    [
        pa.array([[1], [2], [3], [4]]),
        pa.array([{"age": 1}] * 4),
        pa.array([b"36"] * 4),
        pa.array([datetime.date(1975, 3, 1)] * 4),
        pa.array([datetime.datetime(1975, 3, 1)] * 4),
    ],
    ids=lambda values: str(values.type),
)
def test_other_types_are_refused(tmp_path: Path, values: Any) -> None:
    write_parquet(tmp_path, {**columns(), "age": values})
    text = refusal(tmp_path)
    assert "text, numbers or true and false in column 'age', found the type" in text
    assert "1975" not in text


def test_columns_that_are_not_used_may_be_anything(tmp_path: Path) -> None:
    write_parquet(tmp_path, {**columns(), "x": pa.array([{"age": [1]}] * 4), "y": [None] * 4})
    found = read(tmp_path, ALL)
    assert (found.unused, len(found.rows)) == (2, 4)


def test_columns_are_looked_for_by_name(tmp_path: Path) -> None:
    few = columns()
    del few["bmi"]
    write_parquet(tmp_path, few)
    assert "found 4 columns without bmi" in refusal(tmp_path)
    names = [*HEADER, "age"]
    table = pa.table([*columns().values(), columns()["age"]], names=names)
    pq.write_table(table, tmp_path / "records.parquet")
    assert "found 'age' twice" in refusal(tmp_path)


class _Keys(encryption.KmsClient):  # type: ignore[misc]
    """Keys of nothing: what an encrypted file looks like is all that matters."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:  # noqa: ARG002
        return key_bytes.hex()

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:  # noqa: ARG002
        return bytes.fromhex(wrapped_key)


@pytest.mark.parametrize("plain_footer", [False, True])
def test_an_encrypted_table_is_refused(tmp_path: Path, plain_footer: bool) -> None:
    table = pa.table(columns())
    keys = encryption.CryptoFactory(lambda _config: _Keys())
    secret = keys.file_encryption_properties(
        encryption.KmsConnectionConfig(),
        encryption.EncryptionConfiguration(
            footer_key="k", column_keys={"k": ["age"]}, plaintext_footer=plain_footer
        ),
    )
    path = tmp_path / "records.parquet"
    with pq.ParquetWriter(path, table.schema, encryption_properties=secret) as writer:
        writer.write_table(table)
    assert path.read_bytes()[:4] == (b"PAR1" if plain_footer else b"PARE")
    assert "encrypted" in refusal(tmp_path)


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path, HEADER, rows(3))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "install intramural[records], or save the table as CSV" in refusal(tmp_path)


# --- files that are meant to do harm (THREATS.md T18)


def peak_megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def test_one_long_text_in_every_row_costs_its_length_once(tmp_path: Path) -> None:
    count = 200_000
    zeros = pa.array(np.zeros(count, np.int32))
    bomb = pa.DictionaryArray.from_arrays(zeros, pa.array(["x" * 1_000_000]))  # 200 GB as text
    write_parquet(tmp_path, dict.fromkeys(HEADER, zeros) | {"sex": bomb})
    assert (tmp_path / "records.parquet").stat().st_size < 1_000_000
    before = peak_megabytes()
    study = ALL.model_copy(update={"columns": STUDY.columns[1:2]})
    with pytest.raises(DataError, match=r"found none \(200000 are set aside"):
        read(tmp_path, study)
    assert peak_megabytes() - before < 400


def test_pages_that_unpack_to_more_than_the_child_may_have_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = pa.array(["x" * (50 << 20) + str(n) for n in range(2)])
    write_parquet(
        tmp_path,
        dict.fromkeys(HEADER, pa.array([1, 1])) | {"sex": texts},
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    )
    assert (tmp_path / "records.parquet").stat().st_size < 100_000
    monkeypatch.setattr("client.data.child._MORE_MEMORY", 64 << 20)
    assert "too large when unpacked" in refusal(tmp_path)


def test_a_small_file_of_very_many_rows_is_refused(tmp_path: Path) -> None:
    count = 5_000_001
    write_parquet(tmp_path, {name: pa.nulls(count, pa.int8()) for name in HEADER})
    assert (tmp_path / "records.parquet").stat().st_size < 1_000_000
    assert "expected at most 5000000 rows" in refusal(tmp_path)


def test_a_decoder_that_crashes_ends_no_more_than_its_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path, HEADER, rows(3))
    monkeypatch.setattr(parquet, "_trial", lambda *_: os.abort())
    assert "that is damaged, encrypted or too large" in refusal(tmp_path)


def test_a_damaged_file_is_refused_or_read_but_never_more(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns(200)), buffer)
    whole = buffer.getvalue()
    refused = 0
    for trial in range(25):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 10, 100])):
            damaged[chance.randrange(len(whole))] = chance.randrange(256)
        if trial % 5 == 0:
            damaged = damaged[: chance.randrange(len(whole))]
        (tmp_path / "records.parquet").write_bytes(damaged)
        try:
            found = read(tmp_path, ALL)
        except DataError:
            refused += 1
        else:
            assert len(found.rows) + len(found.set_aside) >= 1
            assert np.abs(found.values).max() <= 1
    assert refused >= 5
