"""How a survival model does, as a clinician reads it: sentences, curves and tables. Ready HTML.

What is exact and what was released stand side by side where both are known: a rehearsal knows both, a
deployment only what was released, a hospital by itself only what is exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from common.page_parts import absent, count, figure, table, with_interval
from common.survival.evaluation import SurvivalEvaluation
from common.survival.groups import RiskGroup
from common.survival.plots import calibration_svg, survival_svg
from common.survival.reading import SurvivalReading
from common.survival.table import period_ends

NOT_DEFINED = "not defined (no pair of patients to compare)"
RANKS_ONLY = "not for this model, which ranks patients and predicts no survival"
UNREADABLE = "too few patients to say"
NOT_SO_LONG = "cannot be followed so long"
FEW_EVENTS = 20
COIN = 0.5

LIMITS = (
    "Research use, not a medical device: no patient is to be treated by it.",
    "Who was lost from sight is taken to have been at the same risk as who was not.",
    "Validation patients were never trained on, but come from the same hospitals and years as the "
    "training patients. Elsewhere, and later, the model may do worse.",
    "Intervals cover the choice of patients, and noise where there is some; nothing else.",
)


@dataclass(frozen=True, eq=False)
class Page:
    """One model: `exact` figures, what was `released`, and the same table `unnoised`; each if known.

    edges: the study's, rising, in `unit` (escaped here). A model that `ranks_only` predicts no survival.
    Of an exact group, fewer than `smallest` patients at risk are not counted out. `source` says where
    released figures were read from: ready HTML, a phrase.
    """

    edges: Sequence[float]
    unit: str
    exact: SurvivalEvaluation | None = None
    released: SurvivalReading | None = None
    unnoised: SurvivalReading | None = None
    ranks_only: bool = False
    smallest: int = 1
    source: str = "the hospitals' tables"

    @property
    def last(self) -> float:
        """The last edge."""
        return self.edges[-1]

    @property
    def horizon(self) -> str:
        """ "3,650 days"."""
        return f"{self.last:,g} {escape(self.unit)}"


def headline(page: Page) -> str:
    """What the model does, in a sentence or two: exact where that is known."""
    exact, released = page.exact, page.released
    if exact is not None:
        value, interval = exact.harrell, exact.harrell_interval
    elif released is not None:
        value, interval = released.discrimination.value, released.discrimination.interval
    else:
        value, interval = None, None
    if value is None:
        return f"How the model ranks patients is {NOT_DEFINED}."
    bounds = (
        f" (95 %: {100 * interval[0]:.0f} to {100 * interval[1]:.0f})"
        if interval is not None
        else ""
    )
    said = (
        f"Of two patients of whom one had the event first, the model gave that one the higher risk "
        f"{100 * value:.0f} times in 100{bounds}; 50 would be a coin."
    )
    if interval is not None and interval[0] <= COIN <= interval[1]:
        said += " A coin is within the interval, so nothing is shown."
    if exact is not None and exact.events < FEW_EVENTS:
        said += f" {count(exact.events, 'event')} among {exact.patients:,} patients: too few to say much."
    return said


def sections(page: Page) -> list[tuple[str, str]]:
    """Title and HTML of each section but the limits, in order of reading."""
    found = [("Ranking patients by risk", ranking(page)), ("Survival by risk", survival(page))]
    if not page.ranks_only:
        found.append(("Is the risk as predicted?", calibration(page)))
    return found


def ranking(page: Page) -> str:
    """Harrell's and Uno's concordance index and the integrated Brier score, a column for each source."""
    columns = []
    if page.exact is not None:
        of = page.exact
        brier = absent(RANKS_ONLY)
        if of.brier is not None:
            brier = with_interval(of.brier.value, of.brier.interval, 3)
        columns.append(
            (
                "Exact",
                _defined(of.harrell, of.harrell_interval),
                _defined(of.uno, of.uno_interval),
                brier,
            )
        )
    if page.unnoised is not None:
        columns.append(("Table without noise", *_read(page.unnoised, page)))
    if page.exact is None or page.unnoised is not None or page.released is not None:
        columns.append(("Released", *_read(page.released, page)))
    names = (
        "",
        "Concordance index (Harrell)",
        "Concordance index (Uno)",
        "Integrated Brier score",
    )
    head, *rows = ([name, *cells] for name, *cells in zip(names, *columns, strict=True))
    patients = (
        f"{count(page.exact.patients, 'patient')}, {page.exact.events:,} with the event up to "
        f"{page.horizon}. "
        if page.exact is not None
        else ""
    )
    released = f" {_of_source(page)}" if len(columns) > 1 or page.exact is None else ""
    return table(head, rows, "numbers") + (
        f'<p class="caption">{patients}Concordance index: of two patients of whom one had the event '
        "first, how often that one had the higher risk; ties count half, 0.5 is chance. Harrell's counts "
        "all pairs alike, Uno's allows for who was lost from sight. Integrated Brier score: squared "
        f"distance of the predicted survival from what was, mean over 0 to {page.horizon}; 0 is best. "
        f"Intervals are 95 % ones over patients{' and noise' if released else ''}.{released}</p>"
    )


def survival(page: Page) -> str:
    """The curves by group of risk, and how many were at risk."""
    exact, released = _groups(page)
    svg = survival_svg(exact, released, page.last, page.unit)
    if svg is None:
        return f"<p>{absent(UNREADABLE.capitalize() + '.')}</p>"
    said = ["Kaplan and Meier's share of patients without the event, by predicted risk."]
    if page.ranks_only:
        said.append(
            "The model ranks only: of a hazard ratio h to a patient whose inputs are all 0, the “risk” is "
            "h / (1 + h)."
        )
    if exact:
        said.append("Exact: steps, with 95 % bands (Greenwood), until nobody is seen any more.")
    if released:
        said.append(
            "Released: at the ends of periods, with 95 % bars for noise and patients; a curve ends where "
            f"too few are at risk to say. {_of_source(page)}"
        )
    tables = "".join(
        f"<h4>Patients at risk, {name}</h4>{_at_risk(page, groups, least)}"
        for name, groups, least in (("exact", exact, page.smallest), ("as released", released, 1))
        if groups
    )
    return (
        figure(svg, "Share without the event over time by group of risk", " ".join(said)) + tables
    )


def calibration(page: Page) -> str:
    """Predicted and observed share with the event up to the last edge, by group."""
    exact, released = _groups(page)
    svg = calibration_svg(exact, released)
    if not exact and not released:
        return f"<p>{absent(UNREADABLE.capitalize() + '.')}</p>"
    head, columns = ["Group"], []
    for name, groups in (("exact", exact), ("released", released)):
        if groups:
            head += [f"Predicted, {name}", f"Observed, {name}"]
            columns.append({group.name: group for group in groups})
    rows = []
    for name in dict.fromkeys(name for column in columns for name in column):
        row = [name]
        for column in columns:
            row += _predicted_and_observed(column.get(name))
        rows.append(row)
    caption = (
        f"Share of patients with the event up to {page.horizon}. Predicted: the mean of the group's risks"
        + ("; in released figures a risk is the middle of its bin. " if released else ". ")
        + "Observed: what Kaplan and Meier's curve has lost by then, with its 95 % interval."
    )
    picture = "" if svg is None else figure(svg, "Observed against predicted, by group of risk", "")
    return picture + table(head, rows, "numbers") + f'<p class="caption">{caption}</p>'


def _predicted_and_observed(group: RiskGroup | None) -> tuple[str, str]:
    if group is None:
        return absent(UNREADABLE), absent(UNREADABLE)
    observed = group.observed
    return (
        f"{group.predicted:.2f}",
        absent(NOT_SO_LONG)
        if observed is None
        else with_interval(observed.value, observed.interval),
    )


def _groups(page: Page) -> tuple[Sequence[RiskGroup], Sequence[RiskGroup]]:
    return (
        page.exact.groups if page.exact is not None else (),
        page.released.groups if page.released is not None else (),
    )


def _at_risk(page: Page, groups: Sequence[RiskGroup], smallest: int) -> str:
    head = [escape(page.unit), *(f"{end:,g}" for end in (0.0, *period_ends(page.edges)))]
    rows = [[group.name, *_numbers(group, smallest)] for group in groups]
    return table(head, rows, "numbers")


def _numbers(group: RiskGroup, smallest: int) -> Iterator[str]:
    for number in group.at_risk:
        if 0 < number < smallest:
            yield absent(f"fewer than {smallest}")
        else:
            yield f"{max(0.0, number):,.0f}"


def _defined(value: float | None, interval: tuple[float, float] | None) -> str:
    return absent(NOT_DEFINED) if value is None else with_interval(value, interval, 3)


def _read(found: SurvivalReading | None, page: Page) -> tuple[str, str, str]:
    if found is None:
        return (absent(UNREADABLE),) * 3
    brier = absent(RANKS_ONLY if page.ranks_only else UNREADABLE)
    return (
        with_interval(found.discrimination.value, found.discrimination.interval, 3),
        absent(UNREADABLE)
        if found.uno is None
        else with_interval(found.uno.value, found.uno.interval, 3),
        brier if found.brier is None else with_interval(found.brier.value, found.brier.interval, 3),
    )


def _of_source(page: Page) -> str:
    return f"Released figures are read from {page.source}."
