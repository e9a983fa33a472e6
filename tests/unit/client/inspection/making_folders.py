"""Two small hospitals without a fault, made of phantoms: images with a manifest, and CT series."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset

from client.data import SetAside
from client.data.survey import Survey, survey
from client.inspection.inspection import Inspection, inspect
from client.inspection.verdict import Verdict, judge
from common.phantom import phantom_patches, to_grey8
from common.tasks.nodule_classification.study import NoduleStudy
from tests.studies import nodule_study
from tests.unit.client.data.making_dicom import Edit, save, slice_dataset, uid, write_findings

SEED = 20_261_126
PATIENTS = 40
SPACING = 0.7  # mm, of the CT series and of their patches

STUDY = """
study = "small"
rounds = 1
images = { classes = ["non-nodule", "nodule"], size = 32 CT }
training = { steps-per-round = 1, learning-rate = 0.1, sampling-rate = 0.5 }
participation = { quorum = 1 }
hospitals = [{ name = "north", nominal-patients = 32 }]
"""
PROTOCOL = nodule_study(STUDY.replace("CT", ""))
CT_STUDY = STUDY.replace("CT", f", ct = {{ size-mm = {32 * SPACING} }}")
CT_PROTOCOL = nodule_study(CT_STUDY)


@cache
def phantoms(count: int, size: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """(count, size, size) HU and their labels, negative and positive by turns."""
    made = phantom_patches(count, size=size, seed=SEED)
    order = np.argsort(made.label.numpy(), kind="stable").reshape(2, -1).T.ravel()
    return made.hu.numpy()[order, 0], made.label.numpy()[order]


Grey = npt.NDArray[np.uint8 | np.uint16]


@dataclass
class ImageFolder:
    """Rows (file, label, patient id) and their pixels: to be spoilt, then written."""

    root: Path
    rows: list[list[str]] = field(default_factory=list)
    pixels: list[Grey] = field(default_factory=list)
    column: str = ""  # the name of a fourth one

    @classmethod
    def clean(cls, root: Path) -> "ImageFolder":
        """Two images of either class for each of `PATIENTS`."""
        import torch

        hu, labels = phantoms(4 * PATIENTS, 32)
        grey = to_grey8(torch.from_numpy(hu))
        made = cls(root)
        for n, (one, label) in enumerate(zip(grey.numpy(), labels.tolist(), strict=True)):
            made.add(one, label, f"Doe^Jane-{n // 4:03d}")
        return made

    def add(self, pixels: Grey, label: int, patient: str, kind: str = "png") -> None:
        name = PROTOCOL.images.classes[label]
        self.rows.append([f"{len(self.rows)}.{kind}", name, patient])
        self.pixels.append(pixels)

    def patient(self, n: int) -> str:
        return self.rows[4 * n][2]

    def survey(self) -> Survey:
        self.root.mkdir(exist_ok=True)
        head = ["image", "label", "patient_id", *([self.column] if self.column else [])]
        lines = [",".join(row) for row in [head, *self.rows]]
        (self.root / "manifest.csv").write_text("\n".join(lines))
        for (name, *_), pixels in zip(self.rows, self.pixels, strict=True):
            Image.fromarray(pixels).save(self.root / name)
        return survey(self.root, PROTOCOL.images, None, cache=None, set_aside=[])


Header = dict[str, Any]


@dataclass
class SeriesFolder:
    """Series of one slice, each with the finding in its middle: to be spoilt, then written."""

    root: Path
    headers: list[Header]
    labels: list[int]
    rows: list[str] = field(default_factory=list)  # of the findings, beyond one for each series

    @classmethod
    def clean(cls, root: Path) -> "SeriesFolder":
        """A series of either class for each of 24 patients; by patient one of two scanners."""
        headers = [
            {
                "PatientID": f"Doe^Jane-{n // 2:03d}",
                "StudyInstanceUID": uid(7, n // 2),
                "Manufacturer": "Maker",
                "ManufacturerModelName": "One" if n // 2 % 2 else "Two",
                "ConvolutionKernel": "B30f",
                "KVP": 120,
                "SliceThickness": 1.25,
                "AcquisitionDate": "20190304",
            }
            for n in range(48)
        ]
        return cls(root, headers, [n % 2 for n in range(48)])

    def survey(self, apart: list[SetAside], protocol: NoduleStudy = CT_PROTOCOL) -> Survey:
        hu, _ = phantoms(len(self.headers), 48)
        for n, header in enumerate(self.headers):
            save(
                slice_dataset(
                    np.clip(hu[n], -1024, 3000).astype(np.float64),
                    (0, 0, 0),
                    series=uid(9, n),
                    spacing=(SPACING, SPACING),
                ),
                self.root / f"{n % 3}" / f"{n}",
                *_said(header),
            )
        classes = protocol.images.classes
        middle = 23.5 * SPACING
        found = [
            f"{uid(9, n)},{middle},{middle},0,{classes[label]},"
            for n, label in enumerate(self.labels)
        ]
        write_findings(self.root, "series_uid,x,y,z,label,patient_id", *found, *self.rows)
        return survey(self.root, protocol.images, None, cache=None, set_aside=apart)


def _said(header: Header) -> Sequence[Edit]:
    def edit(ds: Dataset) -> None:
        for name, value in header.items():
            setattr(ds, name, value)

    return [edit]


def judged(
    surveyed: Survey, protocol: NoduleStudy = PROTOCOL, apart: Sequence[SetAside] = ()
) -> tuple[Inspection, Verdict]:
    found = inspect(surveyed, protocol, apart)
    return found, judge(found, protocol.images.classes)


def reasons(verdict: Verdict) -> list[tuple[str, str]]:
    return [(reason.severity, reason.said) for reason in verdict.reasons]


def only(found: list[tuple[str, str]]) -> tuple[str, str]:
    assert len(found) == 1, found
    return found[0]
