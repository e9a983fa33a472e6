"""Kaplan and Meier's curve against lifelines, and that of being lost against scikit-survival."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.datasets import load_leukemia
from sksurv.nonparametric import CensoringDistributionEstimator
from sksurv.util import Surv

from common.survival.kaplan_meier import at_risk, censoring, kaplan_meier

FOLLOW_UP = st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=60)


def test_published_figures_of_the_leukaemia_trial() -> None:
    """Freireich and others 1963 (Kalbfleisch and Prentice, table 1.2): 6-mercaptopurine, 21 children.

    At 6 weeks .857, 10 .753, 16 .627, 23 .448, as in every textbook.
    """
    found = load_leukemia()
    treated = found[found["Rx"] == 0]
    curve = kaplan_meier(treated["t"].to_numpy(dtype=float), treated["status"].to_numpy(dtype=bool))
    at = curve.at(np.array([0.0, 6.0, 10.0, 16.0, 23.0, 40.0]))
    np.testing.assert_allclose(at, [1, 0.857, 0.753, 0.627, 0.448, 0.448], atol=5e-4)


@settings(deadline=None, max_examples=40)
@given(seen=FOLLOW_UP)
def test_curve_and_its_interval_are_those_of_lifelines(seen: list[tuple[int, bool]]) -> None:
    time, event = np.array([float(t) for t, _ in seen]), np.array([e for _, e in seen])
    curve = kaplan_meier(time, event)
    with np.errstate(all="ignore"):
        reference = KaplanMeierFitter().fit(time, event)
        bounds = reference.confidence_interval_
    assert np.all(np.diff(curve.survival) < 0)
    for number, t in enumerate(curve.time):
        survival = reference.predict(t)
        assert curve.survival[number] == pytest.approx(survival, abs=1e-9)
        if 0 < survival < 1:
            low, high = bounds.loc[t]
            assert (curve.low[number], curve.high[number]) == pytest.approx((low, high), abs=1e-6)


def test_being_lost_is_as_scikit_survival_has_it_and_an_event_comes_first() -> None:
    rng = np.random.default_rng(7)
    time, event = rng.integers(1, 30, 200).astype(float), rng.random(200) < 0.4
    lost = censoring(time, event)
    reference = CensoringDistributionEstimator().fit(Surv.from_arrays(event, time))
    at = np.arange(1.0, 29.0)
    np.testing.assert_allclose(lost.at(at), reference.predict_proba(at), atol=1e-12)
    # By hand: of three at risk at 2 one has the event, so one of two is lost there.
    small = censoring(np.array([2.0, 2.0, 3.0]), np.array([True, False, True]))
    assert small.before(np.array([2.0])).tolist() == [1.0]
    assert small.at(np.array([2.0])).tolist() == [0.5]


def test_who_has_the_time_itself_is_still_at_risk() -> None:
    assert at_risk(np.array([1.0, 2.0, 2.0, 5.0]), np.array([0.0, 2.0, 3.0, 6.0])).tolist() == [
        4,
        3,
        1,
        0,
    ]
