"""The encoding against the recursion of Che et al. 2018, written here as a loop over one stay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.sequences.encoding import encode, feature_names, within_grid
from common.sequences.schema import Sequences

STEPS = 5
WARD = Sequences.model_validate(
    {
        "classes": ["well", "worse"],
        "steps": STEPS,
        "step": 2.0,
        "variables": [
            {"name": "pulse", "unit": "/min", "range": [20, 220]},
            {"name": "lactate", "unit": "mmol/L", "range": [0, 20], "outside": "clip"},
        ],
    }
)

Measurement = tuple[float, int, float]  # time, variable, value


def encoded(*stays: list[Measurement], ward: Sequences = WARD) -> NDArray[np.float32]:
    rows = [(number, *one) for number, stay in enumerate(stays) for one in stay]
    return encode(
        len(stays),
        stay=np.array([row[0] for row in rows], np.int64),
        time=np.array([row[1] for row in rows], np.float64),
        variable=np.array([row[2] for row in rows], np.int64),
        value=np.array([row[3] for row in rows], np.float64),
        sequences=ward,
    )


def by_hand(stay: list[Measurement]) -> NDArray[np.float64]:
    """(T, 3V): x, m and delta of section "Notations", one step and variable after the other.

    delta_t = s_t - s_(t-1) + delta_(t-1) without a measurement at t-1, s_t - s_(t-1) with one, and 0
    at the first step.
    """
    result = np.zeros((STEPS, 6))
    for place, variable in enumerate(WARD.variables):
        low, high = variable.range
        current, delta, seen = 0.0, 0.0, False
        for step in range(STEPS):
            if step:
                delta = 1.0 if seen else 1.0 + delta
            inside = [
                (time, number, value)
                for number, (time, which, value) in enumerate(stay)
                if which == place and step * 2.0 <= time < (step + 1) * 2.0
            ]
            seen = bool(inside)
            if seen:
                value = max(inside)[2]
                current = min(1.0, max(-1.0, 2 * (value - low) / (high - low) - 1))
            result[step, place], result[step, 2 + place] = current, seen
            result[step, 4 + place] = delta / STEPS
    return result


MEASUREMENTS = st.lists(
    st.tuples(
        st.sampled_from([-1.0, 0.0, 0.5, 1.99, 2.0, 3.0, 5.0, 8.0, 9.99, 10.0, 400.0]),
        st.integers(0, 1),
        st.sampled_from([-5.0, 0.0, 20.0, 77.5, 120.0, 220.0, 1e9]),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(MEASUREMENTS, min_size=1, max_size=4))
def test_encoding_is_the_recursion(stays: list[list[Measurement]]) -> None:
    found = encoded(*stays)
    assert found.dtype == np.float32
    assert found.shape == (len(stays), STEPS, WARD.features)
    for one, stay in zip(found, stays, strict=True):
        np.testing.assert_allclose(one, by_hand(stay), atol=1e-6)


def test_a_stay_step_by_step() -> None:
    """Pulse 70 in the first step, twice in the third; lactate never; the series ends at hour 5."""
    pulse = encoded([(0.5, 0, 70.0), (5.0, 0, 95.0), (4.1, 0, 300.0)])[0]
    names = feature_names(WARD)
    assert names[0] == "pulse value"
    assert names[2:] == ["pulse observed", "lactate observed", "pulse since", "lactate since"]
    np.testing.assert_allclose(pulse[:, 0], [-0.5, -0.5, -0.25, -0.25, -0.25])
    np.testing.assert_allclose(pulse[:, 2], [1, 0, 1, 0, 0])
    np.testing.assert_allclose(pulse[:, 4], [0, 0.2, 0.4, 0.2, 0.4], atol=1e-7)
    np.testing.assert_allclose(pulse[:, 1], 0)
    np.testing.assert_allclose(pulse[:, 5], [0, 0.2, 0.4, 0.6, 0.8], atol=1e-7)


def test_nobody_else_changes_a_stay() -> None:
    """Nothing is fitted: a stay is encoded the same alone and beside any other."""
    one: list[Measurement] = [(1.0, 0, 80.0), (7.0, 1, 3.0)]
    other: list[Measurement] = [(0.0, 0, 220.0), (9.0, 1, 20.0)]
    np.testing.assert_array_equal(encoded(one, other)[0], encoded(one)[0])
    np.testing.assert_array_equal(encoded(other, one)[1], encoded(one)[0])


def test_of_two_values_at_the_same_time_the_later_row_counts() -> None:
    assert encoded([(3.0, 0, 20.0), (3.0, 0, 220.0)])[0, 1, 0] == 1
    assert encoded([(3.0, 0, 220.0), (3.0, 0, 20.0)])[0, 1, 0] == -1


def test_a_step_begins_at_its_edge_whatever_binary_fractions_say() -> None:
    tenths = WARD.model_copy(update={"step": 0.1})
    assert int(0.3 / 0.1) == 2
    found = encoded([(0.3, 0, 220.0)], ward=tenths)
    np.testing.assert_array_equal(found[0, :, 2], [0, 0, 0, 1, 0])


@pytest.mark.parametrize(
    ("time", "inside"),
    [(0.0, True), (9.999, True), (10.0, False), (-0.1, False), (1e300, False)]
    + [(value, False) for value in (np.nan, np.inf, -np.inf)],
)
def test_what_lies_outside_of_the_grid_is_not_used(time: float, inside: bool) -> None:
    assert within_grid(np.array([time]), WARD)[0] == inside
    assert encoded([(time, 0, 100.0)])[0, :, 2].sum() == inside
