"""The run's curves: as SVG for the report, as TensorBoard events for whoever watches many runs.

Colours are Okabe and Ito's (distinct for colour-blind readers); line styles and markers differ as
well, so a black-and-white print can be read. matplotlib and tensorboard are imported where used:
the coordinator imports this module long before it draws anything.
"""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.files import write_atomic
from server.facts import Floats, RoundFacts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREY, INK = "#0072B2", "#D55E00", "#666666", "#222222"
LEAST_SPAN = 0.1  # AUROC
EVENTS_FILE = "events.out.tfevents.0.intramural"  # TensorBoard looks for "tfevents" in the name


def learning_curve_svg(rounds: Sequence[RoundFacts], zero_shot_auroc: float | None) -> str | None:
    """AUROC after each round; None when there is no value to draw.

    Exact pooled AUROC with its 95 % band from round 0 (the initial model), the one read from the
    released histograms as a thin line; a round without a value is a gap.
    """
    from matplotlib.ticker import MaxNLocator

    number = np.array([0, *(facts.round for facts in rounds)])
    exact = _with_gaps([zero_shot_auroc, *(facts.pooled_auroc for facts in rounds)])
    released = _with_gaps([None, *(facts.released_auroc for facts in rounds)])
    if np.all(np.isnan(exact)) and np.all(np.isnan(released)):
        return None
    figure, axes = _canvas(6.4, 3.7)
    if not np.all(np.isnan(exact[1:])):
        band = [facts.pooled_interval or (np.nan, np.nan) for facts in rounds]
        low, high = np.array(band, dtype=np.float64).T
        axes.fill_between(number[1:], low, high, color=BLUE, alpha=0.16, linewidth=0)
        for edge in (low, high):
            axes.plot(number[1:], edge, color=BLUE, linewidth=0.5)
    if not np.all(np.isnan(exact)):
        axes.plot(
            number, exact, color=BLUE, marker="o", markersize=4, label="pooled, exact (95 % band)"
        )
    if zero_shot_auroc is not None:
        axes.axhline(
            zero_shot_auroc, color=GREY, linestyle="--", linewidth=1, label="initial model"
        )
    if not np.all(np.isnan(released)):
        axes.plot(
            number,
            released,
            color=VERMILLION,
            linestyle="-.",
            linewidth=0.9,
            marker="s",
            markersize=3,
            label="released by the hospitals",
        )
    axes.set_xlabel("server round (0 = initial model)")
    axes.set_ylabel("AUROC")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # At least LEAST_SPAN high: a wobble in the third decimal must not fill the picture.
    low_end, high_end = axes.get_ylim()
    missing = max(0.0, LEAST_SPAN - (high_end - low_end)) / 2
    axes.set_ylim(low_end - missing, high_end + missing)
    axes.legend(frameon=False, fontsize=8.5, loc="best")
    return _svg(figure)


def roc_svg(false_positive: Floats, true_positive: Floats) -> str:
    """ROC curve of the final model, with the diagonal of chance."""
    figure, axes = _canvas(3.9, 3.7)
    axes.plot(false_positive, true_positive, color=BLUE, linewidth=1.6, label="final model")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="chance")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set_xlabel("false positive rate (1 − specificity)")
    axes.set_ylabel("true positive rate (sensitivity)")
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    return _svg(figure)


def write_tensorboard(folder: Path, rounds: Sequence[RoundFacts]) -> Path:
    """Write the run's scalars as one TensorBoard event file in `folder`, and return the file.

    Tags: pooled/auroc, released/auroc, round/seconds, epsilon/<hospital>; the step is the round.
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
            "released/auroc": facts.released_auroc,
            "round/seconds": facts.seconds,
            **{f"epsilon/{hospital}": epsilon for hospital, epsilon in facts.epsilon.items()},
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


def _with_gaps(values: Sequence[float | None]) -> Floats:
    """(n,) float64 in which None is NaN, which matplotlib leaves out."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _canvas(width: float, height: float) -> "tuple[Figure, Axes]":
    """An empty figure (inches) with one quiet set of axes; no pyplot, so no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    return figure, axes


def _svg(figure: "Figure") -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
