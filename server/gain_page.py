"""What each hospital gained by joining, in words, as a picture and as a table."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from common.drawing import BLUE, GREY, VERMILLION, canvas, svg_of
from common.page_parts import absent, count, figure, table
from server.gain import Gain, Pooled
from server.page import heading, listed, shown

if TYPE_CHECKING:
    from common.clinical.delong import Difference

FEW = "too few patients to tell"
LEAST_SPAN = 0.02  # either way: a difference in the third decimal must not fill the picture
TOO_WIDE = 0.5  # an interval that says nothing and would make all others a dot


def gained(
    gains: Sequence[Gain], pooled: Pooled | None, *, name: str, undefined: str, private: bool
) -> str:
    """Table and picture of the differences, and in words who gained beyond chance.

    `name` is that of the discrimination, `undefined` why there may be none.
    """
    if not gains:
        return f"<p>{absent('No hospital trained alone in this run.')}</p>"
    own = {} if pooled is None else pooled.own
    rows = [
        [
            escape(gain.hospital),
            f"{gain.patients:,}",
            shown(gain.federated, why=undefined),
            shown(gain.alone, why=undefined),
            *([] if pooled is None else [shown(own.get(gain.hospital), why=undefined)]),
            _difference(gain.own),
            _difference(gain.everybody),
        ]
        for gain in gains
    ]
    head = [
        "Hospital",
        "Validation patients",
        f"{heading(name)}, federated",
        f"{heading(name)}, alone",
        *([] if pooled is None else [f"{heading(name)}, all in one place"]),
        "Gain on its own patients",
        "Gain on everybody's patients",
    ]
    svg = gain_svg(gains, pooled, name)
    caption = _caption(gains, pooled, name)
    picture = "" if svg is None else figure(svg, f"Gain in {name} by hospital", caption)
    text = f"<p>{_who(gains)}</p>" + ("" if pooled is None else _one_place(pooled, private))
    return f"{text}{picture}" + table(head, rows, "numbers")


def _caption(gains: Sequence[Gain], pooled: Pooled | None, name: str) -> str:
    last = "" if pooled is None else "; in the last row less that of all patients in one place"
    return (
        f"{heading(name)} of the federated model less that of the hospital's own{last}, on the same "
        f"patients; bars: 95 %, paired, with the patient as the unit. Of "
        f"{count(len(gains), 'hospital')} one may lie apart from zero by chance. A bar that leaves the "
        "picture goes on."
    )


def _one_place(pooled: Pooled, private: bool) -> str:
    """What the walls cost: the federated model against one of all patients together."""
    guarantee = (
        "under the same protocol, with the same ε for each patient and the noise added once instead of "
        "in each hospital"
        if private
        else "under the same protocol"
    )
    less = pooled.difference
    said = "" if less is None else f"; federated less that is {_difference(less)}"
    chance = ""
    if less is not None and less.interval is not None:
        low, high = less.interval
        chance = " The difference is beyond chance (95 %)."
        if low <= 0 <= high:
            chance = " These patients cannot tell that from no difference."
    return (
        f"<p>One model of all hospitals' patients in one place, {guarantee}, reaches "
        f"{shown(pooled.discrimination, pooled.interval)} on everybody's patients{said}.{chance} Only a "
        "rehearsal can know: it holds all the data.</p>"
    )


def _who(gains: Sequence[Gain]) -> str:
    """ "On its own patients the federated model is better than its own beyond chance for north."."""
    better = [g.hospital for g in gains if g.own and g.own.interval and g.own.interval[0] > 0]
    worse = [g.hospital for g in gains if g.own and g.own.interval and g.own.interval[1] < 0]
    said = []
    if better:
        said.append(f"better than what it trained alone for {listed(better)}")
    if worse:
        said.append(f"worse for {listed(worse)}")
    rest = len(gains) - len(better) - len(worse)
    if rest:
        said.append(
            f"neither better nor worse, as far as so few patients can tell, for {count(rest, 'hospital')}"
        )
    return f"On a hospital's own patients the federated model is {'; '.join(said)}."


def _difference(found: "Difference | None") -> str:
    if found is None:
        return absent(FEW)
    value = f"{found.value:+.3f}"
    if found.interval is not None:
        low, high = found.interval
        value += f' <span class="interval">({low:+.3f} to {high:+.3f})</span>'
    return value.replace("-", "−")


def gain_svg(gains: Sequence[Gain], pooled: Pooled | None, name: str) -> str | None:
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
    drawing, (axes,) = canvas(6.4, 1.3 + 0.45 * len(names), 1)
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
    axes.set(
        ylim=(len(names) - 0.5, -0.5), xlabel=f"{heading(name)}, federated less the row's own model"
    )
    axes.grid(visible=False, axis="y")
    axes.set_xlim(*_span([*(gain.own for gain in gains), *everybody]))
    axes.legend(frameon=False, fontsize=8.5, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return svg_of(drawing)


def _span(differences: "Sequence[Difference | None]") -> tuple[float, float]:
    """The range to draw: all values, and the intervals but for those of next to no patients."""
    ends = [-LEAST_SPAN, LEAST_SPAN]
    for found in filter(None, differences):
        ends.append(found.value)
        if found.interval is not None and found.interval[1] - found.interval[0] < TOO_WIDE:
            ends += found.interval
    margin = 0.05 * (max(ends) - min(ends))
    return min(ends) - margin, max(ends) + margin


def _arms(found: "Difference") -> tuple[float, float]:
    """How far the interval reaches below and above the value."""
    low, high = found.interval or (found.value, found.value)
    return found.value - low, high - found.value
