"""The task of telling nodules from what looks like them, on patches of lung CT: the project's main job."""

from typing import TYPE_CHECKING

import numpy as np

from common.judging.binary import Binary
from common.tasks.nodule_classification.study import ImageEvaluation, NoduleStudy
from common.tasks.nodule_classification.words import words
from common.tasks.task import Loss, Task, Uniform
from common.tasks.words import Words

if TYPE_CHECKING:
    from torch import Tensor, nn


class NoduleClassification(Task[NoduleStudy]):
    """Images of a patient -> the probability of the last class, by cross-entropy over two logits."""

    study = NoduleStudy
    judge = Binary()
    view = "image"
    files = "manifest.csv, findings.csv or a folder for each class"

    def build(self, protocol: NoduleStudy) -> "nn.Module":
        from common.models import build_model

        images = protocol.images
        return build_model(protocol.model.name, images.channels, len(images.classes))

    def loss(self, protocol: NoduleStudy) -> Loss:  # noqa: ARG002
        from common.losses import cross_entropy

        return Loss(cross_entropy)

    def view_shape(self, protocol: NoduleStudy) -> tuple[int, ...]:
        return (protocol.images.channels, protocol.images.size, protocol.images.size)

    def predict(self, protocol: NoduleStudy, model: "nn.Module", inputs: "Tensor") -> "Tensor":
        """(n, 1), see `probability`."""
        return probability(protocol.evaluation, model, inputs)

    def augmented(self, protocol: NoduleStudy, inputs: "Tensor", uniform: Uniform) -> "Tensor":
        """Each image (n, C, H, H) by one of the eight symmetries of the square, drawn independently."""
        import torch

        from common.symmetry import SYMMETRIES, turned_each

        if not protocol.training.flips_and_rotations:
            return inputs
        drawn = (uniform(len(inputs)) * SYMMETRIES).astype(np.int64)
        return turned_each(inputs, torch.from_numpy(drawn))

    def words(self, protocol: NoduleStudy) -> Words:
        return words(protocol)

    def remarks(self, protocol: NoduleStudy) -> list[str]:
        """For which CTs the study is meant."""
        return _included(protocol)

    def purpose(self, protocol: NoduleStudy) -> str:
        negative, positive = protocol.images.classes
        size = protocol.images.size
        return f"to tell {positive} from {negative} on lung-CT images of {size} x {size} pixels"


def _included(protocol: NoduleStudy) -> list[str]:
    if (wanted := protocol.inclusion) is None:
        return []
    said = []
    if wanted.max_slice_thickness_mm is not None:
        said.append(f"slices of at most {wanted.max_slice_thickness_mm:g} mm")
    if wanted.max_pixel_spacing_mm is not None:
        said.append(f"pixels of at most {wanted.max_pixel_spacing_mm:g} mm")
    if wanted.kvp is not None:
        said.append(f"{wanted.kvp[0]:g} to {wanted.kvp[1]:g} kV")
    if wanted.from_year is not None:
        said.append(f"CT of {wanted.from_year} or later")
    if wanted.least_patients is not None:
        said.append(f"hospitals with at least {wanted.least_patients} training patients")
    return [
        f"Meant for {', '.join(said)}. This excludes nobody: intramural-client check says what is "
        f"outside of it, here alone."
    ]


def probability(evaluation: ImageEvaluation, model: "nn.Module", images: "Tensor") -> "Tensor":
    """(n, 1): of the last class, the mean over the eight flips and rotations where it is asked for.

    A nodule has no up, and their errors partly cancel.
    """
    import torch

    from common.symmetry import SYMMETRIES, turned

    turns = range(SYMMETRIES if evaluation.flips_and_rotations else 1)
    each = [torch.softmax(model(turned(images, k)), dim=1)[:, -1:] for k in turns]
    return torch.stack(each).mean(0)


TASK = NoduleClassification()
