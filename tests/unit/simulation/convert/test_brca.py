"""Fed-TCGA-BRCA's tables -> six regions: what the model then sees is what was published."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.data.records import read_records
from common.protocol import load_protocol
from common.tasks.survival.study import SurvivalStudy
from simulation.__main__ import app
from simulation.convert.brca import AGE, REGIONS
from simulation.prepare import EXAMPLES

PUBLISHED = Path(__file__).parents[5] / "shared/data/fed-tcga-brca"
SIZES = dict(
    zip(REGIONS, ((248, 63), (156, 40), (164, 42), (129, 33), (129, 33), (40, 11)), strict=True)
)


@pytest.fixture(scope="module")
def study() -> SurvivalStudy:
    loaded = load_protocol(EXAMPLES / "breast-survival.toml")
    assert isinstance(loaded, SurvivalStudy)
    return loaded


@pytest.fixture
def published() -> Path:
    if not PUBLISHED.is_dir():
        pytest.skip(f"Fed-TCGA-BRCA's tables are not at {PUBLISHED}")
    return PUBLISHED


def features(study: SurvivalStudy) -> list[str]:
    """The published names of the columns, from the shipped protocol."""
    return [AGE] + [
        f"{column.name}_{category}"
        for column in study.records.columns
        for category in (column.categories or ())[1:]
    ]


def made(study: SurvivalStudy, folder: Path, **changed: str) -> Path:
    """Small tables like the published ones: one patient of each fold, and one of none.

    The first patient has the cells of `changed` in place of its own.
    """
    names = features(study)
    folds = [f"{side}_{k}" for k in range(6) for side in ("train", "test")]
    with (folder / "brca.csv").open("w") as file:
        table = csv.DictWriter(file, ["pid", *names, "E", "T"])
        table.writeheader()
        for number in range(len(folds) + 1):
            row = dict.fromkeys(names, "0") | {"pid": f"p{number}", AGE: str(40 + number)}
            row |= {"race_white": "1", "E": f"{number % 2}.0", "T": f"{100 * number}.0"}
            table.writerow(row | (changed if number == 0 else {}))
    listed = [f"p{number},{fold[:-2]},{fold}" for number, fold in enumerate(folds)]
    (folder / "train_test_split.csv").write_text("\n".join(["pid,fold,fold2", *listed]) + "\n")
    return folder


def convert(source: Path, out: Path, *more: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["convert", "brca", str(source), str(out), *more])
    return done.exit_code, " ".join(done.output.split())


def rows(folder: Path) -> Iterator[dict[str, str]]:
    with (folder / "records.csv").open() as file:
        yield from csv.DictReader(file)


def test_every_patient_of_the_benchmark_is_in_one_region(
    study: SurvivalStudy, tmp_path: Path
) -> None:
    code, said = convert(made(study, tmp_path), tmp_path / "out")
    assert code == 0, said
    assert sorted(folder.name for folder in (tmp_path / "out").iterdir()) == sorted(REGIONS)
    for number, region in enumerate(REGIONS):
        found = list(rows(tmp_path / "out" / region))
        assert [row["patient_id"] for row in found] == [f"p{2 * number}", f"p{2 * number + 1}"]
        assert [row["death"] for row in found] == ["no", "yes"]
        assert [row["days"] for row in found] == [str(200 * number), str(200 * number + 100)]
        assert {row["race"] for row in found} == {"white"}
        assert {row["tumor_stage"] for row in found} == {"other"}
    assert f"--example breast-survival --data {tmp_path / 'out'}" in said


def test_the_published_sides_are_apart(study: SurvivalStudy, tmp_path: Path) -> None:
    code, said = convert(made(study, tmp_path), tmp_path / "out", "--published-split")
    assert code == 0, said
    for side, first in (("train", 0), ("test", 1)):
        found = [
            row["patient_id"]
            for region in REGIONS
            for row in rows(tmp_path / "out" / side / region)
        ]
        assert found == [f"p{number}" for number in range(first, 12, 2)]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"race_asian": "1"}, "at most one 1"),
        ({"race_asian": "2"}, "columns race_... of 0"),
        ({AGE: "old"}, "expected numbers"),
        ({"T": "inf"}, "expected numbers"),
        ({"E": "2"}, "0 or 1 as E"),
        ({"pid": "somebody"}, "expected the 1 further patients"),
    ],
)
def test_other_tables_are_refused(
    study: SurvivalStudy, tmp_path: Path, changed: dict[str, str], reason: str
) -> None:
    code, said = convert(made(study, tmp_path, **changed), tmp_path / "out")
    assert code == 2
    assert reason in said
    assert not (tmp_path / "out").exists()


def test_another_split_is_refused(study: SurvivalStudy, tmp_path: Path) -> None:
    made(study, tmp_path)
    with (tmp_path / "train_test_split.csv").open("a") as file:
        file.write("p0,train,train_1\n")
    code, said = convert(tmp_path, tmp_path / "out")
    assert code == 2
    assert "a new patient" in said


def test_the_encoded_records_are_the_published_columns(
    study: SurvivalStudy, published: Path, tmp_path: Path
) -> None:
    code, said = convert(published, tmp_path, "--published-split")
    assert code == 0, said
    with (published / "brca.csv").open() as file:
        table = {row["pid"]: row for row in csv.DictReader(file)}
    names = features(study)
    assert names == [name for name in next(iter(table.values())) if name not in ("pid", "E", "T")]
    center, scale = study.records.columns[0].mapping
    for region, sizes in SIZES.items():
        for side, size in zip(("train", "test"), sizes, strict=True):
            folder = tmp_path / side / region
            listed = [table[row["patient_id"]] for row in rows(folder)]
            read = read_records(
                folder, study.records, study.survival.label_columns, one_row_each=True
            )
            assert (len(listed), len(read.values), len(read.set_aside)) == (size, size, 0)
            wanted = np.array([[float(row[name]) for name in names] for row in listed])
            wanted[:, 0] = (wanted[:, 0] - center) / scale
            np.testing.assert_allclose(read.values, wanted, atol=1e-6)
            labels = [[float(row["T"]), float(row["E"])] for row in listed]
            np.testing.assert_array_equal(read.labels, labels)
