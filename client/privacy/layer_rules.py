"""For every kind of layer, its per-patient weight gradients from its input and g.

Every rule runs the layer with its weights cut off from autograd, so that backward computes the
gradients of activations only, and hooks the output to record the rest. The first axis of all
inputs and outputs is the N = U*V views. Recorded arithmetic is in float32 whatever the precision
of the activations: norm and sum are of the very same numbers. `patient_gradients` has the terms.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client.privacy.convolution import conv2d
from client.privacy.patient_gradients import (
    Record,
    Rows,
    at_backward,
    cut_off,
    leaf_at_backward,
    trained,
    unchanged,
)


class Rule(Protocol):
    """Runs `layer` on `inputs` and sees to it that backward adds its gradients to `record`."""

    def __call__(self, layer: nn.Module, inputs: Tensor, record: Record) -> Tensor: ...


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
