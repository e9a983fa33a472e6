"""What is said of a model that tells two classes apart: curves, calibration, an operating point.

For every task whose judge is `common.judging.binary`; the data table of its protocol names the classes.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from common.clinical.calibration_page import Words
from common.clinical.page import headline
from common.clinical.page import sections as clinical
from common.histogram import Estimate
from common.judging.binary import classes_of, prevalence_of
from common.markdown import table
from common.metrics import Scores, average_precision
from common.model_card import Bin, Figure, Judged, Judgement, OperatingPoint
from common.protocol import StudyProtocol
from common.released import WANTED_SENSITIVITY, Reading
from common.tasks import task_of
from common.temperature import Temperature
from server.facts import UNREADABLE, ReportFacts
from server.model_card_words import interval
from server.page import shown
from server.sections.judgement import ONE_CLASS, calibration, reading_of, roc
from server.sections.part import Numbers, Part, Tile

SHOWN_FROM = 10  # patients of a group in the report's tables

NAMES = (
    "AUROC",
    "threshold",
    "sensitivity",
    "specificity",
    "Brier score",
    "calibration error",
    "temperature",
)


class Binary(Part):
    """The part of any task with two classes."""

    undefined: ClassVar[str] = "one class only"
    released: ClassVar[str] = "every patient counts once in each class"

    def exact(self, protocol: StudyProtocol) -> str:
        view = task_of(protocol).view
        return f"every {view} counts, 95 % interval over patients by DeLong's method"

    def sections(self, facts: ReportFacts) -> dict[str, str]:
        found = {
            "ROC curve of the final model": roc(facts),
            "Calibration and operating point": calibration(facts),
        }
        if facts.pooled is not None and facts.pooled.scores is not None:
            found["For the clinician"] = "".join(_clinical(facts.protocol, facts.pooled.scores))
        return found

    def tiles(self, facts: ReportFacts) -> list[Tile]:
        if facts.pooled is None or facts.pooled.scores is None:
            return []
        precision = shown(average_precision(facts.pooled.scores), why=ONE_CLASS)
        chance = "by chance: the share of positives"
        return [Tile("Average precision, exact", precision, chance)]

    def exact_numbers(self, protocol: StudyProtocol, scores: Any) -> Numbers:  # noqa: ARG002
        return {"average_precision": None if scores is None else average_precision(scores)}

    def numbers(self, reading: Any) -> Numbers:
        found = reading_of(reading)
        calibration_ = found.calibration if found else None
        point = found.operating_point if found else None
        return {
            "prevalence": calibration_.prevalence if calibration_ else None,
            "brier": calibration_.brier if calibration_ else None,
            "calibration_error": calibration_.expected_error if calibration_ else None,
            **estimate("temperature", found.temperature if found else None),
            "threshold": point.threshold if point else None,
            **estimate("sensitivity", point.sensitivity if point else None),
            **estimate("specificity", point.specificity if point else None),
        }

    def figures(self, reading: Any) -> dict[str, str]:
        found = reading_of(reading)
        if found is None:
            return dict.fromkeys(NAMES, UNREADABLE)
        return dict(zip(NAMES, _figures(found), strict=True))

    def metrics(self, protocol: StudyProtocol) -> tuple[str, ...]:
        return (
            "AUROC, read from the sum of the hospitals' score histograms. Every patient counts once in "
            "each class. 95 % interval for noise and choice of patients together.",
            f"Operating point: the highest threshold between two bins with a sensitivity of at least "
            f"{WANTED_SENSITIVITY:.2f}, chosen on the patients that judge it.",
            f"Calibration at a prevalence of {100 * prevalence_of(protocol):g} %: Brier score, "
            f"expected calibration error, share of positives by bin.",
            "Temperature: a score becomes a probability as sigmoid(logit(score) / temperature).",
        )

    def answers(self, reading: Any) -> dict[str, str]:
        found = self.figures(reading)
        return {
            "threshold": f"threshold {found['threshold']}, sensitivity {found['sensitivity']}, "
            f"specificity {found['specificity']}",
            "calibration": f"Brier score {found['Brier score']}, calibration error "
            f"{found['calibration error']}",
            "temperature": f"temperature {found['temperature']}",
        }

    def judged(self, reading: Any, source: Literal["released", "exact"]) -> Judgement | None:
        found = reading_of(reading)
        return None if found is None else _of(found, source)

    def reliability(self, judged: Judgement) -> str:
        if not isinstance(judged, Judged) or not judged.reliability:
            return ""
        rows = [
            (f"{b.low:.3f} to {b.high:.3f}", f"{b.observed:.2f} ± {b.error:.2f}")
            for b in judged.reliability
        ]
        return (
            f"Of those who score so high, the share that is positive ({judged.source}; prevalence "
            f"{100 * judged.prevalence:g} %; ± one standard error):\n\n"
            + table(("score", "share of positives"), rows)
        )


def estimate(key: str, found: Estimate | Temperature | None) -> Numbers:
    """A figure and its interval for machines."""
    return {
        key: found.value if found else None,
        f"{key}_ci": list(found.interval) if found else None,
    }


def _clinical(protocol: StudyProtocol, scores: Scores) -> Iterator[str]:
    """The federated model on all validation patients as a clinician reads it."""
    from common.clinical.evaluation import evaluate, groups_of  # loads scikit-learn

    view, classes = task_of(protocol).view, classes_of(protocol)
    found = evaluate(scores, SHOWN_FROM, groups_of(scores, classes, view))
    words = Words.of(found, classes, view)
    yield f"<p>{headline(found, words)}</p>"
    for title, text in clinical(found, words):
        yield f"<h3>{title}</h3>{text}"


def _figures(found: Reading) -> Iterator[str]:
    """In the order of NAMES."""
    point, quality = found.operating_point, found.calibration
    noise = f" ± {quality.brier_error:.3f}" if quality.brier_error else ""
    error = quality.expected_error
    yield interval(found.auroc.value, found.auroc.interval)
    yield "none between the bins" if point is None else f"{point.threshold:.3g}"
    yield "-" if point is None else interval(point.sensitivity.value, point.sensitivity.interval)
    yield "-" if point is None else interval(point.specificity.value, point.specificity.interval)
    yield f"{quality.brier:.3f}{noise}"
    yield "not above the noise" if error is None else f"{error:.3f}"
    heat = found.temperature
    yield "not known" if heat is None else interval(heat.value, heat.interval)


def _of(found: Reading, source: Literal["released", "exact"]) -> Judged:
    point = found.operating_point
    return Judged(
        source=source,
        prevalence=found.calibration.prevalence,
        auroc=Figure.of(found.auroc),
        temperature=None if found.temperature is None else Figure.of(found.temperature),
        operating_point=None
        if point is None
        else OperatingPoint(
            threshold=point.threshold,
            sensitivity=Figure.of(point.sensitivity),
            specificity=Figure.of(point.specificity),
        ),
        reliability=tuple(
            Bin(low=b.low, high=b.high, observed=b.observed, error=b.error)
            for b in found.calibration.bins
        ),
    )
