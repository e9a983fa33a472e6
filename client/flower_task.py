"""One message of Flower's at the relay: take it from the SuperNode, have it relayed, give the reply.

Flower's own process would unpack the bundle, put it first on the import path and run what it names.
Here nothing of a bundle is ever unpacked: the ClientApp is the installed one, and a bundle that is not
the one of this very version is refused by its hash. Nor does the text of an exception reach the
SuperNode, which would send it on (FLOWER.md 4e): the reply is made by client/app.py, and whatever fails
here ends this process, which pushes nothing.
"""

import logging

from flwr.app import Message
from flwr.common.constant import SubStatus
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import (
    pull_task_input,
    push_message,
    push_task_output,
)

from client.app import app, reply_to
from common import messages
from common.bundle import bundle_hash
from common.errors import VersionError

log = logging.getLogger("intramural.relay")


def carry_out(address: str, token: str) -> None:
    """Carry out the task of `token`, from the SuperNode's Runtime API at `address` (loopback)."""
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
            RuntimeTokenHttpInterceptor(token),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    alive = HeartbeatSender(make_task_heartbeat_fn_http(client))
    alive.start()
    message, context, _, fab = pull_task_input(client)
    ours = fab.hash_str == bundle_hash()
    reply = app(message, context) if ours else refusal(message, fab.hash_str)
    try:
        push_message(client, reply, context)
    except ObjectPushError:  # the SuperNode has let go of it: the run was stopped meanwhile
        log.warning("nobody takes this reply any more; it is sealed, and can be asked for again")
    push_task_output(client=client, context=context, sub_status=SubStatus.COMPLETED, details="")
    alive.stop()
    client.close()


def refusal(message: Message, found: str) -> Message:
    """The reply to a message that came with another bundle than this version's own."""
    error = VersionError(
        f"expected the bundle {bundle_hash()[:12]} of this version and found {found[:12]}; "
        f"coordinator and hospital must run the same version of intramural"
    )
    log.warning("refused: %s: %s", error.code, error)
    return reply_to(message, messages.Refusal.of(error))
