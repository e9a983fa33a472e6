"""Local training and evaluation at one hospital, from the protocol's public constants."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from client.data import Patients
from client.ledger import Spend
from client.privacy.engine import HooksClipper, NoisyStep, PatientClipper, PlainSum
from client.privacy.randomness import RandomStream
from client.privacy.sampling import flip_and_rotate, poisson_draw
from common.arrays import Arrays
from common.metrics import Scores
from common.model_spec import trainable_names
from common.models import build_model
from common.protocol import StudyProtocol

EVALUATION_BATCH = 512


def choose_device(asked: str) -> torch.device:
    """The device for `asked`: "auto" takes a GPU when there is one."""
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(asked)


def load_model(protocol: StudyProtocol, arrays: Arrays, device: torch.device) -> nn.Module:
    """The protocol's model with the values of `arrays`, which the caller has checked."""
    model = build_model(protocol.model.name, protocol.images.channels, len(protocol.images.classes))
    model.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in arrays.items()})
    return model.to(device)


def evaluate(model: nn.Module, patients: Patients, device: torch.device) -> Scores:
    """The model's probability of the positive class for every image of `patients`.

    A score that is not finite becomes 0.5: one broken image must not decide what is released.
    """
    model.eval()
    scores = [np.empty(0, dtype=np.float64)]
    with torch.no_grad():
        for first in range(0, len(patients.labels), EVALUATION_BATCH):
            indices = np.arange(first, min(first + EVALUATION_BATCH, len(patients.labels)))
            logits = model(patients.views(indices).to(device))
            scores.append(torch.softmax(logits, dim=1)[:, -1].cpu().double().numpy())
    score = np.nan_to_num(np.concatenate(scores), nan=0.5)
    return Scores(score=score, label=patients.labels, patient=patients.patient_of_image)


def train(
    model: nn.Module,
    patients: Patients,
    protocol: StudyProtocol,
    nominal_patients: int,
    spend: Spend,
    stream: RandomStream,
    device: torch.device,
) -> None:
    """`spend.steps` steps of DP-SGD (or plain SGD) on `model`, in place.

    Rate, steps and denominator are public: rate x `nominal_patients`, never the size of the private
    cohort or of a draw. An empty draw is a step like any other: a zero sum, noised.
    """
    training = protocol.training
    model.train()
    clipper = make_clipper(model, protocol)
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
        for first in range(0, len(draw.images), clipper.patients_per_chunk):
            rows = slice(first, first + clipper.patients_per_chunk)
            images = draw.images[rows].ravel()
            inputs = patients.views(images)
            if training.flips_and_rotations:
                inputs = flip_and_rotate(inputs, stream)
            clipper.add_clipped_sum(
                inputs.to(device),
                torch.from_numpy(patients.labels[images]).to(device),
                torch.from_numpy(draw.weights[rows]).to(device),
            )
        step.step()
        step.zero_grad()


def make_clipper(model: nn.Module, protocol: StudyProtocol) -> PatientClipper:
    """The engine for `protocol`: per-patient clipping, or the plain sum without privacy."""
    views = protocol.training.views_per_patient
    if protocol.privacy.mechanism == "none":
        return PlainSum(model, views)
    return HooksClipper(model, protocol.privacy.max_grad_norm, views)


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
