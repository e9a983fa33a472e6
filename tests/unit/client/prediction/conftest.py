"""The command, called in this process, and the run that it is called for."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.__main__ import app
from client.prediction import command
from tests.unit.client.prediction.making_runs import write_run


@dataclass(frozen=True)
class Said:
    """What the command printed, on both outputs, its exit code, and the folder of its files."""

    code: int
    text: str
    out: Path

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "predictions.json").read_text())
        return found


@pytest.fixture
def shipped(repository: Path) -> bytes:
    """Weights that were trained on phantoms."""
    return (repository / "common/pretrained/compact-cnn-32px.safetensors").read_bytes()


@pytest.fixture
def run(tmp_path: Path, shipped: bytes) -> Path:
    return write_run(tmp_path / "run", shipped)


@pytest.fixture
def predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """`predict(model, *inputs, "--at=...")`; no overlays unless asked for.

    The walls would take the network from all tests that follow; a test of its own has a process for them.
    """
    monkeypatch.setattr(command, "_behind_walls", lambda: None)
    calls = iter(range(100))

    def call(model: Path, *arguments: Path | str, overlay: bool = False) -> Said:
        out = tmp_path / f"out{next(calls)}"
        options = ["--out", str(out), "--overlay" if overlay else "--no-overlay"]
        # A wide terminal: a sentence is not broken where a test looks for it.
        result = CliRunner(env={"COLUMNS": "2000"}).invoke(
            app, ["predict", str(model), *map(str, arguments), *options]
        )
        return Said(result.exit_code, result.output, out)

    return call
