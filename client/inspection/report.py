"""From a survey to the verdict that `intramural-client check` says, and to the page that it writes."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from client.data import SetAside
from client.data.survey import Survey
from client.inspection.inspection import inspect
from client.inspection.page import page
from client.inspection.pseudonym import LocalIds
from client.inspection.sections import sections, set_aside
from client.inspection.verdict import Reason, Verdict, judge
from client.policy import SitePolicy
from common.errors import RunError
from common.files import write_atomic
from common.tasks.nodule_classification.study import NoduleStudy

_NOT_OPENED = Reason(
    "unfit",
    "the folder cannot be opened as data of this study; what check says of the data on the terminal "
    "says why",
)


def data_verdict(
    policy: SitePolicy,
    protocol: NoduleStudy,
    survey: Survey | None,
    apart: Sequence[SetAside],
    path: Path | None,
) -> Verdict:
    """The verdict on `survey`, None where the folder could not be opened; written to `path` as a page.

    RunError when the page cannot be written, HospitalError when its local ids cannot be made.
    """
    if survey is None:
        verdict = Verdict((_NOT_OPENED,))
        parts = [("Set aside", set_aside(apart))]
        lead = "No images could be looked at."
    else:
        found = inspect(survey, protocol, apart)
        verdict = judge(found, protocol.images.classes)
        if path is None:
            return verdict
        parts = sections(found, protocol, LocalIds(policy.state).of)
        lead = f"{len(survey):,} images of {len(found.images_of_patient):,} patients."
    if path is not None:
        lead = f"{lead} Looked at on {datetime.now(UTC):%Y-%m-%d}."
        _write(path, page(policy.hospital, protocol, lead, verdict, parts))
    return verdict


def _write(path: Path, text: str) -> None:
    try:
        # A file's name need not be text; what is none becomes question marks.
        write_atomic(path, text.encode(errors="replace"))
    except OSError as error:
        raise RunError(
            f"expected to write the data report to {path}, found that it cannot be ({error.strerror}); "
            f"make its folder, or choose another --data-report"
        ) from error
