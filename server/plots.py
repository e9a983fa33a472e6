"""The run's curves: as SVG for the report, as TensorBoard events for whoever watches many runs.

matplotlib and tensorboard are imported where used: the coordinator imports this module long before it
draws anything.
"""

import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.drawing import BLUE, GREY, VERMILLION, canvas, svg_of
from common.files import write_atomic
from common.tasks import task_of
from server.facts import ReportFacts, RoundFacts
from server.page import heading

LEAST_SPAN = 0.1  # of the axis
EVENTS_FILE = "events.out.tfevents.0.intramural"  # TensorBoard looks for "tfevents" in the name


def learning_curve_svg(
    rounds: Sequence[RoundFacts], zero_shot: float | None, figure: str
) -> str | None:
    """The discrimination, called `figure`, after each round; None when there is no value to draw.

    The exact pooled one with its 95 % band from round 0 (the initial model), the one read from the
    released histograms as squares with their 95 % intervals. A round whose model is not evaluated
    has no value; a line goes on to the next that has one.
    """
    from matplotlib.ticker import MaxNLocator

    exact = [(facts.round, facts.discrimination) for facts in rounds]
    known = [(number, value) for number, value in [(0, zero_shot), *exact] if value is not None]
    released = [(facts.round, facts.released_discrimination) for facts in rounds]
    noised = [(number, found) for number, found in released if found is not None]
    if not known and not noised:
        return None
    drawing, (axes,) = canvas(6.4, 3.7, 1)
    band = [(f.round, *f.interval) for f in rounds if f.interval is not None]
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
    if zero_shot is not None:
        axes.axhline(zero_shot, color=GREY, linestyle="--", linewidth=1, label="initial model")
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
    axes.set_ylabel(heading(figure))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # At least LEAST_SPAN high: a wobble in the third decimal must not fill the picture.
    low_end, high_end = axes.get_ylim()
    missing = max(0.0, LEAST_SPAN - (high_end - low_end)) / 2
    axes.set_ylim(low_end - missing, high_end + missing)
    axes.legend(frameon=False, fontsize=8.5, loc="best")
    return svg_of(drawing)


def write_tensorboard(folder: Path, facts: ReportFacts) -> Path:
    """Write the run's scalars as one TensorBoard event file in `folder`, and return the file.

    Tags: pooled/KEY and released/KEY with the key of the study's judge, round/seconds; the step is the
    round.
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
    judge = task_of(facts.protocol).judge
    for r in facts.rounds:
        scalars: dict[str, float | None] = {"round/seconds": r.seconds}
        if judge is not None:
            found = r.released_discrimination
            scalars[f"pooled/{judge.key}"] = r.discrimination
            scalars[f"released/{judge.key}"] = found.value if found else None
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars.items()
            if value is not None
        ]
        event = Event(wall_time=now, step=r.round, summary=Summary(value=values))
        writer.write(event.SerializeToString())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / EVENTS_FILE
    write_atomic(path, buffer.getvalue())
    return path
