"""A hospital's series and outcomes on disk -> its patients: what is used, what is named, what is refused."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.cohort import Cohort
from client.data.quarantine import SetAside
from client.data.record_patients import RecordPatients
from client.data.sequences import open_sequences
from client.data.split import is_validation_patient
from common.errors import DataError
from common.phantom_vitals import VITALS, phantom_stays, write_stays
from common.sequences.encoding import encode
from common.sequences.schema import Sequences

Rows = list[tuple[object, ...]]
NAME = "Zebulon"  # what no message may say

OUTCOMES: Rows = [("ann", "well"), ("bob", "worse"), ("cid", "well")]
SERIES: Rows = [
    ("ann", 0.5, "pulse", 70),
    ("bob", 1.0, "pulse", 120),
    ("bob", 3.5, "lactate", 4),
    ("cid", 2.5, "pulse", 80),
]


def ward(**changes: Any) -> Sequences:
    fields: dict[str, Any] = {
        "classes": ["well", "worse"],
        "steps": 4,
        "validation-fraction": 0.0,
        "variables": [
            {"name": "pulse", "unit": "/min", "range": [20, 220]},
            {"name": "lactate", "unit": "mmol/L", "range": [0, 20], "outside": "clip"},
        ],
    }
    return Sequences.model_validate(fields | changes)


def hospital(
    folder: Path, outcomes: Rows, series: Rows, keys: tuple[str, ...] = ("patient_id",)
) -> Path:
    for name, header, rows in (
        ("outcomes.csv", (*keys, "outcome"), outcomes),
        ("series.csv", (*keys, "time", "variable", "value"), series),
    ):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
    return folder


def opened(
    folder: Path, sequences: Sequences | None = None
) -> tuple[Cohort[RecordPatients], list[SetAside]]:
    aside: list[SetAside] = []
    return open_sequences(folder, sequences or ward(), set_aside=aside), aside


def named(aside: list[SetAside]) -> dict[str, str]:
    return {one.what: one.reason for one in aside}


def test_a_hospital_as_it_should_be(tmp_path: Path) -> None:
    cohort, aside = opened(hospital(tmp_path, OUTCOMES, SERIES))
    assert aside == []
    patients = cohort.training
    assert (len(patients), len(cohort.validation)) == (3, 0)
    assert patients.values.shape == (3, 4, 6)
    assert patients.labels.tolist() == [0, 1, 0]
    np.testing.assert_allclose(patients.values[:, -1, 0], [-0.5, 0, -0.4])
    assert patients.views(np.array([1, 1])).shape == (2, 4, 6)


def test_the_same_numbers_as_the_encoding_whatever_the_order_of_rows(tmp_path: Path) -> None:
    """Phantoms written to disk and read back, the rows in any order: bit for bit."""
    sequences = ward(
        steps=12,
        step=2.0,
        variables=[{"name": name, "range": [v.least, v.most]} for name, v in VITALS.items()],
    )
    stays = phantom_stays(40, seed=6)
    ids = [f"p{number:03d}" for number in range(40)]
    write_stays(tmp_path, stays, sequences, ids, ["training"] * 40)
    lines = (tmp_path / "series.csv").read_text().splitlines()
    shuffled = np.random.default_rng(6).permutation(lines[1:]).tolist()
    (tmp_path / "series.csv").write_text("\n".join([lines[0], *shuffled]))
    cohort, aside = opened(tmp_path, sequences)
    direct = encode(40, stays.stay, stays.time, stays.variable, stays.value, sequences)
    np.testing.assert_array_equal(cohort.training.values, direct)
    np.testing.assert_array_equal(cohort.training.labels, stays.label)
    assert aside == []


def test_a_patient_with_several_stays_has_several_views_on_one_side(tmp_path: Path) -> None:
    outcomes: Rows = [
        (f"p{n}", f"s{k}", "worse" if k else "well") for n in range(30) for k in (1, 0)
    ]
    series: Rows = [(f"p{n}", f"s{k}", 1, "pulse", 60 + n) for k in (0, 1) for n in range(30)]
    folder = hospital(tmp_path, outcomes, series, ("patient_id", "stay"))
    sequences = ward(**{"stay": "stay", "validation-fraction": 0.3})
    cohort, _ = opened(folder, sequences)
    later = [n for n in range(30) if is_validation_patient(f"p{n}", 0.3)]
    assert len(cohort.validation) == len(later) > 0
    for patients in (cohort.training, cohort.validation):
        assert np.diff(patients.offsets).tolist() == [2] * len(patients)
        assert patients.labels.tolist() == [0, 1] * len(patients)  # by stay
        pulse = patients.values[:, -1, 0].reshape(-1, 2)
        np.testing.assert_array_equal(pulse[:, 0], pulse[:, 1])


def test_a_column_may_say_the_side(tmp_path: Path) -> None:
    folder = hospital(tmp_path, [], SERIES)
    (tmp_path / "outcomes.csv").write_text(
        "patient_id,outcome,side\nann,well,validation\nbob,worse,training\ncid,well,training\n"
    )
    cohort, _ = opened(folder, ward(split="side"))
    assert (len(cohort.training), len(cohort.validation)) == (2, 1)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("", 1, "pulse", 70), "column 'patient_id' names nobody"),
        (
            ("ann", NAME, "pulse", 70),
            "column 'time' is not a plain number such as -12.5, with a point",
        ),
        (
            ("ann", "nan", "pulse", 70),
            "column 'time' is not a plain number such as -12.5, with a point",
        ),
        (
            ("ann", 1, "pulse", NAME),
            "column 'value' is not a plain number such as -12.5, with a point",
        ),
        (("ann", 1, "pulse", ""), "column 'value' is missing"),
        (("ann", 1, "pulse", 700), "column 'value' is outside of its public range"),
        ((NAME, 1, "pulse", 70), "its stay has no outcome that can be used"),
        (("ann", 1, "pulse"), "it has more cells than the first row, or fewer"),
    ],
)
def test_a_bad_measurement_is_named_and_the_others_are_used(
    tmp_path: Path, row: tuple[object, ...], reason: str
) -> None:
    good, _ = opened(hospital(tmp_path, OUTCOMES, SERIES))
    cohort, aside = opened(hospital(tmp_path, OUTCOMES, [SERIES[0], row, *SERIES[1:]]))
    assert named(aside) == {"series.csv row 3": reason}
    np.testing.assert_array_equal(cohort.training.values, good.training.values)


@pytest.mark.parametrize(
    "row",
    [
        ("ann", 1, "shoe size", NAME),  # a variable that the study does not have
        ("ann", -0.1, "pulse", 999),  # before the grid
        ("ann", 4.0, "pulse", 999),  # after it
    ],
)
def test_what_the_study_does_not_use_is_no_fault(tmp_path: Path, row: tuple[object, ...]) -> None:
    good, _ = opened(hospital(tmp_path, OUTCOMES, SERIES))
    cohort, aside = opened(hospital(tmp_path, OUTCOMES, [*SERIES, row]))
    assert aside == []
    np.testing.assert_array_equal(cohort.training.values, good.training.values)


def test_a_value_beyond_a_range_that_clips_is_its_end(tmp_path: Path) -> None:
    cohort, aside = opened(hospital(tmp_path, OUTCOMES, [*SERIES, ("ann", 0, "lactate", 50)]))
    assert aside == []
    assert cohort.training.values[0, 0, 1] == 1


@pytest.mark.parametrize(
    ("row", "aside"),
    [
        (("dan", NAME), {"outcomes.csv row 5": "column 'outcome' is none of its categories"}),
        (("dan", ""), {"outcomes.csv row 5": "column 'outcome' is missing"}),
        (("", "well"), {"outcomes.csv row 5": "column 'patient_id' names nobody"}),
        (("dan", "well"), {"outcomes.csv row 5": "its stay has no measurement that can be used"}),
    ],
)
def test_a_stay_that_cannot_be_used_is_named(
    tmp_path: Path, row: tuple[object, ...], aside: dict[str, str]
) -> None:
    cohort, found = opened(hospital(tmp_path, [*OUTCOMES, row], SERIES))
    assert named(found) == aside
    assert len(cohort.training) == 3


def test_of_two_outcomes_of_a_stay_neither_counts(tmp_path: Path) -> None:
    cohort, aside = opened(hospital(tmp_path, [*OUTCOMES, ("ann", "worse")], SERIES))
    assert cohort.training.labels.tolist() == [1, 0]
    assert named(aside) == {
        "outcomes.csv row 2": "its stay has another row",
        "outcomes.csv row 5": "its stay has another row",
        "series.csv row 2": "its stay has no outcome that can be used",
    }


def test_a_variable_that_nobody_measured_is_told(tmp_path: Path) -> None:
    """As where the file has another name for it."""
    _, aside = opened(hospital(tmp_path, OUTCOMES, [row for row in SERIES if row[2] != "lactate"]))
    assert named(aside) == {"series.csv": "it has no measurement of 'lactate' that can be used"}


def test_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    folder = hospital(tmp_path, [], [], ("patient_id", "stay"))
    (tmp_path / "outcomes.csv").write_text(
        f"patient_id,stay,outcome,side\n{NAME},1,well,validation\n{NAME},2,well,training\n"
    )
    with pytest.raises(DataError, match=r"row 3: expected all stays.*on the other side") as refused:
        opened(folder, ward(split="side", stay="stay"))
    assert NAME not in str(refused.value)
    rows = f"{NAME},1,well,validation\n{NAME},2,unknown,training\nbob,1,well,training\n"
    (tmp_path / "outcomes.csv").write_text(f"patient_id,stay,outcome,side\n{rows}")
    with pytest.raises(DataError, match=r"row 3: expected all stays.*on the other side"):
        opened(folder, ward(split="side", stay="stay"))


@pytest.mark.parametrize(
    ("outcomes", "series", "said"),
    [
        ([], SERIES, "expected a stay with an outcome and measurements, found none"),
        (OUTCOMES, [], "expected a stay with an outcome and measurements, found none"),
        (OUTCOMES, [("ann", 1, "Pulse", 70)], "expected a stay with an outcome and measurements"),
    ],
)
def test_nothing_to_learn_from_is_refused(
    tmp_path: Path, outcomes: Rows, series: Rows, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        opened(hospital(tmp_path, outcomes, series))


def test_validation_patients_alone_are_no_cohort(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least one training patient"):
        opened(hospital(tmp_path, OUTCOMES, SERIES), ward(**{"validation-fraction": 0.999999}))


@pytest.mark.parametrize("name", ["outcomes.csv", "series.csv"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    folder = hospital(tmp_path, OUTCOMES, SERIES)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"expected {name} or"):
        opened(folder)


def test_blocks_of_stays_are_encoded_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = opened(hospital(tmp_path, OUTCOMES, SERIES))
    monkeypatch.setattr("client.data.sequences._VALUES_AT_ONCE", 2 * 4 * 6)
    blocks, _ = opened(tmp_path)
    np.testing.assert_array_equal(blocks.training.values, whole.training.values)


def test_more_than_memory_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.data.sequences.MAX_VALUES", 3 * 4 * 6 - 1)
    with pytest.raises(DataError, match="expected at most 71 numbers"):
        opened(hospital(tmp_path, OUTCOMES, SERIES))
