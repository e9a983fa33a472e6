"""Which rostered hospital is connected, by the keys with which nodes have proven who they are."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx
from flwr.serverapp import Grid
from flwr.superlink.grid import HttpGrid

from common.errors import RunError
from common.protocol import StudyProtocol
from server.app import Attend
from server.asking import Attendance, Present
from server.roster import load_roster

LOOK_SECONDS = 1.0  # between two looks at the SuperLink's nodes


def rostered(roster: Path) -> Attend:
    """Hospitals of the protocol that the roster in the file `roster` admits now, and that are connected.

    The roster is read again at each look: who is approved joins, who is revoked or has expired
    leaves, at the next question. Whatever else is connected is not looked at.
    """

    def attend(grid: Grid, protocol: StudyProtocol) -> Attendance:
        if not isinstance(grid, HttpGrid):
            raise RunError("a deployment needs Flower's own grid; rehearsals ask for names instead")
        seen: Mapping[str, Present] = {}
        looked = float("-inf")

        def present() -> Mapping[str, Present]:
            nonlocal seen, looked
            if time.monotonic() - looked < LOOK_SECONDS:
                return seen
            now = datetime.now(UTC)
            admitted = {
                member.node_id: member.hospital
                for member in load_roster(roster).members
                if member.valid(now) and member.hospital in protocol.hospital_names
            }
            try:
                nodes = grid.get_nodes()
            except httpx.HTTPError:
                return seen  # the SuperLink is being restarted; who was there still is, or will be
            seen = {
                admitted[node.node_id]: Present(node.node_id, node.last_activated_at)
                for node in nodes
                if node.node_id in admitted
            }
            looked = time.monotonic()
            return seen

        return present

    return attend
