"""`make test-crash`: one run, killed again and again at random moments, until it gets through."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from client.ledger import Ledger
from client.policy import load_policy
from common.protocol import StudyProtocol
from common.tasks import USUAL
from tests.tasks import TASKS, small

SmallStudy = Callable[..., StudyProtocol]

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

KILLS = 6
WITHIN_SECONDS = 12.0  # a process imports for some seconds, then trains: kills fall on both


def simulate(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "simulation", "--runs", str(folder.parent)]
    with said_by(folder).open("w") as said:
        return subprocess.Popen(
            [*program, "--name", folder.name, *options], stdout=subprocess.DEVNULL, stderr=said
        )


def said_by(folder: Path) -> Path:
    """What the last process of a run said."""
    return folder.with_suffix(".said")


def new_or_resumed(protocol: Path, folder: Path) -> list[str]:
    """What a person types: a run that never got as far as its protocol is started again."""
    if (folder / "protocol.toml").exists():
        return ["--resume"]
    return ["--protocol", str(protocol), "--device", "cpu", "--noise-seed", "3"]


@pytest.mark.parametrize(
    ("task", "attempt", "kills"),
    [
        *((USUAL, attempt, KILLS) for attempt in range(3)),
        *((task, 0, KILLS // 2) for task in TASKS if task != USUAL),  # the same runs, other models
    ],
)
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(
    tmp_path: Path, small_study: SmallStudy, task: str, attempt: int, kills: int
) -> None:
    study: StudyProtocol = small(task, rounds=30, north=40, east=20, west=12)
    if task == USUAL:
        training = small_study().training.model_copy(update={"steps_per_round": 30})
        study = small_study(north=40, east=20, west=12, quorum=3).model_copy(
            update={"rounds": 6, "training": training}
        )
    protocol = tmp_path / "protocol.toml"
    protocol.write_text(study.to_toml())
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = simulate(whole, *new_or_resumed(protocol, whole)).wait(240)
    assert done == 0, said_by(whole).read_text()

    seed = random.SystemRandom().randrange(10**6)
    print(task, "attempt", attempt, "seed of the moments of the kills:", seed)
    moments = random.Random(seed)
    ended_early = 0
    for _ in range(kills):
        process = simulate(killed, *new_or_resumed(protocol, killed))
        until = time.monotonic() + moments.uniform(0.5, WITHIN_SECONDS)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            ended_early += 1
        process.wait()
    assert ended_early > 0
    done = simulate(killed, *new_or_resumed(protocol, killed)).wait(240)
    assert done == 0, said_by(killed).read_text()

    model = "model.safetensors"
    assert (killed / model).read_bytes() == (whole / model).read_bytes()
    for hospital in study.hospital_names:
        policy = load_policy(killed / "hospitals" / hospital / "site.toml")
        with Ledger.open(policy.state) as ledger:
            spent = len(ledger.spends("training"))
        # Never less than what left; at most one unsealed round more for each kill.
        assert study.rounds <= spent <= study.rounds + ended_early
