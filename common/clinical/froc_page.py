"""The FROC curve of an evaluation in words, picture and table. Ready HTML."""

from common.clinical.evaluation import Evaluation
from common.clinical.froc import RATES, Froc
from common.clinical.plots import froc_svg
from common.page_parts import absent, count, figure, table, with_interval

ONE_PER_SCAN = RATES.index(1.0)


def findings(found: Evaluation) -> str:
    """How many findings are shown at so many false positives per scan, or why that is not known."""
    if found.froc is None:
        why = "The images carry no series, so findings per scan (FROC) cannot be counted."
        if found.auroc is None:
            why = "Not defined: all images are of one class."
        return f"<p>{absent(why)}</p>"
    curve = found.froc
    at_one = curve.points[ONE_PER_SCAN]
    said = (
        f"With one false positive per scan on the average, the model shows "
        f"{100 * at_one.sensitivity:.0f} of 100 findings"
    )
    if at_one.interval is not None:
        low, high = at_one.interval
        said += f" (95 %: {100 * low:.0f} to {100 * high:.0f})"
    picture = figure(
        froc_svg(curve),
        "FROC curve: share of findings shown by false positives per scan",
        f"{count(curve.findings, 'finding')} in {count(curve.scans, 'scan')} of "
        f"{count(curve.patients, 'patient')}. Bars: 95 %, "
        "by a bootstrap over patients; none where no draw of patients differs."
        + _all_called(curve),
    )
    head = ["False positives per scan", *(f"{rate:g}" for rate in RATES), "Mean"]
    row = [
        "Findings shown",
        *(with_interval(point.sensitivity, point.interval) for point in curve.points),
        with_interval(curve.score, curve.interval),
    ]
    return f"<p>{said}.</p>{picture}{table(head, [row], 'numbers froc')}" + _honestly()


def _all_called(curve: Froc) -> str:
    """From where on the curve says nothing of the model."""
    if curve.most >= RATES[-1]:
        return ""
    return (
        f" Calling every candidate gives {curve.most:.3g} false positives per scan and shows all "
        "findings: beyond that (grey) the curve says nothing of the model, and neither do the points there "
        "in the mean."
    )


def _honestly() -> str:
    return (
        '<p class="caption">Several images of one finding count once, with the highest score. The mean of '
        "the seven points is LUNA16's score (CPM). Candidates were given to the model, not searched for: "
        "a finding that nobody listed is not missed here. Only scans with a listed candidate are counted, "
        "so a scan in which there was nothing to list does not lower the false positives per scan. Compare "
        "models on one list, not lists.</p>"
    )
