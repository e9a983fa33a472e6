"""The side of a patient comes from the id alone."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from client.data.cells import patient_of
from client.data.image_folder import open_cohort
from client.data.split import canonical_patient_id, is_validation_patient
from common.tasks.nodule_classification.study import Images

IMAGES = Images(classes=("non-nodule", "nodule"), size=16)
IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
# Of LIDC-IDRI-0001 to 0020, those for validation at fraction 0.2.
GOLDEN = [1, 2, 3, 4, 10, 12, 15, 18]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(patient=IDS, fraction=st.floats(0.01, 0.99))
def test_side_against_an_independent_reading_of_the_hash(patient: str, fraction: float) -> None:
    text = hashlib.sha256(b"intramural/patient-split/v1\0" + patient.encode()).hexdigest()
    # First 53 of the 256 bits as a binary fraction, read from the digits instead of the bytes.
    uniform = int(bin(int("1" + text, 16))[3:][:53], 2) / 2**53
    assert is_validation_patient(patient, fraction) is (uniform < fraction)


def test_known_sides_stay_for_ever() -> None:
    """Golden: a change moves patients between accounts at every hospital."""
    sides = [is_validation_patient(f"LIDC-IDRI-{n:04d}", 0.2) for n in range(1, 21)]
    assert [n for n, side in enumerate(sides, start=1) if side] == GOLDEN


def test_share_of_validation_patients_is_the_fraction() -> None:
    share = np.mean([is_validation_patient(f"patient {n}", 0.2) for n in range(20_000)])
    assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 20_000)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(patient=IDS, fractions=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)))
def test_a_larger_fraction_keeps_the_validation_patients(
    patient: str, fractions: tuple[float, float]
) -> None:
    small, large = sorted(fractions)
    assert is_validation_patient(patient, large) or not is_validation_patient(patient, small)


@pytest.mark.parametrize("other", [" A7", "A7\t", "A7 "])
def test_white_space_makes_no_second_patient(other: str) -> None:
    assert canonical_patient_id(other) == "A7"


@pytest.mark.parametrize("other", ["12.0", "12.00 ", "12"])
def test_a_number_is_one_patient_in_images_and_in_records(other: str) -> None:
    """Else the patient could be on one side here and on the other there, and pay on neither account."""
    assert canonical_patient_id(other) == "12" == patient_of(other)


def test_composed_and_decomposed_accents_are_one_patient() -> None:
    assert canonical_patient_id("Mu\u0308ller") == canonical_patient_id("M\u00fcller")


def test_a_file_name_that_is_not_utf8_has_a_side() -> None:
    assert is_validation_patient("caf\udce9", 0.2) in (True, False)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(others=st.lists(st.integers(100, 10_000), unique=True, max_size=12), seed=st.integers(0, 99))
def test_a_patients_side_does_not_change_with_the_other_patients(
    tmp_path_factory: pytest.TempPathFactory, others: list[int], seed: int
) -> None:
    """Through the whole reader: ten patients, alone and among others in any order.

    Every patient's images have a grey value of their own, by which the sides are compared.
    """
    mine = {f"mine {n}": 10 + n for n in range(10)}
    alone = _sides(tmp_path_factory.mktemp("alone"), mine, seed)
    among = _sides(
        tmp_path_factory.mktemp("among"), mine | {f"other {n}": 200 for n in others}, seed + 1
    )
    assert set(alone) == set(mine.values())
    assert {grey: side for grey, side in among.items() if grey != 200} == alone


def _sides(folder: Path, grey_of_patient: dict[str, int], seed: int) -> dict[int, str]:
    rows = []
    for number, (patient, grey) in enumerate(grey_of_patient.items()):
        for label in IMAGES.classes:
            name = f"{number}-{label}.png"
            Image.fromarray(np.full((16, 16), grey, np.uint8)).save(folder / name)
            rows.append(f"{name},{label},{patient}")
    np.random.default_rng(seed).shuffle(rows)
    (folder / "manifest.csv").write_text("\n".join(["image,label,patient_id", *rows]))
    cohort = open_cohort(folder, IMAGES)
    return {
        int(grey): side
        for side, patients in (("training", cohort.training), ("validation", cohort.validation))
        for grey in np.unique(patients.pixels)
    }
