"""A hospital behind a bad line: cut in the middle of an upload, gone for a while, slow.

The line is a proxy of the test's own between one hospital and the gateway. It sees TLS and no content.
"""

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from common.tasks.nodule_classification.study import NoduleStudy
from tests.consortium import Consortium, deployable

SmallStudy = Callable[..., NoduleStudy]
Row = Callable[[str, str, str], None]

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

UPDATE_BYTES = 4 * 60_530  # the compact CNN, float32
WINDOW_SECONDS = 3.0  # an upload is faster, and the polling around it is far smaller


class Line:
    """Forwards connections to `port`; `cut_at` bytes of an upload it breaks once; can be down, or slow."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._links: set[socket.socket] = set()
        self._sent: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()
        self.cut_at: float | None = None
        self.cuts = 0
        self.down = False
        self.bytes_per_second: float | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            if self.down:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                near.close()
                continue
            self._links |= {near, far}
            threading.Thread(target=self._forward, args=(near, far), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        with near, far:
            back = threading.Thread(target=self._pump, args=(far, near, False), daemon=True)
            back.start()
            self._pump(near, far, up=True)
            back.join()

    def _pump(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(16_384):
                if self.bytes_per_second is not None:
                    time.sleep(len(data) / self.bytes_per_second)
                target.sendall(data)
                if up and self._due(len(data)):
                    self.hang_up()
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _due(self, sent: int) -> bool:
        with self._lock:
            now = time.monotonic()
            self._sent.append((now, sent))
            while self._sent[0][0] < now - WINDOW_SECONDS:
                self._sent.popleft()
            if self.cut_at is None or sum(n for _, n in self._sent) < self.cut_at:
                return False
            self.cut_at = None
            self.cuts += 1
            return True

    def hang_up(self) -> None:
        """Break every connection, in both directions, with nothing said."""
        links, self._links = self._links, set()
        for link in links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.hang_up()
        time.sleep(0.5)  # for the threads to let go of their sockets


@pytest.fixture
def consortium(small_study: SmallStudy) -> Iterator[Consortium]:
    study = small_study(north=8, west=6, quorum=2).model_copy(update={"rounds": 6})
    found = Consortium(deployable(study, **{"retry-seconds": 60.0}))
    yield found
    found.close()


@pytest.fixture
def line(consortium: Consortium) -> Iterator[Line]:
    assert consortium.study.coordinator is not None
    found = Line(consortium.study.coordinator.port)
    file = consortium.hospital("north") / "connection.toml"
    consortium.edit(file, coordinator=f"127.0.0.1:{found.port}")
    yield found
    found.close()


def test_a_cut_upload_a_lost_line_and_a_slow_one_lose_nothing(
    consortium: Consortium, line: Line, row: Row
) -> None:
    consortium.start_all()
    consortium.run_detached()
    consortium.until_closed(1)
    for share in (0.3, 0.7, 1.0):
        before, cuts = consortium.closed(), line.cuts
        line.cut_at = share * UPDATE_BYTES
        consortium.until(lambda c=cuts: line.cuts > c, 60, f"a cut at {share:.0%}")  # type: ignore[misc]
        at = time.monotonic()
        consortium.until_closed(before + 1, 120)
        took = f"round closed after {time.monotonic() - at:.1f} s"
        row("R6", f"cut at {share:.0%} of an upload", took)
    # Ten minutes, scaled down: longer than Flower's pauses, and than nothing.
    before = consortium.closed()
    line.down = True
    line.hang_up()
    time.sleep(20)
    line.down = False
    consortium.until_closed(before + 1, 150)
    line.bytes_per_second = 60_000
    consortium.until(consortium.outcome, 200, "the run ends over a slow line")
    outcome = consortium.outcome()
    assert outcome is not None
    assert outcome["stopped"] == "finished"
    for record in consortium.records():
        assert record["answered"] == ["north", "west"]
    for name in consortium.study.hospital_names:
        assert consortium.spends(name) == (6, 7)
    assert consortium.model() == consortium.rehearsed()
    row("R6", "these, then 20 s gone, then 60 kB/s", "bitwise the rehearsal; spent once")


def test_a_line_that_stays_down_closes_the_round_by_its_deadline_with_the_hospital_named(
    small_study: SmallStudy, row: Row
) -> None:
    study = small_study(north=8, west=6, quorum=1).model_copy(update={"rounds": 2})
    consortium = Consortium(deployable(study, **{"deadline-seconds": 30.0}))
    assert consortium.study.coordinator is not None
    line = Line(consortium.study.coordinator.port)
    try:
        file = consortium.hospital("north") / "connection.toml"
        consortium.edit(file, coordinator=f"127.0.0.1:{line.port}")
        consortium.start_all()
        consortium.run_detached()
        consortium.until_closed(1)
        began = time.monotonic()
        line.down = True
        line.hang_up()
        consortium.until(consortium.outcome, 150, "the run ends")
        assert time.monotonic() - began < 2 * 30.0 + 30.0
        second = consortium.records()[1]
        assert (second["answered"], second["missing"]) == (["west"], ["north"])
        row("R6", "line down for good", "round closed by its deadline, hospital named")
    finally:
        line.close()
        consortium.close()
