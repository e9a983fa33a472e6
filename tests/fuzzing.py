"""The fuzz harness: cases in a worker process, watched from outside for time, memory and life.

A case is named by target, seed and number, and is the same wherever it runs:

    python -m tests.fuzzing image 4711 120 121      case 120 of seed 4711, alone

The worker says after each case how it ended and what it took. Time counts from the case's side: what a
busy machine made it wait for a core is taken off. A worker that says nothing for `PATIENCE` is ended.
"""

import json
import os
import resource
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz_hospital import HOSPITAL_TARGETS
from tests.fuzz_targets import PLANTED, TARGETS

REPOSITORY = Path(__file__).parent.parent
MOST_SECONDS = 2.0  # a case
MOST_MEGABYTES = 500.0  # resident; of a worker with torch, above what it had before the first case
_ROOM = 1 << 30  # bytes of addresses above what a worker has: a bomb ends there and not the machine
PATIENCE = 20.0  # seconds without an answer, however busy the machine is
_START = 120.0  # seconds until a worker is ready


@dataclass
class Report:
    """What came of the cases of one target under one seed."""

    target: str
    seed: int
    codes: Counter[str] = field(default_factory=Counter)
    beyond: int = 0  # cases that got past magic, lengths and syntax
    slowest: tuple[float, int] = (0.0, -1)  # seconds, case
    megabytes: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return sum(self.codes.values())

    def __str__(self) -> str:
        ended = ", ".join(f"{code} {count}" for code, count in sorted(self.codes.items()))
        return (
            f"{self.target:<11}seed {self.seed}: {self.cases} cases, {self.beyond} beyond the first look; "
            f"slowest {self.slowest[0]:.2f} s (case {self.slowest[1]}), {self.megabytes:.0f} MB; {ended}"
        )


def fuzz(target: str, seed: int, first: int, last: int) -> Report:
    """Run cases first..last-1 of `target`; nothing is raised, every failure is a line of the report."""
    report = Report(target, seed)
    while first < last:
        first = _through(report, first, last)
    return report


def _through(report: Report, first: int, last: int) -> int:
    """Cases from `first` until `last` or until the worker has to be ended; the next case's number."""
    for number, said in _answers(report.target, report.seed, first, last):
        name = f"{report.target} {report.seed} {number}"
        if said is None:
            report.codes["none"] += 1
            report.failures.append(f"{name}: the worker died, or did not answer in {PATIENCE:g} s")
            return number + 1
        report.codes[said["code"]] += 1
        report.beyond += said["beyond"]
        report.slowest = max(report.slowest, (said["seconds"], number))
        report.megabytes = max(report.megabytes, said["megabytes"])
        report.failures += [f"{name}: {failure}" for failure in _failures(said)]
        if said["megabytes"] > MOST_MEGABYTES:  # or all that follow would seem to take as much
            return number + 1
    return last


def _failures(said: dict[str, Any]) -> Iterator[str]:
    if said["raised"]:
        yield said["raised"]
    if said["seconds"] > MOST_SECONDS:
        yield f"took {said['seconds']:.1f} s"
    if said["megabytes"] > MOST_MEGABYTES:
        yield f"took {said['megabytes']:.0f} MB"


def _answers(
    target: str, seed: int, first: int, last: int
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """(number, what the worker says of it), None when it says nothing in time; then the worker is gone."""
    command = [sys.executable, "-m", "tests.fuzzing", target, str(seed), str(first), str(last)]
    worker = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert worker.stdout is not None
    try:
        with selectors.DefaultSelector() as watched:
            watched.register(worker.stdout, selectors.EVENT_READ)
            if not watched.select(_START) or worker.stdout.readline() != "ready\n":
                raise RuntimeError(f"the worker for {target} did not start")
            for number in range(first, last):
                line = worker.stdout.readline() if watched.select(PATIENCE) else ""
                yield number, json.loads(line) if line else None
                if not line:
                    return
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()


def work(target: str, seed: int, first: int, last: int) -> None:
    """The worker: one line when it is ready, and one for each case."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    os.dup2(1, 2)
    prepare = (TARGETS | HOSPITAL_TARGETS | PLANTED)[target]
    with tempfile.TemporaryDirectory() as folder:
        case = prepare(Path(folder))
        base = _status("VmRSS") if "torch" in sys.modules else 0.0
        room = int(_status("VmSize") * 1e6) + _ROOM
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        print("ready", file=answers)
        for number in range(first, last):
            said: dict[str, Any] = {"code": "failure", "beyond": False, "raised": None}
            started, waited = time.perf_counter(), _waited()
            try:
                said["code"], said["beyond"] = case(Random(f"{target} {seed} {number}"))
            except BaseException as error:
                said["raised"] = f"{type(error).__name__}: {error}"[:300]
            said["seconds"] = time.perf_counter() - started - (_waited() - waited)
            said["megabytes"] = _status("VmHWM") - base
            print(json.dumps(said), file=answers)


def _waited() -> float:
    """Seconds for which this process was ready to run and had no core (proc(5), schedstat)."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


def _status(name: str) -> float:
    """A size of this process in megabytes; VmHWM is the largest resident one of its life."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)
    )
    return int(line.split()[1]) / 1000


if __name__ == "__main__":
    work(sys.argv[1], *map(int, sys.argv[2:]))
