"""Hospitals for a rehearsal: from phantoms or from a data folder, each with its own policy and ledger."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tomli_w

from client.approval import approve, begin
from client.egress_log import EgressLog
from client.ledger import FILE as LEDGER_FILE
from client.policy import Device, Engine, Limits, SitePolicy
from client.readers import hospital_folders, reader_of
from client.readers.reader import Opening
from common.errors import RunError, UnapprovedPolicyError
from common.files import write_atomic
from common.protocol import Hospital, StudyProtocol, parse_protocol
from simulation.cores import share_of_cores
from simulation.phantoms import patient_ids, phantoms_of


def with_roster(protocol: StudyProtocol, cohorts: Mapping[str, int]) -> StudyProtocol:
    """`protocol` with the hospitals `cohorts` (name -> nominal patients), all but one as quorum.

    For a rehearsal, where whoever runs it knows the cohorts; ProtocolError when the result is not
    a valid protocol.
    """
    fields = protocol.model_dump(by_alias=True, exclude_none=True, mode="json")
    fields["hospitals"] = [{"name": n, "nominal-patients": c} for n, c in cohorts.items()]
    fields["participation"]["quorum"] = max(1, len(cohorts) - 1)
    if len(cohorts) == 1:  # what rules several has no meaning: a baseline's one hospital has it all
        fields["aggregation"].pop("max-share", None)
        fields["participation"].pop("mandatory", None)
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
    folders = hospital_folders(protocol.task, root)
    if set(folders) == set(protocol.hospital_names):
        return protocol, folders
    reader = reader_of(protocol.task)
    cohorts = {
        name: reader.count_patients(protocol, Opening(path, patient_id_pattern))[0]
        for name, path in folders.items()
    }
    return with_roster(protocol, cohorts), folders


def from_phantoms(protocol: StudyProtocol, folder: Path, seed: int) -> dict[str, Path]:
    """Write a folder of synthetic patients for every hospital, as the study's task reads them.

    A hospital gets exactly its nominal number of training patients and the validation patients that
    their ids bring along. The same seed gives the same patients.
    """
    phantoms = phantoms_of(protocol.task)

    def make(index: int, hospital: Hospital) -> Path:
        data = folder / hospital.name / "data"
        data.mkdir(parents=True, exist_ok=True)
        fraction = protocol.data.validation_fraction
        patients = patient_ids(hospital.name, hospital.nominal_patients, fraction)
        phantoms.write(protocol, data, patients, index, seed * 10_000 + index)
        return data

    with ThreadPoolExecutor(share_of_cores(len(protocol.hospitals))[0]) as workers:
        made = workers.map(make, range(len(protocol.hospitals)), protocol.hospitals)
        return dict(zip(protocol.hospital_names, made, strict=True))


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
