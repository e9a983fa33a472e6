"""What a study's inclusion is in plain words; the rest is read in test_approval.py."""

from collections.abc import Callable

import pytest
import tomli_w

from client.plain_words import in_plain_words
from common.protocol import StudyProtocol, parse_protocol
from common.tasks import bins_of
from tests.tasks import TASKS, small
from tests.unit.client.conftest import Office

SmallStudy = Callable[..., StudyProtocol]


def said_of(study: StudyProtocol, office: Office) -> str:
    noise = {"training": 1.0, "validation": 2.0}
    words = in_plain_words(study, office.write_policy(), noise)  # type: ignore[arg-type]
    return " ".join(sentence for sentences in words.values() for sentence in sentences)


@pytest.mark.parametrize(
    ("inclusion", "said"),
    [
        ({"max-slice-thickness-mm": 2.5}, "slices of at most 2.5 mm."),
        ({"max-pixel-spacing-mm": 0.8}, "pixels of at most 0.8 mm."),
        ({"kvp": [100.0, 140.0]}, "100 to 140 kV."),
        ({"from-year": 2010}, "CT of 2010 or later."),
        ({"least-patients": 20}, "hospitals with at least 20 training patients."),
        ({"from-year": 2010, "kvp": [80.0, 120.0]}, "80 to 120 kV, CT of 2010 or later."),
    ],
)
def test_what_the_study_is_meant_for(
    inclusion: dict[str, object], said: str, small_study: SmallStudy, office: Office
) -> None:
    plain = small_study()
    fields = plain.model_dump(by_alias=True, exclude_none=True, mode="json")
    study = parse_protocol(tomli_w.dumps({**fields, "inclusion": inclusion}))
    assert f"Meant for {said} This excludes nobody" in said_of(study, office)
    assert "Meant for" not in said_of(plain, office)


@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_said_that_the_study_has_not(task: str, office: Office) -> None:
    study = small(task)
    said = said_of(study, office)
    assert ("histogram" in said) is (bins_of(study) > 0)
    assert ("DICOM" in said) is (task == "nodule-classification")
    assert ("each class has at least" in said) is (bins_of(study) > 0 and task != "survival")
    assert ("with and without the event, has at least" in said) is (task == "survival")
