"""The verdict on a hospital's CT series: a clean folder is fit, and each planted defect is named.

The folder is made of phantoms (seed in making_folders.py); what is expected is what was planted.
"""

from pathlib import Path

import pytest

from client.data import SetAside
from client.inspection.inspection import inspect
from tests.studies import nodule_study
from tests.unit.client.data.making_dicom import uid
from tests.unit.client.inspection.making_folders import (
    CT_PROTOCOL,
    CT_STUDY,
    SPACING,
    SeriesFolder,
    judged,
    only,
    reasons,
)


@pytest.fixture
def series(tmp_path: Path) -> SeriesFolder:
    return SeriesFolder.clean(tmp_path / "series")


def test_clean_series_are_fit(series: SeriesFolder) -> None:
    apart: list[SetAside] = []
    found, verdict = judged(series.survey(apart), CT_PROTOCOL)
    assert apart == []
    assert (verdict.word, verdict.reasons) == ("fit", ())
    said = {fact: [count.kind for count in counts] for fact, (counts, _) in found.facts.items()}
    assert said == {
        "scanner": ["Maker One", "Maker Two"],
        "reconstruction kernel": ["B30f"],
        "tube voltage, kV": ["120"],
        "slice thickness, mm": ["1.25"],
        "pixel spacing, mm": ["0.7"],
        "year of acquisition": ["2019"],
    }


def test_a_scanner_with_one_class_only_is_unfit_and_named(series: SeriesFolder) -> None:
    for header, label in zip(series.headers, series.labels, strict=True):
        header["ManufacturerModelName"] = "Screening" if label == 0 else "Clinic"
    severity, said = only(reasons(judged(series.survey([]), CT_PROTOCOL)[1]))
    assert severity == "unfit"
    assert "the scanner tells the class (Cramér's V 1.00)" in said
    assert "'Maker Clinic' has only nodule; 'Maker Screening' has only non-nodule" in said


def test_a_kernel_that_goes_with_the_class_is_a_warning(series: SeriesFolder) -> None:
    """Half of the positive series, and no other, have a sharp kernel: V is sqrt(1 / 3)."""
    for n, label in enumerate(series.labels):
        series.headers[n]["ConvolutionKernel"] = "B70f" if label and n % 4 == 1 else "B30f"
    found, verdict = judged(series.survey([]), CT_PROTOCOL)
    severity, said = only(reasons(verdict))
    assert severity == "warning"
    assert "kernel goes with the class" in said
    assert "'B70f' has only nodule" in said
    _, link = found.facts["reconstruction kernel"]
    assert link is not None
    assert link.strength == pytest.approx((1 / 3) ** 0.5, abs=1e-6)


def test_a_study_of_two_patient_ids_is_unfit(series: SeriesFolder) -> None:
    for n in (2, 3):
        series.headers[n]["StudyInstanceUID"] = series.headers[0]["StudyInstanceUID"]
    found, verdict = judged(series.survey([]), CT_PROTOCOL)
    severity, said = only(reasons(verdict))
    assert severity == "unfit"
    assert said.startswith("patient ids share a series or study (1 group)")
    assert found.leaks.one_study == (("Doe^Jane-000", "Doe^Jane-001"),)


def test_two_labels_at_nearly_one_place(series: SeriesFolder) -> None:
    at, beside = 23.5 * SPACING, 23.5 * SPACING + 1.9
    series.rows.append(f"{uid(9, 0)},{beside},{at},0,nodule,")
    found, verdict = judged(series.survey([]), CT_PROTOCOL)
    severity, said = only(reasons(verdict))
    assert severity == "warning"
    assert said.startswith("2 images have two labels for the same pixels or place")
    assert [one.kind for one in found.alike] == ["nearly the same place"]
    series.rows[-1] = f"{uid(9, 0)},{beside + 0.2},{at},0,nodule,"
    assert judged(series.survey([]), CT_PROTOCOL)[1].word == "fit"


def test_what_is_set_aside_is_said_and_too_much_is_unfit(series: SeriesFolder) -> None:
    series.rows.append(f"{uid(9, 0)},900,900,0,nodule,")
    apart: list[SetAside] = []
    surveyed = series.survey(apart)
    severity, said = only(reasons(judged(surveyed, CT_PROTOCOL, apart)[1]))
    assert severity == "warning"
    assert said.startswith("1 files and findings are set aside")
    series.rows += [f"{uid(9, 0)},900,{900 + n},0,nodule," for n in range(20)]
    apart = []
    surveyed = series.survey(apart)
    severity, said = only(reasons(judged(surveyed, CT_PROTOCOL, apart)[1]))
    assert severity == "unfit"
    assert said.startswith("21 findings are set aside and 48 are left")


def test_what_is_outside_of_the_inclusion_is_counted_and_nobody_is_left_out(
    series: SeriesFolder,
) -> None:
    inclusion = (
        "inclusion = { max-slice-thickness-mm = 2.5, max-pixel-spacing-mm = 0.6, kvp = [100, 130], "
        "from-year = 2015, least-patients = 100 }\n"
    )
    protocol = nodule_study(inclusion + CT_STUDY)
    for n in range(6):
        series.headers[n]["SliceThickness"] = 5
    series.headers[8]["KVP"] = 140
    series.headers[9]["AcquisitionDate"] = "20140304"
    del series.headers[10]["KVP"]
    surveyed = series.survey([], protocol)
    assert len(surveyed) == 48
    found = inspect(surveyed, protocol, [])
    assert [(one.images, one.patients, one.unknown) for one in found.outside] == [
        (6, 3, 0),
        (48, 24, 0),
        (1, 1, 1),
        (1, 1, 0),
    ]
    said = [text for _, text in reasons(judged(surveyed, protocol)[1])]
    assert (
        "6 images of 3 patients outside of what the protocol states: slice thickness at most 2.5 mm"
        in said
    )
    assert "14 training patients, where the protocol states at least 100" in said
    assert len(said) == 6
