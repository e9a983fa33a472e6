"""Patients: shapes, normalisation, and what cannot be built."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from client.data import Cohort, ImagePatients


def patients(dtype: type[np.unsignedinteger] = np.uint8, channels: int = 1) -> ImagePatients:
    """Three patients with 2, 1 and 3 images; image i has value i in channel 0, i + 1 in 1, ..."""
    values = np.arange(6)[:, None, None, None] + np.arange(channels)
    return ImagePatients(
        pixels=np.broadcast_to(values, (6, 4, 4, channels)).astype(dtype, order="C"),
        labels=np.array([0, 1, 0, 0, 1, 1]),
        offsets=np.array([0, 2, 3, 6]),
        mean=0.5,
        std=0.25,
    )


def test_each_image_belongs_to_one_patient() -> None:
    three = patients()
    assert len(three) == 3
    assert [three.of(p) for p in range(3)] == [slice(0, 2), slice(2, 3), slice(3, 6)]
    assert three.patient_of_view.tolist() == [0, 0, 1, 2, 2, 2]
    assert three.labels.dtype == three.offsets.dtype == three.patient_of_view.dtype == np.int64


@pytest.mark.parametrize("number", [-1, 3])
def test_another_patient_does_not_exist(number: int) -> None:
    with pytest.raises(IndexError):
        patients().of(number)


@pytest.mark.parametrize(
    ("dtype", "value", "by_hand"),
    [
        (np.uint8, 0, -2.0),  # (0 - 0.5) / 0.25
        (np.uint8, 255, 2.0),
        (np.uint8, 51, -1.2),  # 51 / 255 = 0.2
        (np.uint16, 65535, 2.0),
        (np.uint16, 13107, -1.2),  # 13107 / 65535 = 0.2
    ],
)
def test_normalisation_by_hand(dtype: type[np.unsignedinteger], value: int, by_hand: float) -> None:
    one = dataclasses.replace(patients(), pixels=np.full((6, 4, 4, 1), value, dtype))
    assert one.scale == np.iinfo(dtype).max
    views = one.views(np.array([5]))
    assert views.dtype == torch.float32
    torch.testing.assert_close(views, torch.full((1, 1, 4, 4), by_hand), rtol=0, atol=2e-7)


def test_views_put_channels_first_and_may_repeat_an_image() -> None:
    views = patients(channels=3).views(np.array([4, 0, 4]))
    assert views.shape == (3, 3, 4, 4)
    assert views.is_contiguous()
    values = (views[:, :, 0, 0] * 0.25 + 0.5) * 255
    torch.testing.assert_close(values, torch.tensor([[4.0, 5, 6], [0, 1, 2], [4, 5, 6]]))


def test_views_are_a_copy() -> None:
    three = patients()
    three.views(np.array([1])).zero_()
    assert int(three.pixels[1, 0, 0, 0]) == 1


def test_no_patients_and_no_views() -> None:
    nobody = ImagePatients(
        pixels=np.empty((0, 4, 4, 3), np.uint8),
        labels=np.empty(0, np.int64),
        offsets=np.zeros(1, np.int64),
        mean=0.5,
        std=0.25,
    )
    assert len(nobody) == 0
    assert nobody.views(np.empty(0, np.int64)).shape == (0, 3, 4, 4)
    assert nobody.patient_of_view.shape == (0,)


def test_nothing_can_be_changed_or_attached() -> None:
    three = patients()
    for array in (three.pixels, three.labels, three.offsets):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        three.mean = 0.0  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        Cohort(three, three).note = "Ann"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": np.array([0, 2, 3])},
        {"offsets": np.array([1, 2, 3, 6])},
        {"offsets": np.array([0, 3, 3, 6])},
        {"offsets": np.array([0, 4, 3, 6])},
        {"labels": np.zeros(5, np.int64)},
        {"pixels": np.zeros((6, 4, 4, 1), np.float32)},
        {"pixels": np.zeros((6, 4, 4), np.uint8)},
    ],
)
def test_arrays_that_do_not_belong_together(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        dataclasses.replace(patients(), **change)
