"""Real processes: a run that SIGKILL ends in round 3 continues at round 3, and loses nothing."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from client.ledger import Ledger
from client.policy import load_policy
from common.protocol import StudyProtocol, load_protocol
from common.tasks import USUAL
from simulation.__main__ import EXIT_QUORUM
from simulation.hospitals import from_phantoms
from tests.tasks import TASKS, small

SmallStudy = Callable[..., StudyProtocol]

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def command(runs: Path, name: str, *more: str) -> list[str]:
    program = [sys.executable, "-W", "error::UserWarning", "-m", "simulation"]
    return [*program, "--runs", str(runs), "--name", name, "--json", *more]


def start(protocol: Path, runs: Path, name: str, *more: str) -> list[str]:
    study = ["--protocol", str(protocol), "--device", "cpu", "--noise-seed", "11"]
    return command(runs, name, *study, *more)


def closed_rounds(folder: Path) -> int:
    try:
        return len((folder / "rounds.jsonl").read_text().splitlines())
    except FileNotFoundError:
        return 0


def wait_for_rounds(process: subprocess.Popen[str], folder: Path, rounds: int) -> None:
    until = time.monotonic() + 120
    while closed_rounds(folder) < rounds:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "the run did not reach the round"
        time.sleep(0.01)


@pytest.fixture
def study(tmp_path: Path, small_study: SmallStudy, request: pytest.FixtureRequest) -> Path:
    """Of the task that a test asks for: five rounds of images, or as many of tables as take as long."""
    task = getattr(request, "param", USUAL)
    protocol: StudyProtocol = small(task, rounds=40, north=30, west=12)
    if task == USUAL:
        training = small_study().training.model_copy(update={"steps_per_round": 12})
        protocol = small_study(north=30, west=12, quorum=2).model_copy(
            update={"rounds": 5, "training": training}
        )
    path = tmp_path / "protocol.toml"
    path.write_text(protocol.to_toml())
    return path


# Three processes a task, which take half a minute.
IN_TURN = [
    pytest.param(task, marks=[pytest.mark.crash] if task != USUAL else [], id=task)
    for task in TASKS
]


@pytest.mark.parametrize("study", IN_TURN, indirect=True)
def test_a_killed_run_continues_in_its_round_and_ends_bitwise_the_same(
    tmp_path: Path, study: Path
) -> None:
    rounds = load_protocol(study).rounds
    whole = subprocess.run(
        start(study, tmp_path, "whole"), capture_output=True, text=True, timeout=240, check=False
    )
    assert whole.returncode == 0, whole.stderr

    seed = random.SystemRandom().randrange(10**6)
    print("seed of the moment of the kill:", seed)
    killed = subprocess.Popen(
        start(study, tmp_path, "killed"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "killed"
    wait_for_rounds(killed, folder, 2)
    time.sleep(random.Random(seed).uniform(0.0, 0.15))
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert closed_rounds(folder) < rounds, "the kill came too late to prove anything"
    before = closed_rounds(folder)
    assert not (folder / "model.safetensors").exists()

    refused = subprocess.run(
        start(study, tmp_path, "killed"), capture_output=True, text=True, timeout=240, check=False
    )
    assert refused.returncode == 2
    assert "--resume" in refused.stderr

    resumed = subprocess.run(
        command(tmp_path, "killed", "--resume"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    summary = json.loads(resumed.stdout.splitlines()[-1])
    assert summary["rounds"] == rounds
    assert summary["stopped"] == "finished"
    assert before >= 2
    assert f"continues after round {before}" in resumed.stderr
    model = "model.safetensors"
    assert (folder / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()
    for hospital in ("north", "west"):
        policy = load_policy(folder / "hospitals" / hospital / "site.toml")
        with Ledger.open(policy.state) as ledger:
            spent = ledger.spends("training")
        # Every round was paid, and the one that the kill interrupted at most once more.
        assert rounds <= len(spent) <= rounds + 1


@pytest.mark.parametrize("backend", ["local", "ray"])
def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(
    tmp_path: Path, study: Path, backend: str
) -> None:
    process = subprocess.Popen(
        start(study, tmp_path, "stopped", "--backend", backend),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seed = random.SystemRandom().randrange(10**6)
    print("seed of the moment of Ctrl-C:", seed)
    wait_for_rounds(process, tmp_path / "stopped", 1)
    time.sleep(random.Random(seed).uniform(0.0, 0.3))  # between two rounds, or amid one
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "--resume" in said
    assert "--name stopped" in said


def test_a_missed_quorum_is_not_a_success(tmp_path: Path, study: Path) -> None:
    """Two hospitals from a data folder; an image of one cannot be read, so it refuses to train."""
    made = from_phantoms(load_protocol(study), tmp_path / "made", seed=1)
    data = tmp_path / "data"
    for hospital, folder in made.items():
        shutil.copytree(folder, data / hospital)
    protocol = load_protocol(study)
    both = protocol.model_copy(
        update={"participation": protocol.participation.model_copy(update={"quorum": 2})}
    )
    study.write_text(both.to_toml())
    (data / "west" / "00000.png").write_bytes(b"not an image")
    run = subprocess.run(
        start(study, tmp_path, "broken", "--data", str(data)),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == EXIT_QUORUM, run.stderr
    assert "E-DATA" in run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["stopped"] == "quorum-missed"
