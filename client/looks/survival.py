"""A model of the time to an event."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from client.looks import Look
from common.clinical.subgroups import SUPPRESSED, suppressed
from common.errors import ProtocolError
from common.judging.survival import Survival, edges_of
from common.protocol import StudyProtocol
from common.survival.evaluation import SurvivalEvaluation, as_json, evaluate
from common.survival.groups import RiskGroup
from common.survival.page import LIMITS, Page, headline, sections
from common.survival.scores import SurvivalScores
from common.tasks.survival.study import SurvivalStudy

NOBODY = "No patient is among the validation patients here, so nothing can be said of the model."


def look(scores: SurvivalScores, protocol: StudyProtocol | None, smallest: int) -> Look:
    """See `client.looks.Looking`. ProtocolError without the text, which says until when a model is judged."""
    if protocol is None:
        raise ProtocolError(
            "expected the text of the study, which says until when its model is judged, and it was not "
            "kept here or was changed since; keep it with intramural-client approve"
        )
    study, edges = cast("SurvivalStudy", protocol), edges_of(protocol)
    found = evaluate(scores, edges)
    until = {"edges": list(edges), "unit": study.survival.unit}
    if found is None:
        facts = {**until, "patients": 0}
        return Look(0, Survival.figure, None, None, NOBODY, (), LIMITS, facts)
    small = _small(found.groups, smallest)
    shown = replace(found, groups=tuple(g for g in found.groups if g.name not in small))
    page = Page(
        edges=edges,
        unit=study.survival.unit,
        exact=shown,
        ranks_only=study.ranks_only,
        smallest=smallest,
    )
    return Look(
        patients=found.patients,
        figure=Survival.figure,
        value=found.harrell,
        interval=found.harrell_interval,
        headline=headline(page),
        sections=_with_note(sections(page), smallest) if small else sections(page),
        limits=LIMITS,
        facts={**until, **_facts(shown, small)},
    )


def _small(groups: Sequence[RiskGroup], smallest: int) -> list[str]:
    """The groups that are not shown: those that are too small, and whatever would give one away."""
    hidden = suppressed([int(group.at_risk[0]) for group in groups], smallest)
    return [group.name for group, hide in zip(groups, hidden.tolist(), strict=True) if hide]


def _with_note(found: Sequence[tuple[str, str]], smallest: int) -> list[tuple[str, str]]:
    """The sections, of which all but the first are by group of risk."""
    note = (
        f'<p class="caption">A group of fewer than {smallest} patients is not shown, nor is the one from '
        f"which it could be worked out.</p>"
    )
    (title, ranking), *by_group = found
    return [(title, ranking), *((title, f"{text}{note}") for title, text in by_group)]


def _facts(shown: SurvivalEvaluation, small: Sequence[str]) -> dict[str, Any]:
    facts = as_json(shown)
    facts["groups"] += [{"name": name, "patients": SUPPRESSED} for name in small]
    return facts
