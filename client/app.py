"""The relay: a Flower ClientApp that passes one typed message to the vault and the reply back.

It has the network and sees no patient: it loads no torch, no data, no ledger and no policy. Flower
sends the text of an exception to the coordinator (FLOWER.md 4e), so none escapes from here, of whatever
class. Two kinds go on, since they end the process and not the message, and both without their text:
KeyboardInterrupt, and SystemExit with its number. If not even a refusal can be made, Flower is given an
error of ours, with a fixed text and nothing behind it.

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
from client.redaction import in_words
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
            log.warning("not relayed: %s: %s", error.code, in_words(error))
            reply = messages.Refusal.of(error)
        except BaseException as error:  # Rust's panics are no Exception
            _end_if_told(error)
            log.error("unexpected error: %s", in_words(error))
            reply = messages.Refusal.of(InternalError())
        return reply_to(message, reply)

    app = ClientApp()
    app.train()(relay)
    app.evaluate()(relay)
    app.query()(relay)
    return app


def reply_to(message: Message, reply: messages.Message) -> Message:
    """Flower's message that carries `reply`, or an InternalError's refusal if that cannot be made.

    InternalError with a fixed text, and no other exception behind it, if neither can.
    """
    for content in (reply, messages.Refusal.of(InternalError())):
        try:
            return Message(records.to_records(content), reply_to=message)
        except BaseException as error:
            _end_if_told(error)
            log.error("no reply can be made: %s", in_words(error))
    raise InternalError(InternalError.public_text)  # outside of `except`: it has no context


def _end_if_told(error: BaseException) -> None:
    """Go on ending this process, if that is what `error` does, without its text."""
    if isinstance(error, KeyboardInterrupt):
        raise KeyboardInterrupt from None
    if isinstance(error, SystemExit):
        raise SystemExit(error.code if isinstance(error.code, int) else 1) from None


def _deployed_vault(_: Context) -> Channel:
    path = os.environ.get(VAULT_SOCKET)
    if not path:
        raise ChannelError(
            f"expected the path of the vault's socket as {VAULT_SOCKET} in the environment and "
            f"found none; start the relay with intramural-client start"
        )
    return partial(ask, Path(path))


app = make_app(_deployed_vault)
