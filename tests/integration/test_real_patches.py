"""The main job on real lung-CT patches of four sites, as a user would run it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulation.__main__ import app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def simulate(luna: Path, folder: Path, *more: str) -> dict[str, dict[str, float]]:
    options = ["--data", str(luna), "--runs", str(folder), "--name", "real", "--json"]
    done = CliRunner().invoke(app, [*options, *more])
    assert done.exit_code == 0, done.output
    summary: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return summary


def test_with_privacy_the_four_sites_reach_what_the_issue_asks(luna: Path, tmp_path: Path) -> None:
    summary = simulate(luna, tmp_path)
    print(summary)
    assert summary["zero_shot"]["auroc"] >= 0.93
    assert summary["pooled"]["auroc"] >= 0.935
    sizes = {name: h["nominal_patients"] for name, h in summary["hospitals"].items()}  # type: ignore[index]
    assert sizes == {"ge": 423, "philips": 45, "siemens": 98, "toshiba": 3}


def test_without_privacy_they_reach_more_within_five_rounds(luna: Path, tmp_path: Path) -> None:
    summary = simulate(luna, tmp_path, "--no-dp", "--rounds", "5")
    print(summary)
    assert summary["pooled"]["auroc"] >= 0.94
