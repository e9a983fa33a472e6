"""Survival in the report: how patients are ranked, their survival by group of risk, calibration."""

from collections.abc import Iterator
from html import escape
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field

from common.documents import Document
from common.histogram import Estimate
from common.judging.survival import edges_of
from common.markdown import table, word
from common.model_card import Figure, Judgement
from common.page_parts import absent
from common.protocol import StudyProtocol
from common.survival.page import Page, headline
from common.survival.page import sections as of_page
from common.survival.reading import SurvivalReading
from common.survival.scores import SurvivalScores
from common.tasks.survival.study import SurvivalStudy
from server.facts import UNREADABLE, ReportFacts
from server.histograms import nothing, of_histograms, who_released
from server.model_card_words import interval
from server.page import shown
from server.sections.part import Numbers, Part, Tile

NO_BRIER = "not known"  # the model ranks only, or noise is too large


class GroupFigures(Document):
    """Of the patients with a risk of `low` to `high`, the share with the event up to the last edge.

    `predicted` is None for a model that ranks and predicts no survival.
    """

    name: str
    low: float
    high: float
    predicted: float | None = None
    observed: Figure | None = None


class SurvivalJudgement(Judgement):
    """What was said of a model of survival, up to `horizon`, the last edge, in the study's unit."""

    horizon: float
    concordance: Figure
    concordance_uno: Figure | None = None
    integrated_brier: Figure | None = None
    groups: Annotated[tuple[GroupFigures, ...], Field(strict=False)] = ()


class Survival(Part):
    """The part of studies of time to an event."""

    undefined: ClassVar[str] = "no pair of patients to compare"

    def exact(self, protocol: StudyProtocol) -> str:  # noqa: ARG002
        return "every patient counts once, 95 % interval over patients by the jackknife"

    def sections(self, facts: ReportFacts) -> dict[str, str]:
        page = _page(facts)
        if page.exact is None and page.released is None:
            why = nothing(facts, self.undefined)
            return {
                "Ranking patients by risk": f"<p>{absent(why)}.</p><p>{who_released(facts)}</p>"
            }
        found = dict(of_page(page))
        first = next(iter(found))
        found[first] = f"<p>{headline(page)} {who_released(facts)}</p>{found[first]}"
        return found

    def tiles(self, facts: ReportFacts) -> list[Tile]:
        if facts.pooled is None or facts.pooled.scores is None:
            return []
        numbers = self.exact_numbers(facts.protocol, facts.pooled.scores)
        uno, brier = numbers["concordance_uno"], numbers["integrated_brier"]
        tiles = [Tile("Concordance (Uno), exact", _tile(uno), "allows for who was lost from sight")]
        if not _study(facts.protocol).ranks_only:
            last = f"mean over 0 to {escape(horizon(facts.protocol))}; 0 is best"
            tiles.append(Tile("Integrated Brier score, exact", _tile(brier), last))
        return tiles

    def exact_numbers(self, protocol: StudyProtocol, scores: Any) -> Numbers:
        from common.survival.evaluation import evaluate

        found = None if scores is None else evaluate(scores, edges_of(protocol))
        return {
            "concordance_uno": found.uno if found else None,
            "integrated_brier": found.brier.value if found and found.brier else None,
        }

    def numbers(self, reading: Any) -> Numbers:
        found = _reading(reading)
        return {
            **_number("concordance_uno", found.uno if found else None),
            **_number("integrated_brier", found.brier if found else None),
        }

    def figures(self, reading: Any) -> dict[str, str]:
        found = _reading(reading)
        names = ("concordance index (Harrell)", "concordance index (Uno)", "integrated Brier score")
        if found is None:
            return dict.fromkeys(names, UNREADABLE)
        values = (found.discrimination, found.uno, found.brier)
        return {
            name: NO_BRIER if value is None else interval(value.value, value.interval)
            for name, value in zip(names, values, strict=True)
        }

    def metrics(self, protocol: StudyProtocol) -> tuple[str, ...]:
        last = word(horizon(protocol))
        said = [
            "Concordance index (Harrell), read from the sum of the hospitals' tables of risk, time and "
            "event. Every patient counts once. 95 % interval for noise and choice of patients together.",
            f"Concordance index (Uno), with {last} as its tau: allows for who was lost from sight.",
            f"Survival by group of risk up to {last}, the groups chosen by the released counts.",
        ]
        if not _study(protocol).ranks_only:
            said.append(
                f"Integrated Brier score over 0 to {last}, and the predicted against the observed share "
                f"with the event by group. A risk counts as the middle of its bin, and between 0 and the "
                f"last edge hazards are taken to be proportional to those of all patients."
            )
        return tuple(said)

    def answers(self, reading: Any) -> dict[str, str]:
        found = self.figures(reading)
        return {
            "threshold": "none is chosen: the model states a risk over time",
            "calibration": f"integrated Brier score {found['integrated Brier score']}; predicted and "
            f"observed share with the event by group of risk are in the report",
            "temperature": "none: risks are not rescaled",
        }

    def judged(self, reading: Any, source: Literal["released", "exact"]) -> Judgement | None:
        found = _reading(reading)
        return None if found is None else _judgement(found, source)

    def reliability(self, judged: Judgement) -> str:
        if not isinstance(judged, SurvivalJudgement) or not judged.groups:
            return ""
        rows = [
            (
                f"{group.name}: {group.low:.2f} to {group.high:.2f}",
                "-" if group.predicted is None else f"{group.predicted:.2f}",
                "cannot be followed so long"
                if group.observed is None
                else interval(group.observed.value, (group.observed.low, group.observed.high)),
            )
            for group in judged.groups
        ]
        return (
            f"By group of predicted risk, the share with the event up to {judged.horizon:,g} in the study's "
            f"unit of time ({judged.source}):\n\n" + table(("risk", "predicted", "observed"), rows)
        )


def horizon(protocol: StudyProtocol) -> str:
    """ "3,650 days", with the study's own word for its unit."""
    follow = _study(protocol).survival
    return f"{follow.edges[-1]:,g} {follow.unit}"


def _page(facts: ReportFacts) -> Page:
    study, pooled, released = _study(facts.protocol), facts.pooled, _reading(facts.released)
    exact = None
    if pooled is not None and pooled.scores is not None:
        from common.survival.evaluation import evaluate

        cuts = None if released is None else released.cuts
        exact = evaluate(cast("SurvivalScores", pooled.scores), edges_of(study), cuts)
    return Page(
        edges=edges_of(study),
        unit=study.survival.unit,
        exact=exact,
        released=released,
        unnoised=_reading(pooled.unnoised) if pooled is not None and facts.private else None,
        ranks_only=study.ranks_only,
        source=of_histograms(facts),
    )


def _judgement(found: SurvivalReading, source: Literal["released", "exact"]) -> SurvivalJudgement:
    return SurvivalJudgement(
        source=source,
        horizon=float(found.ends[-1]),
        concordance=Figure.of(found.discrimination),
        concordance_uno=None if found.uno is None else Figure.of(found.uno),
        integrated_brier=None if found.brier is None else Figure.of(found.brier),
        groups=tuple(_groups(found)),
    )


def _groups(found: SurvivalReading) -> Iterator[GroupFigures]:
    for group in found.groups:
        yield GroupFigures(
            name=group.name,
            low=group.low,
            high=group.high,
            predicted=None if found.brier is None else group.predicted,
            observed=None if group.observed is None else Figure.of(group.observed),
        )


def _number(key: str, found: Estimate | None) -> Numbers:
    return {
        key: found.value if found else None,
        f"{key}_ci": list(found.interval) if found else None,
    }


def _tile(value: float | list[float] | None) -> str:
    return shown(value if isinstance(value, float) else None, why="not defined")


def _study(protocol: StudyProtocol) -> SurvivalStudy:
    return cast("SurvivalStudy", protocol)


def _reading(found: Any) -> SurvivalReading | None:
    return cast("SurvivalReading | None", found)


PART = Survival()
