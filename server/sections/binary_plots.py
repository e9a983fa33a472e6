"""ROC and reliability curve of a model that tells two classes apart, as SVG.

matplotlib is loaded when something is drawn.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.drawing import BLUE, GREY, VERMILLION, canvas, svg_of
from common.histogram import Floats
from common.released import OperatingPoint, Reading, ReliabilityBin

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def roc_svg(exact: tuple[Floats, Floats] | None, released: Reading | None) -> str:
    """ROC curve of the final model: exact (rates as from `roc_curve_points`), released, and chance.

    The released curve has a mark at its operating point.
    """
    figure, (axes,) = canvas(3.9, 3.7, 1)
    if exact is not None:
        axes.plot(*exact, color=BLUE, linewidth=1.6, label="exact")
    if released is not None:
        axes.plot(*released.roc, color=VERMILLION, linestyle="-.", linewidth=1.2, label="released")
        _mark(axes, released.operating_point)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="chance")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set_xlabel("false positive rate (1 − specificity)")
    axes.set_ylabel("true positive rate (sensitivity)")
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    return svg_of(figure)


def _mark(axes: "Axes", point: OperatingPoint | None) -> None:
    if point is None:
        return
    x, y = 1 - point.specificity.value, point.sensitivity.value
    axes.plot(
        [x], [y], color=VERMILLION, linestyle="", marker="s", markersize=6, label="operating point"
    )


def calibration_svg(
    exact: Sequence[ReliabilityBin], released: Sequence[ReliabilityBin]
) -> str | None:
    """Share of positives in each bin of scores, with its standard error; None with no bin at all."""
    if not exact and not released:
        return None
    figure, (axes,) = canvas(3.9, 3.7, 1)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as the score says")
    kinds = (
        (exact, BLUE, "o", "-", -0.006, "exact"),
        (released, VERMILLION, "s", "-.", 0.006, "released"),
    )
    for bins, colour, marker, line, shift, label in kinds:
        if not bins:
            continue
        axes.errorbar(
            [b.centre + shift for b in bins],  # apart, so that error bars do not hide each other
            [b.observed for b in bins],
            yerr=[b.error for b in bins],
            color=colour,
            marker=marker,
            linestyle=line,
            linewidth=1,
            elinewidth=0.8,
            markersize=4,
            label=label,
        )
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes.set_xlabel("score")
    axes.set_ylabel("share of positives")
    axes.legend(frameon=False, fontsize=8.5, loc="upper left")
    return svg_of(figure)
