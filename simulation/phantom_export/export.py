"""The folders of the pretend export: hospitals with CT series and findings, a patient apart, a protocol."""

import csv
import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tomli_w
import torch

from client.data.findings import FINDINGS
from client.data.split import is_validation_patient
from common.errors import RunError
from common.files import write_atomic
from common.phantom import MIMIC_KINDS, NODULE_KINDS, SCANNERS
from common.phantom_scene import Scanner
from common.progress import Progress
from common.protocol import StudyProtocol, load_protocol, parse_protocol
from common.tasks.nodule_classification.study import of_images
from simulation.convert import HELD_OUT, HOSPITALS
from simulation.hospitals import with_roster
from simulation.phantom_export.dicom import Maker, Series, place_mm, write_series
from simulation.phantom_export.volume import TILES, phantom_volume
from simulation.prepare import FIRST_RUN

PROTOCOL = "protocol.toml"
STUDY = "first-study"
PATIENTS = {"north": 24, "east": 16, "south": 12, "west": 8}
VISITOR = "VISITOR-0001"  # the patient whom no hospital has
PATCH_MM = 22.4  # 32 pixels of 0.7 mm, as the shipped model was trained on
_NODULES = (1, 2, 2, 3)  # of the four candidates of a patient
_FEWEST = 4  # patients of a hospital: enough for both sides and all defects
_YEARS = (2019, 2024)
_VALIDATION_FRACTION = 0.3
_LEARNING_RATE = 0.01  # what so few patients bear: a higher one is noise alone

# Of common.phantom's scanners in their order; invented names, so that nobody's machine is meant.
MAKERS = (
    Maker("Alder Imaging (phantom)", "A-64", "SOFT", padded=True, feet_first=True),
    Maker("Birch Medical (phantom)", "B-128", "LUNG", padded=False, feet_first=False),
    Maker("Cedar Scan (phantom)", "C-16", "STANDARD", padded=False, feet_first=True),
    Maker("Douglas CT (phantom)", "D-4", "CHEST", padded=True, feet_first=False),
)


@dataclass(frozen=True, slots=True)
class _Site:
    name: str
    maker: Maker
    scanner: Scanner
    classes: tuple[str, str]


def export(
    out: Path, hospitals: int, patients: int | None, seed: int, progress: Progress
) -> StudyProtocol:
    """Write `out`/hospitals/<name>/, `out`/held-out/VISITOR-0001/ and `out`/protocol.toml.

    One to four `hospitals`, with `patients` each (None: fewer at each next one). At the first hospital
    there is what archives have: a series that lacks a slice, a file twice, a letter among the images.
    The same seed gives the same files. RunError when there is such an export already.
    """
    if (out / HOSPITALS).exists() or (out / HELD_OUT).exists():
        raise RunError(f"expected no export in {out} yet, found one; choose another folder")
    if patients is not None and patients < _FEWEST:
        raise RunError(
            f"expected at least {_FEWEST} patients a hospital, found {patients}; give more"
        )
    torch.set_num_threads(1)  # small planes lose more than they gain by a second thread
    example = of_images(load_protocol(FIRST_RUN), "the export")
    cohorts = {name: patients or count for name, count in list(PATIENTS.items())[:hospitals]}
    total, done = sum(cohorts.values()) + 1, 0
    training: dict[str, int] = {}
    sites = [
        _Site(name, maker, scanner, example.images.classes)
        for name, maker, scanner in zip(PATIENTS, MAKERS, SCANNERS.values(), strict=True)
    ]
    for site in sites[:hospitals]:
        rows, folder = [], out / HOSPITALS / site.name
        names = [f"{site.name.upper()}-{n:04d}" for n in range(1, cohorts[site.name] + 1)]
        for name in names:
            rows += _patient(folder / f"DICOM/{name}/ST1/SE2", site, name, seed)
            progress(done := done + 1, total)
        _write_findings(folder, rows)
        training[site.name] = sum(not is_validation_patient(n, _VALIDATION_FRACTION) for n in names)
    _spoil(out / HOSPITALS / sites[0].name)
    visitor = out / HELD_OUT / VISITOR
    _write_findings(visitor, _patient(visitor / "DICOM", sites[0], VISITOR, seed))
    progress(total, total)
    protocol = _protocol(example, training)
    write_atomic(out / PROTOCOL, protocol.to_toml().encode())
    return protocol


def _patient(folder: Path, site: _Site, name: str, seed: int) -> list[list[str]]:
    """Write one patient's series; the rows of its findings."""
    entropy = [seed, *name.encode()]
    draw = np.random.default_rng(entropy)
    nodules = int(draw.choice(_NODULES))
    kinds = [*_drawn(draw, NODULE_KINDS, nodules), *_drawn(draw, MIMIC_KINDS, TILES - nodules)]
    kinds = [kinds[n] for n in draw.permutation(TILES)]
    series = Series(
        patient_id=name,
        hospital=site.name,
        maker=site.maker,
        spacing_mm=round(float(draw.uniform(*site.scanner.spacing_mm)), 4),
        step_mm=round(float(draw.uniform(*site.scanner.slice_thickness_mm)) * 4) / 4,
        year=int(draw.integers(_YEARS[0], _YEARS[1] + 1)),
        seed=seed,
    )
    volume = phantom_volume(
        kinds, site.scanner, series.spacing_mm, series.step_mm, int(draw.integers(2**31))
    )
    write_series(folder, volume, series)
    return [
        [
            series.uid,
            *(f"{value:.2f}" for value in place_mm(volume, series, centre)),
            site.classes[kind in NODULE_KINDS],
        ]
        for kind, centre in zip(kinds, volume.centres, strict=True)
    ]


def _drawn(draw: np.random.Generator, shares: Mapping[str, float], count: int) -> list[str]:
    weights = np.array(list(shares.values()))
    return list(draw.choice(list(shares), count, p=weights / weights.sum()))


def _write_findings(folder: Path, rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["series_uid", "x", "y", "z", "label"], *rows])
    write_atomic(folder / FINDINGS, text.getvalue().encode())


def _spoil(hospital: Path) -> None:
    """What every archive export has: a slice lost, a file twice, a file that is no image."""
    first, second, *_ = sorted((hospital / "DICOM").iterdir())
    slices = sorted(first.rglob("IM*"))
    slices[len(slices) // 2].unlink()
    one = sorted(second.rglob("IM*"))[0]
    shutil.copyfile(one, one.with_name(f"{one.name}-copy"))
    (second / "letter.txt").write_text("Dear colleague, thank you for sending this phantom.\n")


def _protocol(example: StudyProtocol, training: dict[str, int]) -> StudyProtocol:
    """The protocol of the first run, for CT series and these hospitals, in three rounds."""
    fields = with_roster(example, training).model_dump(
        by_alias=True, exclude_none=True, mode="json"
    )
    fields["study"], fields["rounds"] = STUDY, 3
    fields["images"]["validation-fraction"] = _VALIDATION_FRACTION
    fields["images"]["ct"] = {"size-mm": PATCH_MM, "hu-low": -1000.0, "hu-high": 400.0}
    fields["evaluation"]["every"] = 1
    fields["training"]["learning-rate"] = _LEARNING_RATE
    return parse_protocol(tomli_w.dumps(fields))
