"""Both guides of docs/, run as written: from nothing to a finished study of two hospitals on loopback.

Run are the blocks in `sh`, step after step, the hospitals' steps once for each hospital. Each machine has
folders of its own in place of /etc/intramural, /var/lib/intramural and /run/intramural; the coordinator is
127.0.0.1 on a free port; and where the hospital's guide says north, the other one says its own name. A
block in `text` is what one sees: each of its lines must come, in order, in what the commands before it say,
with anything for "...". A block that begins with `# terminal` stays at work until the end.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from client.ledger import Ledger
from tests.consortium import BIN, free_port, threads

DOCS = Path(__file__).parent.parent.parent / "docs"
COORDINATOR, HOSPITAL = DOCS / "operate-coordinator.md", DOCS / "operate-hospital.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = ("console", "compose", "text")
SECONDS = 240.0  # for one block

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@dataclass
class Block:
    """Commands of a guide, and what one sees after them."""

    script: str
    seen: list[str] = field(default_factory=list)

    @property
    def stays(self) -> bool:
        return self.script.startswith("# terminal")


def sections(guide: Path) -> dict[str, list[Block]]:
    """The `sh` blocks under each heading of the second level, in order."""
    found: dict[str, list[Block]] = {}
    for part in guide.read_text().split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        blocks = found.setdefault(heading, [])
        for language, text in FENCE.findall(body):
            if language == "sh":
                blocks.append(Block(text))
            elif language == "text":
                blocks[-1].seen = text.splitlines()
            else:
                assert language in NOT_RUN, language
    return found


def lacking(seen: list[str], said: str) -> str | None:
    """The first line of `seen` that does not come in `said`, in order; None when all do."""
    rest = " ".join(re.sub(r"[│┃]", " ", said).split())
    for line in seen:
        pieces = [re.escape(" ".join(piece.split())) for piece in line.split("...")]
        if (match := re.search(r".*?".join(pieces), rest)) is None:
            return line
        rest = rest[match.end() :]
    return None


class Machine:
    """A machine of the consortium: its folders, and what was started on it."""

    def __init__(self, name: str, folder: Path, port: int) -> None:
        self.name = name
        self.etc, self.var, self.run = (folder / name / place for place in ("e", "v", "r"))
        self.etc.mkdir(parents=True)
        self.var.mkdir()
        self.here = self.var if name == "coordinator" else self.etc
        self._port = port
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def placed(self, text: str) -> str:
        """`text` with the folders of this machine."""
        for place, path in (("etc", self.etc), ("var/lib", self.var), ("run", self.run)):
            text = text.replace(f"/{place}/intramural", str(path))
        return text

    def typed(self, text: str) -> str:
        """What a person at this machine types for `text`."""
        text = self.placed(text)
        text = text.replace("coordinator.example.org", "127.0.0.1").replace("9443", str(self._port))
        return text if self.name == "coordinator" else re.sub(r"\bnorth\b", self.name, text)

    def carry_out(self, block: Block, typed_in: str = "") -> str:
        """What the commands of `block` say; AssertionError when one fails or it is not what is seen."""
        script = self.typed(block.script)
        seen = [self.typed(line) for line in block.seen]
        said = self._stay(script, seen) if block.stays else self._end(script, typed_in)
        missing = lacking(seen, said)
        assert missing is None, f"{self.name}: not seen: {missing}\n{script}\n{said}"
        self._settle()
        return said

    def _end(self, script: str, typed_in: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=self.here,
            env=environment(),
            input=typed_in,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {done.returncode}\n{script}\n{done.stdout}"
        return done.stdout

    def _stay(self, script: str, seen: list[str]) -> str:
        path = self.var / f"terminal-{len(self._started)}"
        with path.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-e", "-c", script],
                cwd=self.here,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # as a terminal has, so that Ctrl-C reaches all in it
            )
        self._started.append((process, path))
        end = time.monotonic() + 60
        while lacking(seen, path.read_text()) and time.monotonic() < end:
            assert process.poll() is None, f"{self.name}: it ended\n{script}\n{path.read_text()}"
            time.sleep(0.1)
        return path.read_text()

    def _settle(self) -> None:
        """The files of a package name the folders of a real hospital."""
        for file in self.etc.glob("*.toml"):
            if (text := file.read_text()) != (mine := self.placed(text)):
                file.write_text(mine)

    def ctrl_c(self) -> list[int]:
        """End what was started, the last one first; their exit codes."""
        codes = []
        for process, _ in reversed(self._started):
            os.killpg(process.pid, signal.SIGINT)
            codes.append(process.wait(30))
        self._started.clear()
        return codes

    def close(self) -> None:
        for process, _ in self._started:
            process.terminate()
        for process, _ in self._started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def story(self) -> str:
        """The ends of all logs, for a test that failed."""
        logs = sorted(self.var.rglob("*.log")) + [path for _, path in self._started]
        return "\n".join(f"--- {path}\n{path.read_text(errors='replace')[-1500:]}" for path in logs)


def environment() -> dict[str, str]:
    found = {**threads(), "PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "200"}
    return found


@pytest.fixture
def machines() -> Iterator[dict[str, Machine]]:
    folder = Path(tempfile.mkdtemp(prefix="im"))  # short: Unix sockets have short names
    port = free_port()
    found = {name: Machine(name, folder, port) for name in ("coordinator", "north", "west", "east")}
    yield found
    for machine in found.values():
        machine.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.crash
@pytest.mark.timeout(900)
def test_the_guides_lead_from_nothing_to_a_finished_study(machines: dict[str, Machine]) -> None:
    coordinator, north, west, east = machines.values()
    theirs, ours = sections(COORDINATOR), sections(HOSPITAL)
    fingerprints: dict[str, str] = {}

    def step(number: int) -> tuple[dict[str, list[Block]], str]:
        guide = theirs if number % 2 else ours
        (heading,) = [h for h in guide if h.startswith(f"Step {number}:")]
        return guide, heading

    def walk(machine: Machine, number: int) -> list[str]:
        guide, heading = step(number)
        return [machine.carry_out(block) for block in guide[heading]]

    def make_key(machine: Machine) -> None:
        (said,) = walk(machine, 2)
        fingerprints[machine.name] = said.split("fingerprint: ")[1].split()[0]
        shutil.copy(machine.etc / "hospital.csr", coordinator.var / f"{machine.name}.csr")

    try:
        walk(coordinator, 1)
        for hospital in (north, west):
            make_key(hospital)
        guide, heading = step(3)
        for block in guide[heading]:
            asked = re.search(r"approve (\w+)\.csr", block.script)
            heard = fingerprints[asked.group(1)] if asked else ""
            said = coordinator.carry_out(block, typed_in=f"{heard}\n")
            if "fingerprint of ca:" in said:
                authority = said.split("fingerprint of ca: ")[1].split()[0]
        for hospital in (north, west):
            shutil.copy(coordinator.var / f"{hospital.name}.tar", hospital.etc)
            assert f"Fingerprint={authority}" in "".join(walk(hospital, 4))
        walk(coordinator, 5)
        for hospital in (north, west):
            walk(hospital, 6)
            assert (hospital.etc / "privacy-statement.md").stat().st_size > 1000
            with Ledger.read(hospital.var / "state") as ledger:
                assert len(ledger.spends("training")) == 3
        (model,) = (coordinator.var / "coordinator" / "runs").glob("*/model.safetensors")
        assert model.stat().st_size > 100_000

        for block in ours["Later"]:
            north.carry_out(block)
        for block in theirs["Later"]:
            coordinator.carry_out(block)
        make_key(east)
        script = Block(
            "intramural-server provision approve east.csr\n", ["approved 'east' until ..."]
        )
        coordinator.carry_out(script, typed_in=f"{fingerprints['east']}\n")

        for machine in machines.values():
            assert set(machine.ctrl_c()) <= {0}, machine.story()
    except BaseException:
        print("\n".join(machine.story() for machine in machines.values()))
        raise


def test_what_is_not_seen_is_missed() -> None:
    said = "hospital │ patients\nnorth    │ 24\n"
    assert lacking(["hospital ...", "north ... 24"], said) is None
    assert lacking(["north ... 25"], said) == "north ... 25"
    assert lacking(["north", "hospital"], said) == "hospital"


def test_every_block_that_can_be_run_is_run() -> None:
    """What the test above walks through is all there is."""
    for guide, headings in ((COORDINATOR, ("Step 1", "Step 3", "Step 5", "Later")),
                            (HOSPITAL, ("Step 2", "Step 4", "Step 6", "Later"))):  # fmt: skip
        for heading, blocks in sections(guide).items():
            assert bool(blocks) == heading.startswith(headings), heading
