"""`make bench`: a deployment on loopback from start to finish, beside bare Flower's on the same workload.

Four hospitals of 128 training patients with one image of 64x64 each, three rounds of four steps (q .25:
one epoch in batches of 32), compact CNN, DP-SGD at epsilon 8 with evaluation. Each side is started as
people start it, with one thread for each process, and the sides take their turns. Measured: seconds
from the first process to the end of `run`; the same with all up before; seconds of each round; CPU
seconds; the peaks of PSS and RSS, summed over all processes of a side's coordinator and of each
hospital. Then where a round's time goes, with that work, with next to none (the floor), and with 45 MB.

Bare Flower: superlink, superexec and four supernodes with TLS and node keys, Opacus' hooks at a fixed
sigma in the ClientApp, FedAvg. No vault, ledger, calibration or report: it does less than ours.

    python tests/benchmarks/consortium.py [--turns 2] [--only ours,flower,evaluate,warm,floor,resnet18]
"""

import argparse
import os
import re
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from threading import Event, Thread

sys.path.insert(0, str(Path(__file__).parents[2]))

from client.ledger import Ledger
from common.keys import fingerprint, parse_public_key
from common.models import build_model
from server.home import Home
from server.roster import load_roster
from simulation.phantoms import nodule_classification
from tests.benchmarks.bare_flower import bare
from tests.benchmarks.watching import Watch, loaded
from tests.consortium import Consortium, deployable
from tests.studies import nodule_study

nodule_classification.PATCHES_PER_PATIENT = (1, 1)
NAMES = ("north", "east", "south", "west")
STAGES = (
    "asked -> pulled", "-> all objects there", "-> reserved", "-> sealed (the work)",
    "-> reply pushed", "-> its objects there", "-> admitted", "-> next round",
)  # fmt: skip


def study(model: str, size: int, patients: int, steps: int, names: tuple[str, ...]) -> Consortium:
    """A consortium with everything provisioned and nothing started."""
    rows = ", ".join(f'{{ name = "{n}", nominal-patients = {patients} }}' for n in names)
    text = f"""
study = "bench"
rounds = 3
images = {{ classes = ["non-nodule", "nodule"], size = {size}, mean = 0.4 }}
model = {{ name = "{model}", initial-model = "random" }}
training = {{ steps-per-round = {steps}, learning-rate = 0.1, sampling-rate = 0.25, views-per-patient = 1 }}
privacy = {{ epsilon = 8.0 }}
participation = {{ quorum = {len(names)} }}
hospitals = [{rows}]
"""
    made = deployable(nodule_study(text), **{"retry-seconds": 240.0})
    return Consortium(made, noise_seed=None)


class Follow:
    """Notes when each round begins and when each hospital's reply is admitted, from status.json."""

    def __init__(self, consortium: Consortium) -> None:
        self.began: dict[int, float] = {}
        self.admitted: dict[tuple[int, str], float] = {}
        self._consortium = consortium
        self._stop = Event()
        Thread(target=self._follow, daemon=True).start()

    def end(self) -> None:
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.wait(0.05):
            status = self._consortium.status()
            number = status.get("round", 0)
            if number and number not in self.began:
                self.began[number] = status["round_started"]
            for name, about in status.get("hospitals", {}).items():
                if number and about["state"] == "answered":
                    self.admitted.setdefault((number, name), status["updated"])


def journey(consortium: Consortium, follow: Follow) -> list[list[float]]:
    """The stages in seconds, of each question of rounds 2 and 3: ledgers, gateway's log, status.json."""
    found = []
    line = re.compile(r"\S+ \S+ (\S+ \S+),(\d+) INFO POST (\S+) 200 in=\d+ out=(\d+) key=(\S+)")
    calls: dict[str, list[tuple[float, str, int]]] = defaultdict(list)
    for at, ms, call, out, key in line.findall(consortium.log("coordinator", "gateway")):
        moment = datetime.fromisoformat(at).timestamp() + int(ms) / 1000
        calls[key].append((moment, call, int(out)))
    for member in load_roster(Home(consortium.home).roster).members:
        prefix = fingerprint(parse_public_key(member.public_key))[:15]
        own = next(c for key, c in calls.items() if key.startswith(prefix))
        with Ledger.read(consortium.hospital(member.hospital) / "state") as ledger:
            times = {
                (e.kind, e.body["request"]): datetime.fromisoformat(e.time).timestamp()
                for e in ledger.entries[1:]
            }
            requests = {r.round: r.request for r in ledger.reservations()}
        for number in (2, 3):
            begin, end = follow.began[number], follow.began[number + 1]
            here = [c for c in own if begin <= c[0] <= end]
            sealed = times["sealed", requests[number]]
            moments = [
                begin,
                next(at for at, call, out in here if call == "pull-messages" and out),
                next(at for at, call, _ in here if call == "confirm-message-received"),
                times["reserved", requests[number]],
                sealed,
                next(at for at, call, _ in here if call == "push-messages" and at > sealed),
                max(at for at, call, _ in here if call in ("push-object", "push-messages")),
                min(end, follow.admitted.get((number, member.hospital), end)),
                end,
            ]
            found.append([b - a for a, b in pairwise(moments)])
    return found


def up(consortium: Consortium) -> bool:
    names = consortium.study.hospital_names
    beating = re.findall(r"heartbeat 200 .*key=(\S+)", consortium.log("coordinator", "gateway"))
    return len(set(beating)) == len(names) and all(
        "listens at" in consortium.log(name, "vault") for name in names
    )


def ours(consortium: Consortium, label: str, *, warm: bool) -> None:
    """One run, and what it took; `warm`: the clock starts when everything is up."""
    with loaded(label), Watch() as watch:
        watch.roots[os.getpid()] = "run"
        begun = time.time()
        for name in ("coordinator", *consortium.study.hospital_names):
            watch.roots[consortium.start(name).pid] = name
        consortium.until(consortium.serving, 120, "the coordinator serves")
        if warm:
            consortium.until(lambda: up(consortium), 180, "all are up")
            time.sleep(3)
            begun = time.time()
        follow, asked = Follow(consortium), time.time()
        before, cpu = resource.getrusage(resource.RUSAGE_CHILDREN), watch.cpu if warm else 0.0
        code, said = consortium.run(timeout=580)
        end = time.time()
        assert code == 0, said + consortium.story()
        watch.sample()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        follow.end()
        command = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        rounds = " ".join(f"{r['seconds']:.1f}" for r in consortium.records())
        print(
            f"{end - begun:6.1f} s  rounds {rounds}  memory {watch.memory()}  "
            f"CPU {watch.cpu - cpu:.0f} + {command:.0f} s"
        )
        marks = [
            ("serving", asked),
            ("run wanted", (consortium.home / "wanted.json").stat().st_mtime),
            *((f"round {n}", at) for n, at in sorted(follow.began.items())),
            ("outcome", (consortium.run_folder / "outcome.json").stat().st_mtime),
            ("report", (consortium.run_folder / "report.html").stat().st_mtime),
            ("end", end),
        ]
        print(f"  CPU by process: {watch.roles()}")
        print("  " + ", ".join(f"{what} {at - begun:.1f}" for what, at in marks))
        each = journey(consortium, follow)
        for stage, seconds in zip(STAGES, zip(*each, strict=True), strict=True):
            print(f"  {stage:24} {median(seconds):5.2f} ({min(seconds):.2f} to {max(seconds):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--only", default="ours,flower,evaluate,warm,floor,resnet18")
    options = parser.parse_args()
    weights = sum(p.numel() for p in build_model("compact-cnn", 1, 2).parameters())
    print(f"compact CNN: {weights} weights; memory: coordinator, largest hospital, `run`; PSS/RSS")

    issue = partial(study, "compact-cnn", 64, 128, 4, NAMES)
    floor = partial(study, "compact-cnn", 16, 8, 1, NAMES[:2])
    large = partial(study, "resnet18", 32, 8, 1, NAMES[:2])
    sides: dict[str, tuple[Callable[[], Consortium], Callable[[Consortium], None]]] = {
        "ours": (issue, lambda c: ours(c, "ours, start to finish", warm=False)),
        "flower": (issue, lambda c: bare(c, "bare Flower, no evaluation", evaluate=False)),
        "evaluate": (issue, lambda c: bare(c, "bare Flower, evaluated", evaluate=True)),
        "warm": (issue, lambda c: ours(c, "ours, all up before", warm=True)),
        "floor": (floor, lambda c: ours(c, "two hospitals, small", warm=True)),
        "resnet18": (large, lambda c: ours(c, "two hospitals, 45 MB", warm=True)),
    }
    for name in options.only.split(",") * options.turns:
        make, measure = sides[name]
        with closing(make()) as consortium:
            measure(consortium)


if __name__ == "__main__":
    main()
