"""A hospital of synthetic patients whose name stands wherever a patient's name can stand."""

import csv
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from client.approval import approve, begin
from client.canary import ct
from client.canary.names import NAME, PLANTED, TEXT, patient_id
from client.data.listing import MANIFEST
from client.policy import Limits, SitePolicy
from common import messages
from common.files import write_atomic
from common.messages import EvaluateRequest, TrainRequest
from common.models import build_model
from common.protocol import parse_protocol

ROUNDS = 2
PATIENTS, FOR_VALIDATION = 8, 2
DATA = "data"  # below the hospital's folder: there the name may stand, and nowhere else
Layout = Literal["manifest", "classes", "series"]  # a folder for each class, or CT series
DESCRIPTION = 0x010E  # the Exif tag of that name

STUDY = parse_protocol(f"""
study = "canary"
rounds = {ROUNDS}
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
""")


class Hospital:
    """Made in the new folder `folder`: patients, approved policy, books; `renew` puts it back to that.

    `table` says which image or series is of which patient, where the layout has one.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder = folder
        self.data = folder / DATA / TEXT
        self.state = folder / "state"
        self.table = self.data / MANIFEST
        self.images: list[Path] = []
        self.state.mkdir(parents=True, mode=0o700)
        self.data.mkdir(parents=True)
        if layout == "series":
            self.images, self.table = ct.plant(self.data, STUDY.images.classes, PATIENTS)
        else:
            self._plant(class_folders=layout == "classes")
        site = folder / "site.toml"
        write_atomic(site, self._written_policy(layout).to_toml().encode())
        begin(self.state)
        self.policy = approve(site, STUDY)
        self._kept = folder.with_name(f"{folder.name}.kept")
        shutil.copytree(folder, self._kept, symlinks=True)

    def renew(self, below: str = "") -> None:
        """Put the hospital back as it was made, or only what is `below` its folder."""
        shutil.rmtree(self.folder / below)
        shutil.copytree(self._kept / below, self.folder / below, symlinks=True)

    def _plant(self, *, class_folders: bool) -> None:
        rows = [("image", "label", "patient_id", "split", "referrer")]
        generator = np.random.default_rng(5)
        for number in range(2 * PATIENTS):
            patient, label = number // 2, STUDY.images.classes[number % 2]
            form = PLANTED[patient % len(PLANTED)]
            name = f"{patient_id(patient)}~{number}.png"
            folder = self.data / label if class_folders else self.data / form
            folder.mkdir(exist_ok=True)
            image = Image.fromarray(generator.integers(0, 256, (ct.SIDE, ct.SIDE), dtype=np.uint8))
            self.images.append(folder / name)
            _save(image, folder / name)
            side = "validation" if patient < FOR_VALIDATION else "training"
            rows.append((f"{form}/{name}", label, patient_id(patient), side, NAME))
        if class_folders:
            return
        # One image is a link, as where an archive is mounted elsewhere.
        kept = self.images[-1].with_suffix(".kept")
        self.images[-1].rename(kept)
        self.images[-1].symlink_to(kept.name)
        with self.table.open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    def _written_policy(self, layout: Layout) -> SitePolicy:
        return SitePolicy(
            hospital=STUDY.hospital_names[0],
            data=self.data,
            state=self.state,
            patient_id_pattern=r"(?P<patient>.+)~\d+" if layout == "classes" else None,
            device="cpu",
            approved_studies=(),
            max_epsilon=STUDY.privacy.epsilon,
            limits=Limits.just_for(STUDY),
        )


def _save(image: Image.Image, path: Path) -> None:
    """Save as PNG, with the name in its texts and in its Exif description."""
    about, exif = PngInfo(), Image.Exif()
    for form in PLANTED:
        about.add_text("PatientName", form)
        about.add_itxt("PatientName", form, zip=True)
    exif[DESCRIPTION] = NAME
    image.save(path, pnginfo=about, exif=exif)


def requests() -> list[messages.Request]:
    """What a coordinator asks in the study: every round, and how good the last model is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build_model(STUDY.model.name, STUDY.images.channels, len(STUDY.images.classes))
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    text = STUDY.to_toml()
    return [
        *(TrainRequest(protocol=text, round=r, arrays=arrays) for r in range(1, ROUNDS + 1)),
        EvaluateRequest(protocol=text, round=ROUNDS + 1, arrays=arrays),
    ]
