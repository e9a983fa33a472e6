"""The UCI heart-disease files, as published and made small: rows, codes and sides as in the benchmark."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split
from typer.testing import CliRunner

from client.readers import hospital_folders
from client.readers.reader import Opening
from client.readers.risk import READER
from common.protocol import load_protocol
from common.tasks.risk.study import RiskStudy
from simulation.__main__ import app
from simulation.prepare import EXAMPLES

PUBLISHED = Path(__file__).parents[4] / "shared/data/fed-heart-disease"
FILES = {
    "cleveland": "cleveland",
    "hungary": "hungarian",
    "switzerland": "switzerland",
    "long-beach": "va",
}
SEED = 20


def made(folder: Path, rows: int = 60) -> Path:
    """Four files as published: codes with and without .0, unknown cells, and hardly anyone healthy at one."""
    draw = np.random.default_rng(SEED)
    for hospital, name in FILES.items():
        lines = []
        for at in range(rows):
            codes = [draw.integers(30, 80), draw.integers(2), draw.integers(1, 5), 130, 240]
            codes += [draw.integers(2), draw.integers(3), 150, draw.integers(2), 0]
            cells = [f"{code}.0" if at % 2 else str(code) for code in codes]
            cells[9] = draw.choice(["-.5", "0", "2.3"])
            if draw.random() < 0.2:
                cells[draw.integers(10)] = "?"
            outcome = int(at > 0) if hospital == "switzerland" else draw.integers(5)
            lines.append(",".join([*cells, "?", "?", "3", str(outcome)]))
        (folder / f"processed.{name}.data").write_text("\n".join(lines) + "\n")
    return folder


def convert(source: Path, out: Path, *more: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["convert", "heart", str(source), str(out), *more])
    return done.exit_code, " ".join(done.output.split())


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "records.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def as_published(path: Path) -> tuple[pd.DataFrame, list[int], list[int]]:
    """The benchmark's recipe with other tools: rows with all known, and those of either side."""
    frame = pd.read_csv(path, header=None, na_values="?").drop(columns=[10, 11, 12]).dropna()
    ill = (frame[13] > 0).astype(int).to_numpy()
    classes = np.bincount(ill, minlength=2)
    train, test = train_test_split(
        np.arange(len(frame)),
        test_size=0.34,
        train_size=0.66,
        random_state=43,
        shuffle=True,
        stratify=ill if classes.min() > 2 else None,
    )
    return frame, train.tolist(), test.tolist()


def test_both_sides_are_the_benchmarks(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    source = made(tmp_path)
    code, said = convert(source, tmp_path / "out", "--published-split")
    assert code == 0, said
    for hospital, name in FILES.items():
        frame, *sides = as_published(source / f"processed.{name}.data")
        assert 0 < len(frame) < 60
        for side, rows in zip(("train", "test"), sides, strict=True):
            found = table(tmp_path / "out" / side / hospital)
            # A row's id is its number in the file: pandas keeps that too, from 0.
            places = [int(row["patient_id"].removeprefix(f"{hospital}-")) - 1 for row in found]
            assert places == frame.index[rows].tolist()
            expected = frame.iloc[rows]
            assert [float(row["age"]) for row in found] == expected[0].tolist()
            assert [float(row["st_depression"]) for row in found] == expected[9].tolist()
            assert [row["disease"] == "present" for row in found] == (expected[13] > 0).tolist()


def test_codes_become_the_words_of_their_description(tmp_path: Path) -> None:
    source = made(tmp_path)
    for name, line in (
        ("cleveland", "63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,0"),
        ("hungarian", "54,0,4,120,0,0,1,140,1,0,?,?,?,1"),
    ):
        (source / f"processed.{name}.data").write_text(f"{line}\n")
    code, said = convert(source, tmp_path / "out")
    assert code == 0, said
    assert (tmp_path / "out/cleveland/records.csv").read_text().splitlines() == [
        "patient_id,age,male,chest_pain,resting_pressure,cholesterol,fasting_sugar,resting_ecg,"
        "max_heart_rate,exercise_angina,st_depression,disease",
        "cleveland-001,63,1,typical angina,145,233,above 120 mg/dl,left ventricular hypertrophy,150,0,"
        "2.3,absent",
    ]
    # A cholesterol of 0 stays: that it cannot be is for the study's range to say.
    assert (tmp_path / "out/hungary/records.csv").read_text().splitlines()[1:] == [
        "hungary-001,54,0,asymptomatic,120,0,at most 120 mg/dl,ST-T abnormality,140,1,0,present"
    ]


@pytest.mark.parametrize("options", [(), ("--published-split",)])
def test_no_other_study_s_hospitals_are_mixed_in(tmp_path: Path, options: tuple[str, ...]) -> None:
    source, out = made(tmp_path), tmp_path / "out"
    assert [convert(source, out, *options)[0] for _ in range(2)] == [0, 0]
    other = (out / "train" if options else out) / "canada"
    other.mkdir()
    (other / "records.csv").write_text("patient_id,age\n")
    code, said = convert(source, out, *options)
    assert code == 2
    assert "found 'canada'; choose another folder" in said


def test_the_example_takes_every_row(tmp_path: Path) -> None:
    code, said = convert(made(tmp_path), tmp_path / "out")
    assert code == 0, said
    study = load_protocol(EXAMPLES / "heart.toml")
    assert isinstance(study, RiskStudy)
    folders = hospital_folders("risk", tmp_path / "out")
    assert set(folders) == set(study.hospital_names)
    for folder in folders.values():
        assert sum(READER.count_patients(study, Opening(folder))) == len(table(folder))


def test_the_published_files_have_the_published_sizes(tmp_path: Path) -> None:
    if not PUBLISHED.is_dir():
        pytest.skip(f"Fed-Heart-Disease's files are not at {PUBLISHED}")
    code, said = convert(PUBLISHED, tmp_path, "--published-split")
    assert code == 0, said
    sizes = {h: [len(table(tmp_path / s / h)) for s in ("train", "test")] for h in FILES}
    assert sizes == {
        "cleveland": [199, 104],
        "hungary": [172, 89],
        "switzerland": [30, 16],
        "long-beach": [85, 45],
    }


@pytest.mark.parametrize(
    "line",
    [
        "63,1,5,145,233,1,2,150,0,2.3,3,0,6,0",  # no such pain
        "63,1,1,145,233,1,1.5,150,0,2.3,3,0,6,0",
        "63,1,1,145,233,1,2,150,0,2.3,3,0,6",  # a column less
        "63,1,1,145,233,1,2,150,0,2.3,3,0,6,0,0",
        "nan,1,1,145,233,1,2,150,0,2.3,3,0,6,0",
        "63,1,1,145,233,1,2,150,0,2.3,3,0,6,?",
        "?,1,1,145,233,1,2,150,0,2.3,3,0,6,0",  # and no row in which all is known
        "",
    ],
)
def test_what_is_not_the_published_file_is_refused(tmp_path: Path, line: str) -> None:
    source = made(tmp_path)
    (source / "processed.va.data").write_text(f"{line}\n")
    code, said = convert(source, tmp_path / "out")
    assert code == 2
    assert "processed.va.data" in said
    assert "as published" in said


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (made(tmp_path) / "processed.hungarian.data").unlink()
    code, said = convert(tmp_path, tmp_path / "out")
    assert code == 2
    assert "processed.hungarian.data" in said
