"""Synthetic stays: the same seed gives the same ones, wards differ, and a trend tells the outcome."""

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from common.phantom_vitals import VITALS, WARDS, PhantomStays, phantom_stays, vitals_of, write_stays
from common.sequences.encoding import encode
from common.sequences.schema import Sequences

WARD = Sequences.model_validate(
    {
        "classes": ["well", "worse"],
        "steps": 12,
        "step": 2.0,
        "variables": [
            {"name": name, "range": [vital.least, vital.most]} for name, vital in VITALS.items()
        ],
    }
)
PULSE, BREATHING = 0, 2


def test_the_same_seed_gives_the_same_stays() -> None:
    one, again, other = (phantom_stays(20, seed=seed) for seed in (3, 3, 4))
    assert all(
        np.array_equal(getattr(one, f), getattr(again, f))
        for f in PhantomStays.__dataclass_fields__
    )
    assert not np.array_equal(one.value, other.value[: len(one.value)])
    assert one.label.sum() == 6
    assert np.unique(one.stay).size == 20
    assert len(phantom_stays(0, seed=1).value) == 0


def test_values_and_times_are_possible() -> None:
    stays = phantom_stays(300, seed=5, hours=24.0)
    assert 0 <= stays.time.min() <= stays.time.max() < 24
    for place, vital in enumerate(VITALS.values()):
        values = stays.value[stays.variable == place]
        assert vital.least <= values.min() <= values.max() <= vital.most
        assert np.array_equal(values, values.round(vital.decimals))


def test_wards_measure_differently() -> None:
    """A night ward has fewer measurements and fewer steps with one than a step-down unit."""
    counts = {name: len(phantom_stays(50, seed=7, ward=ward).value) for name, ward in WARDS.items()}
    assert list(counts) == sorted(counts, key=lambda name: -counts[name])
    assert counts["step-down"] > 4 * counts["night"]


def test_the_trend_tells_more_than_the_worst_value() -> None:
    """What a recurrent network has to find is there, and is not to be had from single values."""
    stays = phantom_stays(1500, seed=11)
    series = encode(1500, stays.stay, stays.time, stays.variable, stays.value, WARD)
    worst = roc_auc_score(stays.label, series[:, :, PULSE].max(1))
    trend = series[:, -3:].mean(1) - series[:, :3].mean(1)
    drift = roc_auc_score(stays.label, trend[:, BREATHING])
    print(f"AUROC: highest pulse {worst:.3f}, rise of breathing {drift:.3f} (seed 11)")
    assert 0.5 < worst < 0.8
    assert drift > worst


def test_as_a_hospital_writes_it(tmp_path: Path) -> None:
    stays = phantom_stays(4, seed=2)
    minutes = WARD.model_validate(
        WARD.model_dump(by_alias=True, exclude_none=True)
        | {"stay": "stay", "time": {"column": "minute", "unit": "minutes"}}
    )
    write_stays(tmp_path, stays, minutes, ["ann", "ann", "bob", "eve"], ["training"] * 4)
    with (tmp_path / "outcomes.csv").open(newline="") as file:
        outcomes = list(csv.DictReader(file))
    with (tmp_path / "series.csv").open(newline="") as file:
        series = list(csv.DictReader(file))
    assert [row["outcome"] for row in outcomes] == [WARD.classes[k] for k in stays.label]
    assert len({(row["patient_id"], row["stay"]) for row in outcomes}) == 4
    assert [float(row["minute"]) for row in series] == pytest.approx(stays.time * 60, rel=1e-5)
    assert {row["variable"] for row in series} <= set(VITALS)


def test_any_study_has_phantoms_within_its_public_ranges() -> None:
    other = WARD.model_validate(
        WARD.model_dump(by_alias=True, exclude_none=True)
        | {
            "variables": [
                {"name": "glucose", "range": [1, 30]},
                {"name": "temperature", "unit": "°F", "range": [90, 110]},
                {"name": "temperature in °C", "range": [34, 42]},
            ]
        }
    )
    vitals = vitals_of(other)
    assert [vital.unit for vital in vitals] == ["", "°F", ""]  # 36.8 is no temperature in °F
    assert vitals_of(WARD) == tuple(VITALS.values())
    stays = phantom_stays(400, vitals, hours=1.0, seed=8)
    assert stays.time.max() < 1
    assert np.unique(stays.stay).size == 400
    for place, variable in enumerate(other.variables):
        values = stays.value[stays.variable == place]
        low, high = variable.range
        assert low <= values.min() < values.max() <= high
        ill = stays.label[stays.stay[(stays.variable == place) & (stays.time > 0.7)]] == 1
        late = stays.value[(stays.variable == place) & (stays.time > 0.7)]
        assert late[ill].mean() > late[~ill].mean() + 0.02 * (high - low)


@pytest.mark.parametrize("wrong", [{"count": -1}, {"hours": 0.0}, {"deteriorating": 1.5}])
def test_arguments_out_of_range(wrong: dict[str, float]) -> None:
    arguments: dict[str, float] = {"count": 3, "hours": 24.0, "deteriorating": 0.3} | wrong
    with pytest.raises(ValueError, match="expected count >= 0"):
        phantom_stays(
            int(arguments["count"]),
            hours=arguments["hours"],
            deteriorating=arguments["deteriorating"],
            seed=1,
        )
