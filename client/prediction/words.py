"""What one score means, in words: never more than the model's card says."""

from dataclasses import dataclass

from common.histogram import Z
from common.model_card import Bin, Figure, Judged
from common.tasks.nodule_classification.card import ModelCard
from common.temperature import calibrated

NO_PROBABILITY = "This is a score and not a probability"


@dataclass(frozen=True)
class Meaning:
    """What is known of a score: None where the card does not say it."""

    probability: float | None  # of the positive class, at the card's prevalence
    positive: bool | None  # at or above the operating point
    share: tuple[float, float, float] | None  # of positives among such scores: observed, low, high
    words: str  # all of it as sentences, plain text


def meaning_of(score: float, card: ModelCard) -> Meaning:
    """What `score` (0..1) means by `card`."""
    judged, (negative, positive) = card.judged, card.images.classes
    if judged is None:
        return Meaning(
            None,
            None,
            None,
            f"{NO_PROBABILITY}: nobody has judged this model, so nothing is known of how often "
            f"it is right.",
        )
    probability = (
        None if judged.temperature is None else float(calibrated(score, judged.temperature.value))
    )
    share = _share(score, judged.reliability)
    above = None if judged.operating_point is None else score >= judged.operating_point.threshold
    sentences = (
        _of_probability(probability, judged, positive),
        _of_share(share, judged, positive),
        _of_point(above, judged, negative, positive),
    )
    return Meaning(probability, above, share, " ".join(sentences))


def percent(share: float) -> str:
    """ "31 %"; "less than 1 %" and "more than 99 %" at the ends, which nobody can tell from 0 and 1."""
    if 0.005 < share < 0.995:
        return f"{100 * share:.0f} %"
    return "less than 1 %" if share < 0.5 else "more than 99 %"


def _share(score: float, bins: tuple[Bin, ...]) -> tuple[float, float, float] | None:
    """Of the bin that holds the score; the last one that does, since bins share their edges."""
    held = [one for one in bins if one.low <= score <= one.high]
    if not held:
        return None
    observed, reach = held[-1].observed, Z * held[-1].error
    return observed, max(0.0, observed - reach), min(1.0, observed + reach)


def _of_probability(probability: float | None, judged: Judged, positive: str) -> str:
    if probability is None:
        return f"{NO_PROBABILITY}: the study could not say how the model is calibrated."
    return (
        f"Probability of “{positive}”: {percent(probability)}, where {percent(judged.prevalence)} of "
        f"findings are."
    )


def _of_share(share: tuple[float, float, float] | None, judged: Judged, positive: str) -> str:
    if share is None:
        return f"How many findings with such a score were “{positive}” is not known."
    observed, low, high = (round(100 * value) for value in share)
    return (
        f"Of 100 findings with such a score, at a prevalence of {percent(judged.prevalence)}, about "
        f"{observed} were “{positive}” (95 %: {low} to {high})."
    )


def _of_point(above: bool | None, judged: Judged, negative: str, positive: str) -> str:
    point = judged.operating_point
    if point is None or above is None:
        return "The study chose no operating point."
    side, called = ("At or above", positive) if above else ("Below", negative)
    return (
        f"{side} the operating point ({point.threshold:.2f}): counts as “{called}”; with it the model "
        f"found {_with_interval(point.sensitivity)} of “{positive}” and was right on "
        f"{_with_interval(point.specificity)} of “{negative}”."
    )


def _with_interval(figure: Figure) -> str:
    return f"{percent(figure.value)} (95 %: {100 * figure.low:.0f} to {100 * figure.high:.0f})"
