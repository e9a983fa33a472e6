"""Phantom lung CT as a folder of images: each hospital has its own scanner."""

import csv
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from client.data.listing import MANIFEST
from common.phantom import SCANNERS, phantom_patches, to_grey8
from common.tasks.nodule_classification.study import NoduleStudy

PATCHES_PER_PATIENT = (1, 4)
NODULE_FRACTION = 0.35


def write(
    protocol: NoduleStudy, folder: Path, patients: list[str], hospital: int, seed: int
) -> None:
    """See `simulation.phantoms.Phantoms`."""
    scanners = list(SCANNERS.values())
    counts = torch.Generator().manual_seed(seed)
    low, high = PATCHES_PER_PATIENT
    patches = torch.randint(low, high + 1, (len(patients),), generator=counts).tolist()
    phantoms = phantom_patches(
        sum(patches),
        size=protocol.images.size,
        seed=seed,
        scanner=scanners[hospital % len(scanners)],
        nodule_fraction=NODULE_FRACTION,
    )
    owners = [patient for patient, n in zip(patients, patches, strict=True) for _ in range(n)]
    labels = [protocol.images.classes[label] for label in phantoms.label.tolist()]
    _write_folder(folder, to_grey8(phantoms.hu).numpy(), labels, owners)


def _write_folder(
    folder: Path, grey: NDArray[np.uint8], labels: list[str], owners: list[str]
) -> None:
    with (folder / MANIFEST).open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "label", "patient_id"])
        for number, (pixels, label, owner) in enumerate(zip(grey, labels, owners, strict=True)):
            name = f"{number:05d}.png"
            Image.fromarray(pixels).save(folder / name, compress_level=1)
            rows.writerow([name, label, owner])
