"""`make test-crash`: a consortium of real processes in which everything is killed, one after the other.

Each row of the tables is an event: who is killed and when, and what must hold after it. The rows are
printed as they pass. R1 to R19 are the failures of the threat model (docs/threat-model.md).
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.tasks.nodule_classification.study import NoduleStudy
from tests.consortium import Consortium, deployable

SmallStudy = Callable[..., NoduleStudy]
Row = Callable[[str, str, str], None]
Make = Callable[..., Consortium]

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]


@pytest.fixture
def make(small_study: SmallStudy) -> Iterator[Make]:
    made: list[Consortium] = []

    def consortium(
        rounds: int, steps: int = 40, quorum: int = 3, **participation: object
    ) -> Consortium:
        study = small_study(north=24, east=12, west=8, quorum=quorum)
        training = study.training.model_copy(
            update={"steps_per_round": steps, "learning_rate": 0.05}
        )
        study = study.model_copy(update={"rounds": rounds, "training": training})
        made.append(Consortium(deployable(study, **participation)))
        return made[-1]

    yield consortium
    for one in made:
        one.close()


def spent_once(consortium: Consortium) -> None:
    """Nobody trained, and nobody paid, twice: as many reservations as rounds, all of them sealed."""
    rounds = consortium.study.rounds
    for name in consortium.study.hospital_names:
        assert consortium.spends(name) == (rounds, rounds + 1), name


@dataclass(frozen=True)
class Event:
    """In the middle of a round's training, `service` of `who` is killed, or all that `who` has."""

    row: str
    who: str
    service: str | None  # "forked": what its executor has forked, the ServerApp or a ClientApp


EVENTS = (
    Event("R2  gateway", "coordinator", "gateway"),
    Event("R2  SuperLink", "coordinator", "superlink"),
    Event("R2  ServerApp", "coordinator", "forked"),
    Event("R2  executor", "coordinator", "executor"),
    Event("R1  SuperNode", "north", "relay"),
    Event("R1  ClientApp", "north", "forked"),
    Event("R1  relay's executor", "north", "executor"),
    Event("R3  vault", "north", "vault"),
    Event("R2  coordinator, all of it", "coordinator", None),
    Event("R1  hospital, all of it", "north", None),
)


def in_training(consortium: Consortium, name: str) -> bool:
    """Whether `name` has reserved a round that it has not sealed."""
    reserved, sealed = consortium.spends(name)
    return reserved > sealed


def test_whoever_is_killed_in_mid_round_the_study_ends_as_if_nobody_had_been(
    make: Make, row: Row
) -> None:
    consortium = make(rounds=len(EVENTS) + 1, **{"retry-seconds": 20.0})
    consortium.start_all()
    consortium.run_detached()
    for event in EVENTS:
        before = consortium.closed()
        consortium.until(lambda: in_training(consortium, "north"), 120, "north trains")
        at = time.monotonic()
        if event.service == "forked":
            assert consortium.kill_forked(event.who) > 0
        elif event.service == "executor":
            executor = consortium.executor(event.who)
            assert executor is not None
            os.kill(executor, signal.SIGKILL)
        else:
            consortium.kill(event.who, event.service)
        if event.service is None:
            consortium.start(event.who)
        consortium.until_closed(before + 1, 200)
        took = f"round {before + 1} closed after {time.monotonic() - at:.1f} s"
        row(event.row[:2], f"{event.row[4:]} killed in training", took)
    consortium.until(consortium.outcome, 120, "the run ends")
    assert consortium.outcome()["stopped"] == "finished"  # type: ignore[index]
    spent_once(consortium)
    for record in consortium.records():
        assert (record["answered"], record["refused"]) == (["east", "north", "west"], {})
    assert consortium.model() == consortium.rehearsed()
    row(
        "R2-R4", "all of these, one after the other", "bitwise the rehearsal; each round spent once"
    )


def test_r17_everything_is_killed_at_once_and_started_again(make: Make, row: Row) -> None:
    consortium = make(rounds=4)
    consortium.start_all()
    consortium.run_detached()
    for closed in (1, 2):
        consortium.until_closed(closed)
        consortium.until(lambda: in_training(consortium, "north"), 60, "north trains")
        for name in ("coordinator", *consortium.study.hospital_names):
            consortium.kill(name)
        code, said = consortium.call("intramural-server", "status", "--home", consortium.home)
        assert (code, "waits for the coordinator" in said) == (1, True), said  # R19
        for name in ("coordinator", *consortium.study.hospital_names):
            consortium.start(name)
    consortium.until(consortium.outcome, 180, "the run ends")
    assert consortium.outcome()["stopped"] == "finished"  # type: ignore[index]
    spent_once(consortium)
    assert consortium.model() == consortium.rehearsed()
    row("R17", "everything killed at once, twice", "went on in its round, bitwise; spent once")


def test_r1_a_dead_hospital_is_named_and_comes_back_at_the_next_round(make: Make, row: Row) -> None:
    consortium = make(rounds=4, quorum=2)
    consortium.start_all()
    consortium.run_detached()
    consortium.until_closed(1, 180)
    consortium.until(lambda: in_training(consortium, "west"), 60, "west trains")
    consortium.kill("west")
    dead = consortium.spends("west")[0]
    consortium.until_closed(2, 200)
    record = consortium.records()[1]
    assert record["answered"] == ["east", "north"]
    assert record["refused"] == {"west": "E-NODE"} or record["missing"] == ["west"]
    consortium.start("west")
    consortium.until(consortium.outcome, 200, "the run ends")
    assert consortium.outcome()["stopped"] == "finished"  # type: ignore[index]
    assert "west" in consortium.records()[-1]["answered"]
    # What it had reserved when it died counts as spent.
    assert consortium.spends("west")[0] >= dead
    row("R1", "hospital dead, then back", "named; in again; spend counted")


def test_r5_r7_a_slow_hospital_is_named_its_late_reply_refused_and_its_spend_kept(
    make: Make, row: Row
) -> None:
    consortium = make(rounds=3, quorum=2, **{"deadline-seconds": 25.0})
    consortium.start_all()
    consortium.run_detached()
    consortium.until_closed(1, 180)
    consortium.until(lambda: in_training(consortium, "west"), 60, "west trains")
    vault = consortium.processes("west")["vault"]
    os.kill(vault, signal.SIGSTOP)
    began = time.monotonic()
    consortium.until_closed(2, 60)
    assert time.monotonic() - began < 25.0 + 15.0
    os.kill(vault, signal.SIGCONT)
    consortium.until(consortium.outcome, 120, "the run ends")
    assert consortium.outcome()["stopped"] == "finished"  # type: ignore[index]
    second, third = consortium.records()[1:]
    assert (second["answered"], second["missing"]) == (["east", "north"], ["west"])
    assert third["late"] == {"west": 2}
    assert "west" in third["answered"]
    assert consortium.spends("west") == (3, 4)  # the spend of the round that it missed is kept
    row(
        "R5 R7",
        "hospital slower than the deadline",
        "round closed by it; late reply named, not used",
    )


def test_r8_who_never_comes_ends_the_run_with_a_code_and_a_name(make: Make, row: Row) -> None:
    consortium = make(rounds=2, quorum=3, **{"deadline-seconds": 30.0})
    consortium.start("coordinator")
    consortium.start("north")
    consortium.until(consortium.serving, 60, "the coordinator serves")
    began = time.monotonic()
    code, said = consortium.run()
    assert code == 3, said
    assert time.monotonic() - began < 30.0 + 45.0
    for name in ("quorum-missed", "east", "west"):
        assert name in said
    # R19: nobody is told that it went well.
    status = consortium.call("intramural-server", "status", "--home", consortium.home)[1]
    assert "quorum-missed" in status
    # Started again with all hospitals the same run goes on.
    consortium.start("east")
    consortium.start("west")
    consortium.until_ready("east", "west")
    code, said = consortium.run()
    assert code == 0, said
    spent_once(consortium)
    row("R8 R19", "two of three never come", "exit code 3, named; went on when they came")


def test_r9_who_joins_late_is_in_from_then_on_and_who_is_revoked_is_out(
    make: Make, row: Row
) -> None:
    consortium = make(rounds=10, quorum=1, **{"grace-seconds": 0.0})
    for name in ("coordinator", "north", "east"):
        consortium.start(name)
    consortium.until(consortium.serving, 60, "the coordinator serves")
    consortium.until_ready("north", "east")
    consortium.run_detached()
    consortium.until_closed(1, 180)
    consortium.start("west")
    home = ["--home", str(consortium.home)]
    consortium.must("intramural-server", "provision", "revoke", "east", *home)
    consortium.until(consortium.outcome, 240, "the run ends")
    records = consortium.records()
    assert "west" not in records[0]["answered"]
    assert "east" in records[0]["answered"]
    assert "west" in records[-1]["answered"]
    assert "east" not in records[-1]["answered"]
    row("R9", "one joins late, one is revoked", "in from then on; out from then on")


def test_r12_a_corrupt_checkpoint_falls_back_to_the_one_before_and_says_so(
    make: Make, row: Row
) -> None:
    consortium = make(rounds=4)
    consortium.start_all()
    consortium.run_detached()
    consortium.until_closed(2, 180)
    consortium.kill("coordinator")
    newest = sorted((consortium.run_folder / "checkpoints").glob("*.safetensors"))[-1]
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    consortium.start("coordinator")
    consortium.until(consortium.outcome, 180, "the run ends")
    assert consortium.outcome()["stopped"] == "finished"  # type: ignore[index]
    assert "is damaged, trying the one before" in consortium.log("coordinator", "executor")
    spent_once(consortium)  # the round was asked again, and answered with the sealed bytes
    assert consortium.model() == consortium.rehearsed()
    row("R12", "newest checkpoint flipped a bit", "the one before, loudly; bitwise")


def test_r12_without_any_whole_checkpoint_the_run_fails_and_never_starts_anew(
    make: Make, row: Row
) -> None:
    consortium = make(rounds=3)
    consortium.start_all()
    consortium.run_detached()
    consortium.until_closed(1, 180)
    consortium.kill("coordinator")
    for file in (consortium.run_folder / "checkpoints").glob("*.safetensors"):
        file.write_bytes(b"")
    consortium.start("coordinator")
    consortium.until(consortium.outcome, 120, "the run ends")
    outcome = consortium.outcome()
    assert outcome is not None
    assert (outcome["stopped"], "E-CHECKPOINT" in outcome["detail"]) == ("failed", True)
    code, said = consortium.run()
    assert code == 2, said
    assert "E-CHECKPOINT" in said
    row("R12", "no whole checkpoint", "failed; never a new start")


def test_r13_without_its_ledger_a_hospital_does_not_train(make: Make, row: Row) -> None:
    consortium = make(rounds=2, quorum=2)
    consortium.start_all()
    ledger = consortium.hospital("west") / "state" / "ledger.sqlite"
    ledger.unlink()
    code, said = consortium.run()
    assert code == 0, said
    assert [r["refused"] for r in consortium.records()] == [{"west": "E-LEDGER"}] * 2
    consortium.stop("west")
    code, said = consortium.call(
        "intramural-client", "start",
        "--site", consortium.hospital("west") / "site.toml",
        "--connection", consortium.hospital("west") / "connection.toml",
    )  # fmt: skip
    assert (code, "ledger" in said) == (2, True), said
    row("R13", "ledger gone", "E-LEDGER, nothing trained; start refused")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_r11_a_full_disk_ends_the_run_in_words_and_it_goes_on_when_there_is_room(
    make: Make, row: Row
) -> None:
    consortium = make(rounds=3)
    consortium.start_all()
    consortium.run_detached()
    consortium.until_closed(1, 180)
    checkpoints = consortium.run_folder / "checkpoints"
    consortium.kill("coordinator")
    kept = consortium.folder / "kept"
    shutil.copytree(checkpoints, kept)
    size = 4096 * (2 + sum(-(-f.stat().st_size // 4096) for f in kept.iterdir()))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(checkpoints)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"this machine mounts no small file system: {mounted.stderr.strip()}")
    try:
        shutil.copytree(kept, checkpoints, dirs_exist_ok=True)
        consortium.start("coordinator")
        consortium.until(consortium.outcome, 120, "the run ends")
        outcome = consortium.outcome()
        assert outcome is not None
        assert outcome["stopped"] == "failed"
        assert "No space left" in outcome["detail"]
        assert "Traceback" not in outcome["detail"]
        kept_now = {f.name for f in checkpoints.iterdir()}
        assert {f.name for f in kept.iterdir()} <= kept_now
    finally:
        consortium.kill("coordinator")
        subprocess.run(["umount", checkpoints], check=True)
    consortium.start("coordinator")
    consortium.until(consortium.serving, 60, "the coordinator serves")
    code, said = consortium.run()
    assert code == 0, said
    spent_once(consortium)
    assert consortium.model() == consortium.rehearsed()
    row("R11", "disk full at the coordinator", "failed in words; went on with room; bitwise")


def test_r18_a_second_coordinator_and_a_second_client_refuse(make: Make, row: Row) -> None:
    consortium = make(rounds=2)
    consortium.start_all()
    consortium.until(lambda: consortium.processes("north").get("vault"), 60, "north is there")
    commands: list[tuple[str, list[str | Path]]] = [
        ("intramural-server", ["start", "--home", consortium.home, "--listen", "127.0.0.1:0"]),
        (
            "intramural-client",
            ["start", "--site", consortium.hospital("north") / "site.toml",
             "--connection", consortium.hospital("north") / "connection.toml"],
        ),
        ("intramural-client", ["vault", "--site", consortium.hospital("north") / "site.toml"]),
    ]  # fmt: skip
    for program, words in commands:
        code, said = consortium.call(program, *words)
        assert (code, "locked by another process" in said) == (2, True), said
    code, said = consortium.run()
    assert code == 0, said
    row("R18", "second coordinator, client and vault", "refused")


def test_r19_a_serverapp_that_keeps_crashing_ends_as_failed(make: Make, row: Row) -> None:
    consortium = make(rounds=3)
    consortium.start_all()
    consortium.run_detached()
    consortium.until_closed(1, 180)
    (consortium.run_folder / "update-spec.json").write_text("not JSON")
    consortium.until(lambda: consortium.kill_forked("coordinator") > 0, 30, "a ServerApp to kill")
    code, said = consortium.run(timeout=200)
    assert code == 6, said
    consortium.until(consortium.outcome, 60, "the run ends")
    assert consortium.outcome()["stopped"] == "failed"  # type: ignore[index]
    row("R19", "ServerApp crashes again and again", "failed, exit code 6")
