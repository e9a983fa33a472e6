"""`make bench`: what a round costs beyond training, and how long a newcomer waits for the first step.

Figures are printed, not asserted: they belong into docs/benchmarks.md with the machine's name.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Runs the command in a process of its own and reports when the first local step began, in seconds
# since this file was started; `train` is where the vault starts on its patients.
FIRST_STEP = """
import sys, time
import client.vault as vault
train = vault.train
def first(*arguments):
    print("first-step", time.time(), flush=True)
    vault.train = train
    return train(*arguments)
vault.train = first
from simulation.__main__ import main
main()
"""

# Time of a round in which no hospital evaluates or trains: what Flower's records, the messages, the
# ledger's fsyncs, aggregation and checkpoints cost. On one core hospitals work one at a time and
# everything else waits; as run, much of it passes while another hospital trains.
OVERHEAD = """
import json, os, sys, time
if sys.argv[2] == "one core":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pathlib import Path
import torch
torch.set_num_threads(1)
from client.vault import Vault
from common.protocol import load_protocol
from simulation.prepare import FIRST_RUN
from simulation.hospitals import from_phantoms, settle
from simulation.live import Silent
from simulation.rehearsal import Rehearsal
work, at_work = Vault._work, []
def timed(self, *arguments):
    start = time.perf_counter()
    reply = work(self, *arguments)
    at_work.append((start, time.perf_counter()))
    return reply
Vault._work = timed
class Clock(Silent):
    def __init__(self): self.started, self.rounds = 0.0, []
    def round_started(self, server_round, asked):
        self.started, at_work[:] = time.perf_counter(), []
    def round_closed(self, record):
        now, busy, until = time.perf_counter(), 0.0, 0.0
        for start, end in sorted(at_work):
            busy += max(0.0, end - max(start, until))
            until = max(until, end)
        self.rounds.append((now - self.started, busy))
folder = Path(sys.argv[1])
protocol = load_protocol(FIRST_RUN)
data = from_phantoms(protocol, folder / "hospitals", 1)
sites = settle(protocol, folder / "hospitals", data, device="cpu", noise_seed=None)
clock = Clock()
Rehearsal(protocol, folder, sites).carry_out(clock, resume=False)
print(json.dumps(clock.rounds[1:-1]))
"""


def main() -> None:
    print(
        f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for cores in ("one core", "as run"):
            rounds = json.loads(python(OVERHEAD, f"{folder}/{cores}", cores))
            beyond = sorted(1000 * (wall - work) for wall, work in rounds)
            training = sorted(1000 * work for _, work in rounds)
            middle = len(beyond) // 2
            print(
                f"round of four hospitals, {cores}: {beyond[middle]:.0f} ms beyond training "
                f"({beyond[0]:.0f} to {beyond[-1]:.0f}), training {training[middle]:.0f} ms"
            )
        started, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
        said = python(FIRST_STEP, "--runs", folder, "--name", "first", "--rounds", "3")
        took, after = time.time() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"first local step after {first_step(said) - started:.1f} s, phantoms made")
        print(
            f"four hospitals, three rounds with differential privacy, all in all: {took:.1f} s, "
            f"{after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime:.1f} CPU s, "
            f"peak memory {after.ru_maxrss / 1024:.0f} MB"
        )
        data = Path(folder) / "data"
        data.mkdir()
        for hospital in (Path(folder) / "first" / "hospitals").iterdir():
            (data / hospital.name).symlink_to(hospital / "data")
        started = time.time()
        said = python(
            FIRST_STEP, "--runs", folder, "--name", "again", "--rounds", "1", "--data", str(data)
        )
        print(f"first local step after {first_step(said) - started:.1f} s, data at hand")


def first_step(said: str) -> float:
    """When the first local step began, in seconds since the epoch."""
    line = next(line for line in said.splitlines() if line.startswith("first-step"))
    return float(line.split()[1])


def python(program: str, *arguments: str) -> str:
    """What `program` printed, run by a fresh interpreter."""
    folder = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=folder,
    )
    return done.stdout


if __name__ == "__main__":
    main()
