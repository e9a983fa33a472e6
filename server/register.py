"""Flower's register of nodes, kept like the roster: who is approved is registered, who is not is removed."""

from datetime import UTC, datetime
from pathlib import Path

from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from common.keys import parse_public_key
from server.roster import Roster, change_roster, load_roster


def keep_register(client: ControlHttpClient, path: Path) -> None:
    """Make Flower's register like the roster in the file `path`, and write node ids into that.

    A node whose key is not on the roster, or has expired, is unregistered; its SuperNode then ends
    by itself. httpx.HTTPError when the SuperLink does not answer: it is tried again later.
    """
    roster, now = load_roster(path), datetime.now(UTC)
    wanted = {
        public_key_to_bytes(parse_public_key(member.public_key)): member
        for member in roster.members
        if member.valid(now)
    }
    found: dict[str, int] = {}
    for node in client.ListNodes(ListNodesRequest()).nodes_info:
        if node.status == NodeStatus.UNREGISTERED:
            continue
        member = wanted.get(node.public_key)
        if member is None:
            client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
        else:
            found[member.hospital] = node.node_id
    for key, member in wanted.items():
        if member.hospital not in found:
            request = RegisterNodeRequest(public_key=key, name=member.hospital)
            found[member.hospital] = client.RegisterNode(request).node_id
    if any(found.get(m.hospital) != m.node_id for m in wanted.values()):
        change_roster(path, lambda current: with_node_ids(current, found))


def with_node_ids(roster: Roster, found: dict[str, int]) -> Roster:
    """`roster` with the node ids in `found`, by hospital."""
    for member in roster.members:
        if member.hospital in found:
            node = {"node_id": found[member.hospital]}
            roster = roster.with_member(member.model_copy(update=node))
    return roster
