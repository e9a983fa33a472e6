"""An evaluation as a clinician reads it: sentences first, then curves and tables. Ready HTML.

Figures are of images; where every patient has one image the text says patients.
"""

from collections.abc import Callable, Sequence
from html import escape
from typing import TypeVar

from common.clinical.calibration_page import FEW_PATIENTS, Words, calibration, decision
from common.clinical.evaluation import AIMS, Evaluation
from common.clinical.figures import OperatingPoint, Share
from common.clinical.froc_page import findings
from common.clinical.plots import discrimination_svg
from common.clinical.subgroups import Subgroup, Suppressed
from common.page_parts import absent, count, figure, table, with_interval

Kind = TypeVar("Kind")

RESEARCH = "Research use, not a medical device: no patient is to be treated by it."
NO_THRESHOLD = "no threshold reaches it and still tells anything apart"
TOO_FEW_TO_SPLIT = (
    "There are too few patients to choose the threshold on some and judge it on others. It was chosen "
    "on the same patients, so on new ones it will do worse than it says here."
)
SPLIT = (
    "The threshold was chosen on a random half of the patients and is judged on the other half, so "
    "these figures are fair to it."
)


def headline(found: Evaluation, words: Words) -> str:
    """What the model does, in two sentences with their intervals."""
    if found.auroc is None:
        return (
            f"All {words.counted(found.images)} are of one class, so nothing can be said about how "
            f"the model tells “{words.negative}” and “{words.positive}” apart."
        )
    said = (
        f"Of one {words.unit} with “{words.positive}” and one with “{words.negative}”, the model gives "
        f"the first the higher score {100 * found.auroc:.0f} times in 100"
        f"{_range(found.auroc_interval)}; 50 would be a coin."
    )
    if found.patients < FEW_PATIENTS:
        said += f" These are {found.patients} patients: too few to say much."
    point = found.point
    if point is None:
        return said
    return (
        f"{said} With “positive” from a score of {point.threshold:.2g} on, it finds "
        f"{_of(point.sensitivity)} of “{words.positive}” and calls "
        f"{_of(_complement(point.specificity))} of “{words.negative}” positive by mistake."
    )


def sections(found: Evaluation, words: Words) -> list[tuple[str, str]]:
    """Title and HTML of each section but the limits, in order of reading."""
    of_scans = [("Findings per scan", findings(found))] if words.view == "image" else []
    return [
        ("How well it tells them apart", discrimination(found, words)),
        ("At a threshold", operating_points(found, words)),
        *of_scans,
        ("Can a score be read as a probability?", calibration(found, words)),
        ("Is it worth acting on?", decision(found, words)),
        ("Groups of patients", groups(found, words)),
    ]


def discrimination(found: Evaluation, words: Words) -> str:
    """ROC and precision-recall curve, with their areas and intervals."""
    svg = discrimination_svg(found)
    if svg is None or found.auroc is None or found.average_precision is None:
        return f"<p>{absent(_one_class(words))}</p>"
    share = found.positive_images / found.images
    return figure(
        svg,
        "ROC curve and precision-recall curve with their 95 % bands",
        f"{found.patients:,} patients, {count(found.images, words.view)}, {found.positive_images:,} of them "
        f"“{words.positive}”. Left: area (AUROC) "
        f"{with_interval(found.auroc, found.auroc_interval, 3)}, by DeLong's method. Right: average "
        f"precision {with_interval(found.average_precision, found.average_precision_interval, 3)}; "
        f"chance is the share of “{words.positive}”, {share:.2f}. Bands: 95 % at each point, by a "
        f"bootstrap over patients. Square: the operating point below, on the patients that judge it."
        + (" No interval: no score is on the wrong side." if found.auroc in (0.0, 1.0) else ""),
    )


def operating_points(found: Evaluation, words: Words) -> str:
    """The 2x2 table at the first aim, and each aim's sensitivity and specificity."""
    if found.auroc is None:
        return f"<p>{absent(_one_class(words))}</p>"
    judged = next((point for point in found.points if point is not None), None)
    if judged is None:
        return f"<p>{absent('There is none: ' + NO_THRESHOLD + '.')}</p>"
    rows = [
        _point_row(aim, wanted, point)
        for (aim, wanted), point in zip(AIMS, found.points, strict=True)
    ]
    head = ["Aim", "Score from", "Sensitivity", "Specificity", "Alarms right", "All-clears right"]
    parts = [f"<p>{TOO_FEW_TO_SPLIT if judged.same_patients else SPLIT}</p>"]
    if found.point is not None:
        parts.append(_two_by_two(found.point, words))
    parts.append(table(head, rows, "numbers"))
    parts.append(
        f'<p class="caption">Shares of {words.units} with their 95 % intervals (Wilson'
        + ("" if found.one_image_a_patient else f", with as many {words.views} as are independent")
        + "). Alarms right: positive predictive value; all-clears right: negative predictive value. "
        f"These two hold where “{words.positive}” is as common as here.</p>"
    )
    return "".join(parts)


def _two_by_two(point: OperatingPoint, words: Words) -> str:
    hits, missed = point.true_positives, point.false_negatives
    alarms, clears = point.false_positives, point.true_negatives
    rows = [
        [f"score ≥ {point.threshold:.2g}", f"{hits:,}", f"{alarms:,}", f"{hits + alarms:,}"],
        [f"score &lt; {point.threshold:.2g}", f"{missed:,}", f"{clears:,}", f"{missed + clears:,}"],
        ["together", f"{hits + missed:,}", f"{alarms + clears:,}", f"{point_total(point):,}"],
    ]
    head = [words.units, f"truly “{words.positive}”", f"truly “{words.negative}”", "together"]
    return table(head, rows, "numbers counts")


def point_total(point: OperatingPoint) -> int:
    """All images that were judged at the point."""
    return point.sensitivity.images + point.specificity.images


def _point_row(aim: str, wanted: float, point: OperatingPoint | None) -> list[str]:
    name = f"{aim} ≥ {wanted:.2f}"
    if point is None:
        return [name, absent(NO_THRESHOLD), *["–"] * 4]
    return [
        name,
        f"{point.threshold:.3g}",
        shown(point.sensitivity),
        shown(point.specificity),
        shown(point.positive_predictive_value),
        shown(point.negative_predictive_value),
    ]


def groups(found: Evaluation, words: Words) -> str:
    """A table for each way to group the patients; small cells are suppressed."""
    tables = "".join(_group_table(told_by, rows, words) for told_by, rows in found.groups.items())
    threshold = (
        f"Sensitivity and specificity at the first threshold above, {found.point.threshold:.3g}, on all "
        f"patients{'' if found.point.same_patients else ', half of whom chose it'}. "
        if found.point
        else ""
    )
    small = (
        f"A cell of fewer than {found.smallest_group} patients is not shown, nor is the one from which it "
        f"could be worked out. "
        if found.smallest_group > 1
        else ""
    )
    return tables + (
        f'<p class="caption">{threshold}{small}Among many groups of few patients one will look bad by '
        "chance.</p>"
    )


def _group_table(told_by: str, rows: Sequence[Subgroup], words: Words) -> str:
    views = words.views.capitalize()
    head = [escape(told_by), "Patients", views, "AUROC", "Sensitivity", "Specificity"]
    body = [
        [
            escape(row.name),
            *(_cell(count, "{:,}".format) for count in (row.patients, row.images)),
            _cell(row.auroc, lambda area: with_interval(area.value, area.interval)),
            *(_cell(found, shown) for found in (row.sensitivity, row.specificity)),
        ]
        for row in rows
    ]
    return table(head, body, "numbers")


def _one_class(words: Words) -> str:
    return f"Not defined: all {words.views} are of one class."


def _cell(value: Kind | Suppressed | None, form: Callable[[Kind], str]) -> str:
    if value is None:
        return "–"
    return absent("not shown") if isinstance(value, str) else form(value)


def limits(words: Words) -> tuple[str, ...]:
    """What the figures do not say."""
    of_images = words.view == "image"
    same = "scanners, readers and years" if of_images else "place and years"
    said = (
        RESEARCH,
        f"These are the hospital's validation patients: never trained on, but of the same {same} as the "
        f"training patients. Elsewhere, and later, it may do worse.",
        "The labels are taken for the truth.",
        "Intervals cover the choice of patients, nothing else; they are too narrow where patients were "
        "picked.",
    )
    of_findings = ("But for the findings per scan, a finding counts once for each of its images.",)
    return said + of_findings if of_images else said


def shown(found: Share | None) -> str:
    """A share with its interval and counts; a dash where there is none."""
    if found is None or found.value is None:
        return "–"
    return with_interval(found.value, found.interval)


def _of(found: Share) -> str:
    """ "118 of 134 (88 %, 95 %: 81 to 93 %)"."""
    if found.value is None:
        return "none"
    low, high = found.interval
    return (
        f"{found.hits:,} of {found.images:,} ({100 * found.value:.0f} %; 95 %: {100 * low:.0f} to "
        f"{100 * high:.0f} %)"
    )


def _complement(found: Share) -> Share:
    low, high = found.interval
    return Share(found.images - found.hits, found.images, found.patients, (1 - high, 1 - low))


def _range(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return ""
    return f" (95 %: {100 * interval[0]:.0f} to {100 * interval[1]:.0f})"
