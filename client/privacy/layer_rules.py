"""For every kind of layer, its per-patient weight gradients from its input and g.

Every rule runs the layer with its weights cut off from autograd, so that backward computes the
gradients of activations only, and hooks the output to record the rest. The first axis of all
inputs and outputs is the N = U*V views. Recorded arithmetic is in float32 whatever the precision
of the activations: norm and sum are of the very same numbers. `patient_gradients` has the terms.
"""

from typing import Protocol, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client.privacy.patient_gradients import (
    Record,
    Rows,
    at_backward,
    leaf_at_backward,
    unchanged,
)


class Rule(Protocol):
    """Runs `layer` on `inputs` and sees to it that backward adds its gradients to `record`."""

    def __call__(self, layer: nn.Module, inputs: Tensor, record: Record) -> Tensor: ...


def cut_off(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.detach()


def trained(parameter: Tensor | None) -> TypeGuard[Tensor]:
    return parameter is not None and parameter.requires_grad


def by_patient(rows: Tensor, views: int, groups: int = 1) -> Tensor:
    """(N, groups * K, ...) as (U * groups, K, V * T): one matrix a patient, without a copy if V = 1."""
    n, channels = rows.shape[:2]
    split = rows.reshape(n // views, views, groups, channels // groups, -1)
    return split.permute(0, 2, 3, 1, 4).reshape(n // views * groups, channels // groups, -1)


def conv2d(layer: nn.Module, inputs: Tensor, record: Record) -> Tensor:
    """Convolution with any stride, dilation, groups and padding.

    Rows come from one weight gradient of a convolution in which every patient is a group of its
    own. The Gram matrix of the input's windows is that of its pixels, summed over the shifts of
    the kernel, at 1 / kernel size of the cost and without unfolding the input.
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

    def weight_gradient(x: Tensor, g: Tensor, shape: torch.Size, groups: int) -> Tensor:
        like = g.new_empty(1).expand(shape)  # only its shape is read
        result: Tensor = torch.ops.aten.convolution_backward(
            g, x, like, None, stride, padding, dilation, False, [0, 0], groups, [False, True, False]
        )[1]
        return result

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
                a = window_gram(
                    a, x.shape, g.shape, weight.shape, (stride, padding, dilation), views
                )
            flat = by_patient(g, views, groups)
            b = torch.bmm(flat.transpose(1, 2), flat)
            record.add_gram(
                weight, a, b, (x, g), lambda x, g: weight_gradient(x, g, weight.shape, groups)
            )
            return
        patients = len(g) // views
        shape = torch.Size((patients * weight.shape[0], *weight.shape[1:]))
        rows = weight_gradient(
            side_by_side(x, views), side_by_side(g, views), shape, patients * groups
        )
        record.gradients.append(Rows(weight, rows.view(patients, -1)))

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


def side_by_side(rows: Tensor, views: int) -> Tensor:
    """(U*V, C, H, W) as (V, U*C, H, W): the patients as channels."""
    n, channels, height, width = rows.shape
    split = rows.reshape(n // views, views, channels, height, width).transpose(0, 1)
    return split.reshape(views, n // views * channels, height, width)


def window_gram(
    pixels: Tensor,
    inputs: torch.Size,
    outputs: torch.Size,
    weight: torch.Size,
    geometry: tuple[list[int], list[int], list[int]],
    views: int,
) -> Tensor:
    """Gram matrices (M, V T, V T) of a convolution's windows from those of its input's pixels.

    Window p at kernel position d lies on the pixel stride * p + dilation * d - padding, and the
    inner product of two windows is the sum over d of those of their pixels.
    """
    stride, padding, dilation = geometry
    (rows, columns), (height, width) = inputs[2:], outputs[2:]
    m = len(pixels)
    ph, pw = padding
    padded = F.pad(
        pixels.view(m, views, rows, columns, views, rows, columns),
        (pw, pw, ph, ph, 0, 0, pw, pw, ph, ph),
    )
    result = pixels.new_zeros(m, views, height, width, views, height, width)
    for i in range(weight[2]):
        for j in range(weight[3]):
            top, left = i * dilation[0], j * dilation[1]
            h = slice(top, top + (height - 1) * stride[0] + 1, stride[0])
            w = slice(left, left + (width - 1) * stride[1] + 1, stride[1])
            result += padded[:, :, h, w, :, h, w]
    return result.view(m, views * height * width, views * height * width)


def linear(layer: nn.Module, inputs: Tensor, record: Record) -> Tensor:
    """Linear on (N, ..., in): positions between first and last axis share the weights."""
    assert isinstance(layer, nn.Linear)  # noqa: S101
    output = F.linear(inputs, layer.weight.detach(), cut_off(layer.bias))
    seen = unchanged(inputs)

    def take(gradient: Tensor) -> None:
        g, weight = gradient.float(), layer.weight
        patients = len(g) // record.views
        outputs = g.reshape(patients, -1, g.shape[-1])
        if trained(layer.bias):
            record.gradients.append(Rows(layer.bias, outputs.sum(1)))
        if not trained(weight):
            return
        x = seen()
        rows = x.reshape(patients, -1, x.shape[-1])
        if record.prefers_gram(rows.shape[1] ** 2 * sum(weight.shape), weight.numel()):
            a = torch.bmm(rows, rows.transpose(1, 2))
            b = torch.bmm(outputs, outputs.transpose(1, 2))
            record.add_gram(
                weight, a, b, (x, g), lambda x, g: g.flatten(0, -2).T @ x.flatten(0, -2)
            )
        else:
            record.gradients.append(Rows(weight, torch.bmm(outputs.transpose(1, 2), rows)))

    return at_backward(output, take)


def group_norm(layer: nn.Module, inputs: Tensor, record: Record) -> Tensor:
    """GroupNorm as one "image" of N*C channels, with weights of its own for every view.

    Groups are normalised by themselves, so the output is the same, and PyTorch's kernel gives the
    gradients by view along with that of the input.
    """
    assert isinstance(layer, nn.GroupNorm)  # noqa: S101
    n, channels = inputs.shape[:2]
    own = []
    for parameter in (layer.weight, layer.bias):
        repeated = parameter.detach().repeat(n)
        if trained(parameter):

            def take(gradient: Tensor, parameter: Tensor = parameter) -> None:
                record.add_rows(parameter, gradient.view(n, channels))

            leaf_at_backward(repeated, take)
        own.append(repeated)
    whole = inputs.reshape(1, n * channels, -1)
    output = torch.group_norm(whole, n * layer.num_groups, own[0], own[1], layer.eps)
    return output.view(inputs.shape)


def layer_norm(layer: nn.Module, inputs: Tensor, record: Record) -> Tensor:
    """LayerNorm over the last axes; the normalised input is computed anew in backward."""
    assert isinstance(layer, nn.LayerNorm)  # noqa: S101
    shape, eps = list(layer.normalized_shape), layer.eps
    output = F.layer_norm(inputs, shape, layer.weight.detach(), cut_off(layer.bias), eps)
    seen = unchanged(inputs)

    def take(gradient: Tensor) -> None:
        g = gradient.float().reshape(len(gradient), -1, layer.weight.numel())
        if trained(layer.bias):
            record.add_rows(layer.bias, g.sum(1))
        if trained(layer.weight):
            normalised = F.layer_norm(seen(), shape, eps=eps)
            record.add_rows(layer.weight, (g * normalised.reshape(g.shape)).sum(1))

    return at_backward(output, take)


def embedding(layer: nn.Module, inputs: Tensor, record: Record) -> Tensor:
    """Embedding of token numbers (N, ...); tokens equal to `padding_idx` have no gradient.

    The gradient of a token's vector is the sum of g over its places: A is 1 where two places hold
    the same token.
    """
    assert isinstance(layer, nn.Embedding)  # noqa: S101
    output = F.embedding(inputs, layer.weight.detach(), layer.padding_idx)
    tokens, size = inputs.detach().clone(), layer.num_embeddings
    padding = -1 if layer.padding_idx is None else layer.padding_idx

    def weight_gradient(tokens: Tensor, g: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten.embedding_dense_backward(g, tokens, size, padding, False)
        return result

    def take(gradient: Tensor) -> None:
        g, weight = gradient.float(), layer.weight
        patients = len(g) // record.views
        own, places = tokens.view(patients, -1), g.reshape(patients, -1, g.shape[-1])
        counted = (own != padding).float()
        if record.prefers_gram(own.shape[1] ** 2 * weight.shape[1], weight.numel()):
            same = (own[:, :, None] == own[:, None, :]) * counted[:, :, None]
            gram = torch.bmm(places, places.transpose(1, 2))
            record.add_gram(weight, same, gram, (tokens, g), weight_gradient)
        else:
            rows = g.new_zeros(patients * size, g.shape[-1])
            index = own + size * torch.arange(patients, device=g.device)[:, None]
            rows.index_add_(0, index.flatten(), (places * counted[:, :, None]).flatten(0, 1))
            record.gradients.append(Rows(weight, rows.view(patients, -1)))

    return at_backward(output, take)


RULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: conv2d,
    nn.Linear: linear,
    nn.GroupNorm: group_norm,
    nn.LayerNorm: layer_norm,
    nn.Embedding: embedding,
}
"""By exact type: a subclass may compute something else."""
