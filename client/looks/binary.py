"""A model that tells two classes apart."""

from client.looks import Look
from common.clinical.calibration_page import Words
from common.clinical.evaluation import as_json, evaluate, groups_of
from common.clinical.page import headline, limits, sections
from common.judging.binary import Binary, classes_of
from common.metrics import Scores
from common.protocol import StudyProtocol
from common.tasks import task_of

UNNAMED = ("negative", "positive")  # the classes of a study whose text was not kept
UNNAMED_VIEW = "item"


def look(scores: Scores, protocol: StudyProtocol | None, smallest: int) -> Look:
    """See `client.looks.Looking`; a study whose text was not kept has classes without their names."""
    classes, view = UNNAMED, UNNAMED_VIEW
    if protocol is not None:
        classes, view = classes_of(protocol), task_of(protocol).view
    found = evaluate(scores, smallest, groups_of(scores, classes, view))
    words = Words.of(found, classes, view)
    return Look(
        patients=found.patients,
        figure=Binary.figure,
        value=found.auroc,
        interval=found.auroc_interval,
        headline=headline(found, words),
        sections=sections(found, words),
        limits=limits(words),
        facts={"classes": list(classes), **as_json(found)},
    )
