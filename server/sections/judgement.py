"""ROC curve, calibration and operating point of a model that tells two classes apart.

In a rehearsal the exact figures stand beside the released ones; in a deployment there are only
released ones, read from the hospitals' noised histograms.
"""

from typing import Any, cast

from common.judging.binary import prevalence_of
from common.metrics import roc_curve_points
from common.page_parts import absent, figure, table, with_interval
from common.released import WANTED_SENSITIVITY, Reading
from common.tasks import task_of
from server.facts import UNREADABLE, ReportFacts
from server.histograms import nothing, of_histograms, who_released
from server.page import estimate, shown
from server.sections.binary_plots import calibration_svg, roc_svg

ONE_CLASS = "not defined (one class only)"
NO_THRESHOLD = "no threshold between the bins has it"


def roc(facts: ReportFacts) -> str:
    """The ROC curve with its caption, or in words why there is none."""
    scores = facts.pooled.scores if facts.pooled is not None else None
    exact = None if scores is None else roc_curve_points(scores)
    released = reading_of(facts.released)
    if exact is None and released is None:
        return f"<p>{absent(nothing(facts, ONE_CLASS))}.</p><p>{who_released(facts)}</p>"
    said = []
    if facts.pooled is not None:
        area = shown(facts.pooled.discrimination, facts.pooled.interval, ONE_CLASS)
        said.append(
            f"Exact: all validation patients together, every {task_of(facts.protocol).view} counts once, "
            f"area {area}."
        )
    if released is not None:
        said.append(
            f"Released: read from {of_histograms(facts)}, every patient counts once in each class, "
            f"AUROC {estimate(released.auroc, UNREADABLE)}; the curve is smoothed, so that it rises. "
            "The square is the operating point below."
        )
    else:
        said.append(f"Released: {UNREADABLE}.")
    said.append(who_released(facts))
    return figure(
        roc_svg(exact, released),
        "ROC curve of the final model on all validation patients",
        " ".join(filter(None, said)),
    )


def calibration(facts: ReportFacts) -> str:
    """Reliability by score, and the figures at the operating point, exact beside released."""
    exact = reading_of(facts.pooled.unnoised) if facts.pooled is not None else None
    released = reading_of(facts.released)
    readings = [("Exact, every patient once a class", exact)] if facts.pooled is not None else []
    readings.append(("Released", released))
    if all(reading is None for _, reading in readings):
        return f"<p>{absent(nothing(facts, ONE_CLASS))}.</p>"
    svg = calibration_svg(
        exact.calibration.bins if exact else (),
        released.calibration.bins if released else (),
    )
    picture = "" if svg is None else figure(svg, "Share of positives by score", _calibration(facts))
    columns = [_column(reading) for _, reading in readings]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    caption = (
        f"The threshold is the highest between two bins with a sensitivity of at least "
        f"{WANTED_SENSITIVITY:.2f}. It was chosen on these patients; on others it will do a little "
        "worse. Brier score: mean squared distance between score and label; calibration error: mean "
        f"distance between score and share of positives. Both are stated {_prevalence(facts)} and "
        f"take a score for the centre of its bin. Temperature: a score s stands for the probability "
        "sigmoid(logit(s) / temperature), so above 1 scores are too extreme; it is fitted to these patients, "
        "so what it makes of their scores would flatter it. "
        f"Released figures are read from {of_histograms(facts)}"
        + ("; exact ones from the same histograms without noise." if exact else ".")
        + (
            " All of them, the temperature too, are read from one release that the ledgers have charged: "
            "reading more from it costs no ε."
            if facts.private
            else ""
        )
    )
    return (
        picture
        + table(["", *(name for name, _ in readings)], rows, "numbers")
        + f'<p class="caption">{caption}</p>'
    )


def _calibration(facts: ReportFacts) -> str:
    """Caption of the figure."""
    left_out = " Bins that do not stand above the noise are left out." if facts.private else ""
    return (
        f"Share of positives by score, {_prevalence(facts)}; bars: one standard error, for noise and "
        f"number of patients.{left_out}"
    )


def _prevalence(facts: ReportFacts) -> str:
    """Calibration depends on how common positives are, and a histogram does not say it."""
    return f"at a prevalence of {100 * prevalence_of(facts.protocol):g} %"


def _column(reading: Reading | None) -> dict[str, str]:
    """The figures of one reading by the name of their row."""
    names = (
        "AUROC",
        "Threshold",
        "Sensitivity",
        "Specificity",
        "Brier score",
        "Calibration error",
        "Temperature",
    )
    if reading is None:
        return {name: absent(UNREADABLE) for name in names}
    point, quality = reading.operating_point, reading.calibration
    error = quality.expected_error
    noise = f" ± {quality.brier_error:.3f}" if quality.brier_error else ""
    values = (
        estimate(reading.auroc, UNREADABLE),
        absent(NO_THRESHOLD) if point is None else f"score ≥ {point.threshold:.3g}",
        estimate(point.sensitivity if point else None, NO_THRESHOLD),
        estimate(point.specificity if point else None, NO_THRESHOLD),
        f"{quality.brier:.3f}{noise}",
        absent("not above the noise") if error is None else f"{error:.3f}",
        _temperature(reading),
    )
    return dict(zip(names, values, strict=True))


def _temperature(reading: Reading) -> str:
    found = reading.temperature
    return absent(UNREADABLE) if found is None else with_interval(found.value, found.interval)


def reading_of(found: Any) -> Reading | None:
    """A reading of the judge of two classes."""
    return cast("Reading | None", found)
