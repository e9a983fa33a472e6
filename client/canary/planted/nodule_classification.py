"""Images with the planted name in their texts, with a manifest or in class folders; or CT series."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from client.canary import ct
from client.canary.ct_faults import SERIES
from client.canary.image_faults import DATA, LIBRARIES
from client.canary.names import NAME, PLANTED, patient_id
from client.data.listing import MANIFEST
from common.protocol import parse_protocol
from common.tasks.nodule_classification.study import of_images

__all__ = ["FAULTS", "LAYOUTS", "STUDY", "plant"]

PATIENTS, FOR_VALIDATION = 8, 2
DESCRIPTION = 0x010E  # the Exif tag of that name

STUDY = of_images(
    parse_protocol(f"""
study = "canary"
rounds = 2
images.classes = ["non-nodule", "nodule"]
images.size = {ct.SIDE}
images.mean = 0.4
images.validation-fraction = 0.4
images.ct.size-mm = {ct.SIDE}
model = {{ initial-model = "random" }}
training = {{ steps-per-round = 1, learning-rate = 0.5, sampling-rate = 0.9, views-per-patient = 2 }}
evaluation = {{ flips-and-rotations = false }}
participation = {{ quorum = 1, deadline-seconds = 60 }}
hospitals = [{{ name = "north", nominal-patients = {PATIENTS - FOR_VALIDATION} }}]
"""),
    "this canary",
)
LAYOUTS = ("manifest", "classes", "series")  # a folder for each class, or CT series
FAULTS = {"data": DATA, "CT series": SERIES, "libraries of images": LIBRARIES}


def plant(folder: Path, layout: str) -> tuple[list[Path], Path]:
    """See `Planted`; the table of CT series are the findings."""
    if layout == "series":
        return ct.plant(folder, STUDY.images.classes, PATIENTS)
    return _plant_images(folder, class_folders=layout == "classes"), folder / MANIFEST


def _plant_images(data: Path, *, class_folders: bool) -> list[Path]:
    images: list[Path] = []
    rows = [("image", "label", "patient_id", "split", "referrer")]
    generator = np.random.default_rng(5)
    for number in range(2 * PATIENTS):
        patient, label = number // 2, STUDY.images.classes[number % 2]
        form = PLANTED[patient % len(PLANTED)]
        name = f"{patient_id(patient)}~{number}.png"
        folder = data / label if class_folders else data / form
        folder.mkdir(exist_ok=True)
        image = Image.fromarray(generator.integers(0, 256, (ct.SIDE, ct.SIDE), dtype=np.uint8))
        images.append(folder / name)
        _save(image, folder / name)
        side = "validation" if patient < FOR_VALIDATION else "training"
        rows.append((f"{form}/{name}", label, patient_id(patient), side, NAME))
    if class_folders:
        return images
    # One image is a link, as where an archive is mounted elsewhere.
    kept = images[-1].with_suffix(".kept")
    images[-1].rename(kept)
    images[-1].symlink_to(kept.name)
    with (data / MANIFEST).open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return images


def _save(image: Image.Image, path: Path) -> None:
    """Save as PNG, with the name in its texts and in its Exif description."""
    about, exif = PngInfo(), Image.Exif()
    for form in PLANTED:
        about.add_text("PatientName", form)
        about.add_itxt("PatientName", form, zip=True)
    exif[DESCRIPTION] = NAME
    image.save(path, pnginfo=about, exif=exif)
