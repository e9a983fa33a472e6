"""The curves of an evaluation as SVG, in print and for colour-blind readers.

Colours are Okabe and Ito's; line styles and markers differ as well.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from common.clinical.calibration import Calibration, Scaling, ScoreBin
from common.clinical.curves import Band
from common.clinical.evaluation import Evaluation
from common.clinical.figures import DecisionCurve
from common.clinical.froc import RATES, Froc
from common.drawing import BLUE, GREY, INK, VERMILLION, canvas, svg_of
from common.metrics import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_HEIGHT = 0.05  # net benefit below zero that is drawn


def discrimination_svg(found: Evaluation) -> str | None:
    """ROC and precision-recall curve side by side, each with its 95 % band; None for one class."""
    if found.roc is None or found.precision_recall is None:
        return None
    figure, (left, right) = canvas(8.4, 4.2, 2)
    bands = found.bands or (None, None)
    _curve(left, found.roc, bands[0])
    left.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="chance")
    left.set(xlabel="false positive rate (1 − specificity)", ylabel="sensitivity")
    _curve(right, found.precision_recall, bands[1])
    share = found.positive_images / found.images
    right.axhline(share, color=GREY, linestyle="--", linewidth=1, label="chance")
    right.set(xlabel="recall (sensitivity)", ylabel="precision (share of alarms that are right)")
    point = found.point
    if point is not None:
        sensitivity, precision = point.sensitivity.value, point.positive_predictive_value.value
        specificity = point.specificity.value
        if sensitivity is not None and specificity is not None:
            _mark(left, 1 - specificity, sensitivity)
        if sensitivity is not None and precision is not None:
            _mark(right, sensitivity, precision)
    for axes, corner in ((left, 4), (right, 3)):  # lower right, lower left
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.legend(frameon=False, fontsize=8.5, loc=corner)
    return svg_of(figure)


def reliability_svg(found: Calibration, scaling: Scaling | None) -> str:
    """Share of positives by score with its 95 % interval; a bin's width is drawn as a faint line.

    With `scaling` beside it: the half that judges the temperature, before and after.
    """
    figure, panels = canvas(4.6 if scaling is None else 8.4, 4.2, 1 if scaling is None else 2)
    _reliability(panels[0], found.bins, BLUE, "o", "observed (95 %)")
    if scaling is not None:
        before, after = scaling.reliability
        _reliability(panels[1], before, BLUE, "o", "as scored")
        _reliability(panels[1], after, VERMILLION, "s", f"at temperature {scaling.value:.2f}")
    for axes in panels:
        axes.plot(
            [0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as the score says"
        )
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axes.set(xlabel="score", ylabel="share of positives")
        axes.legend(frameon=False, fontsize=8.5, loc="upper left")
    return svg_of(figure)


def _reliability(
    axes: "Axes", bins: Sequence[ScoreBin], colour: str, marker: str, label: str
) -> None:
    value = np.array([b.observed.value or 0.0 for b in bins])
    low, high = [b.low for b in bins], [b.high for b in bins]
    axes.hlines(value, low, high, color=colour, linewidth=0.7, alpha=0.6)
    axes.errorbar(
        [b.mean for b in bins],
        value,
        yerr=np.abs(np.array([b.observed.interval for b in bins]).T - value),
        color=colour,
        marker=marker,
        linestyle="",
        elinewidth=0.9,
        markersize=4.5,
        label=label,
    )


def decision_svg(found: DecisionCurve, unit: str) -> str:
    """Net benefit by threshold, per `unit`: the model with its 95 % band, all, none."""
    figure, (axes,) = canvas(6.4, 3.7, 1)
    axes.fill_between(found.threshold, found.low, found.high, color=BLUE, alpha=0.16, linewidth=0)
    axes.plot(found.threshold, found.model, color=BLUE, linewidth=1.6, label="act on the model")
    axes.plot(
        found.threshold, found.treat_all, color=VERMILLION, linestyle="-.", label="act on everybody"
    )
    axes.axhline(0, color=INK, linestyle=":", linewidth=1.2, label="act on nobody")
    top = max(float(found.high.max()), float(found.treat_all.max()), LEAST_HEIGHT)
    axes.set(xlim=(0, 1), ylim=(-max(LEAST_HEIGHT, 0.15 * top), 1.05 * top))
    axes.set(xlabel="threshold: act from this score on", ylabel=f"net benefit per {unit}")
    axes.legend(frameon=False, fontsize=8.5, loc="upper right")
    return svg_of(figure)


def froc_svg(found: Froc) -> str:
    """Sensitivity per finding by false positives per scan, 1/8 to 8, with the seven points' 95 %."""
    figure, (axes,) = canvas(6.4, 3.7, 1)
    axes.plot(*found.curve, color=BLUE, linewidth=1.6, label="model")
    rates, value = list(RATES), np.array([point.sensitivity for point in found.points])
    reach = np.abs(
        np.array([p.interval or (p.sensitivity, p.sensitivity) for p in found.points]).T - value
    )
    axes.errorbar(
        rates,
        value,
        yerr=reach,
        color=VERMILLION,
        marker="s",
        linestyle="",
        elinewidth=1,
        markersize=4.5,
        label="LUNA16's seven points (95 %)",
    )
    if found.most < RATES[-1]:
        axes.axvspan(found.most, 9, color=GREY, alpha=0.15, linewidth=0, label="all are called")
    axes.set_xscale("log", base=2)
    axes.set_xticks(rates, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.set(xlim=(0.115, 9), ylim=(-0.01, 1.01))
    axes.set(xlabel="false positives per scan", ylabel="share of findings shown")
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    return svg_of(figure)


def _curve(axes: "Axes", points: tuple[Floats, Floats], band: Band | None) -> None:
    if band is not None:
        axes.fill_between(
            band.at, band.low, band.high, color=BLUE, alpha=0.16, linewidth=0, label="95 % band"
        )
    axes.plot(*points, color=BLUE, linewidth=1.6, label="model")


def _mark(axes: "Axes", x: float, y: float) -> None:
    axes.plot(
        [x], [y], color=VERMILLION, linestyle="", marker="s", markersize=6, label="operating point"
    )
