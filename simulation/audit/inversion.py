"""Gradient inversion: what can be seen of a patient in his own update, with privacy and without.

Deep Leakage from Gradients (Zhu, Liu, Han 2019) as Geiping et al. 2020 do it: an image is optimised,
by the signs of its gradient, until *its* gradient points where the update points (cosine), with a
little total variation as the idea of what an image is. THREATS.md T1.

The attacker's best case, which no hospital's round is: one patient with one image and no flips,
drawn for certain, one step, the label known, and a start model that the attacker chose. On that
depends most. From the compact CNN's usual random weights one of three other phantoms was recovered
(likeness .71, .37, .02), from the phantom pre-trained ones none. Orthogonal filters and normalisations
with gain 0.5 and bias 0.5, so that a ReLU cuts less off, gave most away: .71, .91 and .52 here. The
model is always the compact CNN at 32 pixels, whatever the protocol's.

Simpler and stronger is to choose among known patients the one whose gradient fits best. Whatever the
attack, from an update with noise sigma C it is right about one in k patients with a probability
of at most Phi(Phi^-1(1/k) + 1/sigma): the powers of k tests against the update of nobody, whose
levels add up to 1 (Dong, Roth and Su 2022, section 2.3).
"""

import copy
from dataclasses import replace
from statistics import fmean

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import binom, norm
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from client.data import ImagePatients
from common.model_spec import model_of
from common.protocol import StudyProtocol
from common.tasks.nodule_classification.study import NoduleStudy
from simulation.audit.mechanism import LEVEL
from simulation.audit.outcome import Check, InversionResult, Recovered
from simulation.audit.throwaway import (
    Floats,
    Subject,
    phantom_patients,
    released,
)

PART = "inversion"
PICTURES = 3
CANDIDATES = 20
TRIALS = 200
MOST_SSIM = 0.2  # with privacy: THREATS.md T1; .10 is seen, and one image varies by .02
LEAST_SSIM = 0.5  # of the best picture without: an attack that recovers nothing shows nothing
LEAST_NAMED = 0.9  # of the updates without privacy

_PIXELS = 32
_SEED = 5  # of the phantoms
_MODEL_SEED = 4  # of five tried, the one from which most was recovered
_NOMINAL = 100
_ITERATIONS = 600
_STEP = 0.1  # of grey, 0..1; a tenth of it after 3/8, 5/8 and 7/8 of the iterations
_VARIATION = 0.02  # weight of the total variation against the cosine


def audit_inversion(subject: Subject) -> tuple[InversionResult, list[Check]]:
    """Both attacks, each on updates without privacy and as the subject's mechanism releases them."""
    attack = _Attack(subject)
    bare = replace(subject, noise=0.0)
    chosen = range(PICTURES)
    updates = [attack.update(who, patient) for who in (bare, subject) for patient in chosen]
    found = attack.recover(torch.stack(updates), attack.labels[list(chosen) * 2])
    pictures = []
    for patient in chosen:
        original, open_, noised = attack.grey[patient], found[patient], found[PICTURES + patient]
        pictures.append(
            Recovered(original, open_, noised, ssim(original, open_), ssim(original, noised))
        )
    result = InversionResult(
        pictures=tuple(pictures),
        candidates=CANDIDATES,
        trials=TRIALS,
        named_without_dp=attack.named(bare),
        named_with_dp=attack.named(subject),
        most_named=most_named(CANDIDATES, subject.sigma),
    )
    return result, _checks(result)


def _checks(result: InversionResult) -> list[Check]:
    seen = [p.ssim_with_dp for p in result.pictures]
    best = max(p.ssim_without_dp for p in result.pictures)
    most = int(binom.isf(LEVEL, result.trials, result.most_named))
    bare, dp = (n / result.trials for n in (result.named_without_dp, result.named_with_dp))
    return [
        Check(
            PART,
            f"likeness (SSIM) of {len(seen)} images recovered from the audited updates",
            f"{fmean(seen):.2f} on average, {max(seen):.2f} at most",
            f"below {MOST_SSIM:g} on average",
            fmean(seen) < MOST_SSIM,
        ),
        Check(
            PART,
            "the attack works where there is no privacy: best likeness",
            f"{best:.2f}",
            f"at least {LEAST_SSIM:g}",
            best >= LEAST_SSIM,
        ),
        Check(
            PART,
            f"patients named among {result.candidates} from the audited updates",
            f"{dp:.1%} of {result.trials}",
            f"chance is {1 / result.candidates:.1%}, no attack can do better than "
            f"{result.most_named:.1%}: at most {most / result.trials:.1%} by luck",
            result.named_with_dp <= most,
        ),
        Check(
            PART,
            "... and where there is no privacy",
            f"{bare:.1%} of {result.trials}",
            f"at least {LEAST_NAMED:.0%}, or the attack shows nothing",
            bare >= LEAST_NAMED,
        ),
    ]


def most_named(candidates: int, sigma: float) -> float:
    """The highest probability of naming one of so many patients from one step's update, 0 to 1."""
    return float(norm.cdf(norm.ppf(1 / candidates) + 1 / sigma))


def open_model(study: StudyProtocol) -> nn.Module:
    """The start model that gives most away, see above; always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_MODEL_SEED)
        model = model_of(study)
        for layer in model.modules():
            if isinstance(layer, nn.GroupNorm):
                nn.init.constant_(layer.weight, 0.5)
                nn.init.constant_(layer.bias, 0.5)
            elif isinstance(layer, nn.Conv2d):
                nn.init.orthogonal_(layer.weight)
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight)
    return model


class _Attack:
    """The attacker's start model, and the phantom patients of whom he wants to know."""

    def __init__(self, subject: Subject) -> None:
        self.study = _study(subject)
        self.model = open_model(self.study)
        self.patients = phantom_patients(self.study.images, CANDIDATES, 1, _SEED)
        self.labels = torch.tensor(self.patients.labels)
        self.grey = self.patients.pixels[:, :, :, 0] / self.patients.scale  # (patients, H, W)
        self._weights = {n: p.detach() for n, p in self.model.named_parameters()}
        self._gradients = vmap(grad(self._loss), in_dims=(None, 0, 0))

    def update(self, subject: Subject, patient: int) -> Tensor:
        """(weights,): what one step on this patient alone releases, as a gradient, in units of C."""
        images = self.patients.of(patient)
        alone = ImagePatients(
            pixels=self.patients.pixels[images],
            labels=self.patients.labels[images],
            offsets=np.array([0, images.stop - images.start]),
            mean=self.patients.mean,
            std=self.patients.std,
        )
        model = copy.deepcopy(self.model)
        return torch.from_numpy(
            released(model, alone, _study(subject), subject.noise, 1)[0]
        ).float()

    def _loss(self, weights: dict[str, Tensor], grey: Tensor, label: Tensor) -> Tensor:
        images = self.study.images
        logits = functional_call(
            self.model, weights, ((grey - images.mean) / images.std)[None, None]
        )
        return F.cross_entropy(logits, label[None])

    def gradients(self, grey: Tensor, labels: Tensor) -> Tensor:
        """(images, weights): what an update of each image (images, H, W) alone should be, unclipped."""
        found = self._gradients(self._weights, grey, labels)
        return torch.cat([found[name].flatten(1) for name in self._weights], dim=1)

    def recover(self, updates: Tensor, labels: Tensor) -> Floats:
        """Images (images, H, W), grey in 0..1, whose gradients point where `updates` point."""
        generator = torch.Generator().manual_seed(_SEED)
        start = 0.5 + 0.1 * torch.randn(_PIXELS, _PIXELS, generator=generator)
        grey = start.repeat(len(updates), 1, 1).requires_grad_()
        adam = torch.optim.Adam([grey], lr=_STEP)
        late = [_ITERATIONS * eighth // 8 for eighth in (3, 5, 7)]
        slower = torch.optim.lr_scheduler.MultiStepLR(adam, late, gamma=0.1)
        for _ in range(_ITERATIONS):
            along = F.cosine_similarity(self.gradients(grey, labels), updates, dim=1)
            across = grey.diff(dim=2).abs().mean((1, 2)) + grey.diff(dim=1).abs().mean((1, 2))
            (slope,) = torch.autograd.grad((_VARIATION * across - along).sum(), grey)
            grey.grad = slope.sign()
            adam.step()
            slower.step()
            with torch.no_grad():
                grey.clamp_(0, 1)
        found: Floats = grey.detach().double().numpy()
        return found

    def named(self, subject: Subject) -> int:
        """In how many of `TRIALS` updates the true patient's gradient correlates best of all."""
        candidates = F.normalize(
            self.gradients(torch.tensor(self.grey).float(), self.labels), dim=1
        )
        right = 0
        for trial in range(TRIALS):
            patient = trial % CANDIDATES
            right += int((candidates @ self.update(subject, patient)).argmax()) == patient
        return right


def _study(subject: Subject) -> NoduleStudy:
    return subject.study(
        _NOMINAL,
        _NOMINAL,  # the learning rate: a step is then large against the weights' rounding
        images={"size": _PIXELS, "channels": 1},
        model={"name": "compact-cnn", "trainable": "all"},
        training={"sampling-rate": 1.0, "views-per-patient": 1},
    )


def ssim(first: Floats, second: Floats) -> float:
    """Structural similarity of two images (H, W) in 0..1, -1 to 1 (Wang et al. 2004).

    Gaussian window of 11 x 11 with deviation 1.5, K1 = 0.01, K2 = 0.03, range 1; the mean over the
    places where the whole window lies on the image. Both at least 11 x 11.
    """

    def mean(values: Floats) -> Floats:
        blurred: Floats = gaussian_filter(values, 1.5, radius=5)[5:-5, 5:-5]
        return blurred

    a, b = mean(first), mean(second)
    variances = mean(first**2) - a**2, mean(second**2) - b**2
    covariance = mean(first * second) - a * b
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * a * b + c1) * (2 * covariance + c2)
    likeness /= (a**2 + b**2 + c1) * (sum(variances) + c2)
    return float(likeness.mean())
