"""What is printed at the end of a run can be typed again."""

import io
import shlex
from pathlib import Path

from rich.console import Console

from simulation.summary import print_summary
from tests.unit.server.test_report import rehearsal


def test_the_next_commands_name_the_folder_whatever_is_in_its_name() -> None:
    folder = Path("runs/two words/[bold]first")
    said = io.StringIO()
    print_summary(Console(file=said, width=200), folder, rehearsal())
    *_, results, following = said.getvalue().splitlines()
    assert results.startswith(f"results: {folder}/report.html, ")
    words = shlex.split(following.replace("hospital's", ""))
    assert str(folder) in words
    assert words[words.index("--site") + 1].startswith(f"{folder}/hospitals/")
