"""Hospitals for a rehearsal: from phantoms or from a data folder, each with its own policy and ledger."""

import csv
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tomli_w
import torch
from numpy.typing import NDArray
from PIL import Image

from client.approval import approve, begin
from client.data import count_patients, hospital_folders
from client.data.split import is_validation_patient
from client.egress_log import EgressLog
from client.ledger import FILE as LEDGER_FILE
from client.policy import Device, Engine, Limits, SitePolicy
from common.errors import RunError, UnapprovedPolicyError
from common.files import write_atomic
from common.phantom import SCANNERS, phantom_patches, to_grey8
from common.protocol import Hospital, StudyProtocol, parse_protocol
from simulation.cores import share_of_cores

PATCHES_PER_PATIENT = (1, 4)
NODULE_FRACTION = 0.35


def with_roster(protocol: StudyProtocol, cohorts: Mapping[str, int]) -> StudyProtocol:
    """`protocol` with the hospitals `cohorts` (name -> nominal patients), all but one as quorum.

    For a rehearsal, where whoever runs it knows the cohorts; ProtocolError when the result is not
    a valid protocol.
    """
    fields = protocol.model_dump(by_alias=True, exclude_none=True, mode="json")
    fields["hospitals"] = [{"name": n, "nominal-patients": c} for n, c in cohorts.items()]
    fields["participation"]["quorum"] = max(1, len(cohorts) - 1)
    return parse_protocol(tomli_w.dumps(fields))


def many(protocol: StudyProtocol, count: int) -> StudyProtocol:
    """`protocol` with `count` hospitals of the sizes that its own roster has, in turn."""
    own = protocol.hospitals
    cohorts = {
        (own[i].name if i < len(own) else f"hospital-{i + 1:03d}"): own[
            i % len(own)
        ].nominal_patients
        for i in range(count)
    }
    return with_roster(protocol, cohorts)


def from_folder(
    protocol: StudyProtocol, root: Path, patient_id_pattern: str | None = None
) -> tuple[StudyProtocol, dict[str, Path]]:
    """The hospitals in `root`, and `protocol` with them as its roster.

    A protocol that names just these hospitals is kept as it is. Otherwise their numbers of training
    patients become the nominal cohort sizes. DataError names what is wrong with which file.
    """
    folders = hospital_folders(root)
    if set(folders) == set(protocol.hospital_names):
        return protocol, folders
    cohorts = {
        name: count_patients(path, protocol.images, patient_id_pattern)[0]
        for name, path in folders.items()
    }
    return with_roster(protocol, cohorts), folders


def from_phantoms(protocol: StudyProtocol, folder: Path, seed: int) -> dict[str, Path]:
    """Write an image folder of synthetic patients for every hospital; each has its own scanner.

    A hospital gets exactly its nominal number of training patients and the validation patients that
    their ids bring along. The same seed gives the same images.
    """
    scanners = list(SCANNERS.values())

    def make(index: int, hospital: Hospital) -> Path:
        counts = torch.Generator().manual_seed(seed * 10_000 + index)
        patients: list[str] = []
        training = 0
        while training < hospital.nominal_patients:
            patients.append(f"{hospital.name}-{len(patients):05d}")
            fraction = protocol.images.validation_fraction
            training += not is_validation_patient(patients[-1], fraction)
        low, high = PATCHES_PER_PATIENT
        patches = torch.randint(low, high + 1, (len(patients),), generator=counts).tolist()
        phantoms = phantom_patches(
            sum(patches),
            size=protocol.images.size,
            seed=seed * 10_000 + index,
            scanner=scanners[index % len(scanners)],
            nodule_fraction=NODULE_FRACTION,
        )
        owners = [patient for patient, n in zip(patients, patches, strict=True) for _ in range(n)]
        grey = to_grey8(phantoms.hu).numpy()
        labels = [protocol.images.classes[label] for label in phantoms.label.tolist()]
        _write_folder(folder / hospital.name / "data", grey, labels, owners)
        return folder / hospital.name / "data"

    with ThreadPoolExecutor(share_of_cores(len(protocol.hospitals))[0]) as workers:
        made = workers.map(make, range(len(protocol.hospitals)), protocol.hospitals)
        return dict(zip(protocol.hospital_names, made, strict=True))


def _write_folder(
    folder: Path, grey: NDArray[np.uint8], labels: list[str], owners: list[str]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "label", "patient_id"])
        for number, (pixels, label, owner) in enumerate(zip(grey, labels, owners, strict=True)):
            name = f"{number:05d}.png"
            Image.fromarray(pixels).save(folder / name, compress_level=1)
            rows.writerow([name, label, owner])


def settle(
    protocol: StudyProtocol,
    folder: Path,
    data: Mapping[str, Path],
    *,
    device: Device,
    noise_seed: int | None,
    engine: Engine = "book-keeping",
    patient_id_pattern: str | None = None,
) -> dict[str, Path]:
    """Write each hospital's site policy, begin its ledger, approve; hospital -> its `site.toml`.

    A hospital that exists keeps its ledger, since spends are for life. RunError when it was set up
    with another noise seed, which would change what a resumed run computes.
    """
    sites = {}
    for name in protocol.hospital_names:
        home = (folder / name).resolve()
        state = home / "state"
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        policy = SitePolicy(
            hospital=name,
            data=data[name].resolve(),
            state=state,
            patient_id_pattern=patient_id_pattern,
            device=device,
            engine=engine,
            approved_studies=(protocol.digest,),
            max_epsilon=max(protocol.privacy.epsilon, protocol.privacy.validation_epsilon),
            limits=Limits.just_for(protocol),
            rehearsal=True,
            noise_seed=noise_seed,
        )
        text = policy.to_toml()
        sites[name] = home / "site.toml"
        if sites[name].exists() and sites[name].read_text() != text:
            raise RunError(
                f"{sites[name]} was written for another study or other options; "
                f"resume with the same options, or choose another --name"
            )
        write_atomic(sites[name], text.encode())
        if not (state / LEDGER_FILE).exists():
            begin(state)
        try:
            EgressLog(state).approval_of(policy.digest)
        except UnapprovedPolicyError:
            approve(sites[name], protocol)
    return sites
