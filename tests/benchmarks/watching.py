"""Watches the processes of a deployment: memory, CPU seconds, and the load of others meanwhile."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

from tests.consortium import kill

TICK = os.sysconf("SC_CLK_TCK")


class Watch:
    """Samples all processes below `roots` (process id -> group): peak memory, CPU seconds."""

    def __init__(self) -> None:
        self.roots: dict[int, str] = {}
        self.pss: dict[str, float] = defaultdict(float)  # MB, the largest sum so far
        self.rss: dict[str, float] = defaultdict(float)
        self.seen: dict[int, str] = {}  # start time of each process that was ever found
        self.cpu = 0.0
        self.each: dict[int, tuple[str, float]] = {}
        self._stop = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self.sample()

    def sample(self) -> None:
        stats = {int(p.name): f for p in Path("/proc").glob("[0-9]*") if (f := stat_of(p))}
        pss: dict[str, float] = defaultdict(float)
        rss: dict[str, float] = defaultdict(float)
        cpu, each = 0, dict[int, tuple[str, float]]()
        for pid, fields in stats.items():
            root = pid
            while root in stats and root not in self.roots:
                root = int(stats[root][1])
            if root not in self.roots or pid == os.getpid():
                continue
            self.seen[pid] = fields[19]
            if root != os.getpid():  # a command's are counted where it is waited for
                spent = sum(map(int, fields[11:15]))
                cpu += spent
                each[pid] = (role_of(pid), spent / TICK)
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            found = dict(re.findall(r"^(Pss|Rss): +(\d+) kB", text, re.MULTILINE))
            pss[self.roots[root]] += int(found.get("Pss", 0)) / 1000
            rss[self.roots[root]] += int(found.get("Rss", 0)) / 1000
        for group in pss:
            self.pss[group] = max(self.pss[group], pss[group])
            self.rss[group] = max(self.rss[group], rss[group])
        if cpu / TICK >= self.cpu:
            self.cpu, self.each = cpu / TICK, each

    def end_the_rest(self) -> None:
        """Kill what outlived its parents: the very processes that were seen, no others."""
        for pid, started in self.seen.items():
            fields = stat_of(Path(f"/proc/{pid}"))
            if fields and fields[19] == started:
                kill(pid)

    def roles(self) -> str:
        """CPU seconds by what a process is, those of its ended children with it."""
        sums: dict[str, float] = defaultdict(float)
        for role, spent in self.each.values():
            sums[role] += spent
        return ", ".join(
            f"{role} {spent:.1f}" for role, spent in sorted(sums.items()) if spent > 0.3
        )

    def memory(self) -> str:
        others = [group for group in self.pss if group not in ("coordinator", "run")]
        largest = max(others, key=lambda group: self.pss[group])
        groups = ["coordinator", largest] + ["run"] * ("run" in self.pss)
        return "  ".join(f"{self.pss[g]:.0f}/{self.rss[g]:.0f}" for g in groups) + " MB"


def role_of(pid: int) -> str:
    """What a process is, by the module or script in its command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return "ended"
    if "-m" in words:
        at = words.index("-m") + 1
        return words[at] + (f" {words[at + 1]}" if words[at] == "client.relay" else "")
    return next((Path(w).name for w in words[1:2]), "?")


def stat_of(process: Path) -> list[str]:
    """The fields of /proc/PID/stat behind the command's name, none when it is gone."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


@contextmanager
def loaded(label: str) -> Iterator[None]:
    """Say what is measured, when, and under which load of others."""
    when, before = datetime.now(UTC).strftime("%H:%M:%S"), os.getloadavg()[0]
    print(f"\n{label}  (at {when}, load before {before:.1f})", flush=True)
    yield
    print(f"  load after {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores", flush=True)
