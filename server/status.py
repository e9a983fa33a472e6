"""How things stand at the coordinator: run, round, who is in and who is late, epsilon, certificates."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from common.keys import days_left, load_certificate
from common.protocol import StudyProtocol, load_protocol
from server.checkpoint import RoundRecord
from server.coordinator import running
from server.flags import WORDS, rounds_flagged
from server.home import SERVER_CERTIFICATE, Home, Outcome, Wanted
from server.page import runs
from server.roster import load_roster
from server.spent import epsilon_stated


def status(home: Home, *, epsilon: bool = True) -> dict[str, Any]:
    """Everything that `intramural-server status --json` says. `epsilon` loads an accountant (2 s)."""
    now = datetime.now(UTC)
    alive = running(home)
    found: dict[str, Any] = {
        "coordinator": "running" if alive else "not running",
        "services": _json(home.state).get("services", {}) if alive else {},
        "run": None,
        "certificate_days_left": {
            "ca": days_left(load_certificate(home.ca), now),
            "server": days_left(load_certificate(home.path / SERVER_CERTIFICATE), now),
        },
        "hospitals": {
            member.hospital: {
                "days_left": member.days_left(now),
                "nominal_patients": member.nominal_patients,
            }
            for member in load_roster(home.roster).members
        },
    }
    wanted = Wanted.load(home)
    if wanted is not None:
        found["run"] = run_status(home.runs / wanted.run, alive, found["hospitals"], epsilon)
    return found


def run_status(
    folder: Path, alive: bool, hospitals: dict[str, dict[str, Any]], epsilon: bool
) -> dict[str, Any]:
    """The run in `folder`, whether its coordinator is `alive`; adds what each of `hospitals` does in it."""
    protocol = load_protocol(folder / "protocol.toml")
    records = closed_rounds(folder)
    ended, now = Outcome.load(folder), _json(folder / "status.json")
    for name in protocol.hospital_names:
        about = hospitals.setdefault(name, {"days_left": None})
        about["nominal_patients"] = protocol.hospital(name).nominal_patients
        about |= now.get("hospitals", {}).get(name, {"state": "never seen", "connected": False})
        about["rounds_in"] = sum(name in record.answered for record in records)
        about["flags"] = {
            code: rounds
            for (whose, code), rounds in rounds_flagged(records).items()
            if whose == name
        }
        about["epsilon"] = epsilon_stated(protocol, records, name) if epsilon else None
    return {
        "name": folder.name,
        "study": protocol.digest,
        "state": ended.stopped if ended else "under way" if alive else "waits for the coordinator",
        "detail": ended.detail if ended else "",
        "round": now.get("round", len(records)),
        "rounds": protocol.rounds,
        "rounds_closed": len(records),
        "round_started": now.get("round_started"),
        "deadline_seconds": protocol.participation.deadline_seconds,
        "delta": protocol.privacy.delta,
    }


def closed_rounds(folder: Path) -> list[RoundRecord]:
    """What is known of each closed round of the run in `folder`."""
    try:
        lines = (folder / "rounds.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [RoundRecord.read(json.loads(line)) for line in lines]


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found
    except (FileNotFoundError, ValueError):
        return {}


def as_table(found: dict[str, Any]) -> RenderableType:
    """`found`, from `status`, for a terminal."""
    run = found["run"]
    under_way = run is not None and run["state"] == "under way"
    table = Table(show_edge=False, pad_edge=False)
    for column in (
        "hospital",
        "patients",
        "state",
        "connected",
        "rounds in",
        "epsilon",
        "days left",
    ):
        side: JustifyMethod = "left" if column in ("hospital", "state") else "right"
        table.add_column(column, justify=side, overflow="fold")
    for name, about in found["hospitals"].items():
        spent = about.get("epsilon")
        table.add_row(
            name,
            str(about["nominal_patients"]),
            " ".join(filter(None, (about.get("state", "on the roster"), about.get("code")))),
            _since(about) if "connected" in about and under_way else "",
            str(about.get("rounds_in", "")),
            "" if spent is None else f"{spent:.2f}",
            "not on the roster" if about["days_left"] is None else str(about["days_left"]),
        )
    days = found["certificate_days_left"]
    lines = [f"coordinator: {found['coordinator']}"]
    lines += [
        f"  {name}: process {about['pid']}, {about['restarts']} restarts"
        for name, about in found["services"].items()
    ]
    lines.append(f"certificates: server {days['server']} days left, authority {days['ca']}")
    if run is not None:
        lines.append(
            f"run {run['name']}: {run['state']}, {_where(run['round'], run['rounds'])} "
            f"({run['rounds_closed']} of {run['rounds']} rounds closed) {run['detail']}".rstrip()
        )
        lines.append(f"epsilon at delta {run['delta']:g}, from the noise that each hospital states")
    warned = [
        Text(f"warning: {name}: {WORDS[code]} (round {runs(rounds)})", style="yellow")
        for name, about in found["hospitals"].items()
        for code, rounds in about.get("flags", {}).items()
    ]
    return Group(Text("\n".join(lines)), table, *warned)


def _since(about: dict[str, Any]) -> str:
    if "since" not in about:
        return "never"
    ago = max(0.0, time.time() - about["since"])
    span = f"{ago:.0f} s" if ago < 120 else f"{ago / 60:.0f} min"
    return f"for {span}" if about["connected"] else f"gone for {span}"


def one_line(folder: Path, protocol: StudyProtocol) -> str:
    """The run's state in a line, for where there is no terminal; the same as long as nothing changes."""
    now = _json(folder / "status.json")
    hospitals, seen = now.get("hospitals", {}), {"state": "never seen"}
    states = [f"{name} {hospitals.get(name, seen)['state']}" for name in protocol.hospital_names]
    return f"{_where(now.get('round', 0), protocol.rounds)}: {', '.join(states)}"


def _where(server_round: int, rounds: int) -> str:
    return "final evaluation" if server_round > rounds else f"round {server_round}/{rounds}"
