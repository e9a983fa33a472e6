"""For tests of the reviewer pack: its files, and what a coordinator would have recorded."""

import io
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from client.__main__ import app
from client.approval import approve
from client.egress_log import EgressLog
from client.ledger import Account, Ledger, Spend
from client.pack.archive import pack_files, zipped
from client.pack.dossier import Dossier
from client.pack.quorum import Quorum
from client.policy import Limits, load_policy
from common.protocol import StudyProtocol
from common.tasks import task_of
from common.tasks.nodule_classification.study import NoduleStudy

MakeStudy = Callable[..., NoduleStudy]

NOW = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)


def two_rounds(office: Any, study: NoduleStudy) -> NoduleStudy:
    """`study`, of which the office has answered two rounds and approved the text."""
    office.answer(study, rounds=2, approved_studies=(study.digest,))
    approve(office.site, study)
    return study


def answered(office: Any, study: StudyProtocol, rounds: int = 2) -> StudyProtocol:
    """`study` of any task, of which the office has answered rounds and approved the text."""
    spends: dict[Account, Spend] = {"training": Spend(1.5, 0.25, 8)}
    if task_of(study).judge is not None:
        spends["validation"] = Spend(5.0, 1.0, 1)
    limits = Limits.just_for(study)
    office.answer(study, rounds, spends=spends, approved_studies=(study.digest,), limits=limits)
    approve(office.site, study)
    return study


def packed(dossier: Dossier, quorum: Quorum | None = None) -> dict[str, str]:
    """The pack's files as text, as they come out of the zip again."""
    files = zipped(pack_files(dossier, quorum, NOW), NOW)
    with zipfile.ZipFile(io.BytesIO(files)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


def pack(office: Any, *more: str) -> Any:
    return CliRunner().invoke(app, ["pack", "--site", str(office.site), *more])


def recorded(office: Any, study: StudyProtocol, **changes: Any) -> list[dict[str, Any]]:
    """What a coordinator that used both answers of the office has in its rounds.jsonl."""
    with Ledger.read(office.state) as ledger:
        heads = [r.head for r in ledger.reservations(study.digest)]
    approval = EgressLog(office.state).approval_of(load_policy(office.site).digest).hash
    return [
        {
            "round": number,
            "seconds": 1.5,
            "answered": ["north"],
            "refused": {},
            "missing": ["west"],
            "late": {},
            "noise": {"north": 1.5},
            "heads": {"north": head},
            "histogram": None,
            "histogram_noise": None,
            "policies": {"north": approval},
        }
        | changes
        for number, head in enumerate(heads, start=1)
    ]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
