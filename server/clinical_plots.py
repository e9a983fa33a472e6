"""What each hospital gained by joining, as a picture."""

from collections.abc import Sequence

from common.clinical.delong import Difference
from common.drawing import BLUE, GREY, VERMILLION, canvas, svg_of
from server.gain import Gain, Pooled

LEAST_SPAN = 0.02  # AUROC either way: a difference in the third decimal must not fill the picture
TOO_WIDE = 0.5  # an interval that says nothing and would make all others a dot


def gain_svg(gains: Sequence[Gain], pooled: Pooled | None = None) -> str | None:
    """A row for each hospital: its gain on its own and on everybody's patients, with 95 % intervals.

    With `pooled` a last row: federated less pooled on everybody's. None when no difference is known.
    """
    names = [gain.hospital for gain in gains]
    everybody = [gain.everybody for gain in gains]
    if pooled is not None:
        names.append("all in one place")
        everybody.append(pooled.difference)
    kinds = (
        ([gain.own for gain in gains], BLUE, "o", -0.12, "on its own patients"),
        (everybody, VERMILLION, "s", 0.12, "on everybody's patients"),
    )
    if not any(found for differences, *_ in kinds for found in differences):
        return None
    figure, (axes,) = canvas(6.4, 1.3 + 0.45 * len(names), 1)
    axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
    for differences, colour, marker, shift, label in kinds:
        placed = [(p + shift, found) for p, found in enumerate(differences) if found is not None]
        axes.errorbar(
            [found.value for _, found in placed],
            [place for place, _ in placed],
            xerr=list(zip(*(_arms(found) for _, found in placed), strict=True)) or None,
            color=colour,
            marker=marker,
            linestyle="",
            elinewidth=1,
            markersize=5,
            label=label,
        )
    if pooled is not None:
        axes.axhline(len(gains) - 0.5, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="AUROC, federated less the row's own model")
    axes.grid(visible=False, axis="y")
    axes.set_xlim(*_span([*(gain.own for gain in gains), *everybody]))
    axes.legend(frameon=False, fontsize=8.5, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return svg_of(figure)


def _span(differences: Sequence[Difference | None]) -> tuple[float, float]:
    """The range to draw: all values, and the intervals but for those of next to no patients."""
    ends = [-LEAST_SPAN, LEAST_SPAN]
    for found in filter(None, differences):
        ends.append(found.value)
        if found.interval is not None and found.interval[1] - found.interval[0] < TOO_WIDE:
            ends += found.interval
    margin = 0.05 * (max(ends) - min(ends))
    return min(ends) - margin, max(ends) + margin


def _arms(found: Difference) -> tuple[float, float]:
    """How far the interval reaches below and above the value."""
    low, high = found.interval or (found.value, found.value)
    return found.value - low, high - found.value
