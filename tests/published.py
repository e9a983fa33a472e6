"""Published benchmarks as hospitals, where their files are at hand."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulation.__main__ import app

DATA = Path(__file__).parents[2] / "shared/data"


def with_published_split(command: str, folder: str, out: Path) -> Path:
    """`out` with train/ and test/ of all hospitals; the test is skipped where there are no files."""
    published = DATA / folder
    if not published.is_dir():
        pytest.skip(f"the published files are not at {published}")
    done = CliRunner().invoke(
        app, ["convert", command, str(published), str(out), "--published-split"]
    )
    assert done.exit_code == 0, done.output
    return out
