"""Messages are waited for at the gateway: they come at once, and none is lost on a broken line."""

import inspect
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.supercore.protobuf.client import ProtobufClient

from server import gateway_app
from server.gateway_app import Gateway
from server.gateway_limits import encode_key
from tests.unit.server.gateway_rig import (
    PROTOBUF,
    Reply,
    Rig,
    SuperLink,
    make_files,
    raw_request,
    signed,
    wait_for,
)

pytestmark = pytest.mark.slow  # seconds together

MESSAGE = b"a message"
CALL = b"\x0a\x02\x08\x07"


class Mailbox:
    """The SuperLink's answers to pulls: a message is given once, then it counts as delivered."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.pulls = 0

    def reply(self, seen: Any) -> Reply:
        if not seen.target.endswith(b"pull-messages"):
            return Reply()
        self.pulls += 1
        return Reply(self.waiting.pop() if self.waiting else b"")


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def make_rig(
    tmp_path_factory: pytest.TempPathFactory, mailbox: Mailbox
) -> Iterator[Callable[..., Rig]]:
    files = make_files(tmp_path_factory.mktemp("tls"))
    superlink = SuperLink(files)
    superlink.reply = mailbox.reply
    rigs: list[Rig] = []

    def make(**limits: Any) -> Rig:
        rigs.append(Rig(files, superlink, **{"poll_seconds": 0.05, "hold_seconds": 10.0} | limits))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()
    superlink.close()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()


def begin_pull_and_leave(rig: Rig, mailbox: Mailbox, *, politely: bool) -> None:
    """A hospital's line breaks while it waits; `politely`, so that the gateway is told."""
    with rig.line() as line:
        line.sendall(raw_request(b"/v1/fleet/pull-messages", PROTOBUF | signed(rig.hospital), CALL))
        pulls = mailbox.pulls
        wait_for(lambda: mailbox.pulls > pulls)
        if politely:
            return
        # What is written to a line that goes nowhere seems to be sent: the gateway learns nothing.
        mailbox.waiting.append(MESSAGE)
        wait_for(lambda: not mailbox.waiting)


def test_no_message_is_zero_bytes() -> None:
    assert (
        PullMessagesResponse(messages_list=[], message_object_trees=[]).SerializeToString() == b""
    )
    assert PullMessagesResponse.FromString(b"") == PullMessagesResponse()


def test_a_message_comes_as_soon_as_it_is_there(rig: Rig, mailbox: Mailbox) -> None:
    with ThreadPoolExecutor(1) as pool:
        pull = pool.submit(rig.post, "pull-messages", CALL)
        wait_for(lambda: mailbox.pulls > 3)
        mailbox.waiting.append(MESSAGE)
        began = time.monotonic()
        assert pull.result(5).content == MESSAGE
        assert time.monotonic() - began < 1.0
    bodies = {seen.body for seen in rig.superlink.seen}
    signatures = {dict(seen.headers)[b"flwr-signature"] for seen in rig.superlink.seen}
    assert bodies == {CALL}
    assert len(signatures) == 1


def test_without_a_message_the_answer_is_empty_after_the_hold(
    make_rig: Callable[..., Rig], mailbox: Mailbox
) -> None:
    rig = make_rig(hold_seconds=0.5)
    began = time.monotonic()
    answer = rig.post("pull-messages", CALL)
    assert (answer.status_code, answer.content) == (200, b"")
    assert 0.4 < time.monotonic() - began < 2.0
    assert 4 < mailbox.pulls < 11


def test_the_hold_is_well_below_a_supernodes_own_time_limit() -> None:
    assert inspect.signature(ProtobufClient).parameters["timeout"].default == 30.0
    assert inspect.signature(Gateway).parameters["hold_seconds"].default == 12.0


def test_what_upstream_refuses_is_not_asked_again(rig: Rig) -> None:
    rig.superlink.reply = lambda _: Reply(b"", status=401)
    assert rig.post("pull-messages", CALL).status_code == 401
    assert len(rig.superlink.seen) == 1


def test_a_hospital_that_loses_access_while_it_waits_gets_nothing(
    rig: Rig, mailbox: Mailbox
) -> None:
    with ThreadPoolExecutor(1) as pool:
        pull = pool.submit(rig.post, "pull-messages", CALL)
        wait_for(lambda: mailbox.pulls > 1)
        rig.keys = {}
        assert pull.result(5).status_code == 401


def test_nothing_is_pulled_for_a_hospital_that_has_gone(rig: Rig, mailbox: Mailbox) -> None:
    begin_pull_and_leave(rig, mailbox, politely=True)
    time.sleep(0.2)
    pulls = mailbox.pulls
    mailbox.waiting.append(MESSAGE)
    time.sleep(0.3)
    assert (mailbox.pulls, mailbox.waiting) == (pulls, [MESSAGE])
    assert rig.post("pull-messages", CALL).content == MESSAGE


def test_a_message_that_went_to_a_broken_line_is_given_again_until_it_is_confirmed(
    rig: Rig, mailbox: Mailbox
) -> None:
    begin_pull_and_leave(rig, mailbox, politely=False)
    pulls = mailbox.pulls
    assert [rig.post("pull-messages", CALL).content for _ in range(2)] == [MESSAGE, MESSAGE]
    assert rig.post("send-node-heartbeat").status_code == 200  # from another thread: says nothing
    assert rig.post("pull-messages", CALL).content == MESSAGE
    assert mailbox.pulls == pulls
    for name in ("get-run", "get-fab", "pull-object", "confirm-message-received"):
        mailbox.waiting.append(b"another message")
        assert rig.post(name).status_code == 200
        assert rig.post("pull-messages", CALL).content == b"another message"


def test_a_message_is_not_given_again_once_the_superlink_has_given_up_on_the_hospital(
    make_rig: Callable[..., Rig], mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(hold_seconds=0.2)
    begin_pull_and_leave(rig, mailbox, politely=False)
    monkeypatch.setattr(gateway_app, "_UNCONFIRMED_S", 0.05)
    time.sleep(0.1)
    assert rig.post("pull-messages", CALL).content == b""


def test_a_message_is_given_again_to_its_own_hospital_only(rig: Rig, mailbox: Mailbox) -> None:
    begin_pull_and_leave(rig, mailbox, politely=False)
    assert rig.keys is not None
    other = rig.unknown
    rig.keys[encode_key(other.public_key())] = other.public_key()
    mailbox.waiting.append(b"for the other")
    answer = rig.client.post(
        "/v1/fleet/pull-messages", content=CALL, headers=PROTOBUF | signed(other)
    )
    assert answer.content == b"for the other"


def test_held_pulls_end_with_the_gateway(rig: Rig, mailbox: Mailbox) -> None:
    answers = []
    pull = threading.Thread(target=lambda: answers.append(rig.post("pull-messages", CALL)))
    pull.start()
    wait_for(lambda: mailbox.pulls > 1)
    began = time.monotonic()
    rig.server.should_exit = True
    pull.join(5)
    assert time.monotonic() - began < 2.0
    assert [(a.status_code, a.content) for a in answers] == [(200, b"")]
