"""Subgroups: what is hidden cannot be worked out, what is shown is that of the group alone."""

import numpy as np
import pytest

from common.clinical.delong import auroc_interval
from common.clinical.figures import at_threshold
from common.clinical.subgroups import SUPPRESSED, subgroups, suppressed
from common.metrics import Scores, auroc
from tests.scored import cohort

SEED = 20_261_125


@pytest.mark.parametrize(
    ("counts", "hidden"),
    [
        ([30, 40, 50], []),
        ([3, 40, 50], [0, 1]),  # alone it is the total less the others
        ([3, 4, 50, 60], [0, 1, 2]),  # seven together are still too few
        ([6, 7, 50], [0, 1]),
        ([0, 40, 50], []),
        ([3], [0]),
        ([3, 0, 4], [0, 2]),
    ],
)
def test_a_small_cell_takes_another_one_with_it(counts: list[int], hidden: list[int]) -> None:
    assert np.flatnonzero(suppressed(counts, 10)).tolist() == hidden


def test_a_cell_that_is_hidden_anyway_takes_another_one_with_it() -> None:
    hidden = np.array([True, False, False])
    assert suppressed([20, 30, 40], 10, hidden).tolist() == [True, True, False]
    assert suppressed([0, 30, 40], 10, hidden).tolist() == [False, False, False]


def test_no_hidden_figure_can_be_worked_out_from_the_table() -> None:
    """Whatever the groups: what is hidden is two cells or more, of `smallest` patients or more."""
    rng, smallest = np.random.default_rng(SEED), 8
    for _ in range(30):
        scores = cohort(rng, int(rng.integers(10, 60)), most=3)
        names = np.array(["a", "b", "c", "d", "e"])
        group = names[rng.choice(5, scores.patients, p=[0.5, 0.25, 0.15, 0.07, 0.03])][
            scores.patient
        ]
        rows = subgroups(scores, group, smallest, 0.5)
        patients = {n: np.unique(scores.patient[group == n]).size for n in np.unique(group)}
        hidden = [r.name for r in rows if r.patients == SUPPRESSED]
        assert all(count >= smallest for n, count in patients.items() if n not in hidden)
        if hidden and len(hidden) < len(rows):
            assert len(hidden) > 1
            assert sum(patients[n] for n in hidden) >= smallest
        for label, cell in ((1, "sensitivity"), (0, "specificity")):
            of_class = {
                name: np.unique(scores.patient[(group == name) & (scores.label == label)]).size
                for name in patients
            }
            kept_back = [row.name for row in rows if getattr(row, cell) == SUPPRESSED]
            small = {name for name, count in of_class.items() if 0 < count < smallest}
            assert small <= set(kept_back)
            if any(row.name not in kept_back and of_class[row.name] for row in rows) and kept_back:
                assert sum(of_class[name] > 0 for name in kept_back) != 1
                assert sum(of_class[name] for name in kept_back) not in range(1, smallest)
            for row in rows:
                assert row.auroc == SUPPRESSED or row.name not in small
                if row.name in small:  # the row's patients less those of the other class
                    assert (row.sensitivity, row.specificity) == (SUPPRESSED, SUPPRESSED)


def test_a_group_is_judged_like_its_images_alone() -> None:
    scores = cohort(np.random.default_rng(SEED), 80)
    group = np.where(scores.patient % 2 == 0, "even", "odd")
    even, odd = subgroups(scores, group, 5, 0.5)
    here = group == "even"
    part = Scores(scores.score[here], scores.label[here], scores.patient[here])
    assert (even.name, odd.name, even.patients) == ("even", "odd", 40)
    assert not isinstance(even.auroc, str)
    assert even.auroc is not None
    assert (even.auroc.value, even.auroc.interval) == (auroc(part), auroc_interval(part))
    expected = at_threshold(part, 0.5, "sensitivity", 0.9, same_patients=True)
    assert (even.sensitivity, even.specificity) == (expected.sensitivity, expected.specificity)
    with pytest.raises(ValueError, match="a group for each"):
        subgroups(scores, group[1:], 5, 0.5)
