"""How the report speaks of the histograms that hospitals release: whose they are, how noisy, or none."""

from common.page_parts import count
from server.facts import UNREADABLE, ReportFacts
from server.page import listed, sigma, span


def who_released(facts: ReportFacts) -> str:
    """ "Released by 3 of 4 hospitals; west has fewer patients in a group than its own policy releases."

    What is suppressed is not zero: those patients are not in the figures. Empty where it is not known.
    """
    judging = facts.judging
    if judging is None:
        return ""
    number = len(judging.released) or "none"
    sentence = f"Released by {number} of {count(len(facts.protocol.hospitals), 'hospital')}"
    if judging.suppressed:
        has, its = ("have", "their") if len(judging.suppressed) > 1 else ("has", "its")
        sentence += (
            f"; {listed(judging.suppressed)} {has} fewer patients in a group than {its} own policy "
            "releases"
        )
    return sentence + "."


def of_histograms(facts: ReportFacts) -> str:
    """ "the hospitals' noised histograms (σ = 3.2 in each cell; ...)"."""
    noise = [h.validation_noise for h in facts.hospitals if h.validation_noise]
    if not facts.private:
        return "the hospitals' histograms, which have no noise"
    if not noise:
        return "the hospitals' noised histograms"
    return (
        f"the hospitals' noised histograms (σ = {span(noise, sigma)} in each cell; a patient moves one by "
        f"at most 1 in all)"
    )


def nothing(facts: ReportFacts, undefined: str) -> str:
    """Why there is neither an exact nor a released figure; `undefined` as a task's part has it."""
    if facts.pooled is not None:
        return undefined.capitalize()
    nobody = facts.judging is not None and not facts.judging.released
    if nobody or not facts.rounds:
        return "No hospital released a histogram"
    return UNREADABLE.capitalize()
