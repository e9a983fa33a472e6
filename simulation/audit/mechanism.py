"""Exact tests of the mechanism, through the training step that a hospital runs.

Every test knows what must come out, and would be wrong about a true mechanism once in a million
times (`LEVEL`). A noise test that accepts sigma has to reject 2/3 and 3/2 of it as well.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from client import training
from client.privacy.engine import PatientClipper
from simulation.audit.outcome import Check
from simulation.audit.throwaway import (
    CanaryTable,
    Floats,
    Subject,
    canaries,
    canary_scores,
    canary_study,
    fresh_model,
    head_of,
    phantom_patients,
    released,
)

NOISE, SENSITIVITY, SAMPLING = "noise", "sensitivity", "sampling"
LEVEL = 1e-6  # how often a true mechanism is called wrong

_SEED = 20261125  # of the phantoms; noise and draws come from the operating system
_NUMBERS = 4_000_000  # of noise that are looked at, in one run
_STEPS = (4, 100)  # the fewest and the most
_STEP_STD = 1e-3  # of the weights: little against them, much against their rounding
_TOLERANCE = 1e-4  # of C: a contribution rounds by 1e-5 C, the sum by 1e-7 of itself
_DRAWN = 6  # patients in the draw to which one is added
_COHORTS = (200, 600)  # canaries, of which the public constants know the first number


def audit_noise(subject: Subject) -> list[Check]:
    """Size, shape and independence of the noise in two runs of the same round, without any signal.

    The patients have no gradient: the model is certain of each of them. So what a step releases is
    noise alone, whether somebody was drawn or nobody.
    """
    runs = np.stack([_silent_round(subject) for _ in range(2)])  # (2, steps, weights)
    noise = runs / subject.sigma
    steps = noise.reshape(-1, noise.shape[-1])
    return [
        _size(noise, subject.sigma),
        _each_step(steps, subject.sigma),
        _shape(noise),
        _apart(steps),
    ]


def _silent_round(subject: Subject) -> Floats:
    study = subject.study(nominal=100, learning_rate=1.0)
    weights = sum(p.numel() for p in fresh_model(study).parameters() if p.requires_grad)
    fewest, most = _STEPS
    steps = min(subject.protocol.total_steps, most, max(fewest, _NUMBERS // weights))
    denominator = 100 * study.training.sampling_rate
    study = subject.study(100, _STEP_STD * denominator / (subject.sigma * subject.clip))
    model = fresh_model(study)
    with torch.no_grad():
        head_of(model).bias.copy_(torch.tensor([200.0, -200.0]))  # exp(-400) is 0 in float32
    found = phantom_patients(study.images, 4, 1, _SEED)
    certain = type(found)(
        found.pixels, np.zeros_like(found.labels), found.offsets, found.mean, found.std
    )
    return released(model, certain, study, subject.noise, steps)


def _within(statistic: float, count: int, level: float) -> bool:
    """Whether a sum of `count` squared standard normals can be so large or small; NaN cannot."""
    low, high = stats.chi2.ppf([level / 2, 1 - level / 2], count)
    return bool(low < statistic < high)


def _size(noise: Floats, sigma: float) -> Check:
    squares = float(np.square(noise).sum())
    accepted = [_within(squares / f**2, noise.size, LEVEL) for f in (1.0, 2 / 3, 3 / 2)]
    low, high = sigma * np.sqrt(stats.chi2.ppf([LEVEL / 2, 1 - LEVEL / 2], noise.size) / noise.size)
    others = ["accepts" if a else "rejects" for a in accepted[1:]]
    return Check(
        NOISE,
        "standard deviation of a step's noise, in units of C",
        f"{sigma * math.sqrt(squares / noise.size):.4f} "
        f"({others[0]} 2/3 sigma, {others[1]} 3/2 sigma)",
        f"sigma = {sigma:.4f}: {low:.4f} to {high:.4f}, and both others rejected",
        accepted == [True, False, False],
    )


def _each_step(steps: Floats, sigma: float) -> Check:
    squares = np.square(steps).sum(1)
    count = steps.shape[1]
    held = [_within(float(s), count, LEVEL / len(steps)) for s in squares]
    each = sigma * np.sqrt(squares / count)
    return Check(
        NOISE,
        f"the same in each of {len(steps)} steps",
        f"{each.min():.4f} to {each.max():.4f}",
        f"{sigma:.4f} within its chi-square interval in every step",
        all(held),
    )


def _shape(noise: Floats) -> Check:
    values = noise.ravel()[:_NUMBERS]
    if np.isfinite(values).all():
        found = stats.kstest(values, "norm", method="asymp")
        distance, p = float(found.statistic), float(found.pvalue)
    else:
        distance, p = 1.0, 0.0
    return Check(
        NOISE,
        f"normal (Kolmogorov and Smirnov, {values.size:,} numbers)",
        f"distance {distance:.5f}, p = {p:.2g}",
        f"p of at least {LEVEL:g}",
        p >= LEVEL,
    )


def _apart(steps: Floats) -> Check:
    """The largest correlation of any two steps, also of two runs of the same round."""
    lengths = np.linalg.norm(steps, axis=1)
    pairs = len(steps) * (len(steps) - 1) // 2
    limit = float(stats.norm.isf(LEVEL / 2 / pairs)) / math.sqrt(steps.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = (steps @ steps.T) / np.outer(lengths, lengths)
    largest = float(np.abs(cosines[np.triu_indices(len(steps), 1)]).max())
    return Check(
        NOISE,
        f"independent between steps and between two runs ({pairs:,} pairs)",
        "a step has no noise" if math.isnan(largest) else f"largest correlation {largest:.4f}",
        f"below {limit:.4f}",
        largest < limit,  # NaN, of a step without noise, is not
    )


def audit_sensitivity(subject: Subject) -> list[Check]:
    """One patient more or less in a draw, through the product's clipper.

    A patient's images are phantoms, or all white, all black, a chessboard, as large as float32 can
    be, infinite or NaN; with 1, the protocol's and 8 views. The weights are random, or crafted by a
    server that wants loud gradients (THREATS.md T6: the head times 1,000).
    """
    moves: list[float] = []
    loud: list[float] = []
    broken: list[float] = []
    for views in sorted({1, subject.protocol.training.views_per_patient, 8}):
        for crafted in (False, True):
            study = subject.study(100, 1.0, training={"views-per-patient": views})
            model = fresh_model(study)
            if crafted:
                with torch.no_grad():
                    head_of(model).weight.mul_(1000.0)
            clipper = training.make_clipper(model, study)
            base = phantom_patients(study.images, _DRAWN, views, _SEED)
            images = base.views(np.arange(_DRAWN * views))
            labels = torch.tensor(base.labels)
            before = _clipped_sum(clipper, images, labels, views) / subject.clip
            for finite, added in _patients(images[:views], study.images.mean, study.images.std):
                for label in (0, 1):
                    more = torch.full((views,), label)
                    after = _clipped_sum(
                        clipper, torch.cat([images, added]), torch.cat([labels, more]), views
                    )
                    move = float((after / subject.clip - before).norm())
                    (moves if finite else broken).append(move)
                    if crafted and finite:
                        loud.append(move)
    largest, silent = float(np.max(moves)), float(np.max(broken))
    return [
        Check(
            SENSITIVITY,
            f"one patient moves the clipped sum ({len(moves)} cases), in units of C",
            f"at most {largest:.5f}",
            f"at most 1 ({_TOLERANCE:g} for rounding), and 1 for a loud patient",
            bool(largest <= 1 + _TOLERANCE and np.max(loud) >= 1 - 0.01),
        ),
        Check(
            SENSITIVITY,
            f"a patient whose images are not finite ({len(broken)} cases)",
            "destroys the sum" if math.isnan(silent) else f"moves it by {silent:.5f}",
            "exactly nothing: 0, or rounding",
            silent <= _TOLERANCE,
        ),
    ]


def _clipped_sum(clipper: PatientClipper, images: Tensor, labels: Tensor, views: int) -> Tensor:
    """(weights,) float64: what one draw adds to the gradients."""
    trained = [p for p in clipper.model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    patients = len(labels) // views
    clipper.add_clipped_sum(images, labels, torch.full((patients, views), 1 / views))
    return torch.cat([p.grad.flatten().double() for p in trained if p.grad is not None])


def _patients(like: Tensor, mean: float, std: float) -> Iterator[tuple[bool, Tensor]]:
    """Whether finite, and the normalised views (V, C, H, W) of patients that may be added."""
    white, black = torch.full_like(like, (1 - mean) / std), torch.full_like(like, -mean / std)
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in like.shape[2:]), indexing="ij")
    yield True, like.flip(-1)
    yield True, white
    yield True, black
    yield True, torch.where((rows + columns) % 2 == 0, white, black)
    for value in (math.nan, math.inf):
        broken = like.clone()
        broken[-1] = value
        yield False, broken


def audit_sampling(subject: Subject) -> list[Check]:
    """Who is drawn, seen from outside: canaries without noise leave their mark when they are.

    Two cohorts under the same public constants, one three times as large as these say: neither the
    rate nor the denominator may know.
    """
    rate = subject.protocol.training.sampling_rate
    steps = min(40, subject.protocol.total_steps)
    counts, marks = [], []
    for cohort in _COHORTS:
        study = canary_study(subject, _COHORTS[0], steps)
        views = study.training.views_per_patient
        model = CanaryTable(cohort, subject.clip)
        marked = canary_scores(
            released(model, canaries(np.arange(cohort), views), study, 0.0, steps)
        )
        drawn = marked > _TOLERANCE
        counts.append(drawn.sum(1))
        marks.append(marked[drawn])
    trials = steps * sum(_COHORTS)
    total = int(sum(c.sum() for c in counts))
    low, high = stats.binom.ppf([LEVEL / 2, 1 - LEVEL / 2], trials, rate) / trials
    mark = np.concatenate(marks)
    span = (float(mark.min()), float(mark.max())) if mark.size else (math.nan, math.nan)
    return [
        Check(
            SAMPLING,
            f"share of patients in a draw ({trials:,} chances)",
            f"{total / trials:.4f}",
            f"q = {rate:g}: {low:.4f} to {high:.4f}",
            bool(low <= total / trials <= high),
        ),
        _spread(counts, rate),
        Check(
            SAMPLING,
            f"what a drawn patient counts, cohorts of {_COHORTS[0]} and {_COHORTS[1]}, in units of C",
            f"{span[0]:.5f} to {span[1]:.5f}",
            "1 in both: the denominator is public",
            bool(mark.size == 0 or np.abs(mark - 1).max() <= _TOLERANCE),
        ),
    ]


def _spread(counts: Sequence[NDArray[np.int64]], rate: float) -> Check:
    """Independent draws vary; batches of a fixed size do not, and are not what is accounted."""
    variance = [cohort * rate * (1 - rate) for cohort in _COHORTS]
    name, steps = "spread of the size of a draw", sum(len(c) for c in counts)
    if rate == 1.0:
        fixed = all((c == n).all() for c, n in zip(counts, _COHORTS, strict=True))
        return Check(SAMPLING, name, "everybody" if fixed else "not everybody", "everybody", fixed)
    deviations = [
        float(np.square(c - n * rate).sum() / v)
        for c, n, v in zip(counts, _COHORTS, variance, strict=True)
    ]
    low, high = np.sqrt(stats.chi2.ppf([LEVEL / 2, 1 - LEVEL / 2], steps) / steps)
    return Check(
        SAMPLING,
        f"{name}, in units of Poisson sampling's",
        f"{math.sqrt(sum(deviations) / steps):.3f}",
        f"1: {low:.3f} to {high:.3f}",
        _within(sum(deviations), steps, LEVEL),
    )
