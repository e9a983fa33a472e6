"""The spec is that of a really built model, and an update has what is trained and nothing more."""

from typing import get_args

import pytest
import torch
from torch import nn

from common.model_spec import model_of, model_spec, trainable_names, update_spec
from common.models import MODEL_NAMES, build_model
from common.protocol import Trainable
from common.tasks.nodule_classification.study import ImageModel, NoduleStudy

torch.set_num_threads(1)


def study(name: str, channels: int, trainable: Trainable = "all") -> NoduleStudy:
    return NoduleStudy.model_validate(
        {
            "study": "a-study",
            "rounds": 1,
            "images": {"classes": ["no", "yes"], "size": 32, "channels": channels},
            "model": {"name": name, "initial-model": "random", "trainable": trainable},
            "training": {"steps-per-round": 1, "learning-rate": 0.1, "sampling-rate": 0.5},
            "participation": {"quorum": 1},
            "hospitals": [{"name": "north", "nominal-patients": 9}],
        }
    )


def shapes(state: dict[str, torch.Tensor]) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(tensor.shape)) for name, tensor in state.items()]


def test_a_protocol_can_name_every_model_and_no_other() -> None:
    assert set(get_args(ImageModel.model_fields["name"].annotation)) == set(MODEL_NAMES)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_spec_is_that_of_the_built_model(name: str, channels: int) -> None:
    model = build_model(name, channels, 2)
    found = list(model_spec(study(name, channels)).items())
    assert found == shapes(model.state_dict())  # names, order and shapes
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_an_update_has_what_an_optimiser_gets_in_the_models_order(name: str) -> None:
    model = build_model(name, 1, 2)
    trained = [n for n, parameter in model.named_parameters() if parameter.requires_grad]
    whole, update = model_spec(study(name, 1)), update_spec(study(name, 1))
    assert list(update) == trained == trainable_names(model)
    assert [n for n in whole if n in update] == trained
    assert all(whole[n] == shape for n, shape in update.items())


def test_frozen_layers_travel_in_the_model_and_never_in_an_update() -> None:
    protocol = study("resnet18-frozen-affine", 3)
    frozen = set(model_spec(protocol)) - set(update_spec(protocol))
    assert len(frozen) == 40  # scale and shift of ResNet18's twenty normalisations
    assert {name.rpartition(".")[2] for name in frozen} == {"scale", "shift"}
    for name in ("compact-cnn", "resnet18"):
        assert list(model_spec(study(name, 1))) == list(update_spec(study(name, 1)))


@pytest.mark.parametrize("trainable", get_args(Trainable))
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_an_update_is_what_the_studys_own_model_trains(name: str, trainable: Trainable) -> None:
    protocol = study(name, 1, trainable)
    model = model_of(protocol)
    trained = [(n, tuple(p.shape)) for n, p in model.named_parameters() if p.requires_grad]
    assert list(update_spec(protocol).items()) == trained
    assert list(model_spec(protocol).items()) == shapes(model.state_dict())
    assert model_spec(protocol) == model_spec(study(name, 1))  # a request carries the whole model


def test_an_update_of_the_head_alone_is_two_arrays() -> None:
    """By hand, and asked in an order in which a remembered skeleton of another study would show."""
    small = {"classifier.weight": (2, 64), "classifier.bias": (2,)}
    assert len(update_spec(study("compact-cnn", 1))) == 4 + 2 * 4 + 2
    assert update_spec(study("compact-cnn", 1, "head")) == small
    norms = update_spec(study("compact-cnn", 1, "norm-and-head"))
    assert set(norms) - set(small) == {
        f"features.{n}.{kind}" for n in (1, 5, 9, 13) for kind in ("weight", "bias")
    }
    assert update_spec(study("compact-cnn", 1, "head")) == small
    large = {"fc.weight": (2, 512), "fc.bias": (2,)}
    assert update_spec(study("resnet18", 3, "head")) == large
    assert len(update_spec(study("resnet18", 3, "norm-and-head"))) == 2 * 20 + 2
    # Its normalisations are frozen affine layers, so there are none to train.
    assert update_spec(study("resnet18-frozen-affine", 3, "norm-and-head")) == large


def test_every_model_of_a_study_is_a_new_one() -> None:
    protocol = study("compact-cnn", 1, "head")
    one, two = model_of(protocol), model_of(protocol)
    assert not set(one.parameters()) & set(two.parameters())
    assert all(p.device.type == "cpu" for p in one.parameters())
    assert one.training


def test_a_parameter_that_is_switched_off_is_not_trained() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].weight.requires_grad_(False)
    assert trainable_names(model) == ["0.bias", "1.weight", "1.bias"]


def test_asking_for_a_spec_moves_no_random_numbers() -> None:
    before = torch.get_rng_state()
    model_spec(study("compact-cnn", 3))
    assert torch.equal(torch.get_rng_state(), before)
