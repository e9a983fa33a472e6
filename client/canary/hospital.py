"""A hospital of synthetic patients whose name stands wherever a patient's name can stand."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from client.approval import approve, begin
from client.canary.names import TEXT
from client.policy import Limits, SitePolicy
from common import messages
from common.files import write_atomic
from common.messages import EvaluateRequest, TrainRequest
from common.model_spec import model_of
from common.protocol import StudyProtocol

if TYPE_CHECKING:
    from client.canary.injecting import Fault

DATA = "data"  # below the hospital's folder: there the name may stand, and nowhere else


class Planted(Protocol):
    """One task's synthetic patients: a module of the task's name in `client.canary.planted`.

    `STUDY` is of one hospital and few rounds; `LAYOUTS` are the ways in which its patients' files may
    lie, the usual one first; `FAULTS` are those of what reads them, by group.
    """

    STUDY: StudyProtocol
    LAYOUTS: Sequence[str]
    FAULTS: "Mapping[str, Sequence[Fault]]"

    def plant(self, folder: Path, layout: str) -> tuple[list[Path], Path]:
        """Write the patients into `folder`: their files, and the table that says whose they are."""


class Hospital:
    """Made in the new folder `folder`: patients, approved policy, books; `renew` puts it back to that."""

    def __init__(self, folder: Path, planted: Planted, layout: str) -> None:
        self.folder = folder
        self.study = planted.STUDY
        self.data = folder / DATA / TEXT
        self.state = folder / "state"
        self.state.mkdir(parents=True, mode=0o700)
        self.data.mkdir(parents=True)
        self.files, self.table = planted.plant(self.data, layout)
        site = folder / "site.toml"
        write_atomic(site, self._written_policy().to_toml().encode())
        begin(self.state)
        self.policy = approve(site, self.study)
        self._kept = folder.with_name(f"{folder.name}.kept")
        shutil.copytree(folder, self._kept, symlinks=True)

    def renew(self, below: str = "") -> None:
        """Put the hospital back as it was made, or only what is `below` its folder."""
        shutil.rmtree(self.folder / below)
        shutil.copytree(self._kept / below, self.folder / below, symlinks=True)

    def _written_policy(self) -> SitePolicy:
        return SitePolicy(
            hospital=self.study.hospital_names[0],
            data=self.data,
            state=self.state,
            patient_id_pattern=r"(?P<patient>.+)~\d+",  # for files that alone say whose they are
            device="cpu",
            approved_studies=(),
            max_epsilon=self.study.privacy.epsilon,
            limits=Limits.just_for(self.study),
        )


def requests(study: StudyProtocol) -> list[messages.Request]:
    """What a coordinator asks in the study: every round, and how good the last model is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = model_of(study)
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    text, rounds = study.to_toml(), study.rounds
    asked: list[messages.Request] = [
        TrainRequest(protocol=text, round=r, arrays=arrays) for r in range(1, rounds + 1)
    ]
    if study.evaluates(rounds + 1):
        asked.append(EvaluateRequest(protocol=text, round=rounds + 1, arrays=arrays))
    return asked
