"""What each hospital gained by joining, as a picture."""

from collections.abc import Sequence

from common.clinical.delong import Difference
from common.drawing import BLUE, GREY, VERMILLION, canvas, svg_of
from server.gain import Gain


def gain_svg(gains: Sequence[Gain]) -> str | None:
    """A row for each hospital: its gain on its own and on everybody's patients, with 95 % intervals.

    None when no difference is known.
    """
    kinds = (
        ([gain.own for gain in gains], BLUE, "o", -0.12, "on its own patients"),
        ([gain.everybody for gain in gains], VERMILLION, "s", 0.12, "on everybody's patients"),
    )
    if not any(found for differences, *_ in kinds for found in differences):
        return None
    figure, (axes,) = canvas(6.4, 1.3 + 0.45 * len(gains), 1)
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
    axes.set_yticks(range(len(gains)), [gain.hospital for gain in gains])
    axes.set(ylim=(len(gains) - 0.5, -0.5), xlabel="gain in AUROC (federated − alone)")
    axes.grid(visible=False, axis="y")
    axes.legend(frameon=False, fontsize=8.5, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return svg_of(figure)


def _arms(found: Difference) -> tuple[float, float]:
    """How far the interval reaches below and above the value."""
    low, high = found.interval or (found.value, found.value)
    return found.value - low, high - found.value
