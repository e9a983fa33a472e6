"""Local training and evaluation at one hospital, from the protocol's public constants."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from client.data import Patients
from client.ledger import Spend
from client.policy import Engine, Precision, SitePolicy
from client.privacy.book_keeping import BookKeepingClipper
from client.privacy.chunks import Chunks
from client.privacy.engine import (
    HooksClipper,
    NoisyStep,
    PatientClipper,
    PatientShape,
    PlainSum,
)
from client.privacy.precision import products, usable_precision
from client.privacy.randomness import RandomStream
from client.privacy.recurrent import is_recurrent, recurrent_clipper
from client.privacy.sampling import poisson_draw
from common.arrays import Arrays
from common.histogram import Floats
from common.model_spec import model_of, trainable_names
from common.protocol import StudyProtocol
from common.tasks import judge_of, loss_of, task_of

CPU = torch.device("cpu")
EVALUATION_BATCH = 512
SYNTHETIC_PATIENTS = 8  # on which a lower precision is tried


@dataclass(frozen=True)
class Execution:
    """How this hospital computes, from its site policy: no result and no promise depends on it.

    `max_views_per_chunk` None leaves the size of a chunk to free memory; `precision` other than
    "float32" is used on a GPU, with the book-keeping engine, where it passes `precision.TOLERANCE`.
    """

    device: torch.device = CPU
    engine: Engine = "book-keeping"
    max_views_per_chunk: int | None = None
    precision: Precision = "float32"

    @classmethod
    def of(cls, policy: SitePolicy) -> "Execution":
        """As `policy` says; its device "auto" takes a GPU when there is one."""
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(
            device=torch.device(auto if policy.device == "auto" else policy.device),
            engine=policy.engine,
            max_views_per_chunk=policy.max_views_per_chunk,
            precision=policy.precision,
        )


HERE = Execution()
"""On the processor, with the site policy's defaults."""


def load_model(protocol: StudyProtocol, arrays: Arrays, device: torch.device) -> nn.Module:
    """The protocol's model with the values of `arrays`, which the caller has checked."""
    model = model_of(protocol)
    model.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in arrays.items()})
    return model.to(device)


def evaluate(
    model: nn.Module, patients: Patients, protocol: StudyProtocol, device: torch.device
) -> Any:
    """What the model says of every view of `patients`, as exact scores of the study's judge."""
    model.eval()
    said = said_of(partial(task_of(protocol).predict, protocol, model), patients, device)
    return judge_of(protocol).scores(
        protocol, said, patients.labels, patients.patient_of_view, patients.groups
    )


def said_of(
    predict: Callable[[Tensor], Tensor], patients: Patients, device: torch.device
) -> Floats:
    """(N, k): `predict` of all N views, some hundred at a time; (0, 0) where there are none.

    In exact float32 on a GPU too: a score is the same wherever it is computed, to 1e-6. Records go
    one by one: a matrix product rounds a row by its place in the batch, so one patient more could
    move the scores of others, which a model of rounding alone would make a whole histogram of.
    """
    said = []
    batch = 1 if patients.small else EVALUATION_BATCH
    with torch.no_grad(), products("float32"):
        for first in range(0, len(patients.labels), batch):
            indices = np.arange(first, min(first + batch, len(patients.labels)))
            said.append(predict(patients.views(indices).to(device)).cpu().double().numpy())
    return np.concatenate(said) if said else np.empty((0, 0))


def train(
    model: nn.Module,
    patients: Patients,
    protocol: StudyProtocol,
    nominal_patients: int,
    spend: Spend,
    stream: RandomStream,
    execution: Execution = HERE,
) -> None:
    """`spend.steps` steps of DP-SGD (or plain SGD) on `model`, in place.

    Rate, steps and denominator are public: rate x `nominal_patients`, never the size of the private
    cohort or of a draw. An empty draw is a step like any other: a zero sum, noised.
    """
    training, task = protocol.training, task_of(protocol)
    model.train()
    clipper = make_clipper(model, protocol, execution)
    chunks = Chunks(clipper, shape_of(protocol), execution.device, execution.max_views_per_chunk)
    parameters = [p for p in model.parameters() if p.requires_grad]
    step = NoisyStep(
        torch.optim.SGD(parameters, lr=training.learning_rate, momentum=training.momentum),
        noise_multiplier=spend.noise_multiplier,
        max_grad_norm=protocol.privacy.max_grad_norm,
        denominator=training.sampling_rate * nominal_patients,
        stream=stream,
    )
    if protocol.aggregation.proximal_mu:
        step.attach_step_hook(proximal_term(parameters, protocol.aggregation.proximal_mu))
    for _ in range(spend.steps):
        draw = poisson_draw(patients, training.sampling_rate, training.views_per_patient, stream)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        size = chunks.patients
        for first in range(0, len(draw.views), size):
            rows = slice(first, first + size)
            drawn = draw.views[rows].ravel()
            inputs = task.augmented(protocol, patients.views(drawn), stream.uniform)
            labels = torch.from_numpy(patients.labels[drawn])
            chunks.add(inputs, labels, torch.from_numpy(draw.weights[rows]))
        step.step()
        step.zero_grad()


def shape_of(protocol: StudyProtocol) -> PatientShape:
    """What a patient looks like to the protocol's model."""
    task = task_of(protocol)
    return PatientShape(
        protocol.training.views_per_patient,
        task.view_shape(protocol),
        partial(task.some_labels, protocol),
    )


def make_clipper(
    model: nn.Module,
    protocol: StudyProtocol,
    execution: Execution = HERE,
) -> PatientClipper:
    """The engine that `execution` names for `protocol`, or the plain sum without privacy.

    A recurrent model always has Opacus' layers and hooks: book-keeping has no rule for it. A lower
    precision is tried first, on synthetic patients; ModelError if book-keeping has no exact rule for a
    trainable layer, or if the study's loss mixes patients.
    """
    norm, shape, loss = protocol.privacy.max_grad_norm, shape_of(protocol), loss_of(protocol)
    if protocol.privacy.mechanism == "none":
        return PlainSum(model, loss, shape.views)
    if is_recurrent(model):
        return recurrent_clipper(model, loss, norm, shape)
    if execution.engine == "opacus":
        return HooksClipper(model, loss, norm, shape.views)

    def clipped_sum(precision: Precision) -> list[Tensor]:
        trial = copy.deepcopy(model)
        clipper = BookKeepingClipper(trial, loss, norm, shape, precision)
        clipper.add_clipped_sum(*shape.synthetic(SYNTHETIC_PATIENTS, execution.device))
        return [p.grad for p in trial.parameters() if p.grad is not None]

    precision = usable_precision(execution.precision, execution.device, clipped_sum)
    return BookKeepingClipper(model, loss, norm, shape, precision)


def proximal_term(
    parameters: list[nn.Parameter], mu: float
) -> Callable[[torch.optim.Optimizer], None]:
    """FedProx' gradient mu (w - w_received), added after the noise: it depends on no patient."""
    received = [copy.deepcopy(parameter.detach()) for parameter in parameters]

    def add(_: torch.optim.Optimizer) -> None:
        for parameter, start in zip(parameters, received, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=mu)

    return add


def trained_arrays(model: nn.Module) -> Arrays:
    """The trainable parameters as arrays on the CPU, in the model's order."""
    state = model.state_dict()
    return {name: state[name].detach().cpu().numpy() for name in trainable_names(model)}
