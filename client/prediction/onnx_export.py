"""A model with its normalisation as ONNX, held against PyTorch before anybody gets it."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from client.prediction.model import CardedModel
from common.errors import ModelError, RunError
from common.symmetry import SYMMETRIES, turned
from common.tasks.nodule_classification.card import ModelCard

MOST_DIFFERENCE = 1e-4  # of a score
INPUT, OUTPUT = "images", "score"
_BATCHES = (1, 5)  # that are compared; neither is the one that is traced
_SEED = 0


@dataclass(frozen=True)
class Exported:
    """An ONNX file, and how far its scores were from PyTorch's on random images."""

    data: bytes
    difference: float


def exported(model: CardedModel) -> Exported:
    """`model` as ONNX: images (N, channels, size, size) float32 in 0..1 -> score (N,) float32.

    RunError without the libraries, ModelError when the file is not valid ONNX or when ONNX Runtime's
    scores are more than `MOST_DIFFERENCE` from PyTorch's.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise RunError(
            f"expected {error.name} to export ONNX and found none; install intramural[exchange]"
        ) from error
    scoring = _Scoring(model).eval()
    with _quiet():
        traced = torch.onnx.export(
            scoring,
            (_images(model.card, 2),),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    if traced is None:
        raise ModelError("expected torch to export the model and it did not; report it")
    proto = traced.model_proto
    _forget_where(proto)
    onnx.helper.set_model_props(proto, _facts(model))
    data: bytes = proto.SerializeToString()
    try:
        onnx.checker.check_model(data, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"expected valid ONNX and found none ({error}); report it") from error
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    difference = max(_difference(session, scoring, model.card, batch) for batch in _BATCHES)
    if not difference <= MOST_DIFFERENCE:
        raise ModelError(
            f"expected scores within {MOST_DIFFERENCE:g} of PyTorch's from the exported model and "
            f"found {difference:.1e}; nothing was written, use another version of onnxruntime"
        )
    return Exported(data, difference)


class _Scoring(nn.Module):
    """What `client.training.evaluate` does to an image, as one network."""

    def __init__(self, model: CardedModel) -> None:
        super().__init__()
        self._network = model.network
        self._mean, self._std = model.card.images.mean, model.card.images.std
        self._turns = range(SYMMETRIES if model.card.evaluation.flips_and_rotations else 1)

    def forward(self, images: Tensor) -> Tensor:
        views = (images - self._mean) / self._std
        # As one batch: a graph with the network once is written in an eighth of the time.
        every = torch.cat([turned(views, k) for k in self._turns])
        scores = torch.softmax(self._network(every), dim=1)[:, -1]
        return scores.reshape(len(self._turns), -1).mean(0)


def _images(card: ModelCard, batch: int) -> Tensor:
    shape = (batch, card.images.channels, card.images.size, card.images.size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(_SEED + batch))


def _difference(session: Any, scoring: nn.Module, card: ModelCard, batch: int) -> float:
    """The largest; inf for scores of another number or that are not numbers."""
    images = _images(card, batch)
    with torch.no_grad():
        wanted = scoring(images).numpy()
    (found,) = session.run([OUTPUT], {INPUT: images.numpy()})
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - wanted).max())


def _forget_where(proto: Any) -> None:
    """Take out what the exporter writes of this machine: lines and paths of the code that it traced."""
    nodes = [*proto.graph.node, *(n for f in proto.functions for n in f.node)]
    for one in (*nodes, proto.graph, *proto.graph.value_info, *proto.graph.input):
        one.doc_string = ""
        del one.metadata_props[:]


def _facts(model: CardedModel) -> dict[str, str]:
    """The card as metadata: names with a dot are not ONNX's own."""
    card, judged = model.card, model.card.judged
    facts = {
        "use": card.use,
        "study": card.study,
        "protocol": card.protocol,
        "weights": card.weights,
        "classes": ",".join(card.images.classes),
        "mean-over-flips-and-rotations": str(model.card.evaluation.flips_and_rotations).lower(),
        "card": card.to_json(),
    }
    if judged is not None and judged.temperature is not None:
        facts["temperature"] = repr(judged.temperature.value)
        facts["prevalence"] = repr(judged.prevalence)
    return {f"intramural.{name}": text for name, text in facts.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints how far it is, and torch warns of its own parts."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
