"""A hospital's images looked at for one study, as the vault will read them: are they fit for it?

With a policy as a part of `intramural-client check`, or alone, before anything else is set up.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from client.data import PATCHES, Cohort, Patients, SetAside
from client.egress import large_enough
from client.finding import Finding, Verdict
from client.policy import Limits, SitePolicy
from client.readers import open_cohort
from client.redaction import in_words
from common.errors import IntramuralError
from common.page_parts import plural
from common.progress import Progress, progress_bar
from common.protocol import StudyProtocol, load_protocol
from common.tasks import task_of
from common.tasks.nodule_classification.study import NoduleStudy

if TYPE_CHECKING:
    from client.data.survey import Survey

MOST_NAMED = 20  # files and findings that are set aside


@dataclass(frozen=True)
class DataLook:
    """That the images are to be judged too, which takes seconds more, with a page at `report` or none."""

    report: Path | None = None


def findings_of_data(
    folder: Path, protocol_file: Path, hospital: str | None, look: DataLook
) -> Iterator[Finding]:
    """What `check` says of the images in `folder` for the study in `protocol_file`, and nothing else.

    `hospital` is a name of the protocol's roster; None: the folder's own name. What is made on the way
    (patches, the salt of local patient ids) is gone at the end, so the ids of two pages differ.
    """
    try:
        protocol = load_protocol(protocol_file)
        name = hospital or folder.resolve().name
        protocol.hospital(name)  # on the roster, or refused
        yield Finding("study protocol", "good", f"'{protocol.study}', hospital '{name}'")
    except IntramuralError as error:
        yield Finding("study protocol", "bad", str(error))
        return
    with TemporaryDirectory(prefix="intramural-check-") as state:
        policy = SitePolicy(
            hospital=name,
            data=folder,
            state=Path(state),
            approved_studies=(),
            max_epsilon=protocol.privacy.epsilon,
            limits=Limits.just_for(protocol),
        )
        yield from data_findings(policy, protocol, look)


def data_findings(
    policy: SitePolicy, protocol: StudyProtocol, look: DataLook | None
) -> Iterator[Finding]:
    """All data are read, as the vault will: what cannot be used is named here, and in no log."""
    apart: list[SetAside] = []
    surveyed = None
    try:
        with progress_bar(f"reading {plural(task_of(protocol).view)}") as told:
            if look is None or not isinstance(protocol, NoduleStudy):
                cohort: Cohort[Patients] = open_cohort(
                    protocol, policy, state=_own_state(policy), progress=told, set_aside=apart
                )
            else:
                surveyed = _surveyed(policy, protocol, told, apart)
                if surveyed.refusal is not None:
                    raise surveyed.refusal
                cohort = surveyed.cohort
        yield _patients(policy, protocol, cohort, apart)
    except IntramuralError as error:
        yield Finding("data", "bad", str(error), in_log=in_words(error))
    if look is not None and isinstance(protocol, NoduleStudy):
        yield _judged(policy, protocol, surveyed, apart, look)
    elif look is not None and look.report is not None:
        said = f"it is of images, and this is a study of {protocol.task}; leave it out"
        yield Finding("data report", "bad", said)


def _surveyed(
    policy: SitePolicy, protocol: NoduleStudy, told: Progress, apart: list[SetAside]
) -> "Survey":
    from client.data.survey import survey

    state = _own_state(policy)
    return survey(
        policy.data,
        protocol.images,
        policy.patient_id_pattern,
        cache=None if state is None else state / PATCHES,
        progress=told,
        set_aside=apart,
    )


def _judged(
    policy: SitePolicy,
    protocol: NoduleStudy,
    surveyed: "Survey | None",
    apart: list[SetAside],
    look: DataLook,
) -> Finding:
    from client.inspection.report import data_verdict  # loads torch, scikit-learn and matplotlib

    what = "data for this study"
    try:
        verdict = data_verdict(policy, protocol, surveyed, apart, look.report)
    except IntramuralError as error:
        return Finding(what, "bad", str(error), in_log=in_words(error))
    marks: dict[str, Verdict] = {"fit": "good", "fit with warnings": "look", "unfit": "bad"}
    reasons = "".join(f"\n        {one.severity}: {one.said}" for one in verdict.reasons)
    page = "" if look.report is None else f"\n        {look.report} says more; it stays here"
    return Finding(what, marks[verdict.word], verdict.word + reasons + page, in_log=verdict.word)


def _patients(
    policy: SitePolicy, protocol: StudyProtocol, cohort: Cohort[Patients], apart: list[SetAside]
) -> Finding:
    training, validation = len(cohort.training), cohort.validation
    nominal = protocol.hospital(policy.hospital).nominal_patients
    said = f"{training} training and {len(validation)} validation patients, {nominal} agreed as nominal"
    least, judge = policy.limits.smallest_group, task_of(protocol).judge
    enough = judge is None or large_enough(
        judge.groups_of(protocol, validation.labels, validation.patient_of_view), least
    )
    if not enough:
        said += f"; score histograms stay here: a class has fewer than {least}"
    if apart:
        what = "files and findings" if isinstance(protocol, NoduleStudy) else "rows"
        count = f"{said}; {len(apart)} {what} are set aside"
        named = "".join(f"\n        {one.what}: {one.reason}" for one in apart[:MOST_NAMED])
        return Finding("data", "look", count + named, in_log=count)
    return Finding("data", "good" if enough and 2 * training >= nominal else "look", said)


def _own_state(policy: SitePolicy) -> Path | None:
    """The state folder, if what we write there is the vault's own: else None."""
    own = policy.state.is_dir() and policy.state.stat().st_uid == os.geteuid()
    return policy.state if own else None
