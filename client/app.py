"""The relay: a Flower ClientApp that passes one typed message to the vault and the reply back.

It has the network and sees no patient: it loads no torch, no data, no ledger and no policy. Flower
sends the text of an exception to the coordinator, so none may escape from here (FLOWER.md 4e).

`app` is the relay of a deployed hospital, which finds its vault at the socket that the launcher names
in the environment as `VAULT_SOCKET`.
"""

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.channel import VAULT_SOCKET, ask
from common import messages, records
from common.errors import ChannelError, InternalError, IntramuralError

log = logging.getLogger("intramural.relay")

Channel = Callable[[bytes], bytes]  # frame of a request to the vault -> frame of its reply


def make_app(connect: Callable[[Context], Channel]) -> ClientApp:
    """The ClientApp of a hospital; `connect` finds the vault of the hospital that `context` names."""

    def relay(message: Message, context: Context) -> Message:
        try:
            request = messages.encode(records.from_records(message.content))
            reply = messages.decode(connect(context)(request))
        except IntramuralError as error:
            log.warning("not relayed: %s: %s", error.code, error)
            reply = messages.Refusal.of(error)
        except Exception:
            log.exception("unexpected error")
            reply = messages.Refusal.of(InternalError())
        return Message(records.to_records(reply), reply_to=message)

    app = ClientApp()
    app.train()(relay)
    app.evaluate()(relay)
    app.query()(relay)
    return app


def _deployed_vault(_: Context) -> Channel:
    path = os.environ.get(VAULT_SOCKET)
    if not path:
        raise ChannelError(
            f"expected the path of the vault's socket as {VAULT_SOCKET} in the environment and "
            f"found none; start the relay with intramural-client start"
        )
    return partial(ask, Path(path))


app = make_app(_deployed_vault)
