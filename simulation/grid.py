"""An in-process Flower Grid: real Messages, through bytes, to the real ClientApp of each hospital.

Hospitals work in a few threads, so that a slow one meets the round's deadline as it would over a
network. `transport` sees every reply's bytes on their way and may drop, delay or change them.
"""

import random
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from flwr.app import Context, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

Transport = Callable[[int, bytes], bytes | None]  # node id, reply -> reply, or None when it is lost

FIRST_NODE = 2  # Flower keeps 1 for the SuperLink
PULL_SECONDS = 1.0


def unchanged(node: int, reply: bytes) -> bytes:  # noqa: ARG001  (the signature of a Transport)
    """The transport of a perfect network."""
    return reply


class LocalGrid(Grid):
    """Nodes, each an instance of `app` with its own "partition-id" 0..n-1; `context` is the server's."""

    def __init__(
        self, app: ClientApp, nodes: int, *, workers: int = 1, transport: Transport = unchanged
    ) -> None:
        self._app = app
        self._transport = transport
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="hospital")
        self._pending: dict[str, Future[bytes | None]] = {}
        self._run = Run.create_empty(run_id=random.SystemRandom().getrandbits(62))
        self.context = self._context(SUPERLINK_NODE_ID, {})
        self._contexts = {
            node: self._context(node, {"partition-id": node - FIRST_NODE, "num-partitions": nodes})
            for node in range(FIRST_NODE, FIRST_NODE + nodes)
        }
        # A Message takes its sender from this; Flower's runtime sets it in a process of its own.
        TaskIdentity.run_id = self._run.run_id
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        TaskIdentity.task_id = 1

    def _context(self, node: int, node_config: UserConfig) -> Context:
        return Context(
            run_id=self._run.run_id,
            node_id=node,
            node_config=node_config,
            state=RecordDict(),
            run_config={},
        )

    def close(self) -> None:
        """Wait for the hospitals that are at work; what they have sealed is used on a resume."""
        self._workers.shutdown(wait=True, cancel_futures=True)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        pushed = []
        for message in messages:
            message_id = f"{random.SystemRandom().getrandbits(128):032x}"
            message.metadata.__dict__["_message_id"] = message_id  # as Flower's own grids do
            request = message_to_proto(message).SerializeToString()
            self._pending[message_id] = self._workers.submit(
                self._deliver, message.metadata.dst_node_id, request
            )
            pushed.append(message_id)
        return pushed

    def _deliver(self, node: int, request: bytes) -> bytes | None:
        message = message_from_proto(ProtoMessage.FromString(request))
        reply = self._app(message, self._contexts[node])
        return self._transport(node, message_to_proto(reply).SerializeToString())

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = {m: self._pending[m] for m in message_ids if m in self._pending}
        wait(wanted.values(), timeout=PULL_SECONDS, return_when=FIRST_COMPLETED)
        replies = []
        for message_id, future in wanted.items():
            if future.done():
                del self._pending[message_id]
                reply = future.result()
                if reply is not None:
                    replies.append(message_from_proto(ProtoMessage.FromString(reply)))
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise NotImplementedError("intramural's round loop pushes and pulls; see server/rounds.py")
