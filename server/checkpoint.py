"""The state of a run after each round, on disk: whole or not at all, and bound to the study.

A round's checkpoint is two files: arrays (safetensors) and a JSON that names the study's digest and
the arrays' SHA-256, under a SHA-256 of its own. The JSON is written last, so a checkpoint exists when
its JSON does. The two newest are kept: a damaged one falls back to the one before, and never to a new
start.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from common.arrays import Arrays
from common.errors import CheckpointError, ModelError
from common.files import sha256, write_atomic
from common.protocol import StudyProtocol
from common.weights import parse_weights, read_weights

log = logging.getLogger("intramural.checkpoint")

KEPT = 2
FORMAT = 2  # of what is stored; one that is stored otherwise is not read


@dataclass(frozen=True)
class RoundRecord:
    """What the coordinator knows about one closed round."""

    round: int
    seconds: float
    answered: list[str]
    refused: dict[str, str]  # hospital -> code of the refusal or of the admission's reason
    missing: list[str]
    # hospital -> the earlier round to which a reply came in this one; not used
    late: dict[str, int]
    noise: dict[str, float]  # hospital -> the noise multiplier that it states
    heads: dict[str, str]  # hospital -> ledger head of its admitted answer
    # Sum of the released histograms of the model before this round, and the standard deviation of
    # the noise in a cell of it; None in a round that does not evaluate, or when nobody released one.
    histogram: list[list[float]] | None
    histogram_noise: float | None
    # Of those that answered, who has too few patients in a group to release a histogram.
    suppressed: list[str] = field(default_factory=list)
    # hospital -> how many more replies came to what it had answered; not used
    duplicates: dict[str, int] = field(default_factory=dict)
    policies: dict[str, str] = field(
        default_factory=dict
    )  # hospital -> hash of its approved policy
    flags: dict[str, list[str]] = field(
        default_factory=dict
    )  # hospital -> warnings, server/flags.py

    @classmethod
    def read(cls, fields: dict[str, Any]) -> "RoundRecord":
        """The record that `asdict` made `fields` of; CheckpointError for that of another version."""
        try:
            return cls(**fields)
        except TypeError as error:
            raise CheckpointError(
                f"expected a round's record of this version and found other fields ({error}); use "
                f"the version of intramural that wrote it"
            ) from error

    @property
    def released(self) -> list[str]:
        """Whose histograms are in the sum."""
        return [] if self.histogram is None else sorted(set(self.answered) - set(self.suppressed))


@dataclass(frozen=True)
class State:
    """Everything that the next round needs: `round` is the last closed one, 0 before the first.

    `average` is the moving average of the models so far, empty where the protocol asks for none.
    `sums` is each hospital's sum of updates so far, for the flags (server/flags.py).
    """

    round: int
    arrays: Arrays
    average: Arrays = field(default_factory=dict)
    strategy: Arrays = field(default_factory=dict)
    sums: Arrays = field(default_factory=dict)
    records: tuple[RoundRecord, ...] = ()

    @property
    def result(self) -> Arrays:
        """What the study has come to: the average of the models, or the last one."""
        return self.average or self.arrays


class Checkpoints:
    """The checkpoints of one run, for one study, and its `rounds.jsonl` beside them."""

    def __init__(self, run_folder: Path, protocol: StudyProtocol) -> None:
        self._folder = run_folder / "checkpoints"
        self._rounds = run_folder / "rounds.jsonl"
        self._study = protocol.digest
        self._folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: State) -> None:
        """Make `state` durable; afterwards a killed run continues behind it.

        CheckpointError when it cannot be written (disk full): the one before stays as it was.
        """
        try:
            self._save(state)
        except OSError as error:
            raise CheckpointError(
                f"cannot write the checkpoint of round {state.round} in {self._folder} "
                f"({error.strerror}); make room and run the study again, it goes on behind its last "
                f"closed round"
            ) from error

    def _save(self, state: State) -> None:
        prefixed = {f"model.{name}": a for name, a in state.arrays.items()}
        prefixed |= {f"average.{name}": a for name, a in state.average.items()}
        prefixed |= {f"strategy.{name}": a for name, a in state.strategy.items()}
        prefixed |= {f"sum.{name}": a for name, a in state.sums.items()}
        data = save(prefixed)
        about: dict[str, Any] = {
            "format": FORMAT,
            "study": self._study,
            "round": state.round,
            "sha256": sha256(data),
            "names": list(state.arrays),  # safetensors sorts; the model's order is part of it
            "records": [asdict(record) for record in state.records],
        }
        stem = self._folder / f"round-{state.round:06d}"  # as many digits as a study may have
        write_atomic(stem.with_suffix(".safetensors"), data)
        sealed = {"about": about, "sha256": _digest(about)}
        write_atomic(stem.with_suffix(".json"), json.dumps(sealed, allow_nan=False).encode())
        # Derived from the checkpoint and written whole, so a crash in between leaves no gap in it.
        lines = [json.dumps(record) + "\n" for record in about["records"]]
        write_atomic(self._rounds, "".join(lines).encode())
        for old in self._described()[KEPT:]:
            old.unlink()
            old.with_suffix(".safetensors").unlink(missing_ok=True)

    def load(self) -> State | None:
        """The newest whole checkpoint; None when there never was one.

        CheckpointError when all are damaged or belong to another study: starting again from the
        initial model is for a person to decide, since it spends the hospitals' budget again.
        """
        described = self._described()
        problems = []
        for path in described:
            try:
                return self._read(path)
            except (OSError, ValueError, KeyError, TypeError, ModelError) as error:
                problems.append(f"{path.name}: {error}")
                log.warning("checkpoint %s is damaged, trying the one before", path.name)
        if problems:
            raise CheckpointError(
                f"no checkpoint in {self._folder} is whole ({'; '.join(problems)}); "
                f"restore one, or start a new run under another name"
            )
        return None

    def _described(self) -> list[Path]:
        return sorted(self._folder.glob("round-*.json"), reverse=True)

    def _read(self, path: Path) -> State:
        sealed = json.loads(path.read_bytes())
        about = sealed["about"]
        # Before the study is looked at: a flipped bit is damage, not another study.
        if _digest(about) != sealed["sha256"]:
            raise ValueError("the description does not have the recorded SHA-256")
        if (found := about.get("format", 1)) != FORMAT:
            raise CheckpointError(
                f"the checkpoint {path} has format {found}, this version of intramural reads {FORMAT}; "
                f"finish the run with the version that began it, or begin a new one under another name"
            )
        if about["study"] != self._study:
            raise CheckpointError(
                f"the checkpoint {path} belongs to study {about['study'][:12]}, "
                f"this is {self._study[:12]}; use the run's own protocol or another run name"
            )
        weights = path.with_suffix(".safetensors")
        data = read_weights(weights)
        if sha256(data) != about["sha256"]:
            raise ValueError("the arrays do not have the recorded SHA-256")
        stored = parse_weights(data, weights)
        return State(
            round=about["round"],
            arrays={name: stored[f"model.{name}"] for name in about["names"]},
            average={
                name: stored[f"average.{name}"]
                for name in about["names"]
                if f"average.{name}" in stored
            },
            strategy=_under("strategy.", stored),
            sums=_under("sum.", stored),
            records=tuple(RoundRecord.read(record) for record in about["records"]),
        )


def _under(prefix: str, stored: Arrays) -> Arrays:
    """The arrays whose names begin with `prefix`, without it, in the order of their names."""
    names = sorted(name for name in stored if name.startswith(prefix))
    return {name.removeprefix(prefix): stored[name] for name in names}


def _digest(about: dict[str, Any]) -> str:
    return sha256(json.dumps(about, sort_keys=True, allow_nan=False).encode())
