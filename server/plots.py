"""The run's curves: as SVG for the report, as TensorBoard events for whoever watches many runs.

matplotlib and tensorboard are imported where used: the coordinator imports this module long before it
draws anything.
"""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.drawing import BLUE, GREY, VERMILLION, canvas, svg_of
from common.files import write_atomic
from common.histogram import Floats
from common.released import OperatingPoint, Reading, ReliabilityBin
from server.facts import RoundFacts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_SPAN = 0.1  # AUROC
EVENTS_FILE = "events.out.tfevents.0.intramural"  # TensorBoard looks for "tfevents" in the name


def learning_curve_svg(rounds: Sequence[RoundFacts], zero_shot_auroc: float | None) -> str | None:
    """AUROC after each round; None when there is no value to draw.

    Exact pooled AUROC with its 95 % band from round 0 (the initial model), the one read from the
    released histograms as squares with their 95 % intervals. A round whose model is not evaluated
    has no value; a line goes on to the next that has one.
    """
    from matplotlib.ticker import MaxNLocator

    exact = [(facts.round, facts.pooled_auroc) for facts in rounds]
    known = [
        (number, value) for number, value in [(0, zero_shot_auroc), *exact] if value is not None
    ]
    released = [(facts.round, facts.released_auroc) for facts in rounds]
    noised = [(number, found) for number, found in released if found is not None]
    if not known and not noised:
        return None
    figure, (axes,) = canvas(6.4, 3.7, 1)
    band = [(f.round, *f.pooled_interval) for f in rounds if f.pooled_interval is not None]
    if band:
        number, low, high = np.array(band, dtype=np.float64).T
        axes.fill_between(number, low, high, color=BLUE, alpha=0.16, linewidth=0)
        for edge in (low, high):
            axes.plot(number, edge, color=BLUE, linewidth=0.5)
    if known:
        axes.plot(
            *zip(*known, strict=True),
            color=BLUE,
            marker="o",
            markersize=4,
            label="pooled, exact (95 % band)",
        )
    if zero_shot_auroc is not None:
        axes.axhline(
            zero_shot_auroc, color=GREY, linestyle="--", linewidth=1, label="initial model"
        )
    if noised:
        value = np.array([found.value for _, found in noised])
        axes.errorbar(
            [number for number, _ in noised],
            value,
            yerr=np.abs(np.array([found.interval for _, found in noised]).T - value),
            color=VERMILLION,
            linestyle="-.",
            linewidth=0.9,
            elinewidth=0.7,
            marker="s",
            markersize=3,
            label="released by the hospitals (95 %)",
        )
    axes.set_xlabel("server round (0 = initial model)")
    axes.set_ylabel("AUROC")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # At least LEAST_SPAN high: a wobble in the third decimal must not fill the picture.
    low_end, high_end = axes.get_ylim()
    missing = max(0.0, LEAST_SPAN - (high_end - low_end)) / 2
    axes.set_ylim(low_end - missing, high_end + missing)
    axes.legend(frameon=False, fontsize=8.5, loc="best")
    return svg_of(figure)


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


def write_tensorboard(folder: Path, rounds: Sequence[RoundFacts]) -> Path:
    """Write the run's scalars as one TensorBoard event file in `folder`, and return the file.

    Tags: pooled/auroc, released/auroc, round/seconds; the step is the round.
    Written whole under a fixed name, so doing it again after a resume replaces the points instead
    of adding to them. OSError when it cannot be written.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    now, buffer = time.time(), io.BytesIO()
    # The record writer itself, not a SummaryWriter: no thread, no flush interval, 0.2 s to import.
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for facts in rounds:
        scalars = {
            "pooled/auroc": facts.pooled_auroc,
            "released/auroc": facts.released_auroc.value if facts.released_auroc else None,
            "round/seconds": facts.seconds,
        }
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars.items()
            if value is not None
        ]
        event = Event(wall_time=now, step=facts.round, summary=Summary(value=values))
        writer.write(event.SerializeToString())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / EVENTS_FILE
    write_atomic(path, buffer.getvalue())
    return path
