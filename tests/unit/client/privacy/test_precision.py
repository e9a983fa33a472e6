"""Lower precision: tried on synthetic images only, and never where the clip norm is kept."""

import logging

import pytest
import torch
from torch import Tensor, nn

from client.policy import Precision
from client.privacy.book_keeping import BookKeepingClipper
from client.privacy.precision import (
    TOLERANCE,
    products,
    relative_difference,
    usable_precision,
    within_tolerance,
)
from common.models import build_model
from tests.shapes import CROSS_ENTROPY, image_shape

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = image_shape(views=2, channels=1, size=32)


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model("compact-cnn", 1, 2)


def clipped_sum(precision: Precision, norm: float = 0.05, patients: int = 4) -> list[Tensor]:
    net = model()
    clipper = BookKeepingClipper(net, CROSS_ENTROPY, norm, SHAPE, precision)
    clipper.add_clipped_sum(*SHAPE.synthetic(patients, CPU))
    return [p.grad for p in net.parameters() if p.grad is not None]


def test_bf16_is_close_to_float32_and_not_the_same() -> None:
    """The CPU has bf16 as well: the comparison is the one that a GPU has to pass."""
    difference = relative_difference(clipped_sum("bf16"), clipped_sum("float32"))
    assert 1e-4 < difference < TOLERANCE
    assert within_tolerance("bf16", clipped_sum)


@pytest.mark.parametrize("norm", [1e-3, 0.05])
def test_the_clip_norm_holds_in_bf16_as_in_float32(norm: float) -> None:
    one = torch.cat([g.flatten().double() for g in clipped_sum("bf16", norm, patients=1)])
    assert norm * (1 - 1e-5) <= float(one.norm()) <= norm * (1 + 1e-5)


def test_the_difference_is_relative_and_never_hides_what_is_not_finite() -> None:
    one = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])]
    assert relative_difference(one, one) == 0
    assert relative_difference([one[0], torch.tensor([4.5])], one) == pytest.approx(0.1)
    broken = [one[0], torch.tensor([float("nan")])]
    for found, expected in ((broken, one), (one, broken), (one, [0 * t for t in one])):
        assert not relative_difference(found, expected) <= 1e9


@pytest.mark.parametrize(("error", "used"), [(0.9, "bf16"), (1.1, "float32")])
def test_a_precision_beyond_the_tolerance_is_not_used(
    error: float, used: str, caplog: pytest.LogCaptureFixture
) -> None:
    def stand_in(precision: Precision) -> list[Tensor]:
        return [torch.tensor([1.0 if precision == "float32" else 1 + error * TOLERANCE])]

    with caplog.at_level(logging.WARNING):
        assert usable_precision("bf16", CUDA, stand_in) == used
    assert ("float32 is used" in caplog.text) == (used == "float32")


def test_without_a_gpu_nothing_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    def never(_: Precision) -> list[Tensor]:
        raise AssertionError

    with caplog.at_level(logging.WARNING):
        assert usable_precision("tf32", CPU, never) == "float32"
        assert usable_precision("float32", CUDA, never) == "float32"
    assert caplog.text.count("needs a GPU") == 1


def test_products_are_exact_unless_asked_and_settings_come_back() -> None:
    settings = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    with products("tf32"):
        assert [s.fp32_precision for s in settings] == ["tf32", "tf32"]
        with products("float32"):
            assert [s.fp32_precision for s in settings] == ["ieee", "ieee"]
        assert [s.fp32_precision for s in settings] == ["tf32", "tf32"]
    with pytest.raises(KeyError), products("bf16"):
        raise KeyError
    assert [setting.fp32_precision for setting in settings] == before


def test_another_thread_makes_no_product_inexact_and_leaves_nothing_behind() -> None:
    """Two hospitals of a rehearsal: the first to end must not bring TF32 back to the other."""
    settings = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    first, second = products("float32"), products("float32")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with products("tf32"):
        assert [s.fp32_precision for s in settings] == ["ieee", "ieee"]
    second.__exit__(None, None, None)
    assert [setting.fp32_precision for setting in settings] == before


def test_weight_gradients_are_recorded_in_exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """In TF32, too: norms and sums must be of the same numbers."""
    seen = []
    rows = torch.ops.aten.convolution_backward

    def spied(*arguments: object) -> object:
        seen.append(torch.backends.cudnn.conv.fp32_precision)  # type: ignore[attr-defined]
        return rows(*arguments)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", spied)
    clipped_sum("tf32")
    assert len(seen) == 4
    assert set(seen) == {"ieee"}
