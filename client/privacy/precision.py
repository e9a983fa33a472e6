"""Lower precision on a GPU, and the test that it has to pass first.

TF32 and bf16 apply to activations and their gradients. Weight gradients, norms and clipped sums
are float32 in any case (`layer_rules`), so precision changes where a contribution points, not how
long it may be. Whether it points well enough is tried on synthetic images from a public seed:
a choice that depended on patients would be a release.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from client.policy import Precision

log = logging.getLogger("intramural.precision")

# Relative L2 difference of the clipped sum from float32's: at 0.1 the two still point the same way to
# a cosine of 0.995, and the noise of a private step is many times that. bf16 has about 0.06 on the CPU.
TOLERANCE = 0.1


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Inside, CUDA multiplies float32 in TF32 if `precision` is "tf32" and exactly if not.

    PyTorch's own default is TF32 for convolutions and float32 for matrices.
    """
    settings = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def low_precision(precision: Precision, device: torch.device) -> torch.autocast:
    """The context for a forward pass: bf16 where PyTorch deems it safe if `precision` is "bf16"."""
    enabled = precision == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)


def relative_difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """|found - expected| / |expected|, L2 over all; NaN where either is not finite."""
    pairs = list(zip(found, expected, strict=True))
    off = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    whole = sum(float(b.double().square().sum()) for _, b in pairs)
    return float((off / whole) ** 0.5) if whole > 0 else float("nan")


def usable_precision(
    asked: Precision, device: torch.device, clipped_sum: Callable[[Precision], list[Tensor]]
) -> Precision:
    """`asked` where there is a GPU and `clipped_sum` stays within TOLERANCE; else "float32".

    `clipped_sum` gives the clipped sum of the same synthetic patients in a given precision.
    """
    if asked == "float32":
        return asked
    if device.type != "cuda":
        log.warning("precision %s needs a GPU; float32 is used", asked)
        return "float32"
    return asked if within_tolerance(asked, clipped_sum) else "float32"


def within_tolerance(asked: Precision, clipped_sum: Callable[[Precision], list[Tensor]]) -> bool:
    """Whether the clipped sum in `asked` stays within TOLERANCE of float32's; says so if not."""
    difference = relative_difference(clipped_sum(asked), clipped_sum("float32"))
    if difference <= TOLERANCE:  # false for NaN
        return True
    log.warning(
        "precision %s changes the clipped sum of synthetic images by %.2g, more than %.2g; "
        "float32 is used",
        asked,
        difference,
        TOLERANCE,
    )
    return False
