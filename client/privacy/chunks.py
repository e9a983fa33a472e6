"""A draw in chunks of whole patients that fit into memory."""

import logging
from math import prod

import torch
from torch import Tensor

from client.privacy.engine import PatientClipper, PatientShape
from common.errors import ResourceError

log = logging.getLogger("intramural.chunks")

FREE_MEMORY_SHARE = 0.8  # the rest is for what the allocator cannot use, and for other processes
# 64 channels of half the height and width are 2^30 numbers: an index of 32 bits reaches all of them.
MAX_PIXELS_ON_GPU = 2**26
# Of any size: with 16,384 views at once a kernel of PyTorch 2.11 refused its arguments on an H200.
MAX_VIEWS_ON_GPU = 1024


class Chunks:
    """Gives patients to `clipper`, at most `patients` at once.

    `max_views` is the site's own limit on images in memory. Without one, a chunk on a GPU is what
    its free memory holds, and on the CPU what the clipper measured as fast. How a draw is divided
    changes the sum by rounding only, and neither noise nor accounting.
    """

    def __init__(
        self,
        clipper: PatientClipper,
        shape: PatientShape,
        device: torch.device,
        max_views: int | None,
    ) -> None:
        self.clipper = clipper
        self.device = device
        if max_views is not None:
            self.patients = max(1, max_views // shape.views)
        elif device.type == "cuda":
            self.patients = patients_in_free_memory(clipper, shape, device)
        else:
            self.patients = clipper.patients_per_chunk

    def add(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Adds the clipped sum of any number of patients; tensors as `PatientClipper` takes them.

        When the GPU's memory does not suffice, the chunk is halved and the same patients, views
        and flips are tried again. ResourceError if one patient alone is too much.
        """
        views, first = weights.shape[1], 0
        while first < len(weights):
            size = min(self.patients, len(weights) - first)
            images = slice(first * views, (first + size) * views)
            if self._fits(inputs[images], labels[images], weights[first : first + size]):
                first += size
                continue
            if size == 1:
                raise ResourceError(
                    f"expected memory for one patient of {views} views, found too little on "
                    f"{self.device}; free some, or take device = cpu or fewer views"
                )
            self.patients = size // 2
            log.warning("out of GPU memory: chunks of %d patients from now on", self.patients)

    def _fits(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> bool:
        try:
            self.clipper.add_clipped_sum(
                inputs.to(self.device, non_blocking=True),
                labels.to(self.device, non_blocking=True),
                weights.to(self.device, non_blocking=True),
            )
        except torch.OutOfMemoryError:
            return False  # with the exception go the frames that hold what had been computed
        return True


def patients_in_free_memory(
    clipper: PatientClipper, shape: PatientShape, device: torch.device
) -> int:
    """How many patients fit into the GPU's free memory, from what two synthetic ones take.

    Their weights are 0, so that they add exactly zero. If not even they fit, one is tried.
    """
    inputs, labels, weights = shape.synthetic(2, device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        clipper.add_clipped_sum(inputs, labels, torch.zeros_like(weights))
    except torch.OutOfMemoryError:
        return 1
    each = (torch.cuda.max_memory_allocated(device) - before) / 2
    free, _ = torch.cuda.mem_get_info(device)
    # What PyTorch holds and does not use is free as well.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, min(int(FREE_MEMORY_SHARE * free / each), most_patients(shape)))


def most_patients(shape: PatientShape) -> int:
    """How many patients a chunk on a GPU has at most, however much memory is free."""
    views = min(MAX_VIEWS_ON_GPU, MAX_PIXELS_ON_GPU // prod(shape.view[1:]))
    return max(1, views // shape.views)
