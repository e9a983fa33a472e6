"""A model with `nn.GRU` as Opacus can see into it: the same weights, run step by step.

`nn.GRU` is one call in C++, in which no hook sees the products of the single steps. Opacus'
`DPGRU` computes the same from linear layers, one step at a time, and its hooks add a series'
gradients up over the steps before anything is clipped. Book-keeping (book_keeping.py) has no rule
for it: a linear layer that is used T times has a gradient that is a sum over T, and its norm needs
all pairs of steps.

Both models hold the *same* parameter objects. Nothing is copied there or back: what is trained
through one is what the other computes with, under `nn.GRU`'s names and in its order. (Opacus'
`DPGRU` inside of another module lists its weights twice in the state dict, and in another order.)
"""

import copy

import torch
from opacus.layers import DPGRU
from torch import Tensor, nn

from client.privacy.engine import CHUNK_BYTES, HooksClipper, PatientShape
from common.errors import ModelError
from common.tasks.task import Loss


def is_recurrent(model: nn.Module) -> bool:
    """Whether per-patient gradients of `model` need `recurrent_clipper`."""
    return any(isinstance(module, nn.RNNBase) for module in model.modules())


def step_by_step(model: nn.Module) -> nn.Module:
    """A model that computes what `model` does, with its very parameters and `DPGRU` for `nn.GRU`.

    ModelError for a recurrent layer that has no exact counterpart here.
    """
    shared = {id(parameter): parameter for parameter in model.parameters()}
    twin = copy.deepcopy(model, memo=dict(shared))
    for name, layer in list(twin.named_modules()):
        if isinstance(layer, nn.RNNBase):
            parent = twin.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], _unrolled(layer))
    return twin


def _unrolled(layer: nn.RNNBase) -> DPGRU:
    if type(layer) is not nn.GRU or layer.dropout or layer.bidirectional or not layer.bias:
        raise ModelError(
            f"expected a GRU in one direction, with biases and without dropout, found "
            f'{type(layer).__name__}; take such a layer, or mechanism = "none"'
        )
    # On the meta device: its own weights would be made only to be thrown away.
    with torch.device("meta"):
        unrolled = DPGRU(
            layer.input_size,
            layer.hidden_size,
            num_layers=layer.num_layers,
            batch_first=layer.batch_first,
        )
    for place, name in unrolled.old_to_new.items():  # "l0.ih.weight" -> "weight_ih_l0"
        parameter = layer.get_parameter(name)
        linear, _, own = place.rpartition(".")
        setattr(unrolled.get_submodule(linear), own, parameter)
        setattr(unrolled, name, parameter)
    unrolled.train(layer.training)
    unrolled.register_forward_pre_hook(_starts_with_a_gradient)
    return unrolled


def _starts_with_a_gradient(layer: DPGRU, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The first hidden state is zero as always, but part of the graph.

    PyTorch warns of a full backward hook on a module none of whose inputs needs a gradient.
    """
    (series,) = inputs
    patients = series.shape[0 if layer.batch_first else 1]
    start = series.new_zeros(layer.num_layers, patients, layer.hidden_size)
    return series, start.requires_grad_()


def recurrent_clipper(
    model: nn.Module, loss: Loss, max_grad_norm: float, shape: PatientShape
) -> HooksClipper:
    """The clipper of a recurrent model; its sums arrive in the `.grad` of `model`'s parameters.

    A view of `shape` is a series (T, F). Of a long one, the hidden states of all steps take more
    memory than its gradient does; both together stay within `CHUNK_BYTES`.
    """
    clipper = HooksClipper(step_by_step(model), loss, max_grad_norm, shape.views)
    bytes_per_view = 4 * (
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        + shape.view[0] * sum(map(_numbers_a_step, model.modules()))
    )
    clipper.patients_per_chunk = max(1, CHUNK_BYTES // (bytes_per_view * shape.views))
    return clipper


def _numbers_a_step(layer: nn.Module) -> int:
    """What a pass keeps for every step: 8 hidden states for autograd, up to 20 at its peak (measured)."""
    if not isinstance(layer, nn.GRU):
        return 0
    return layer.input_size + 20 * layer.hidden_size * layer.num_layers
