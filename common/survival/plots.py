"""Survival by group of risk, and predicted against observed, as SVG; matplotlib is loaded when drawn.

Groups differ in colour, marker and line style, exact from released figures too, so that a print in black
and white can be read.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from common.drawing import BLUE, GREY, INK, VERMILLION, canvas, svg_of
from common.survival.groups import NAMES, RiskGroup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = dict(zip(NAMES, (BLUE, INK, VERMILLION), strict=True))
MARKERS = dict(zip(NAMES, ("o", "s", "^"), strict=True))
LINES = dict(zip(NAMES, ("-", "--", "-."), strict=True))
ASIDE = dict(zip(NAMES, (-1, 0, 1), strict=True))


def survival_svg(
    exact: Sequence[RiskGroup], released: Sequence[RiskGroup], last: float, unit: str
) -> str | None:
    """Share without an event over time up to `last`, by group, with 95 % bands or bars; None for none.

    Exact curves are steps and released ones points at the ends of the periods; a panel for each.
    """
    panels = [
        (title, groups, draw)
        for title, groups, draw in (
            ("exact", exact, _steps),
            ("released", released, _points),
        )
        if groups
    ]
    if not panels:
        return None
    figure, found = canvas(4.6 if len(panels) == 1 else 8.2, 3.7, len(panels))
    for axes, (title, groups, draw) in zip(found, panels, strict=True):
        for group in groups:
            draw(axes, group, last)
        axes.set(xlim=(-0.01 * last, 1.03 * last), ylim=(-0.02, 1.03))
        axes.set_xlabel(f"time ({unit})", parse_math=False)
        axes.set_ylabel("share without the event")
        axes.set_title(title, fontsize=10, loc="left")
        axes.legend(frameon=False, fontsize=8.5, loc="lower left")
    return svg_of(figure)


def _steps(axes: "Axes", group: RiskGroup, last: float) -> None:  # noqa: ARG001
    time = np.concatenate([[0.0], group.time, [group.until]])
    value, low, high = (
        np.concatenate([[1.0], v, v[-1:] if v.size else [1.0]])
        for v in (group.survival, *group.band)
    )
    colour = COLOURS[group.name]
    axes.fill_between(time, low, high, step="post", color=colour, alpha=0.13, linewidth=0)
    axes.step(
        time,
        value,
        where="post",
        color=colour,
        linestyle=LINES[group.name],
        linewidth=1.5,
        label=labelled(group),
    )


def _points(axes: "Axes", group: RiskGroup, last: float) -> None:
    beside = 0.008 * last * ASIDE[group.name]  # so that bars do not hide each other
    time = np.append(0.0, group.time + beside)
    value = np.append(1.0, group.survival)
    low, high = (np.append(1.0, end) for end in group.band)
    axes.errorbar(
        time,
        value,
        yerr=np.maximum([value - low, high - value], 0),
        color=COLOURS[group.name],
        marker=MARKERS[group.name],
        linestyle=LINES[group.name],
        linewidth=1,
        elinewidth=0.9,
        capsize=2,
        markersize=4.5,
        label=labelled(group),
    )


def labelled(group: RiskGroup) -> str:
    """ "high: risk 0.30 to 1.00"."""
    return f"{group.name}: risk {group.low:.2f} to {group.high:.2f}"


def calibration_svg(exact: Sequence[RiskGroup], released: Sequence[RiskGroup]) -> str | None:
    """Observed against predicted share with an event up to the last edge, by group; None for none."""
    figure, (axes,) = canvas(5.4, 3.7, 1)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="as predicted")
    drawn = False
    for groups, colour, filled, label in (
        (exact, BLUE, True, "exact"),
        (released, VERMILLION, False, "released"),
    ):
        for group in groups:
            if group.observed is None:
                continue
            low, high = group.observed.interval
            value = group.observed.value
            axes.errorbar(
                [group.predicted],
                [value],
                yerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
                color=colour,
                marker=MARKERS[group.name],
                markerfacecolor=colour if filled else "white",
                linestyle="",
                elinewidth=0.9,
                capsize=2,
                markersize=6,
                label=f"{group.name}, {label}",
            )
            drawn = True
    if not drawn:
        return None
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes.set_xlabel("predicted share with the event")
    axes.set_ylabel("observed share with the event")
    axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return svg_of(figure)
