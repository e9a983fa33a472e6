"""Chunks of a draw: the same sum however it is divided, also when memory runs out on the way."""

import logging

import pytest
import torch
from torch import Tensor, nn

from client.privacy.book_keeping import BookKeepingClipper
from client.privacy.chunks import Chunks, most_patients
from client.privacy.engine import PatientShape
from common.errors import ResourceError
from common.models import build_model
from tests.shapes import CROSS_ENTROPY, image_shape

SHAPE = image_shape(views=2, channels=1, size=16)
CPU = torch.device("cpu")


class SmallMemory(BookKeepingClipper):
    """A GPU on which only `room` patients fit at once."""

    def __init__(self, model: nn.Module, room: int) -> None:
        super().__init__(model, CROSS_ENTROPY, 0.1, SHAPE)
        self.room = room
        self.seen: list[tuple[int, bool]] = []

    def add_clipped_sum(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> None:
        fits = len(weights) <= self.room
        self.seen.append((len(weights), fits))
        if not fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        super().add_clipped_sum(inputs, labels, weights)


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model("compact-cnn", 1, 2)


def gradient_after(room: int, patients: int, max_views: int | None) -> tuple[Tensor, SmallMemory]:
    net = model()
    clipper = SmallMemory(net, room)
    chunks = Chunks(clipper, SHAPE, CPU, max_views)
    chunks.add(*SHAPE.synthetic(patients, CPU))
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]), clipper


@pytest.mark.parametrize("room", [1, 2, 3, 5])
def test_out_of_memory_halves_the_chunk_and_repeats_the_same_patients(
    room: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole, _ = gradient_after(room=100, patients=11, max_views=None)
    with caplog.at_level(logging.WARNING):
        found, clipper = gradient_after(room=room, patients=11, max_views=20)
    assert float((found - whole).norm()) <= 1e-5 * float(whole.norm())
    assert sum(count for count, fits in clipper.seen if fits) == 11
    assert clipper.seen[:2] == [(10, False), (5, room >= 5)]
    assert "out of GPU memory: chunks of 5 patients" in caplog.text


def test_what_was_too_much_is_not_tried_again() -> None:
    net = model()
    clipper = SmallMemory(net, 3)
    chunks = Chunks(clipper, SHAPE, CPU, 16)
    for _ in range(2):
        chunks.add(*SHAPE.synthetic(8, CPU))
    assert [count for count, fits in clipper.seen if not fits] == [8, 4]
    assert chunks.patients == 2


def test_one_patient_who_does_not_fit_is_a_plain_error() -> None:
    with pytest.raises(ResourceError, match="memory for one patient of 2 views"):
        gradient_after(room=0, patients=3, max_views=None)


@pytest.mark.parametrize(("max_views", "patients"), [(1, 1), (2, 1), (3, 1), (8, 4), (9, 4)])
def test_the_sites_own_limit_counts_views(max_views: int, patients: int) -> None:
    _, clipper = gradient_after(room=100, patients=9, max_views=max_views)
    assert clipper.seen[0] == (patients, True)
    assert sum(count for count, _ in clipper.seen) == 9


def test_an_empty_draw_asks_nothing_of_the_engine() -> None:
    clipper = SmallMemory(model(), 0)
    Chunks(clipper, SHAPE, CPU, None).add(*SHAPE.synthetic(0, CPU))
    assert clipper.seen == []


@pytest.mark.parametrize(
    ("shape", "views"),
    [
        (image_shape(4, 1, 32), 128),
        (image_shape(1, 1, 64), 32),
        (image_shape(3, 3, 224), 3),
    ],
)
def test_chunks_on_the_cpu_fit_the_cache(shape: PatientShape, views: int) -> None:
    clipper = BookKeepingClipper(model(), CROSS_ENTROPY, 1.0, shape)
    assert Chunks(clipper, shape, CPU, None).patients * shape.views == views


@pytest.mark.parametrize(
    ("shape", "patients"),
    [
        (image_shape(1, 1, 32), 1024),
        (image_shape(4, 1, 32), 256),
        (image_shape(4, 3, 224), 256),
        (image_shape(4, 1, 512), 64),
        (image_shape(1, 1, 16_384), 1),
    ],
)
def test_indices_on_a_gpu_stay_within_32_bits(shape: PatientShape, patients: int) -> None:
    """16 numbers a pixel is the most that one layer of the networks here has."""
    assert most_patients(shape) == patients
    pixels = shape.view[1] * shape.view[2] * shape.views * patients
    assert pixels * 16 < 2**31 or patients == 1
