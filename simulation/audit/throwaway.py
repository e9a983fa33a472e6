"""The throwaway study that is audited: the protocol's own mechanism, on patients who do not exist.

Everything goes through `client.training.train`, which is what a hospital's vault calls, with fresh
noise from the operating system. No ledger, no policy and no real patient is touched. Left out is what
comes after the noise (momentum, FedProx' term, aggregation): whoever knows a step's release can
compute it, so it hides nothing and costs no privacy.

Releases are given in units of the clipping norm: one patient moves a step by at most 1, and the
noise on every weight has the standard deviation sigma.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import tomli_w
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from client import training
from client.data import ImagePatients
from client.ledger import Spend
from client.privacy import randomness
from client.privacy.budget import protocol_noise
from common.errors import ProtocolError
from common.model_spec import model_of
from common.phantom import phantom_patches, to_grey8
from common.protocol import StudyProtocol, parse_protocol
from common.tasks.nodule_classification.study import Images, NoduleStudy, of_images

Floats = NDArray[np.float64]

MODEL_SEED = 1
PIXELS = 65_535  # of a canary's 16-bit image, the largest number that it can hold
MOST_PIXELS = 64  # a side: no part of the mechanism depends on it, but for the time that it takes
CANARY_PIXELS = 16  # a side, the least that a protocol allows


@dataclass(frozen=True)
class Subject:
    """What is audited: the study `protocol`, its claim, and how its mechanism runs here.

    `sigma` is the noise multiplier that the product itself calibrates for the claim and `noise` the
    one that runs: the same, or 0 with the mechanism switched off.
    """

    protocol: NoduleStudy
    sigma: float
    noise: float

    @classmethod
    def of(cls, protocol: StudyProtocol, *, no_dp: bool) -> "Subject":
        """ProtocolError when the protocol claims nothing that an audit could hold it to."""
        if protocol.privacy.mechanism == "none":
            raise ProtocolError(
                f"an audit needs a claim, and study '{protocol.study}' has privacy.mechanism 'none'; "
                f"audit the study with 'dp-sgd', and with --no-dp to see the audit fail"
            )
        study = of_images(protocol, "the audit")
        sigma = protocol_noise(protocol)["training"]
        return cls(study, sigma, 0.0 if no_dp else sigma)

    @property
    def clip(self) -> float:
        return self.protocol.privacy.max_grad_norm

    def study(self, nominal: int, learning_rate: float, **sections: dict[str, Any]) -> NoduleStudy:
        """A study of one hospital with the subject's mechanism, and `sections` changed."""
        fields = self.protocol.model_dump(by_alias=True, exclude_none=True, mode="json")
        for absent in ("without-dp", "coordinator", "aggregation"):
            fields.pop(absent, None)
        fields["study"] = "audit"
        fields["hospitals"] = [{"name": "audit", "nominal-patients": nominal}]
        fields["participation"] = {"quorum": 1}
        fields["model"]["initial-model"] = "random"
        fields["images"]["size"] = min(MOST_PIXELS, self.protocol.images.size)
        fields["training"] |= {
            "learning-rate": learning_rate,
            "momentum": 0.0,
            "flips-and-rotations": False,
        }
        if self.noise == 0.0:
            fields["privacy"]["mechanism"] = "none"
        for name, section in sections.items():
            fields[name] |= section
        return of_images(parse_protocol(tomli_w.dumps(fields)), "the audit")


def released(
    model: nn.Module, patients: ImagePatients, study: StudyProtocol, noise: float, steps: int
) -> Floats:
    """What each of `steps` local steps of one round releases, (steps, weights), in units of C.

    `model` is trained in place. The steps of a round leave a hospital as their sum; to look at each
    of them is the auditor's right.
    """
    spend = Spend(noise, study.training.sampling_rate, steps)
    with _recorded(model) as weights:
        _round(model, patients, study, spend)
    unit = _unit(study)
    return np.stack([(a - b).numpy() / unit for a, b in pairwise(weights)])


def released_sum(
    model: nn.Module, patients: ImagePatients, study: StudyProtocol, noise: float, steps: list[int]
) -> Floats:
    """The sum of what rounds of so many `steps` release, (weights,), in units of C."""
    before = flat(model)
    for count in steps:
        _round(model, patients, study, Spend(noise, study.training.sampling_rate, count))
    total: Floats = (before - flat(model)).numpy() / _unit(study)
    return total


def _round(model: nn.Module, patients: ImagePatients, study: StudyProtocol, spend: Spend) -> None:
    """As the vault does it, and each time under the same purpose: fresh streams have none."""
    stream = randomness.RandomStream.of(None, study.digest, "audit", 1)
    nominal = study.hospital("audit").nominal_patients
    training.train(model, patients, study, nominal, spend, stream)


def _unit(study: StudyProtocol) -> float:
    """How far one patient's clipped gradient moves the weights: by the public constants alone."""
    rate, nominal = study.training.sampling_rate, study.hospital("audit").nominal_patients
    return study.training.learning_rate * study.privacy.max_grad_norm / (rate * nominal)


def flat(model: nn.Module) -> Tensor:
    """The trained weights, (weights,) float64."""
    trained = [p.detach().flatten() for p in model.parameters() if p.requires_grad]
    return torch.cat(trained).double()


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[Tensor]]:
    """The weights of `model` at the start and after every optimizer step inside."""
    weights = [flat(model)]
    first = next(p for p in model.parameters() if p.requires_grad)

    def record(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if optimizer.param_groups[0]["params"][0] is first:
            weights.append(flat(model))

    hook = register_optimizer_step_post_hook(record)
    try:
        yield weights
    finally:
        hook.remove()


def fresh_model(study: StudyProtocol) -> nn.Module:
    """The study's model with random weights from a public seed: the guarantee holds for any weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(MODEL_SEED)
        return model_of(study)


def phantom_patients(images: Images, patients: int, views: int, seed: int) -> ImagePatients:
    """`patients` phantom patients with `views` images each, of classes 0 and 1."""
    made = phantom_patches(patients * views, size=images.size, seed=seed)
    grey = to_grey8(made.hu).numpy()
    return ImagePatients(
        pixels=np.repeat(grey[..., None], images.channels, axis=3),
        labels=made.label.numpy(),
        offsets=np.arange(0, patients * views + 1, views),
        mean=images.mean,
        std=images.std,
    )


def head_of(model: nn.Module) -> nn.Linear:
    """The last linear layer, which every model of a protocol trains."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


class CanaryTable(nn.Module):
    """A model in which every patient has weights of his own: two logits in row `number` of a table.

    A canary's image holds nothing but his number. His gradient is (p - y) x `scale` in his own row
    and zero elsewhere: a Dirac canary (Nasr et al. 2023), made by the product's forward and backward
    pass. All rows start at zero and, with the learning rate of `canary_study`, stay so close to it
    that p is 1/2: the gradient has the norm 50 C in every step, and clipping has work to do.
    """

    LOUDNESS = 50.0  # times the clipping norm

    def __init__(self, rows: int, clip: float) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 2)
        nn.init.zeros_(self.table.weight)
        self.scale = self.LOUDNESS * clip * 2**0.5

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1, H, W), the number / `PIXELS` in every pixel -> logits (N, 2)."""
        logits: Tensor = self.table((images[:, 0, 0, 0] * PIXELS).round().long()) * self.scale
        return logits


def canary_scores(released: Floats) -> Floats:
    """(..., weights) of a `CanaryTable` -> (..., rows): how far each canary's row moved his way."""
    rows = released.reshape(*released.shape[:-1], -1, 2)
    scores: Floats = (rows[..., 1] - rows[..., 0]) / 2**0.5
    return scores


def canary_study(subject: Subject, nominal: int, steps: int) -> NoduleStudy:
    """The study in which canaries take part; rate, steps and clipping norm are the subject's."""
    views = min(4, subject.protocol.training.views_per_patient)
    # Over all steps a logit moves by a few thousandths: see `CanaryTable`.
    rate, quiet = subject.protocol.training.sampling_rate, 1e-3 / (steps * (1 + subject.sigma))
    learning_rate = quiet * rate * nominal / (CanaryTable.LOUDNESS * subject.clip**2 * 2**0.5)
    return subject.study(
        nominal,
        learning_rate,
        images={"size": CANARY_PIXELS, "channels": 1, "mean": 0.0, "std": 1.0},
        training={"views-per-patient": views},
    )


def canaries(numbers: NDArray[np.int64], views: int) -> ImagePatients:
    """One canary patient for every number below 65,536, each with `views` equal images, label 0."""
    each = np.repeat(numbers, views).astype(np.uint16)
    shape = (len(each), CANARY_PIXELS, CANARY_PIXELS, 1)
    return ImagePatients(
        pixels=np.broadcast_to(each[:, None, None, None], shape).copy(),
        labels=np.zeros(len(each), np.int64),
        offsets=np.arange(0, len(each) + 1, views),
        mean=0.0,
        std=1.0,
    )
