"""Calibration and decision curve of an evaluation, in words, pictures and tables. Ready HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from common.clinical.calibration import Calibration, Coefficient, Scaling, ScoreBin
from common.clinical.evaluation import Evaluation
from common.clinical.plots import decision_svg, reliability_svg
from common.metrics import Floats
from common.page_parts import absent, count, figure, plural, signed, table, with_interval

_SCALED = (
    " Right: the half of the patients who judge the temperature below, before and after it; the other half "
    "gave it, since on its own patients a temperature looks better than it is."
)
_NO_TEMPERATURE = (
    "too few patients to fit and to judge it, or none that is finite and above 0 fits best"
)
FEW_PATIENTS = 20  # a bootstrap over fewer gives too narrow bands


@dataclass(frozen=True)
class Words:
    """How one evaluation is worded: its two classes, what is counted, and what a patient has of it.

    `view` is that ("image"), `unit` the same or "patient" where everyone has one.
    """

    negative: str
    positive: str
    unit: str
    view: str = "image"

    @classmethod
    def of(cls, found: Evaluation, classes: tuple[str, str], view: str = "image") -> "Words":
        """For `found`, with the protocol's `classes`, negative first."""
        negative, positive = (escape(name) for name in classes)
        return cls(negative, positive, "patient" if found.one_image_a_patient else view, view)

    @property
    def units(self) -> str:
        return plural(self.unit)

    @property
    def views(self) -> str:
        return plural(self.view)

    def counted(self, number: int) -> str:
        """ "1 image", "1,200 images"."""
        return count(number, self.unit)


def calibration(found: Evaluation, words: Words) -> str:
    """The reliability curve, in words first, then the figures."""
    quality = found.calibration
    if quality is None:
        return f"<p>{absent('Not defined: one class only, or a single patient.')}</p>"
    said = " ".join(_in_words(b, words) for b in _telling(quality.bins))
    picture = (
        ""
        if len(quality.bins) < 2
        else figure(
            reliability_svg(quality, found.temperature),
            "Share of positives by score",
            f"Each point is about as many {words.units}, of neighbouring scores (the thin line is their "
            f"range). On the dashed line a score is the share of “{words.positive}”."
            + (_SCALED if found.temperature else ""),
        )
    )
    rows = [
        [name, value, meaning]
        for name, value, meaning in (
            *_calibration_rows(quality, words),
            *_recalibration_rows(quality),
            *_temperature_rows(found.temperature),
        )
    ]
    return f"<p>{said}</p>{picture}" + table(["", "Figure", "What it says"], rows, "figures")


def _telling(bins: Sequence[ScoreBin]) -> list[ScoreBin]:
    """The lowest, the middle and the highest of the bins."""
    at = sorted({0, len(bins) // 2, len(bins) - 1})
    return [bins[number] for number in at]


def _in_words(found: ScoreBin, words: Words) -> str:
    """ "Of 100 patients to whom it gives 20 %, 31 had a nodule (24 to 39)."."""
    low, high = found.observed.interval
    value = found.observed.value or 0.0
    whom = "to whom" if words.unit == "patient" else "to which"
    return (
        f"Of 100 {words.units} {whom} it gives {_about(found.mean)}, "
        f"{100 * value:.0f} were “{words.positive}” (95 %: {100 * low:.0f} to {100 * high:.0f})."
    )


def _about(score: float) -> str:
    if 0.005 <= score <= 0.995:
        return f"about {100 * score:.0f} %"
    return "less than 1 %" if score < 0.5 else "more than 99 %"


def _calibration_rows(quality: Calibration, words: Words) -> list[tuple[str, str, str]]:
    brier = quality.brier
    rows = [
        (
            "Expected calibration error",
            f"{quality.expected_error:.3f}",
            f"mean distance of score and share; with so many {words.views} chance alone gives about "
            f"{quality.by_chance:.3f}",
        ),
        (
            "Brier score",
            with_interval(brier.value, brier.interval, 3),
            f"mean squared distance of score and truth; {brier.uncertainty:.3f} for whoever always "
            f"says the average",
        ),
    ]
    if len(quality.bins) > 1:
        within = f"; {signed(brier.within, 3)} within bins" if abs(brier.within) >= 0.0005 else ""
        rows.append(
            (
                "… of which",
                f"{brier.reliability:.3f} − {brier.resolution:.3f} + {brier.uncertainty:.3f}",
                f"reliability (small is good) − resolution (large is good) + uncertainty{within} "
                f"(Murphy)",
            )
        )
    return rows


def _recalibration_rows(quality: Calibration) -> list[tuple[str, str, str]]:
    fitted = quality.recalibration
    if fitted is None:
        return [
            (
                "Calibration slope",
                absent("not defined"),
                "the classes lie wholly apart, or the scores do not differ",
            )
        ]
    return [
        (
            "Calibration slope",
            _coefficient(fitted.slope),
            _says(fitted.slope, 1, "too extreme", "too timid"),
        ),
        (
            "Calibration in the large",
            _coefficient(fitted.in_the_large),
            _says(fitted.in_the_large, 0, "too high", "too low"),
        ),
    ]


def _says(found: Coefficient, perfect: float, below: str, above: str) -> str:
    low, high = found.interval
    if low <= perfect <= high:
        return f"perfect is {perfect:g}, and these patients do not speak against it"
    return f"scores are {below if high < perfect else above} on the whole; perfect is {perfect:g}"


def _temperature_rows(found: Scaling | None) -> list[tuple[str, str, str]]:
    if found is None:
        return [("Temperature", absent("not fitted"), _NO_TEMPERATURE)]
    (loss, after), (error, error_after) = found.log_loss, found.expected_error
    brier, brier_after = found.brier
    verdict = "it helps" if after < loss else "it does not help"
    if found.interval is None or found.interval[0] <= 1 <= found.interval[1]:
        verdict += ", and these patients cannot tell it from 1"
    return [
        (
            "Temperature",
            with_interval(found.value, found.interval),
            "a score s is read as sigmoid(logit(s) / temperature); 1 leaves it, above 1 it goes towards one "
            f"half. Fitted on one half, judged on the other ({found.patients:,} patients): log loss "
            f"{loss:.3f} → {after:.3f}, Brier score {brier:.3f} → {brier_after:.3f}, calibration error "
            f"{error:.3f} → {error_after:.3f}; {verdict}. This exact one is for use here only",
        )
    ]


def decision(found: Evaluation, words: Words) -> str:
    """The decision curve, and where the model is worth more than acting on everybody or nobody."""
    curve = found.decision
    if curve is None:
        return f"<p>{absent('Not defined: one class only, or a single patient.')}</p>"
    better = curve.model > np.maximum(curve.treat_all, 0) + 1e-12
    sure = curve.advantage > 1e-12
    said = "On these patients it is nowhere worth more to act on the model than on everybody or nobody."
    if better.any():
        beyond = "nowhere is that beyond chance (95 %)"
        if found.patients < FEW_PATIENTS:
            beyond = "whether that is chance, so few patients cannot tell"
        elif sure.any():
            beyond = f"beyond chance (95 %) {_where(curve.threshold, sure)}"
        said = (
            f"On these patients it is worth more to act on the model than on everybody or nobody "
            f"{_where(curve.threshold, better)}; {beyond}."
        )
    return f"<p>{said}</p>" + figure(
        decision_svg(curve, words.unit),
        "Decision curve: net benefit by threshold",
        f"Whoever acts from 10 % on accepts nine needless acts for one that is due. Net benefit: right "
        f"acts less needless ones at that exchange rate, per {words.unit}; band: 95 %, by a bootstrap "
        f"over patients. It takes a score for a probability and “{words.positive}” for as common as "
        f"here.",
    )


def _coefficient(found: Coefficient) -> str:
    return with_interval(found.value, found.interval)


def _where(threshold: Floats, holds: NDArray[np.bool_]) -> str:
    """ "at thresholds from 5 % to 80 %", or so with a gap."""
    at = np.flatnonzero(holds)
    low, high = (f"{100 * threshold[i]:.0f} %" for i in (at[0], at[-1]))
    mostly = "" if at.size == at[-1] - at[0] + 1 else "most "
    return f"at {low}" if at.size == 1 else f"at {mostly}thresholds from {low} to {high}"
