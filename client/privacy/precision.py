"""Lower precision on a GPU, and the test that it has to pass first.

TF32 and bf16 apply to activations and their gradients. Weight gradients, norms and clipped sums
are float32 in any case (`layer_rules`), so precision changes where a contribution points, not how
long it may be. Whether it points well enough is tried on synthetic images from a public seed:
a choice that depended on patients would be a release.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from client.policy import Precision

log = logging.getLogger("intramural.precision")

# Relative L2 difference of the clipped sum from float32's: at 0.1 the two still point the same way to
# a cosine of 0.995, and the noise of a private step is many times that. bf16 has about 0.06 on the CPU.
TOLERANCE = 0.1

_LOCK = Lock()
_ASKED: list[bool] = []  # whoever is inside `products` now: whether it asked for exact ones
_BEFORE: list[str] = []  # the settings as they were before the first of them


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Inside, CUDA multiplies float32 in TF32 if `precision` is "tf32" and exactly if not.

    PyTorch's own default is TF32 for convolutions and recurrent layers, and float32 for matrices.
    The setting is the process's, and a rehearsal's hospitals are threads of one: while anybody asks
    for exact products, all are exact.
    """
    exact = precision != "tf32"
    with _LOCK:
        if not _ASKED:
            _BEFORE[:] = [setting.fp32_precision for setting in _settings()]
        _ASKED.append(exact)
        _set()
    try:
        yield
    finally:
        with _LOCK:
            _ASKED.remove(exact)
            _set()


def _settings() -> tuple[Any, ...]:
    of_cudnn: Any = torch.backends.cudnn
    of_cuda: Any = torch.backends.cuda
    return of_cudnn.conv, of_cudnn.rnn, of_cuda.matmul


def _set() -> None:
    now = "ieee" if any(_ASKED) else "tf32"
    for setting, before in zip(_settings(), _BEFORE, strict=True):
        setting.fp32_precision = now if _ASKED else before


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
