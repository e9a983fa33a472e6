"""The rule of `nn.Conv2d`: per-patient weight gradients from its input and g (see `layer_rules`).

Rows are computed in one of two ways, to the same numbers but for rounding:

* `grouped_rows`: one weight gradient of a convolution in which every patient is a group of its own.
  Fastest on the CPU, where it unfolds nothing.
* `unfolded_rows`: the input's windows as a matrix of each patient, and one batched matrix product.
  cuDNN runs a convolution of 256 groups as 512 small kernels and more, so a GPU computes so.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client.privacy.patient_gradients import (
    Record,
    Rows,
    at_backward,
    cut_off,
    trained,
    unchanged,
)

# Numbers of an unfolded input that `unfolded_rows` holds at once (256 MB): a GPU is busy with less,
# and what patients take in memory stays near their activations.
UNFOLDED_AT_ONCE = 2**26


@dataclass(frozen=True)
class Convolution:
    """What a layer computes, once its input has been padded by anything but zeros."""

    weight: torch.Size  # (outputs, inputs / groups, height, width)
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def weight_gradient(self, x: Tensor, g: Tensor, units: int = 1) -> Tensor:
        """Of `units` convolutions side by side, each on channels of its own: (units * outputs, ...)."""
        shape = torch.Size((units * self.weight[0], *self.weight[1:]))
        like = g.new_empty(1).expand(shape)  # only its shape is read
        geometry = self.stride, self.padding, self.dilation, False, [0, 0], units * self.groups
        result: Tensor = torch.ops.aten.convolution_backward(
            g, x, like, None, *geometry, [False, True, False]
        )[1]
        return result


def conv2d(layer: nn.Module, inputs: Tensor, record: Record) -> Tensor:
    """Convolution with any stride, dilation, groups and padding.

    The Gram matrix of the input's windows is that of its pixels, summed over the shifts of the
    kernel, at 1 / kernel size of the cost and without unfolding the input.
    """
    assert isinstance(layer, nn.Conv2d)  # noqa: S101  narrows the type
    padding = [0, 0]
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        # Padding of another kind is an operation of its own, through which autograd goes back.
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = F.pad(inputs, border(layer), mode=mode)
    else:
        padding = list(layer.padding)
    stride, dilation, groups = list(layer.stride), list(layer.dilation), layer.groups
    output = F.conv2d(
        inputs, layer.weight.detach(), cut_off(layer.bias), stride, padding, dilation, groups
    )
    seen = unchanged(inputs)
    convolution = Convolution(layer.weight.shape, stride, padding, dilation, groups)

    def take(gradient: Tensor) -> None:
        g, views, weight = gradient.float(), record.views, layer.weight
        if trained(layer.bias):
            record.add_rows(layer.bias, g.sum((2, 3)))
        if not trained(weight):
            return
        x = seen()
        positions, channels = g.shape[2] * g.shape[3] * views, weight.shape[1] * groups
        window = weight.shape[2] * weight.shape[3]
        alone = window == 1 and padding == [0, 0]  # windows of one pixel: the others do not count
        pixels = x[:, :, :: stride[0], :: stride[1]] if alone else x
        width = pixels.shape[2] * pixels.shape[3] * views
        cost = width**2 * channels + positions**2 * (len(weight) + window * groups)
        if record.prefers_gram(cost, weight.numel()):
            flat = by_patient(pixels, views, groups)
            a = torch.bmm(flat.transpose(1, 2), flat)
            if not alone:
                a = window_gram(a, x.shape, g.shape, convolution, views)
            flat = by_patient(g, views, groups)
            b = torch.bmm(flat.transpose(1, 2), flat)
            record.add_gram(weight, a, b, (x, g), convolution.weight_gradient)
            return
        rows_of = ROWS.get(x.device.type, grouped_rows)
        record.gradients.append(Rows(weight, rows_of(x, g, convolution, views)))

    return at_backward(output, take)


def border(layer: nn.Conv2d) -> list[int]:
    """What `F.pad` takes: left, right, top, bottom; "same" puts the odd pixel right and below."""
    result = []
    for axis in (1, 0):
        if layer.padding == "same":
            total = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            result += [total // 2, total - total // 2]
        elif layer.padding == "valid":
            result += [0, 0]
        else:
            result += [int(layer.padding[axis])] * 2
    return result


def by_patient(rows: Tensor, views: int, groups: int) -> Tensor:
    """(N, groups * K, ...) as (U * groups, K, V * T): one matrix a patient, without a copy if V = 1."""
    n, channels = rows.shape[:2]
    split = rows.reshape(n // views, views, groups, channels // groups, -1)
    return split.permute(0, 2, 3, 1, 4).reshape(n // views * groups, channels // groups, -1)


def grouped_rows(x: Tensor, g: Tensor, convolution: Convolution, views: int) -> Tensor:
    """Per-patient weight gradients (U, weights), the patients as groups of one convolution."""
    patients = len(g) // views
    rows = convolution.weight_gradient(side_by_side(x, views), side_by_side(g, views), patients)
    return rows.view(patients, -1)


def side_by_side(rows: Tensor, views: int) -> Tensor:
    """(U*V, C, H, W) as (V, U*C, H, W): the patients as channels."""
    n, channels, height, width = rows.shape
    split = rows.reshape(n // views, views, channels, height, width).transpose(0, 1)
    return split.reshape(views, n // views * channels, height, width)


def unfolded_rows(x: Tensor, g: Tensor, convolution: Convolution, views: int) -> Tensor:
    """Per-patient weight gradients (U, weights): g times the windows of the patient's input."""
    outputs, depth, *kernel = convolution.weight
    groups, patients = convolution.groups, len(g) // views
    rows = g.new_empty(patients * groups, outputs // groups, depth * kernel[0] * kernel[1])
    unfolded = groups * rows.shape[2] * views * g.shape[2] * g.shape[3]
    step = max(1, UNFOLDED_AT_ONCE // unfolded)
    for first in range(0, patients, step):
        here = slice(first * views, (first + step) * views)
        windows = x[here]
        if any(convolution.padding):
            high, wide = convolution.padding
            windows = F.pad(windows, (wide, wide, high, high))
        for axis in (0, 1):  # (n, C, H', W', kernel height, kernel width), a view of the pixels
            apart = convolution.dilation[axis]
            span = apart * (kernel[axis] - 1) + 1
            windows = windows.unfold(2 + axis, span, convolution.stride[axis])[..., ::apart]
        split = windows.view(-1, views, groups, depth, *windows.shape[2:])
        theirs = by_patient(g[here], views, groups)
        own = split.permute(0, 2, 3, 6, 7, 1, 4, 5).reshape(len(theirs), rows.shape[2], -1)
        part = rows[first * groups : (first + step) * groups]
        torch.bmm(theirs, own.transpose(1, 2), out=part)
    return rows.view(patients, -1)


ROWS = {"cuda": unfolded_rows}
"""By the kind of device; `grouped_rows` on every other."""


def window_gram(
    pixels: Tensor, inputs: torch.Size, outputs: torch.Size, convolution: Convolution, views: int
) -> Tensor:
    """Gram matrices (M, V T, V T) of a convolution's windows from those of its input's pixels.

    Window p at kernel position d lies on the pixel stride * p + dilation * d - padding, and the
    inner product of two windows is the sum over d of those of their pixels.
    """
    stride, dilation = convolution.stride, convolution.dilation
    (rows, columns), (height, width) = inputs[2:], outputs[2:]
    m = len(pixels)
    ph, pw = convolution.padding
    padded = F.pad(
        pixels.view(m, views, rows, columns, views, rows, columns),
        (pw, pw, ph, ph, 0, 0, pw, pw, ph, ph),
    )
    result = pixels.new_zeros(m, views, height, width, views, height, width)
    for i in range(convolution.weight[2]):
        for j in range(convolution.weight[3]):
            top, left = i * dilation[0], j * dilation[1]
            h = slice(top, top + (height - 1) * stride[0] + 1, stride[0])
            w = slice(left, left + (width - 1) * stride[1] + 1, stride[1])
            result += padded[:, :, h, w, :, h, w]
    return result.view(m, views * height * width, views * height * width)
