"""The study protocol of a nodule classification: how an image becomes input, which network, which CTs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.documents import UNSHOWABLE, PositiveFloat, PositiveInt, Title
from common.errors import ProtocolError
from common.judging.binary import TwoClassEvaluation
from common.protocol import Model, Section, StudyProtocol, Training


class CtPatches(Section):
    """How a finding in a CT series becomes an image: an axial square of `size_mm`, in a window of HU.

    The square lies about the finding in the patient's axial plane, whatever the orientation and the
    spacing of the series. `hu_low` and `hu_high` (Hounsfield units) become 0 and 1. With
    `slices` = 3 the three channels are the planes `slice_distance_mm` below the finding, through it
    and above it; with 1 all channels are the plane through it.
    """

    size_mm: Annotated[float, Field(ge=5, le=500)]
    hu_low: Annotated[float, Field(ge=-1024, le=4000)] = -1000.0
    hu_high: Annotated[float, Field(ge=-1024, le=4000)] = 400.0
    slices: Literal[1, 3] = 1
    slice_distance_mm: Annotated[float, Field(ge=0.1, le=50)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> "CtPatches":
        if self.hu_high - self.hu_low < 1:
            raise ValueError(
                f"images.ct.hu-high is {self.hu_high:g} but must be above hu-low, {self.hu_low:g}"
            )
        if (self.slices == 3) != (self.slice_distance_mm is not None):
            raise ValueError(
                f"images.ct.slice-distance-mm is for slices = 3 and needed with it, but slices is "
                f"{self.slices}"
            )
        return self


class Images(Section):
    """How a hospital's image becomes the model's input; all constants are public, none is fitted.

    `classes` are the labels, the last one is the positive class. An image is brought to
    `size` x `size` pixels by a centre crop or by resizing, scaled to 0..1 by its bit depth, and
    normalised as (value - mean) / std. With `ct`, hospitals may have CT series in place of images.
    """

    classes: Annotated[tuple[Title, Title], Field(strict=False)]
    size: Annotated[int, Field(ge=16, le=1024)]
    channels: Literal[1, 3] = 1
    fit: Literal["crop", "resize"] = "crop"
    mean: Annotated[float, Field(ge=0, le=1)] = 0.5
    std: Annotated[float, Field(gt=0, le=1)] = 0.25
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    ct: CtPatches | None = None

    @property
    def split(self) -> None:
        """None: a hospital's own manifest may say it, and a protocol cannot."""
        return None

    @model_validator(mode="after")
    def _two_names(self) -> "Images":
        if self.classes[0] == self.classes[1]:
            raise ValueError(f"images.classes names '{self.classes[0]}' twice")
        if self.ct is not None and self.ct.slices > self.channels:
            raise ValueError(
                f"images.ct.slices is {self.ct.slices} but images.channels is {self.channels}; "
                f"they are the channels"
            )
        return self


class ImageModel(Model):
    """The network and where round 1 starts: "random", "phantom", "imagenet" or a safetensors file.

    "phantom" is pre-training on synthetic lung CT, "imagenet" folds torchvision's weights into
    frozen affine layers; both happen at the coordinator, on public data only.
    """

    name: Literal["compact-cnn", "resnet18", "resnet18-frozen-affine"] = "compact-cnn"
    initial_model: Annotated[
        str,
        Field(
            pattern=rf"^(random|phantom|imagenet|[^{UNSHOWABLE}]+\.safetensors)$", max_length=400
        ),
    ] = "phantom"

    @property
    def folds_imagenet(self) -> bool:
        """Whether torchvision's weights, which have BatchNorm, can be folded into it."""
        return self.name == "resnet18-frozen-affine"

    @model_validator(mode="after")
    def _imagenet_needs_affine(self) -> "ImageModel":
        if self.initial_model == "imagenet" and not self.folds_imagenet:
            raise ValueError(
                f"model.initial-model 'imagenet' needs model.name 'resnet18-frozen-affine', "
                f"found '{self.name}'"
            )
        return self


class ImageTraining(Training):
    """Local work of one server round; with `flips_and_rotations` each view is turned at random."""

    views_per_patient: Annotated[int, Field(ge=1, le=64)] = 4
    flips_and_rotations: bool = True


class ImageEvaluation(TwoClassEvaluation):
    """When and how hospitals judge the global model on their validation patients.

    With `flips_and_rotations` an image's score is the mean over the eight symmetries of the square.
    """

    flips_and_rotations: bool = True


class Inclusion(Section):
    """Which CTs the study is meant for: `intramural-client check` counts what is outside of it.

    It excludes nobody. Thickness is that of a slice, spacing the larger one of its pixels, `kvp` the
    lowest and the highest tube voltage, kV, `from_year` the first year of acquisition;
    `least_patients` is a hospital's number of training patients.
    """

    max_slice_thickness_mm: PositiveFloat | None = None
    max_pixel_spacing_mm: PositiveFloat | None = None
    kvp: Annotated[tuple[PositiveFloat, PositiveFloat], Field(strict=False)] | None = None
    from_year: Annotated[int, Field(ge=1970, le=2200)] | None = None
    least_patients: PositiveInt | None = None

    @model_validator(mode="after")
    def _states_something(self) -> "Inclusion":
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError("[inclusion] states nothing; give one of its keys, or leave it out")
        if self.kvp is not None and self.kvp[0] > self.kvp[1]:
            raise ValueError(
                f"inclusion.kvp is from {self.kvp[0]:g} to {self.kvp[1]:g} but must be the lowest, "
                f"then the highest"
            )
        return self


class NoduleStudy(StudyProtocol):
    """A study that tells nodules from what looks like them on patches of lung CT."""

    task: Literal["nodule-classification"] = "nodule-classification"
    images: Images
    model: ImageModel = ImageModel()
    training: ImageTraining
    without_dp: ImageTraining | None = None
    evaluation: ImageEvaluation = ImageEvaluation()
    inclusion: Inclusion | None = None

    @property
    def data(self) -> Images:
        """The images."""
        return self.images


def of_images(protocol: StudyProtocol, what: str) -> NoduleStudy:
    """`protocol`, for `what` is there for studies of images alone; ProtocolError for another one."""
    if isinstance(protocol, NoduleStudy):
        return protocol
    raise ProtocolError(
        f"{what} is for a study of images (nodule-classification), found one of {protocol.task}; leave it "
        f"out"
    )
