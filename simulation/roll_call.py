"""Which node is which hospital, by asking every connected node for its name.

For a rehearsal, where all nodes are ours: a name is claimed and not proven. In a deployment the
roster's keys say it (server/attendance.py).
"""

import time

from flwr.app import Message
from flwr.serverapp import Grid

from common import messages, records
from common.errors import RunError
from common.protocol import StudyProtocol
from server.admission import NotAdmitted
from server.asking import Attendance, Present, opened

HELLO_SECONDS = 60.0
POLL_SECONDS = 0.02


def roll_call(grid: Grid, protocol: StudyProtocol) -> Attendance:
    """The hospitals that answered, for the whole run; RunError when two nodes claim one name, or
    when fewer than the quorum have answered within a minute."""
    hello = records.to_records(messages.HelloRequest())
    asked: set[str] = set()
    nodes: set[int] = set()
    found: dict[str, Present] = {}
    until = time.monotonic() + min(HELLO_SECONDS, protocol.participation.deadline_seconds)
    while time.monotonic() < until and len(found) < len(protocol.hospitals):
        new = set(grid.get_node_ids()) - nodes
        nodes |= new
        asked |= set(
            grid.push_messages(
                [Message(hello, dst_node_id=node, message_type="query") for node in sorted(new)]
            )
        )
        arrived = list(grid.pull_messages(list(asked)))
        for message in arrived:
            asked.discard(message.metadata.reply_to_message_id)
            try:
                reply = opened(message)
            except NotAdmitted:
                continue
            if isinstance(reply, messages.HelloReply) and reply.hospital in protocol.hospital_names:
                if reply.hospital in found:
                    raise RunError(f"two nodes say that they are hospital '{reply.hospital}'")
                found[reply.hospital] = Present(message.metadata.src_node_id)
        if not arrived:
            time.sleep(POLL_SECONDS)
    if len(found) < protocol.participation.quorum:
        raise RunError(
            f"expected at least {protocol.participation.quorum} of the hospitals "
            f"{', '.join(protocol.hospital_names)}, found {', '.join(sorted(found)) or 'none'}"
        )
    return lambda: found
