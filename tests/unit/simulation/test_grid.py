"""The in-process grid: real messages through bytes, threads, and a transport that can be unkind."""

import threading
import time
from collections.abc import Iterator

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from simulation.grid import LocalGrid, Transport, unchanged


def echo_app(seen: list[int]) -> ClientApp:
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        seen.append(int(context.node_config["partition-id"]))
        said = message.content.config_records["ask"]["word"]
        return Message(RecordDict({"answer": ConfigRecord({"said": said})}), reply_to=message)

    return app


@pytest.fixture
def seen() -> list[int]:
    return []


def grid_of(seen: list[int], transport: Transport = unchanged, workers: int = 2) -> LocalGrid:
    return LocalGrid(echo_app(seen), 3, workers=workers, transport=transport)


@pytest.fixture
def grid(seen: list[int]) -> Iterator[LocalGrid]:
    made = grid_of(seen)
    yield made
    made.close()


def ask(node: int, word: str) -> Message:
    return Message(RecordDict({"ask": ConfigRecord({"word": word})}), node, "query")


def collect(grid: LocalGrid, ids: list[str], seconds: float = 20) -> list[Message]:
    found: list[Message] = []
    until = time.monotonic() + seconds
    while len(found) < len(ids) and time.monotonic() < until:
        found += grid.pull_messages(ids)
    return found


def test_each_node_answers_its_own_message(grid: LocalGrid, seen: list[int]) -> None:
    nodes = list(grid.get_node_ids())
    ids = list(grid.push_messages([ask(node, f"word {node}") for node in nodes]))
    replies = collect(grid, ids)
    said = {r.metadata.src_node_id: r.content["answer"]["said"] for r in replies}
    assert said == {node: f"word {node}" for node in nodes}
    assert {r.metadata.reply_to_message_id for r in replies} == set(ids)
    assert sorted(seen) == [0, 1, 2]


def test_a_reply_is_pulled_once_and_only_by_its_id(grid: LocalGrid) -> None:
    (first,) = grid.push_messages([ask(2, "a")])
    (second,) = grid.push_messages([ask(3, "b")])
    assert len(collect(grid, [second])) == 1
    assert len(collect(grid, [first])) == 1
    assert list(grid.pull_messages([first, second])) == []


def test_a_message_does_not_share_memory_with_its_sender(grid: LocalGrid) -> None:
    message = ask(2, "before")
    ids = list(grid.push_messages([message]))
    message.content.config_records["ask"]["word"] = "after"
    assert collect(grid, ids)[0].content["answer"]["said"] == "before"


@pytest.mark.slow
def test_a_lost_reply_never_arrives_and_a_slow_one_holds_up_nobody(seen: list[int]) -> None:
    release = threading.Event()

    def transport(node: int, reply: bytes) -> bytes | None:
        if node == 2:
            return None
        if node == 3:
            release.wait(20)
        return reply

    grid = grid_of(seen, transport, workers=3)
    ids = list(grid.push_messages([ask(node, "x") for node in (2, 3, 4)]))
    assert [r.metadata.src_node_id for r in collect(grid, ids, seconds=1)] == [4]
    release.set()
    assert [r.metadata.src_node_id for r in collect(grid, ids, seconds=2)] == [3]
    grid.close()


def test_the_transport_sees_bytes_and_may_change_them(seen: list[int]) -> None:
    def tamper(_: int, reply: bytes) -> bytes:
        return reply.replace(b"secret", b"public")

    grid = grid_of(seen, tamper)
    ids = list(grid.push_messages([ask(2, "secret")]))
    assert collect(grid, ids)[0].content["answer"]["said"] == "public"
    grid.close()
