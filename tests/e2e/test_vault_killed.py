"""Vaults that SIGKILL ends, at every boundary and at random moments: one release, one spend."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from dp_accounting.pld import privacy_loss_distribution

from client.ledger import Ledger, Spend
from client.policy import load_policy
from client.privacy.accounting import epsilon_of
from client.verification import verify
from common import messages
from common.messages import TrainReply, TrainRequest, fingerprint
from common.model_spec import model_of
from common.protocol import StudyProtocol
from common.tasks import USUAL
from common.tasks.nodule_classification.study import NoduleStudy
from simulation.hospitals import from_phantoms, settle
from tests.tasks import TASKS, small

SmallStudy = Callable[..., NoduleStudy]
Outcome = Literal["ended", "killed"]

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

# Imports once, which takes seconds, and then forks a new process for every line that it reads:
# site, request, where the reply goes, a place to die at, and the seconds after which to be killed.
# They count from the reservation (or from where a request goes on under an earlier one), since the
# accountants before it take longer than all the rest. What the parent itself does is import; no
# vault, ledger or accountant is ever used in it.
FORKS_VAULTS = """
import os, pkgutil, signal, sys, time
from pathlib import Path
import torch
from client.policy import load_policy
from client.vault import Vault

torch.set_num_threads(1)

def send(path, frame):
    Path(path + ".new").write_bytes(frame)
    Path(path + ".new").rename(path)

def plant(place, when, count):
    owner, _, name = place.rpartition(".")
    owner = sys.modules["__main__"] if owner == "driver" else pkgutil.resolve_name(owner)
    whole, calls = getattr(owner, name), 0

    def dying(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls == count and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = whole(*arguments, **named)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)

def start_clock(place, clock):
    owner, _, name = place.rpartition(".")
    owner = pkgutil.resolve_name(owner)
    whole = getattr(owner, name)

    def starting(*arguments, **named):
        os.write(clock, b".")
        return whole(*arguments, **named)

    setattr(owner, name, starting)

for line in sys.stdin:
    site, request, reply, place, seconds = line.rstrip("\\n").split("\\t")
    started, clock = os.pipe()
    child = os.fork()
    if child == 0:
        start_clock("client.ledger.Ledger.reserve", clock)
        start_clock("client.vault.load_model", clock)
        if place:
            name, when, count = place.split()
            plant(name, when, int(count))
        frame = Vault(load_policy(Path(site))).handle(Path(request).read_bytes())
        send(reply, frame)
        os._exit(0)
    os.close(clock)
    os.read(started, 1)  # nothing, when the child has ended before
    os.close(started)
    began = time.monotonic()
    until = began + float(seconds)
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() < until:
        time.sleep(0.0005)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        ended, status = os.waitpid(child, 0)
    print(status, time.monotonic() - began, flush=True)
"""


class Parent:
    """The process that forks vaults, for whichever hospital."""

    def __init__(self, folder: Path) -> None:
        program, self.log = folder / "forks_vaults.py", folder / "log"
        program.write_text(FORKS_VAULTS)
        threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
        self._file = self.log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._file,
            text=True,
            env={**os.environ, **threads},
        )

    def fork(self, *words: object) -> tuple[int, float]:
        """The status with which a new vault ended, and the seconds that it took."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write("\t".join(map(str, words)) + "\n")
        stdin.flush()
        status, seconds = stdout.readline().split()
        return int(status), float(seconds)

    def close(self) -> None:
        self._process.communicate()
        self._file.close()


class Hospital:
    """A tiny phantom hospital, the processes that answer for it, and everything that left it."""

    def __init__(self, folder: Path, study: StudyProtocol, parent: Parent) -> None:
        self.study, self.folder, self._parent = study, folder, parent
        data = from_phantoms(study, folder / "data", seed=4)
        sites = settle(study, folder / "hospitals", data, device="cpu", noise_seed=None)
        self.site = sites["north"]
        self.state = load_policy(self.site).state
        self.left: dict[str, bytes] = {}
        self.seconds = 0.0  # from the last reservation to the reply, or the kill
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = model_of(study)
        self._arrays = {name: value.numpy() for name, value in model.state_dict().items()}

    def request(self, server_round: int) -> TrainRequest:
        text = self.study.to_toml()
        return TrainRequest(protocol=text, round=server_round, arrays=self._arrays)

    def ask(self, server_round: int, die_at: str = "", seconds: float = 120.0) -> Outcome:
        """Have a new process answer; what it sent counts as having left the hospital."""
        asked, reply = self.folder / "request", self.folder / "reply"
        request = self.request(server_round)
        asked.write_bytes(messages.encode(request))
        reply.unlink(missing_ok=True)
        status, self.seconds = self._parent.fork(self.site, asked, reply, die_at, seconds)
        if reply.exists():
            frame = reply.read_bytes()
            decoded = messages.decode(frame)
            assert isinstance(decoded, TrainReply), (decoded, self._parent.log.read_text())
            before = self.left.setdefault(fingerprint(request), frame)
            assert frame == before, "a request was answered twice, and not with the same bytes"
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return "killed"
        assert status == 0, self._parent.log.read_text()
        assert reply.exists()
        return "ended"

    def counted(self) -> tuple[int, int]:
        """(reserved, sealed) rounds of a ledger that has been checked, against what left."""
        told = verify(self.site)  # policy, ledger, log and replies, whatever was killed
        assert told.released.get("train-reply", 0) >= len(self.left)
        with Ledger.open(self.state) as ledger:
            training, validation = ledger.spends("training"), ledger.spends("validation")
            sealed = [e.body["request"] for e in ledger.entries if e.kind == "sealed"]
        # Every round evaluates, where there is anything to judge.
        assert len(validation) == (len(training) if self.study.evaluations else 0)
        assert len(sealed) == len(set(sealed))
        assert set(self.left) <= set(sealed), "something left that was never sealed"
        assert len(sealed) <= len(self.left) + 1
        assert len(sealed) <= len(training) <= len(sealed) + 1
        return len(training), len(sealed)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parent]:
    parent = Parent(tmp_path_factory.mktemp("parent"))
    yield parent
    parent.close()


@pytest.fixture
def hospital(tmp_path: Path, small_study: SmallStudy, parent: Parent) -> Hospital:
    study = small_study(north=6).model_copy(update={"rounds": 50})
    return Hospital(tmp_path, study, parent)


# (name, before or after, which call of it) -> (reserved, sealed) that the kill leaves behind
BOUNDARIES = {
    "client.ledger.Ledger.reserve before 1": (0, 0),
    "client.ledger_file.write_anchor before 1": (1, 0),  # committed, anchor behind
    "client.ledger_file.write_anchor after 1": (1, 0),
    "client.ledger.Ledger.reserve after 1": (1, 0),
    "client.vault.evaluate before 1": (1, 0),
    "client.vault.train before 1": (1, 0),
    "client.vault.train after 1": (1, 0),
    "client.ledger.Ledger.seal before 1": (1, 0),
    "client.ledger_file.write_anchor before 2": (1, 1),
    "client.ledger_file.write_anchor after 2": (1, 1),
    "client.ledger.Ledger.seal after 1": (1, 1),
    "client.vault.release before 1": (1, 1),
    "client.egress_log.write_anchor before 1": (1, 1),  # logged, anchor behind
    "client.egress_log.write_anchor after 1": (1, 1),
    "client.vault.release after 1": (1, 1),
    "driver.send before 1": (1, 1),
    "driver.send after 1": (1, 1),
}


FEW = (
    "client.ledger_file.write_anchor before 1",
    "client.vault.train after 1",
    "client.ledger_file.write_anchor before 2",
    "client.egress_log.write_anchor before 1",
    "driver.send before 1",
)


@pytest.mark.parametrize(
    "boundaries",
    [FEW, pytest.param(tuple(BOUNDARIES), marks=pytest.mark.crash)],
    ids=["few", "all"],
)
def test_killed_at_a_boundary_a_round_is_spent_once(
    hospital: Hospital, boundaries: tuple[str, ...]
) -> None:
    for done, boundary in enumerate(boundaries):
        reserved, sealed = BOUNDARIES[boundary]
        server_round = done + 1
        assert hospital.ask(server_round, die_at=boundary) == "killed", boundary
        assert hospital.counted() == (done + reserved, done + sealed), boundary
        key = fingerprint(hospital.request(server_round))
        assert (key in hospital.left) == (boundary == "driver.send after 1")
        with Ledger.read(hospital.state) as ledger:
            kept, entries = ledger.sealed_reply(key), len(ledger.entries)
        assert hospital.ask(server_round) == "ended", boundary
        assert hospital.counted() == (done + 1, done + 1), boundary
        if sealed:  # re-asked: the very bytes, and not a word in the ledger
            assert hospital.left[key] == kept, boundary
            with Ledger.read(hospital.state) as ledger:
                assert len(ledger.entries) == entries


@pytest.mark.parametrize(
    "boundaries",
    [FEW[1:3], pytest.param(FEW, marks=pytest.mark.crash)],
    ids=["two", "few"],
)
@pytest.mark.parametrize("task", [task for task in TASKS if task != USUAL])
def test_killed_at_a_boundary_a_round_is_spent_once_in_every_task(
    tmp_path: Path, parent: Parent, task: str, boundaries: tuple[str, ...]
) -> None:
    hospital = Hospital(tmp_path, small(task, rounds=len(boundaries), north=6), parent)
    test_killed_at_a_boundary_a_round_is_spent_once(hospital, boundaries)


@pytest.mark.crash
def test_killed_at_random_moments_never_less_is_spent_than_left(hospital: Hospital) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print("seed of the moments of the kills:", seed)
    moments = random.Random(seed)
    assert hospital.ask(1) == "ended"
    assert hospital.ask(2) == "ended"
    usual = hospital.seconds
    kills, server_round = 0, 3
    while kills < 60:
        outcome = hospital.ask(server_round, seconds=moments.uniform(0.0, 1.1 * usual))
        kills += outcome == "killed"
        reserved, _ = hospital.counted()
        # The spend is never below what left, and above by no more than the one unsealed round.
        assert len(hospital.left) <= reserved <= len(hospital.left) + 1
        if outcome == "ended":
            assert hospital.ask(server_round) == "ended"  # the same bytes: `ask` compares them
            assert hospital.counted()[0] == reserved
            server_round += 1
            assert server_round <= hospital.study.rounds, "too few of the moments were kills"
    assert hospital.ask(server_round) == "ended"
    # However often it was killed: as many spends as rounds.
    assert hospital.counted() == (server_round, server_round)
    assert len(hospital.left) == server_round
    print("kills", kills, "rounds", server_round, "seconds a round", round(usual, 2))


@pytest.mark.crash
def test_fifty_rounds_with_a_restart_after_each_cost_what_one_run_costs(hospital: Hospital) -> None:
    for server_round in range(1, 51):
        assert hospital.ask(server_round) == "ended"
    assert hospital.counted() == (50, 50)
    with Ledger.read(hospital.state) as ledger:
        training, validation = ledger.spends("training"), ledger.spends("validation")
    sigma = training[0].noise_multiplier
    delta = hospital.study.privacy.delta
    composed = epsilon_of(training, delta)
    assert composed == epsilon_of([Spend(sigma, 0.5, 50 * 2)], delta)
    single_run = privacy_loss_distribution.from_gaussian_mechanism(sigma, sampling_prob=0.5)
    expected = single_run.self_compose(100).get_epsilon_for_delta(delta)
    assert composed.value == pytest.approx(expected, rel=0.01)
    assert 0.99 * 8.0 <= composed.value <= 8.0
    # 50 of the study's 51 evaluations.
    assert 7.5 < epsilon_of(validation, delta).value < 8.0


COMMITS_WITHOUT_END = """
import sys
from pathlib import Path
from client.ledger import Ledger, Spend

state, sent = Path(sys.argv[1]), Path(sys.argv[2])
number = len(sent.read_text().split()) if sent.exists() else 0
print("ready", flush=True)
while True:
    number += 1
    key = f"{number:064x}"
    with Ledger.open(state) as ledger:
        if ledger.sealed_reply(key) is None:
            if ledger.pending(key) is None:
                spends, terms = {"training": Spend(1.5, 0.25, 8)}, {"validation-fraction": 0.2}
                ledger.reserve(key, "5" * 64, number, spends, terms)
            ledger.seal(key, key.encode() * 2000, "e" * 64)
    with sent.open("a") as file:
        file.write(key + "\\n")
"""


@pytest.mark.crash
def test_killed_within_its_commits_a_ledger_stays_whole(tmp_path: Path) -> None:
    """Nothing but commits and anchors, so that the kills fall on them."""
    state, sent = tmp_path / "state", tmp_path / "sent"
    state.mkdir()
    Ledger.create(state)
    seed = random.SystemRandom().randrange(10**6)
    print("seed of the moments of the kills:", seed)
    moments = random.Random(seed)
    behind = 0
    for _ in range(100):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMITS_WITHOUT_END, str(state), str(sent)],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(moments.uniform(0.0, 0.05))
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        left = len(sent.read_text().split()) if sent.exists() else 0
        anchored = int((state / "ledger.head").read_text().split()[0])
        with Ledger.open(state) as ledger:
            ledger.check_replies()
            behind += anchored < len(ledger.entries)
            spent = len(ledger.spends("training"))
        assert left <= spent <= left + 1
    assert behind > 0, "no kill fell between a commit and its anchor"
    print("rounds", left, "kills between commit and anchor", behind)
