"""How papers about a model of nodules word what only images have."""

from common.tasks.nodule_classification.study import Images, NoduleStudy
from common.tasks.words import Words

ORIGINS = {
    "phantom": "pre-trained on synthetic lung CT, without any patient",
    "imagenet": "torchvision's ImageNet weights, from photographs, folded into frozen affine layers",
}


def words(protocol: NoduleStudy) -> Words:
    """Of this study."""
    negative, positive = protocol.images.classes
    averaged = protocol.evaluation.flips_and_rotations
    turned = protocol.training.flips_and_rotations
    return Words(
        input=_input(protocol.images),
        predictors="the pixels of the image, nothing else about the patient",
        output=f"a score from 0 to 1 for “{positive}”, "
        f"{'the mean over eight flips and rotations, ' if averaged else ''}no probability before it is "
        f"calibrated",
        outcome=f"“{positive}” is positive, “{negative}” negative, as each hospital labels its images",
        unread="what cannot be used of CT series is left out at the hospital, and intramural-client "
        "check names it there with the reason; one image file that cannot be read stops that hospital",
        use="findings that somebody has marked",
        groups="Scanner, kernel, slice thickness, age, sex and case mix: not collected by the coordinator, "
        "so nothing is known by group.",
        elsewhere="at another hospital, on another scanner or in screening",
        meant_for=_meant_for(protocol),
        augmentation="random flips and rotations" if turned else "no augmentation",
        unusable="intramural-client predict sets aside what it cannot read, with the reason",
        predictions="by the network from the weights file; intramural-client predict does it",
        not_for=(
            "searching a scan: somebody else has to say where the finding is",
            "screening, other organs, other modalities, or other questions than this one",
            "images that were prepared otherwise than the input above",
        ),
        origins=ORIGINS,
        imaging=_imaging(protocol),
    )


def _input(images: Images) -> str:
    """From a hospital's image to what the network sees."""
    ct = images.ct
    patch = ""
    if ct is not None:
        planes = (
            f"{ct.slices} planes {ct.slice_distance_mm:g} mm apart"
            if ct.slice_distance_mm is not None
            else "the plane through it"
        )
        patch = (
            f"from a CT series the axial square of {ct.size_mm:g} mm about the finding, {planes}, "
            f"resampled, {ct.hu_low:g} to {ct.hu_high:g} HU as 0 to 1; of "
        )
    fitted = "centre crop" if images.fit == "crop" else "resizing"
    return (
        f"{patch}image files by {fitted}, scaled to 0..1; {images.channels} x {images.size} x "
        f"{images.size} pixels, then (value - {images.mean:g}) / {images.std:g}; all constants public, "
        f"none fitted"
    )


def _meant_for(protocol: NoduleStudy) -> str:
    """Which CTs the study is meant for, under the protocol's own names."""
    if protocol.inclusion is None:
        return "no inclusion is stated"
    stated = protocol.inclusion.model_dump(by_alias=True, exclude_none=True, mode="json")
    said = ", ".join(f"{name} = {value}" for name, value in stated.items())
    return f"{said}; a hospital is told what is outside, and nobody is excluded by it"


def _imaging(protocol: NoduleStudy) -> dict[str, str]:
    ct, meant_for = protocol.images.ct, _meant_for(protocol)
    if ct is None:
        return {"patch": "images as each hospital gives them", "window": meant_for}
    return {
        "patch": f"an axial square of {ct.size_mm:g} mm about a given finding",
        "window": f"{meant_for}; {ct.hu_low:g} to {ct.hu_high:g} HU are used",
    }
