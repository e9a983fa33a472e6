"""After any crash or damage the newest whole state is found, or a person is asked; never a new start."""

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.arrays import Arrays
from common.errors import CheckpointError
from common.files import write_atomic
from common.protocol import StudyProtocol
from server import checkpoint
from server.checkpoint import KEPT, Checkpoints, RoundRecord, State

MakeStudy = Callable[..., StudyProtocol]


class Killed(BaseException):
    """The process is gone: no handler of the code runs to good effect."""


@pytest.fixture
def protocol(make_study: MakeStudy) -> StudyProtocol:
    return make_study()


def some_arrays(seed: int) -> Arrays:
    """Names in the model's own order, which is not the alphabet's."""
    rng = np.random.default_rng(seed)
    shapes = {"z.weight": (2, 3), "a.bias": (2,), "m": (1,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def state(server_round: int) -> State:
    records = tuple(
        RoundRecord(
            round=n,
            seconds=0.125 * n,
            answered=["east", "north"],
            refused={"west": "E-POLICY-BUDGET"},
            missing=["south"],
            late={"south": n},
            noise={"east": 0.5, "north": 1 / 3},
            heads={"north": f"{n:064x}", "east": f"{1000 + n:064x}"},
            histogram=[[1.5, -0.1], [1 / 3, 1e-7]] if n % 2 else None,  # evaluated every second
            histogram_noise=1 / 3 if n % 2 else None,
            suppressed=["east"] if n % 2 else [],
            duplicates={"north": n},
            policies={"north": f"{2000 + n:064x}"},
            flags={"east": ["FLAG-NORM"]} if n % 2 else {},
        )
        for n in range(1, server_round + 1)
    )
    return State(
        round=server_round,
        arrays=some_arrays(server_round),
        average=some_arrays(200 + server_round),
        strategy={"m.z.weight": some_arrays(100 + server_round)["z.weight"]},
        sums={name: some_arrays(300 + server_round)["a.bias"] for name in ("east", "north")},
        records=records,
    )


def same(one: State | None, other: State) -> bool:
    def plain(s: State) -> object:
        kept = (s.arrays, s.average, s.strategy, s.sums)
        return s.round, s.records, [[(n, a.shape, a.tobytes()) for n, a in d.items()] for d in kept]

    return one is not None and plain(one) == plain(other)


def saved(folder: Path, protocol: StudyProtocol, last: int) -> Checkpoints:
    checkpoints = Checkpoints(folder, protocol)
    for server_round in range(last + 1):
        checkpoints.save(state(server_round))
    return checkpoints


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def pair(folder: Path, server_round: int) -> tuple[Path, Path]:
    """Arrays and description of a round's checkpoint."""
    stem = folder / "checkpoints" / f"round-{server_round:06d}"
    return stem.with_suffix(".safetensors"), stem.with_suffix(".json")


def test_without_a_checkpoint_there_is_none(tmp_path: Path, protocol: StudyProtocol) -> None:
    assert Checkpoints(tmp_path / "run", protocol).load() is None


@pytest.mark.parametrize("last", [0, 1, 3])
def test_what_was_saved_is_loaded_in_the_models_order(
    last: int, tmp_path: Path, protocol: StudyProtocol
) -> None:
    saved(tmp_path, protocol, last)
    found = Checkpoints(tmp_path, protocol).load()
    assert same(found, state(last))
    assert found is not None
    assert list(found.arrays) == list(found.average) == ["z.weight", "a.bias", "m"]


def test_a_state_without_optimiser_or_rounds_is_kept_too(
    tmp_path: Path, protocol: StudyProtocol
) -> None:
    bare = State(round=0, arrays=some_arrays(0))
    Checkpoints(tmp_path, protocol).save(bare)
    found = Checkpoints(tmp_path, protocol).load()
    assert same(found, bare)
    assert found is not None
    assert (found.average, found.strategy, found.records) == ({}, {}, ())


def test_the_result_is_the_average_where_there_is_one_and_the_last_model_otherwise() -> None:
    with_average = state(2)
    assert with_average.result is with_average.average
    assert State(round=2, arrays=some_arrays(2)).result.keys() == some_arrays(2).keys()
    without = State(round=2, arrays=some_arrays(2), strategy=with_average.strategy)
    assert without.result is without.arrays


def test_an_average_is_not_taken_for_the_model_or_for_a_strategys_memory(
    tmp_path: Path, protocol: StudyProtocol
) -> None:
    """Names that look like each other's once each has its prefix."""
    one = np.ones(1, np.float32)
    kept = State(
        round=1,
        arrays={"m": one, "average.m": 2 * one, "strategy.m": 3 * one},
        average={"m": 4 * one, "average.m": 5 * one, "strategy.m": 6 * one},
        strategy={"m": 7 * one, "model.m": 8 * one, "average.m": 9 * one},
    )
    Checkpoints(tmp_path, protocol).save(kept)
    found = Checkpoints(tmp_path, protocol).load()
    assert found is not None
    assert [[float(a[0]) for a in d.values()] for d in (found.arrays, found.average)] == [
        [1.0, 2.0, 3.0],
        [4.0, 5.0, 6.0],
    ]
    assert {n: float(a[0]) for n, a in found.strategy.items()} == {
        "m": 7.0,
        "model.m": 8.0,
        "average.m": 9.0,
    }


def test_the_two_newest_are_kept(tmp_path: Path, protocol: StudyProtocol) -> None:
    saved(tmp_path, protocol, 5)
    names = [path.name for n in (4, 5) for path in pair(tmp_path, n)]
    assert files(tmp_path) == sorted(names)
    assert KEPT == 2


def test_round_100000_is_newer_than_99999(tmp_path: Path, protocol: StudyProtocol) -> None:
    checkpoints = Checkpoints(tmp_path, protocol)
    for server_round in (99_998, 99_999, 100_000):
        checkpoints.save(State(server_round, some_arrays(1)))
    found = checkpoints.load()
    assert found is not None
    assert found.round == 100_000


def test_rounds_jsonl_has_every_round_once(tmp_path: Path, protocol: StudyProtocol) -> None:
    saved(tmp_path, protocol, 4)
    lines = (tmp_path / "rounds.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["round"] for record in records] == [1, 2, 3, 4]
    assert tuple(RoundRecord(**record) for record in records) == state(4).records
    assert [record["histogram"] is None for record in records] == [False, True, False, True]
    assert [record["heads"]["north"] for record in records] == [f"{n:064x}" for n in (1, 2, 3, 4)]


def flip(path: Path, at: float, bit: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1 << bit
    path.write_bytes(data)


def truncate(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "arrays cut": lambda f: truncate(pair(f, 2)[0], 0.5),
    "arrays without the last byte": lambda f: truncate(pair(f, 2)[0], 0.999),
    "arrays empty": lambda f: truncate(pair(f, 2)[0], 0),
    "arrays with a flipped bit in front": lambda f: flip(pair(f, 2)[0], 0.0),
    "arrays with a flipped bit in a value": lambda f: flip(pair(f, 2)[0], 1.0),
    "arrays gone": lambda f: pair(f, 2)[0].unlink(),
    "arrays of the round before": lambda f: shutil.copy(pair(f, 1)[0], pair(f, 2)[0]),
    "arrays a folder": lambda f: folder_instead(pair(f, 2)[0]),
    "description cut": lambda f: truncate(pair(f, 2)[1], 0.5),
    "description empty": lambda f: truncate(pair(f, 2)[1], 0),
    "description gone": lambda f: pair(f, 2)[1].unlink(),
    "description of the round before": lambda f: shutil.copy(pair(f, 1)[1], pair(f, 2)[1]),
    "description a list": lambda f: pair(f, 2)[1].write_text("[]"),
    "description a number": lambda f: pair(f, 2)[1].write_text("1"),
    "description without keys": lambda f: pair(f, 2)[1].write_text("{}"),
    "description not text": lambda f: pair(f, 2)[1].write_bytes(b"\xff\xfe"),
    "both empty": lambda f: list(map(empty, pair(f, 2))),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_newest_falls_back_to_the_one_before(
    case: str, tmp_path: Path, protocol: StudyProtocol
) -> None:
    saved(tmp_path, protocol, 2)
    DAMAGE[case](tmp_path)
    checkpoints = Checkpoints(tmp_path, protocol)
    assert same(checkpoints.load(), state(1))
    if "folder" not in case:  # the run goes on, over the damaged one
        checkpoints.save(state(2))
        assert same(Checkpoints(tmp_path, protocol).load(), state(2))


def test_no_flipped_bit_anywhere_goes_unnoticed(tmp_path: Path, protocol: StudyProtocol) -> None:
    """One bit of every second byte: a round's number, a digit of a result, the study's name."""
    seed = 20_260
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    checkpoints = saved(tmp_path, protocol, 2)
    for path in pair(tmp_path, 2):
        whole = path.read_bytes()
        for position in range(int(rng.integers(2)), len(whole), 2):
            changed = bytearray(whole)
            changed[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            assert same(checkpoints.load(), state(1)), f"{path.suffix} {position} {changed!r}"
        path.write_bytes(whole)
    assert same(checkpoints.load(), state(2))


def test_two_swapped_checkpoints_are_not_taken_for_each_other(
    tmp_path: Path, protocol: StudyProtocol
) -> None:
    checkpoints = saved(tmp_path, protocol, 2)
    (one, _), (two, _) = pair(tmp_path, 1), pair(tmp_path, 2)
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoints.load()


@pytest.mark.parametrize("which", [0, 1], ids=["arrays", "descriptions"])
def test_when_all_are_damaged_a_person_is_asked(
    which: int, tmp_path: Path, protocol: StudyProtocol
) -> None:
    saved(tmp_path, protocol, 2)
    for server_round in (1, 2):
        truncate(pair(tmp_path, server_round)[which], 0.5)
    with pytest.raises(CheckpointError, match=r"no checkpoint .* is whole") as caught:
        Checkpoints(tmp_path, protocol).load()
    assert "round-000001.json" in str(caught.value)
    assert "round-000002.json" in str(caught.value)
    assert "new run" in str(caught.value)


def test_a_checkpoint_of_another_study_is_refused_and_not_called_damaged(
    tmp_path: Path, make_study: MakeStudy, caplog: pytest.LogCaptureFixture
) -> None:
    ours, other = make_study(), make_study(rounds=4)
    saved(tmp_path, ours, 2)
    with caplog.at_level(logging.DEBUG), pytest.raises(CheckpointError) as caught:
        Checkpoints(tmp_path, other).load()
    assert ours.digest[:12] in str(caught.value)
    assert other.digest[:12] in str(caught.value)
    assert "belongs to study" in str(caught.value)
    assert not caplog.records


def resealed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The description at `path` as another version of the software would have written it."""
    about = json.loads(path.read_bytes())["about"]
    change(about)
    sealed = {"about": about, "sha256": checkpoint._digest(about)}
    path.write_text(json.dumps(sealed))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda about: about.pop("format"), "has format 1, this version of intramural reads 2"),
        (lambda about: about.update(format=3), "has format 3, .* finish the run with the version"),
        (lambda about: about["records"][0].pop("late"), "other fields"),
        (lambda about: about["records"][0].update(more=1), "other fields"),
    ],
)
def test_a_checkpoint_of_another_version_is_refused_and_not_called_damaged(
    change: Callable[[dict[str, Any]], object], words: str, tmp_path: Path, protocol: StudyProtocol
) -> None:
    """Nor is the one before taken instead: the run would go on from a round that was closed."""
    checkpoints = saved(tmp_path, protocol, 2)
    resealed(pair(tmp_path, 2)[1], change)
    with pytest.raises(CheckpointError, match=words):
        checkpoints.load()


def test_another_studys_newest_is_refused_even_over_our_own(
    tmp_path: Path, make_study: MakeStudy
) -> None:
    """Falling back would carry on in a folder that two runs write to."""
    ours, other = make_study(), make_study(rounds=4)
    saved(tmp_path, ours, 1)
    Checkpoints(tmp_path, other).save(state(2))
    with pytest.raises(CheckpointError, match="belongs to study"):
        Checkpoints(tmp_path, ours).load()


# write_atomic is called three times a save: arrays, description, rounds.jsonl. The state is the new
# one as soon as the second call is done.
@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("last", [0, 2])
def test_a_kill_at_any_write_leaves_a_whole_state(
    call: int,
    done: bool,
    last: int,
    tmp_path: Path,
    protocol: StudyProtocol,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoints = saved(tmp_path, protocol, last)
    write, calls = write_atomic, []

    def write_and_die(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) < call or done:
            write(path, data)
        if len(calls) == call:
            raise Killed

    monkeypatch.setattr(checkpoint, "write_atomic", write_and_die)
    with pytest.raises(Killed):
        checkpoints.save(state(last + 1))
    monkeypatch.undo()
    assert len(calls) == call
    expected = last + 1 if call + done > 2 else last
    restarted = Checkpoints(tmp_path, protocol)
    assert same(restarted.load(), state(expected))
    lines = (tmp_path / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) in (last, last + 1)
    restarted.save(state(last + 1))  # the round is run again
    restarted.save(state(last + 2))
    assert same(Checkpoints(tmp_path, protocol).load(), state(last + 2))
    assert len((tmp_path / "rounds.jsonl").read_text().splitlines()) == last + 2
    assert len(files(tmp_path)) == 2 * KEPT


@pytest.mark.parametrize("step", range(1, 7))  # fsync of file and folder, for three files
def test_a_full_disk_leaves_a_whole_state_and_no_half_files(
    step: int, tmp_path: Path, protocol: StudyProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = saved(tmp_path, protocol, 2)
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) >= step:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoints.save(state(3))
    monkeypatch.undo()
    assert len(calls) == step
    found = Checkpoints(tmp_path, protocol).load()
    assert same(found, state(2)) or (step > 3 and same(found, state(3)))
    assert not list(tmp_path.rglob("*.tmp"))
    checkpoints.save(state(3))
    assert same(Checkpoints(tmp_path, protocol).load(), state(3))
