"""Synthetic vital signs of ward patients: public data made of nothing but a few lines of arithmetic.

For first runs and tests of sequence studies. No record is copied into it or fitted by it. What it
imitates is what makes such series hard: nobody measures by the clock, laboratory values are rare,
every patient has an own normal, wards measure differently, and a single odd value means little.

A stay that ends in deterioration drifts slowly, from an onset of its own: breathing and pulse rise,
blood pressure and saturation fall, as described by Churpek et al. 2016
(doi 10.1016/j.resuscitation.2016.02.005). Other stays have an episode of fever and fast pulse that
passes, so that the trend tells more than the worst value does. Typical values are those that score
nothing in NEWS2 (Royal College of Physicians 2017).
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.sequences.schema import Sequences, Variable

Floats = npt.NDArray[np.float64]
Ordinals = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Vital:
    """How one variable behaves, all in its unit.

    Attributes:
        typical: mean over patients who are well.
        between: standard deviation of patients' own means.
        within: standard deviation of a patient's values about the own mean.
        drift: what full deterioration adds.
        episode: what a passing episode adds at its height.
        least, most: no value beyond.
        decimals: as charts write it.
        laboratory: whether it needs a blood sample.
    """

    unit: str
    typical: float
    between: float
    within: float
    drift: float
    episode: float
    least: float
    most: float
    decimals: int = 0
    laboratory: bool = False


VITALS: Mapping[str, Vital] = {
    "heart-rate": Vital("/min", 80, 11, 6, 20, 22, 30, 210),
    "systolic-pressure": Vital("mmHg", 126, 15, 8, -24, 4, 50, 240),
    "respiratory-rate": Vital("/min", 16, 1.8, 1.6, 7, 3, 5, 55),
    "oxygen-saturation": Vital("%", 96.5, 1.2, 1.0, -4, -1, 60, 100),
    "temperature": Vital("°C", 36.8, 0.3, 0.25, 0.5, 1.3, 33, 42, 1),
    "lactate": Vital("mmol/L", 1.2, 0.3, 0.25, 1.8, 0.2, 0.3, 18, 1, laboratory=True),
}
"""Variables by name."""


HOURS = {"minutes": 1 / 60, "hours": 1.0, "days": 24.0}
"""The units of time that a protocol may have, in hours."""


@dataclass(frozen=True)
class Ward:
    """How a hospital measures in a stay of a day; a longer or shorter one has as many measurements.

    Attributes:
        round_hours: between rounds.
        sample_hours: between blood samples.
        left_out: share of values that nobody wrote down.
    """

    name: str
    round_hours: float
    sample_hours: float
    left_out: float


WARDS: Mapping[str, Ward] = {
    ward.name: ward
    for ward in (
        Ward("step-down", 1.0, 6.0, 0.05),
        Ward("surgical", 2.0, 12.0, 0.10),
        Ward("general", 3.0, 16.0, 0.20),
        Ward("night", 4.0, 24.0, 0.30),
    )
}
"""Four invented hospitals' wards by name, from closely watched to seldom."""


@dataclass(frozen=True)
class PhantomStays:
    """N synthetic stays with M measurements in all, sorted by stay.

    Attributes:
        label: (N,) 1 = ends in deterioration.
        stay: (M,) 0..N-1.
        time: (M,) hours since admission.
        variable: (M,) the place among the vitals that were asked for.
        value: (M,) in the variable's unit.
    """

    label: Ordinals
    stay: Ordinals
    time: Floats
    variable: Ordinals
    value: Floats


def vitals_of(sequences: Sequences) -> tuple[Vital, ...]:
    """How each of a study's variables behaves, from its protocol alone.

    A variable of ``VITALS``' name and range is that one, within the public range; any other is about
    the middle of its public range and rises with deterioration.
    """
    return tuple(_vital_of(variable) for variable in sequences.variables)


def _vital_of(variable: Variable) -> Vital:
    low, high = variable.range
    known = VITALS.get(variable.name)
    if known is not None and low < known.typical < high:
        return replace(known, least=max(low, known.least), most=min(high, known.most))
    width = high - low
    return Vital(
        unit=variable.unit,
        typical=low + 0.4 * width,
        between=0.06 * width,
        within=0.04 * width,
        drift=0.12 * width,
        episode=0.1 * width,
        least=low,
        most=high,
        decimals=max(0, 2 - int(np.floor(np.log10(width)))),
    )


def phantom_stays(
    count: int,
    vitals: tuple[Vital, ...] = tuple(VITALS.values()),
    *,
    hours: float = 24.0,
    seed: int,
    ward: Ward = WARDS["surgical"],
    deteriorating: float = 0.3,
) -> PhantomStays:
    """Make ``count`` stays of ``hours`` hours; the same arguments give the same stays.

    Args:
        count: number of stays, 0 or more.
        vitals: what is measured.
        hours: length of a stay; one in five ends earlier, whatever its outcome.
        seed: 0 or more.
        ward: how it is measured.
        deteriorating: share of positives, 0 to 1, met to the nearest stay.

    Raises:
        ValueError: count, hours or deteriorating out of range.
    """
    if count < 0 or hours <= 0 or not 0 <= deteriorating <= 1:
        raise ValueError(
            "expected count >= 0, hours > 0 and deteriorating within 0..1, found "
            f"{count}, {hours} and {deteriorating}"
        )
    random = np.random.default_rng(seed)
    label = np.zeros(count, np.int64)
    label[random.permutation(count)[: round(count * deteriorating)]] = 1
    own = random.standard_normal((count, len(vitals)))
    # Where the drift begins, how far it gets, and when an episode has its height, if there is one.
    onset = random.uniform(0.1, 0.6, count) * hours
    depth = label * random.lognormal(-0.5, 0.5, count)
    height = random.uniform(0.1, 0.9, count) * hours
    fever = (random.random(count) < 0.35) * random.uniform(0.5, 1.0, count)
    end = np.where(random.random(count) < 0.2, random.uniform(0.6, 1.0, count), 1.0) * hours

    parts: list[tuple[Ordinals, Floats, Ordinals, Floats]] = []
    for place, vital in enumerate(vitals):
        gap = ward.sample_hours if vital.laboratory else ward.round_hours
        stay, time = _moments(count, gap * hours / 24, hours, random)
        kept = (time < end[stay]) & (random.random(len(time)) >= ward.left_out)
        stay, time = stay[kept], time[kept]
        drift = depth[stay] * np.clip((time - onset[stay]) / (hours - onset[stay]), 0, 1)
        passing = fever[stay] * np.exp(-0.5 * ((time - height[stay]) / (0.08 * hours)) ** 2)
        value = (
            vital.typical
            + vital.between * own[stay, place]
            + vital.within * random.standard_normal(len(time))
            + vital.drift * drift
            + vital.episode * passing
        )
        value = np.clip(value, vital.least, vital.most).round(vital.decimals)
        parts.append((stay, time, np.full_like(stay, place), value))
    stay, time, variable, value = map(np.concatenate, zip(*parts, strict=True))
    order = np.lexsort((variable, time, stay))
    return PhantomStays(label, stay[order], time[order], variable[order], value[order])


def _moments(
    count: int, gap: float, hours: float, random: np.random.Generator
) -> tuple[Ordinals, Floats]:
    """When something is measured: about every `gap` hours from a beginning of each stay's own."""
    rounds = np.arange(int(hours / gap) + 1) * gap
    late = random.uniform(0, gap, (count, 1))
    jitter = random.uniform(-0.3, 0.3, (count, len(rounds))) * gap
    grain = hours / 2400  # 36 seconds of a day: as charts write it
    time = (np.clip(rounds + late + jitter, 0, None) / grain).round() * grain
    stay = np.broadcast_to(np.arange(count)[:, None], time.shape)
    within = time < hours
    return stay[within], time[within]


def write_stays(
    folder: Path,
    stays: PhantomStays,
    sequences: Sequences,
    patients: list[str],
    sides: list[str],
) -> None:
    """`stays` as a hospital's `series.csv` and `outcomes.csv`.

    They are of the variables of ``vitals_of(sequences)``; `patients` names the owner of each, and
    `sides` the side of each, for a study whose files say it.
    """
    names = sequences.variable_names
    unit = HOURS[sequences.time.unit]
    keys = [
        [patient, f"stay-{number:05d}"][: len(sequences.key_columns)]
        for number, patient in enumerate(patients)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "outcomes.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(sequences.outcome_columns)
        for key, label, side in zip(keys, stays.label.tolist(), sides, strict=True):
            rows.writerow([*key, sequences.classes[label], side][: len(sequences.outcome_columns)])
    with (folder / "series.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(sequences.series_columns)
        for stay, time, variable, value in zip(
            stays.stay.tolist(),
            stays.time.tolist(),
            stays.variable.tolist(),
            stays.value.tolist(),
            strict=True,
        ):
            rows.writerow([*keys[stay], f"{time / unit:.6g}", names[variable], f"{value:g}"])
