"""How far the images are from the phantom, which the initial model knows, and from the stated inclusion."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import ks_2samp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from client.data.survey import SPACING, THICKNESS, VOLTAGE, YEAR, Survey, Value
from client.inspection.measures import FEATURES, Measures, features_of
from common.phantom import phantom_patches, to_grey8
from common.tasks.nodule_classification.study import Inclusion

PHANTOMS = 400  # enough that their own chance is below 0.1 of a KS distance
_FOLDS = 5
_SEED = 20_250_101  # of the phantoms, and of which image stands for a patient


@dataclass(frozen=True, slots=True)
class Drift:
    """One number of an image, here and on phantoms.

    `distance` is Kolmogorov and Smirnov's: the largest difference of the two cumulative distributions,
    0 where they are one and 1 where they do not meet; `p` is of their test, with one image of each
    patient, since those of one patient are not independent.
    """

    feature: str
    here: float  # medians, in 0..1 of the grey scale
    phantom: float
    distance: float
    p: float


@dataclass(frozen=True, eq=False, slots=True)
class FromPhantom:
    """Over all `FEATURES`, and how well they tell the two apart together.

    `auroc` is of a logistic regression on the three, each image judged by one that was fitted to other
    patients: 0.5 is a guess; None with too few patients to leave some out.
    """

    drifts: tuple[Drift, ...]
    auroc: float | None
    phantom: npt.NDArray[np.float64]  # (PHANTOMS, 3): its features


@lru_cache(maxsize=4)
def _phantoms(size: int, nodules: float) -> npt.NDArray[np.float64]:
    threads = torch.get_num_threads()
    # Its many small operations take several times as long when threads wait for each other.
    torch.set_num_threads(1)
    try:
        made = phantom_patches(PHANTOMS, size=size, seed=_SEED, nodule_fraction=nodules)
    finally:
        torch.set_num_threads(threads)
    return features_of(to_grey8(made.hu).numpy().astype(np.float32) / np.float32(255))


def from_phantom(survey: Survey, measures: Measures) -> FromPhantom:
    """The phantom has as many nodules as the hospital, to a tenth."""
    nodules = round(float(survey.labels.mean()), 1)
    phantom = _phantoms(survey.cohort.training.pixels.shape[1], nodules)
    shuffled = np.random.default_rng(_SEED).permutation(len(survey))
    one_each = shuffled[np.unique(survey.patients[shuffled], return_index=True)[1]]
    drifts = []
    for column, feature in enumerate(FEATURES):
        here, there = measures.features[one_each, column], phantom[:, column]
        test = ks_2samp(here, there)
        drifts.append(
            Drift(
                feature=feature,
                here=float(np.median(here)),
                phantom=float(np.median(there)),
                distance=float(test.statistic),
                p=float(test.pvalue),
            )
        )
    auroc = _told_apart(measures.features, survey.patients, phantom)
    return FromPhantom(tuple(drifts), auroc, phantom)


def _told_apart(
    here: npt.NDArray[np.float64],
    patients: npt.NDArray[np.int64],
    phantom: npt.NDArray[np.float64],
) -> float | None:
    if patients.max() + 1 < _FOLDS:
        return None
    features = np.concatenate([here, phantom])
    real = np.arange(len(features)) < len(here)
    groups = np.concatenate([patients, patients.max() + 1 + np.arange(len(phantom))])
    logistic = LogisticRegression(class_weight="balanced", solver="newton-cholesky")
    scores = cross_val_predict(
        make_pipeline(StandardScaler(), logistic),
        features,
        real,
        groups=groups,
        cv=GroupKFold(_FOLDS),
        method="decision_function",
    )
    return float(roc_auc_score(real, scores))


@dataclass(frozen=True, slots=True)
class Outside:
    """One thing that the protocol states, and how many are not so, or do not say."""

    stated: str  # "slice thickness at most 2.5 mm"
    images: int  # outside
    patients: int  # with at least one such image
    unknown: int  # images whose file does not say


def outside(survey: Survey, inclusion: Inclusion) -> list[Outside]:
    """Each limit on images that `inclusion` states; its number of patients is not one."""
    limits: list[tuple[str, str, float, float]] = []
    endless = float("inf")
    if (thick := inclusion.max_slice_thickness_mm) is not None:
        limits.append((f"slice thickness at most {thick:g} mm", THICKNESS, 0, thick))
    if (spacing := inclusion.max_pixel_spacing_mm) is not None:
        limits.append((f"pixel spacing at most {spacing:g} mm", SPACING, 0, spacing))
    if (kvp := inclusion.kvp) is not None:
        limits.append((f"tube voltage {kvp[0]:g} to {kvp[1]:g} kV", VOLTAGE, *kvp))
    if (year := inclusion.from_year) is not None:
        limits.append((f"acquired in {year} or later", YEAR, year, endless))
    return [_outside(survey, *limit) for limit in limits]


def _outside(survey: Survey, stated: str, fact: str, least: float, most: float) -> Outside:
    values: Sequence[Value] = survey.facts.get(fact, (None,) * len(survey))
    wrong = [
        n
        for n, value in enumerate(values)
        if isinstance(value, int | float) and not least <= value <= most
    ]
    return Outside(
        stated=stated,
        images=len(wrong),
        patients=len({survey.patient_ids[n] for n in wrong}),
        unknown=sum(value is None for value in values),
    )
