"""How often the patient with the higher risk has the event first: Harrell's and Uno's, exactly.

A pair of patients is compared where one has an event at t and the other was seen without one at t, or
beyond; ties of the risk count half. Harrell's (Harrell, Lee and Mark, Statistics in Medicine 1996,
15:361) counts every such pair alike, so its value depends on how patients were lost from sight. Uno's
(Uno and others, Statistics in Medicine 2011, 30:1105) weighs a pair by 1 / G(t)^2, where G is the
chance of not yet being lost, and does not, if they are lost by chance.
"""

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t as student

from common.clinical.delong import NO_VARIANCE, Difference
from common.errors import DataError
from common.histogram import Floats, Interval
from common.survival.kaplan_meier import censoring
from common.survival.scores import SurvivalScores

BLOCK_PAIRS = 2_000_000  # bounds memory at some 50 MB
LEAST_EVENTS = 2


def harrell(scores: SurvivalScores) -> float | None:
    """Harrell's concordance index, 0..1, as lifelines has it; None where no pair can be compared."""
    from lifelines.utils import concordance_index  # takes a second to load

    if not _comparable(scores):
        return None
    return float(concordance_index(scores.time, -scores.risk, scores.event))


def uno(scores: SurvivalScores) -> float | None:
    """Uno's concordance index, 0..1, of these patients; None where no pair can be compared.

    The last edge is its tau, so the scores are those `up_to` it. G is Kaplan and Meier's of these
    patients, just before each event.
    """
    if not _comparable(scores):
        return None
    wins, pairs = _pairs(scores, _inverse_chances(scores))
    return float(wins.sum() / pairs.sum())


def harrell_interval(scores: SurvivalScores) -> Interval | None:
    """The 95 % interval of `harrell`, over patients."""
    return _interval(scores, np.ones(scores.risk.size))


def uno_interval(scores: SurvivalScores) -> Interval | None:
    """The 95 % interval of `uno`, over patients, with G taken for known."""
    return _interval(scores, _inverse_chances(scores))


def harrell_difference(one: SurvivalScores, other: SurvivalScores) -> Difference | None:
    """Harrell's index of `one` less that of `other`, two models on the same patients in one order.

    None where no pair can be compared. DataError for other patients, times or events.
    """
    same = (
        np.array_equal(one.time, other.time)
        and np.array_equal(one.event, other.event)
        and np.array_equal(one.patient, other.patient)
    )
    if not same:
        raise DataError(
            "expected the scores of the same patients in the same order and found other patients, "
            "times or events; compare models on the same validation patients"
        )
    if not _comparable(one):
        return None
    weight = np.ones(one.risk.size)
    (a, of_one), (b, of_other) = (_influence(scores, weight) for scores in (one, other))
    half = _half(of_one - of_other, one)
    value = a - b
    if half is None:
        return Difference(value, None)
    return Difference(value, (max(-1.0, value - half), min(1.0, value + half)))


def _comparable(scores: SurvivalScores) -> bool:
    """Whether some patient has an event and another was seen later, or as late without one."""
    if not scores.event.any():
        return False
    first = scores.time[scores.event].min()
    return bool(np.any(scores.time > first) or np.any(~scores.event & (scores.time == first)))


def _inverse_chances(scores: SurvivalScores) -> Floats:
    """(n,) 1 / G(t)^2 at each patient's time t; G just before it is never 0."""
    chance = censoring(scores.time, scores.event).before(scores.time)
    weight: Floats = 1 / chance**2
    return weight


def _pairs(scores: SurvivalScores, weight: Floats) -> tuple[Floats, Floats]:
    """(n, 2) weighted pairs of each patient, half won, and all: first as the one with the event.

    Column 0 is as the patient with the event, column 1 as the other one; each column counts every pair.
    """
    n = scores.risk.size
    wins, pairs = np.zeros((n, 2)), np.zeros((n, 2))
    with_event = np.flatnonzero(scores.event)
    rows = max(1, BLOCK_PAIRS // max(1, n))
    for start in range(0, with_event.size, rows):
        one = with_event[start : start + rows]
        time, risk = scores.time[one, None], scores.risk[one, None]
        later = (scores.time > time) | (~scores.event & (scores.time == time))
        compared = weight[one, None] * later
        won = compared * ((risk > scores.risk) + 0.5 * (risk == scores.risk))
        for found, of in ((wins, won), (pairs, compared)):
            found[one, 0] = of.sum(axis=1)
            found[:, 1] += of.sum(axis=0)
    return wins, pairs


def _influence(scores: SurvivalScores, weight: Floats) -> tuple[float, Floats]:
    """The index, and (n,) by how much it changes with the weight of each patient.

    The infinitesimal jackknife (Efron 1982, chapter 6): their squares sum up to the variance. In a
    ratio of sums over pairs it is what the patient's own pairs won less the index times their number,
    over all pairs.
    """
    wins, pairs = _pairs(scores, weight)
    everything = pairs[:, 0].sum()
    value = float(wins[:, 0].sum() / everything)
    change: Floats = (wins.sum(axis=1) - value * pairs.sum(axis=1)) / everything
    return value, change


def _half(influence: Floats, scores: SurvivalScores) -> float | None:
    """Half the width of the 95 % interval: Student's t for the number of events."""
    events, n = int(scores.event.sum()), influence.size
    variance = float(influence @ influence) * n / max(1, n - 1)
    if events < LEAST_EVENTS or variance <= NO_VARIANCE:
        return None
    return float(student.ppf(0.975, events - 1) * np.sqrt(variance))


def _interval(scores: SurvivalScores, weight: Floats) -> Interval | None:
    """On the logit scale; None with fewer than two events, and where all pairs are right or wrong."""
    if not _comparable(scores):
        return None
    value, influence = _influence(scores, weight)
    half = _half(influence, scores)
    if half is None or not 0 < value < 1:
        return None
    centre, reach = logit(value), half / (value * (1 - value))
    return float(expit(centre - reach)), float(expit(centre + reach))
