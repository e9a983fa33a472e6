"""Coordinators' homes as their own processes write them, without those processes: for the live page."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from common.keys import make_private_key, public_text
from common.tasks.nodule_classification.study import NoduleStudy
from server.checkpoint import Checkpoints, RoundRecord, State
from server.deployed import StatusFile
from server.home import Home, Outcome, Wanted
from server.provision import initialise
from server.roster import Member, Roster, change_roster

NAMES = ("aachen", "bergen", "cluj", "dijon", "evora")
COHORTS = dict(zip(NAMES, (220, 140, 90, 48, 30), strict=True))
CELLS = np.linspace(-1, 1, 16)


def protocol(name: str = "lung-nodules", rounds: int = 20, **changes: Any) -> NoduleStudy:
    fields: dict[str, Any] = {
        "study": name,
        "rounds": rounds,
        "images": {"classes": ["benign", "malignant"], "size": 32},
        "training": {"steps-per-round": 4, "learning-rate": 0.03, "sampling-rate": 0.1},
        "participation": {"quorum": 3, "deadline-seconds": 600.0},
        "coordinator": {"names": ["127.0.0.1"], "port": 9443},
        "hospitals": [{"name": n, "nominal-patients": size} for n, size in COHORTS.items()],
    }
    return NoduleStudy.model_validate(fields | changes)


def record(number: int, **about: Any) -> RoundRecord:
    """A round in which all that are not in `refused` or `missing` answered, and the model got better."""
    refused, missing = about.get("refused", {}), about.get("missing", [])
    answered = [name for name in NAMES if name not in refused and name not in missing]
    chance = np.random.default_rng(number)
    apart = 0.25 + 0.5 * (1 - np.exp(-number / 6))
    rows = [
        120 * len(answered) * np.exp(-(((CELLS - centre) / 0.45) ** 2)) / 16
        + chance.normal(0, 3, 16)
        for centre in (-apart / 2, apart / 2)
    ]
    fields: dict[str, Any] = {
        "round": number,
        "seconds": 62.0 + 7 * np.sin(number),
        "answered": answered,
        "refused": {},
        "missing": [],
        "late": {},
        "noise": {name: 1.1 + 0.02 * NAMES.index(name) for name in answered},
        "heads": {},
        "histogram": [row.tolist() for row in rows],
        "histogram_noise": 3.0,
    }
    return RoundRecord(**(fields | about))


def provisioned(path: Path, study: NoduleStudy, **days: int) -> "MadeHome":
    """A home in `path` whose roster has all hospitals of `study`; certificates end in 300 or so many days."""
    path.mkdir(parents=True, exist_ok=True)
    given = path / "given.toml"
    given.write_text(study.to_toml())
    home = Home(path / "coordinator")
    initialise(home.path, given)
    now = datetime.now(UTC).replace(microsecond=0)
    members = tuple(
        Member(
            hospital=name,
            public_key=public_text(make_private_key().public_key()),
            nominal_patients=study.hospital(name).nominal_patients,
            approved=now,
            expires=now + timedelta(days=days.get(name, 300), hours=1),
        )
        for name in study.hospital_names
    )
    change_roster(home.roster, lambda _: Roster(members=members))
    return MadeHome(home, study)


@dataclass
class MadeHome:
    """A home and the run in it of `study`; each method does what one process would write."""

    home: Home
    study: NoduleStudy

    @property
    def run(self) -> Path:
        return self.home.runs / f"{self.study.study}-{self.study.digest[:8]}"

    def begin(self) -> None:
        self.run.mkdir(parents=True)
        (self.run / "protocol.toml").write_text(self.study.to_toml())
        Wanted(run=self.run.name).save(self.home)

    def close(self, *records: RoundRecord) -> None:
        """What the checkpoints leave when these are all the closed rounds."""
        arrays = {"bias": np.zeros(2, dtype=np.float32)}
        state = State(round=len(records), arrays=arrays, records=records)
        Checkpoints(self.run, self.study).save(state)

    def observer(self) -> StatusFile:
        """Writes the run's status.json."""
        return StatusFile(self.run, self.study.rounds)

    def end(self, stopped: Any, **about: Any) -> None:
        Outcome(stopped=stopped, **about).save(self.run)
