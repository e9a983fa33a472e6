"""Quiet axes, colours and SVG for every curve that the program draws.

Colours are Okabe and Ito's, distinct for colour-blind readers; line styles and markers are to differ as
well, so that a black-and-white print can be read. matplotlib is loaded by whoever draws, not before.
"""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREY, INK = "#0072B2", "#D55E00", "#666666", "#222222"


def canvas(width: float, height: float, panels: int) -> "tuple[Figure, list[Axes]]":
    """An empty figure (inches) with quiet axes side by side; no pyplot, so no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    found = list(figure.subplots(1, panels, squeeze=False)[0])
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=9)
    return figure, found


def svg_of(figure: "Figure") -> str:
    """The figure as SVG text, without the time at which it was made."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
